package servingcert

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Each of a few certificates is reported by an Event on its Service. Of a thousand, the rest is
// reported by one Event on the policy.
func TestEventAggregator(t *testing.T) {
	t.Parallel()
	const number = 1000
	recorder := events.NewFakeRecorder(2 * number)
	start := time.Unix(1_700_000_000, 0)
	clock := clocktesting.NewFakePassiveClock(start)
	n := NewEventAggregator(recorder, clock)
	policies := []v1alpha1.ServingCertPolicy{{ObjectMeta: metav1.ObjectMeta{Name: "default", UID: "uid"}}, {ObjectMeta: metav1.ObjectMeta{Name: "other"}}}
	recordFor := func(policy *v1alpha1.ServingCertPolicy, i int) {
		meta := metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("web-%d", i)}
		n.record("Issued", issuedCertificate{policy: policy, service: &corev1.Service{ObjectMeta: meta}, secret: &corev1.Secret{ObjectMeta: meta}, reason: "there was none"})
	}
	for i := range number {
		recordFor(&policies[0], i)
	}
	for range eventBurst {
		if reported := <-recorder.Events; !strings.Contains(reported, "because there was none") {
			t.Errorf("of one: %s", reported)
		}
	}
	if len(recorder.Events) != 0 {
		t.Errorf("there are %d more Events at once", len(recorder.Events))
	}
	n.Flush(policies)
	n.Flush(policies)
	if len(recorder.Events) != 1 {
		t.Fatalf("there are %d Events for the rest", len(recorder.Events))
	}
	reported := <-recorder.Events
	want := "900 more Secrets have a new certificate, of Services shop/web-100, shop/web-101, shop/web-102, shop/web-103, shop/web-104 and others"
	if !strings.Contains(reported, want) {
		t.Errorf("%q does not say %q", reported, want)
	}
	// Another policy has a limit of its own, and this one may record single Events again later.
	recordFor(&policies[1], 0)
	if len(recorder.Events) != 1 {
		t.Errorf("of one of another policy there are %d Events", len(recorder.Events))
	}
	<-recorder.Events
	clock.SetTime(start.Add(time.Minute))
	for i := range number {
		recordFor(&policies[0], i)
	}
	if got, want := len(recorder.Events), 60*eventsPerSecond; got != want {
		t.Errorf("a minute later there are %d more Events, want %d", got, want)
	}
	n.Flush(nil)
	if len(n.policies) != 0 {
		t.Errorf("%d policies that are gone are remembered", len(n.policies))
	}
}
