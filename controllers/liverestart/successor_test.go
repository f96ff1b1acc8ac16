package liverestart_test

import (
	"context"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// The manager dies at each write of a restart, before or after the API server has processed it, and
// another one takes over: every workload is restarted exactly once all the same. No other test runs
// at the same time, because they need the manager.
func TestCrashAtEachWrite(t *testing.T) {
	r := newRealm(t, rolling(1))
	set := r.statefulSet("by-hand", byVolume)
	set.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
	rolled := []client.Object{r.deployment("web", byVolume), r.statefulSet("set", byVolume), r.daemonSet("daemons", byVolume)}
	all := append([]client.Object{set}, rolled...)
	r.run(all...)
	before := map[string]map[string]bool{}
	for _, w := range all {
		before[w.GetName()] = r.pods(w.GetName())
	}
	r.renew()
	live := func() {
		env.manager.setMortal(false)
		env.manager.succeed(t) // it may have died at a write since the last check
	}
	t.Cleanup(live)
	env.manager.setMortal(true)
	eventually(t, func(context.Context) error {
		env.manager.succeed(t)
		return r.allReplaced(all, before)
	})
	live()
	r.done()
	for _, w := range rolled {
		r.isRestarted(w, before[w.GetName()], 1)
	}
	r.isRestarted(set, before[set.Name], 0)
	// Each of the four restarts has a write that begins it and one that ends it, and two pods are
	// evicted. The manager dies of each, alternately before and after the API server has processed
	// it.
	if env.manager.deaths < 8 {
		t.Errorf("the manager died only %d times", env.manager.deaths)
	}
}

// allReplaced returns an error if an old pod is left or a restart is still under way.
func (r *realm) allReplaced(workloads []client.Object, before map[string]map[string]bool) error {
	r.Helper()
	for _, w := range workloads {
		if err := env.kube.Get(r.Context(), client.ObjectKeyFromObject(w), w); err != nil {
			return err
		}
		if _, marked := w.GetLabels()[v1alpha1.LabelRestarting]; marked {
			return fmt.Errorf("%s is being restarted", w.GetName())
		}
		for uid := range r.pods(w.GetName()) {
			if before[w.GetName()][uid] {
				return fmt.Errorf("a pod of %s is left", w.GetName())
			}
		}
	}
	return nil
}
