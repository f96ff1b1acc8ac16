package liverestart_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// The renewal of a certificate restarts every workload that holds the old one, each once. Workloads
// that replace their pods by themselves get one write that begins the restart and one that ends it;
// for the others, each pod is evicted.
func TestEachKind(t *testing.T) {
	t.Parallel()
	r := newRealm(t, rolling(10))
	set, daemons := r.statefulSet("byhand-set", byVolume), r.daemonSet("byhand-daemons", byVolume)
	set.Spec.UpdateStrategy.Type, daemons.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType
	staged := r.statefulSet("staged", byVariable)
	staged.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: new(int32(1))}
	rolled := []client.Object{
		r.deployment("volume", byVolume), r.deployment("variable", byVariable), r.deployment("subpath", bySubPath),
		r.statefulSet("set", byVolume), r.daemonSet("daemons", byVolume),
	}
	evicted := []client.Object{set, daemons, staged}
	others := []client.Object{r.deployment("stranger")}
	all := append(append(append([]client.Object{}, rolled...), evicted...), others...)
	r.create(&policyv1.PodDisruptionBudget{ObjectMeta: r.meta("budget"), Spec: policyv1.PodDisruptionBudgetSpec{
		Selector: selector("byhand-set"), MaxUnavailable: new(intstr.FromInt32(1)),
	}})
	r.run(all...)
	before := map[string]map[string]bool{}
	for _, w := range all {
		before[w.GetName()] = r.pods(w.GetName())
	}
	r.renew()
	r.done()
	for _, w := range rolled {
		r.isRestarted(w, before[w.GetName()], 1)
		if written := env.manager.written("/" + r.name + "/" + kindPath(w) + "/" + w.GetName()); len(written) != 2 {
			t.Errorf("%s took the writes %q, want one that begins and one that ends", w.GetName(), written)
		}
	}
	for _, w := range evicted {
		r.isRestarted(w, before[w.GetName()], 0)
	}
	for _, w := range others {
		if r.rollouts(w) != 0 {
			t.Errorf("%s, which reads nothing of ours, was restarted", w.GetName())
		}
	}
	r.expectEvent("volume", "policy "+r.name+" restarts it: the certificate in Secret web-tls was renewed ")
}

func kindPath(w client.Object) string {
	return strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", w), "*v1.")) + "s"
}

// isRestarted checks that every pod has been replaced, that the template was changed the given
// number of times, and that no restart is under way.
func (r *realm) isRestarted(w client.Object, before map[string]bool, times int64) {
	r.Helper()
	if got := r.rollouts(w); got != times {
		r.Errorf("the template of %s was changed %d times, want %d", w.GetName(), got, times)
	}
	if _, marked := w.GetLabels()[v1alpha1.LabelRestarting]; marked || (stampOf(w) != "") != (times > 0) {
		r.Errorf("%s bears the mark %t, and the stamp %q", w.GetName(), marked, stampOf(w))
	}
	now := r.pods(w.GetName())
	if len(now) != len(before) {
		r.Errorf("%s has %d pods, want %d", w.GetName(), len(now), len(before))
	}
	for uid := range now {
		if before[uid] {
			r.Errorf("a pod of %s was not replaced", w.GetName())
		}
	}
}

// expectEvent waits for an Event on a workload.
func (r *realm) expectEvent(name, note string) {
	r.Helper()
	eventually(r.T, func(ctx context.Context) error {
		var events eventsv1.EventList
		if err := env.kube.List(ctx, &events, client.InNamespace(r.name)); err != nil {
			return err
		}
		var notes []string
		for _, event := range events.Items {
			if event.Regarding.Name == name && event.Reason == "Restarted" {
				notes = append(notes, event.Note)
			}
		}
		if len(notes) != 1 || !strings.HasPrefix(notes[0], note) {
			return fmt.Errorf("%s is told %q, want %q", name, notes, note)
		}
		return nil
	})
}
