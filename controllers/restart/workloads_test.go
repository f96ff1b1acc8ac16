package restart

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// The status names workloads with their state, its start and end, the reason and the remedy; those
// that need an administrator come first.
func TestWorkloads(t *testing.T) {
	t.Parallel()
	paused := func(d *appsv1.Deployment) { d.Spec.Paused = true }
	pod := now.Add(-time.Minute)
	long := marked(stale(deployment("long", replacing)), 3*time.Hour, "")
	long.progress = pod
	rolls := stale(deployment("rolls", replacing), renewed(time.Hour))
	rolls.rollingSince = now.Add(-time.Minute)
	items := []*workloadState{
		stale(deployment("waits"), renewed(time.Hour), trusts(2*time.Hour)), stale(deployment("current")),
		rolls, marked(stale(deployment("begun", replacing)), time.Minute, ""), long,
		stale(deployment("paused", paused), renewed(time.Hour)), marked(stale(deployment("stuck", stuck)), time.Hour, ""),
	}
	items = append(items, marked(stale(statefulSet(func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy.Type, s.Status.AvailableReplicas = appsv1.OnDeleteStatefulSetStrategyType, 1
	}), renewed(2*time.Hour)), time.Hour, ""))
	policy := rollingPolicy(func(r *v1alpha1.Restart) { r.OnFailure = v1alpha1.RestartContinue })
	var got []string
	for _, one := range planFor(now, policy, items).workloads() {
		at := func(at *metav1.Time) string {
			if at == nil {
				return "-"
			}
			return at.Format("15:04")
		}
		got = append(got, fmt.Sprintf("%s %s %s/%s %s %s %s", one.State, one.Kind, one.Namespace, one.Name, at(one.Since), at(one.Until), one.Message))
	}
	want := []string{
		"Failed Deployment shop/stuck 14:09 - it missed its progress deadline: repair it, or undo it with kubectl rollout undo; a newer certificate or bundle gives it another turn",
		"Failed StatefulSet shop/set 14:09 - no pod became ready for 10m0s: repair it; its pods are evicted further when it is available",
		"Blocked Deployment shop/paused 14:09 - it is paused: resume it with kubectl rollout resume",
		"Overdue Deployment shop/long 12:09 - it still rolls after 2h0m0s, and the others go on",
		"InProgress Deployment shop/begun 15:08 17:08 ",
		"Rolling Deployment shop/rolls 15:08 17:08 it rolls for another reason, and is waited for",
		"Pending Deployment shop/waits 13:09 - it waits for its turn",
	}
	if a, b := strings.Join(got, "\n"), strings.Join(want, "\n"); a != b {
		t.Errorf("it names\n%s\nwant\n%s", a, b)
	}
}

// The status stays short, however many workloads there are, and however long the answer of the API
// server is.
func TestWorkloadsAreBounded(t *testing.T) {
	t.Parallel()
	var items []*workloadState
	for i := range 50 {
		item := stale(deployment(fmt.Sprintf("web-%02d", i)), renewed(time.Hour))
		item.refusal = strings.Repeat("é", 5000)
		items = append(items, item)
	}
	named := planFor(now, rollingPolicy(), items).workloads()
	if len(named) != maxWorkloads || named[9].Name != "web-09" || len(named[0].Message) > maxMessageBytes+4 {
		t.Errorf("it names %d workloads, the last is %s", len(named), named[len(named)-1].Name)
	}
}
