package servingcert

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// now is far in the future, so that a stray time.Now() makes a test fail.
var now = time.Date(2071, time.March, 14, 15, 9, 26, 0, time.UTC)

// pods returns the pods of each namespace page by page, and counts the pages that were read.
type pods struct {
	client.Reader
	by    map[string][]corev1.Pod
	pages int
	err   error
}

func (p *pods) List(_ context.Context, into client.ObjectList, options ...client.ListOption) error {
	list, ok := into.(*corev1.PodList)
	if !ok {
		return fmt.Errorf("nobody should list %T", into)
	}
	p.pages++
	if p.err != nil {
		return p.err
	}
	listOptions := (&client.ListOptions{}).ApplyOptions(options)
	from, _ := strconv.Atoi(listOptions.Continue)
	all := p.by[listOptions.Namespace]
	to := min(len(all), from+int(listOptions.Limit))
	*list = corev1.PodList{Items: all[from:to]}
	if to < len(all) {
		list.Continue = strconv.Itoa(to)
	}
	return nil
}

func podWith(secret string, phase corev1.PodPhase) corev1.Pod {
	return corev1.Pod{Status: corev1.PodStatus{Phase: phase}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}},
	}}}
}

func newUsage(by map[string][]corev1.Pod) (*SecretUsage, *pods, *clocktesting.FakePassiveClock) {
	reader, passive := &pods{by: by}, clocktesting.NewFakePassiveClock(now)
	return &SecretUsage{Live: reader, Clock: passive}, reader, passive
}

func expect(t *testing.T, usage *SecretUsage, namespace, name string, want bool) {
	t.Helper()
	got, err := usage.isUsed(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}})
	if err != nil || got != want {
		t.Errorf("Secret %s/%s is in use: %t %v, want %t", namespace, name, got, err, want)
	}
}

// However many pods there are, none is missed, and no more than one page of them is held in memory.
func TestUsageReadsEveryPage(t *testing.T) {
	t.Parallel()
	var many []corev1.Pod
	for i := range 2*podsPerPage + 1 {
		many = append(many, podWith(fmt.Sprintf("tls-%d", i), corev1.PodRunning))
	}
	usage, reader, _ := newUsage(map[string][]corev1.Pod{"shop": many})
	for _, i := range []int{0, podsPerPage - 1, podsPerPage, 2*podsPerPage - 1, 2 * podsPerPage} {
		expect(t, usage, "shop", fmt.Sprintf("tls-%d", i), true)
	}
	expect(t, usage, "shop", "tls-"+strconv.Itoa(len(many)), false)
	if reader.pages != 3 {
		t.Errorf("%d pages were read, want 3", reader.pages)
	}
}

// A Secret that only a finished pod names is not in use; a pod in any other phase may still need
// it.
func TestUsageByPhase(t *testing.T) {
	t.Parallel()
	for phase, want := range map[corev1.PodPhase]bool{
		corev1.PodPending: true, corev1.PodRunning: true, corev1.PodUnknown: true, "": true, corev1.PodSucceeded: false, corev1.PodFailed: false,
	} {
		usage, _, _ := newUsage(map[string][]corev1.Pod{"shop": {podWith("tls", phase)}})
		expect(t, usage, "shop", "tls", want)
	}
}

// Namespaces are asked for in any order: each is read once per usageTTL and forgotten after it.
func TestUsageInTurns(t *testing.T) {
	t.Parallel()
	usage, reader, passive := newUsage(map[string][]corev1.Pod{"shop": {podWith("tls", corev1.PodRunning)}, "bank": nil})
	for range 5 {
		expect(t, usage, "shop", "tls", true)
		expect(t, usage, "bank", "tls", false)
	}
	if reader.pages != 2 {
		t.Errorf("%d pages were read, want 2", reader.pages)
	}
	passive.SetTime(now.Add(time.Minute))
	expect(t, usage, "bank", "tls", false)
	if len(usage.namespaces) != 1 {
		t.Errorf("%d namespaces are remembered, want 1", len(usage.namespaces))
	}
}

// The cached usage applies to one namespace, and until usageTTL has passed.
func TestUsageExpires(t *testing.T) {
	t.Parallel()
	usage, reader, passive := newUsage(map[string][]corev1.Pod{"shop": {podWith("tls", corev1.PodRunning)}, "bank": nil})
	expect(t, usage, "shop", "tls", true)
	expect(t, usage, "bank", "tls", false)
	expect(t, usage, "shop", "tls", true)
	reader.by["shop"] = nil
	for _, later := range []time.Duration{time.Minute, -time.Hour} { // the clock may be set back
		passive.SetTime(passive.Now().Add(later))
		expect(t, usage, "shop", "tls", false)
		reader.by["shop"] = []corev1.Pod{podWith("tls", corev1.PodRunning)}
		passive.SetTime(passive.Now().Add(time.Minute))
		expect(t, usage, "shop", "tls", true)
		reader.by["shop"] = nil
	}
}

// While the pods cannot be read, no Secret is reported as unused, and expired usage is not used
// instead.
func TestUsageUnknown(t *testing.T) {
	t.Parallel()
	usage, reader, passive := newUsage(map[string][]corev1.Pod{"shop": {podWith("tls", corev1.PodRunning)}})
	expect(t, usage, "shop", "other", false)
	reader.err = errors.New("away")
	passive.SetTime(now.Add(time.Minute))
	if _, err := usage.isUsed(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "other"}}); err == nil {
		t.Error("an old answer was given")
	}
	reader.err = nil
	expect(t, usage, "shop", "tls", true)
}
