package liverestart_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// A workload whose new pods never become ready halts the restarts and is named. Once it is
// repaired, the restarts go on.
func TestHalt(t *testing.T) {
	t.Parallel()
	r := newRealm(t, rolling(1))
	config := &corev1.ConfigMap{ObjectMeta: r.meta("config")}
	r.create(config)
	first, second := r.deployment("first", byVolume, andConfig), r.deployment("second", byVolume)
	first.Spec.ProgressDeadlineSeconds = new(int32(3))
	r.run(first, second)
	if err := env.kube.Delete(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	r.renew()
	r.expectMessage("that it is halted", func(counts v1alpha1.RestartCounts, condition metav1.Condition) bool {
		return condition.Status == metav1.ConditionTrue && condition.Reason == "RolloutFailed" && counts.Failed == 1 && counts.Pending == 1 &&
			strings.Contains(condition.Message, "Deployment "+r.name+"/first was restarted, and it missed its progress deadline")
	})
	if r.rollouts(second) != 0 {
		t.Error("the second was restarted though the first had failed")
	}
	config.ResourceVersion = ""
	r.create(config)
	r.done()
	if a, b := r.rollouts(first), r.rollouts(second); a != 1 || b != 1 {
		t.Errorf("the templates were changed %d and %d times, want once each", a, b)
	}
}

// With onFailure Continue, a workload that fails does not halt the others.
func TestContinue(t *testing.T) {
	t.Parallel()
	restart := rolling(1)
	restart.OnFailure = v1alpha1.RestartContinue
	r := newRealm(t, restart)
	config := &corev1.ConfigMap{ObjectMeta: r.meta("config")}
	r.create(config)
	first, second := r.deployment("first", byVolume, andConfig), r.deployment("second", byVolume)
	first.Spec.ProgressDeadlineSeconds = new(int32(3))
	r.run(first, second)
	if err := env.kube.Delete(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	r.renew()
	r.expectMessage("that one failed and the other is done", func(counts v1alpha1.RestartCounts, condition metav1.Condition) bool {
		return condition.Status == metav1.ConditionFalse && counts.Failed == 1 && counts.Pending+counts.InProgress == 0 && counts.LastCompletedAt != nil
	})
	if r.rollouts(second) != 1 {
		t.Error("the second was not restarted")
	}
}

// Restarts begin within a window of their own policy, regardless of those of other policies.
func TestWindows(t *testing.T) {
	t.Parallel()
	within := func(begins time.Duration) v1alpha1.Restart {
		restart, at := rolling(1), time.Now().UTC().Add(begins)
		restart.Windows = []v1alpha1.RestartWindow{{Schedule: fmt.Sprintf("%d %d * * *", at.Minute(), at.Hour()), Duration: "2h", TimeZone: "Etc/UTC"}}
		return restart
	}
	open, closed := newRealm(t, within(-time.Hour), "open"), newRealm(t, within(12*time.Hour), "closed")
	restarted, waiting := open.deployment("web", byVolume), closed.deployment("web", byVolume)
	open.run(restarted)
	closed.run(waiting)
	closed.renew()
	open.renew()
	open.done()
	closed.expectMessage("that it waits for its window", func(counts v1alpha1.RestartCounts, condition metav1.Condition) bool {
		return counts.Pending == 1 && strings.Contains(condition.Message, "wait for their turn, from "+time.Now().UTC().Add(12*time.Hour).Format("2006-01-02T"))
	})
	if open.rollouts(restarted) != 1 || closed.rollouts(waiting) != 0 {
		t.Errorf("there were %d restarts within the window, and %d without", open.rollouts(restarted), closed.rollouts(waiting))
	}
	before := closed.pods("web")
	edit(t, closed.policy, func(p *v1alpha1.ServingCertPolicy) { p.Spec.Restart.Windows = nil })
	closed.done()
	closed.isRestarted(waiting, before, 1)
}

// However many workloads there are, at most maxConcurrent of them roll out at a time, and a manager
// that takes over meanwhile continues where its predecessor stopped.
func TestManyWorkloads(t *testing.T) {
	t.Parallel()
	const count, atOnce = 200, 5
	r := newRealm(t, rolling(atOnce))
	var all []client.Object
	for i := range count {
		all = append(all, r.deployment(fmt.Sprintf("web-%03d", i), byVolume))
	}
	r.run(all...)
	most, watched := make(chan int), r.watchRollouts()
	go func() { most <- watched() }()
	r.renew()
	r.expectMessage("that half are done", func(counts v1alpha1.RestartCounts, _ metav1.Condition) bool {
		return counts.LastCompletedAt != nil && counts.Pending < count/2
	})
	env.manager.replace(t)
	r.done()
	if got := <-most; got > atOnce || got < 2 {
		t.Errorf("%d workloads rolled at a time, want %d", got, atOnce)
	}
	for _, w := range all {
		if got := r.rollouts(w); got != 1 {
			t.Fatalf("the template of %s was changed %d times, want once", w.GetName(), got)
		}
	}
}

// watchRollouts watches every Deployment of the realm. The returned function blocks until each has
// been restarted, and returns how many rolled out at once at most.
func (r *realm) watchRollouts() func() int {
	r.Helper()
	kube, err := kubernetes.NewForConfig(env.cluster.Config)
	if err != nil {
		r.Fatal(err)
	}
	list, err := kube.AppsV1().Deployments(r.name).List(r.Context(), metav1.ListOptions{})
	if err != nil {
		r.Fatal(err)
	}
	watch, err := kube.AppsV1().Deployments(r.name).Watch(r.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		r.Fatal(err)
	}
	return func() (most int) {
		defer watch.Stop()
		rolling, rolled := map[string]bool{}, map[string]bool{}
		for event := range watch.ResultChan() {
			d, ok := event.Object.(*appsv1.Deployment)
			if !ok || stampOf(d) == "" {
				continue
			}
			if complete(d) {
				delete(rolling, d.Name)
				rolled[d.Name] = true
			} else {
				rolling[d.Name] = true
			}
			if most = max(most, len(rolling)); len(rolled) == len(list.Items) {
				break
			}
		}
		return most
	}
}

// complete reports whether a rollout is complete, as `kubectl rollout status` determines it.
func complete(d *appsv1.Deployment) bool {
	s := d.Status
	return s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == *d.Spec.Replicas && s.Replicas == s.UpdatedReplicas && s.AvailableReplicas == s.Replicas
}

// A GitOps controller that keeps applying the manifest sees no difference, and the operator's stamp
// stays.
func TestGitOps(t *testing.T) {
	t.Parallel()
	r := newRealm(t, rolling(1))
	w := r.deployment("web", byVolume)
	w.TypeMeta = metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}
	manifest := w.DeepCopy()
	apply := func() {
		//nolint:staticcheck // the test applies the manifest itself, not a configuration built from it
		if err := env.kube.Patch(t.Context(), manifest.DeepCopy(), client.Apply, client.FieldOwner("argocd-controller"), client.ForceOwnership); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	}
	apply()
	r.available(w)
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(ended)
		for ticker := time.NewTicker(time.Second); ; {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				apply()
			}
		}
	}()
	for n := range int64(2) {
		before := r.pods("web")
		r.renew()
		r.restartedSince("web", before)
		r.done()
		r.isRestarted(w, before, n+1)
	}
	cancel()
	<-ended
}

// restartedSince waits until all pods have been replaced.
func (r *realm) restartedSince(name string, before map[string]bool) {
	r.Helper()
	eventually(r.T, func(context.Context) error {
		now := r.pods(name)
		for uid := range now {
			if before[uid] {
				return fmt.Errorf("a pod of %s is not replaced", name)
			}
		}
		if len(now) == 0 {
			return errors.New("there is no pod")
		}
		return nil
	})
}

// The settings of a workload's owner are respected: one that opts out, reloads by itself, is paused
// or scaled to zero is left alone, and one that rolls out anyway is not restarted again.
func TestOwners(t *testing.T) {
	t.Parallel()
	r := newRealm(t, rolling(10))
	optedOut, reloads, reloadsNot := r.deployment("opted-out", byVolume), r.deployment("reloads", byVolume), r.deployment("reloads-not", bySubPath)
	optedOut.Annotations = map[string]string{v1alpha1.AnnotationRestart: "false"}
	reloads.Annotations = map[string]string{v1alpha1.AnnotationReload: v1alpha1.ReloadAutomatic}
	reloadsNot.Annotations = reloads.Annotations
	paused, empty, rolls := r.deployment("paused", byVolume), r.deployment("empty", byVolume), r.deployment("rolls", byVolume)
	empty.Spec.Replicas = new(int32(0))
	r.run(optedOut, reloads, reloadsNot, paused, empty, rolls)
	edit(t, paused, func(d *appsv1.Deployment) { d.Spec.Paused = true })
	r.renew()
	renewed := time.Now()
	eventually(t, func(context.Context) error {
		// Within clockSlack, a new pod might still have read the old certificate, as far as clocks
		// show.
		if time.Since(renewed) < 6*time.Second {
			return errors.New("not yet")
		}
		return nil
	})
	edit(t, rolls, func(d *appsv1.Deployment) { d.Spec.Template.Labels["version"] = "2" })
	r.expectMessage("who is left alone", func(counts v1alpha1.RestartCounts, condition metav1.Condition) bool {
		return counts.OptedOut == 1 && counts.Pending == 1 && counts.InProgress == 0 && counts.LastCompletedAt != nil &&
			strings.Contains(condition.Message, "Deployment "+r.name+"/paused (it is paused)") &&
			strings.Contains(condition.Message, "opted out: Deployment "+r.name+"/opted-out")
	})
	for w, want := range map[*appsv1.Deployment]int64{optedOut: 0, reloads: 0, reloadsNot: 1, empty: 0, rolls: 1, paused: 1} {
		if got := r.rollouts(w); got != want {
			t.Errorf("the spec of %s was changed %d times, want %d", w.Name, got, want)
		}
	}
	edit(t, paused, func(d *appsv1.Deployment) { d.Spec.Paused = false })
	r.restartedSince("paused", r.pods("paused"))
}

// A policy that restarts nothing reports what it would restart.
func TestNone(t *testing.T) {
	t.Parallel()
	r := newRealm(t, v1alpha1.Restart{})
	w := r.deployment("web", byVolume)
	r.run(w)
	r.renew()
	r.expectMessage("what it would restart", func(counts v1alpha1.RestartCounts, condition metav1.Condition) bool {
		return counts.Pending == 1 && condition.Reason == "StrategyNone" &&
			strings.Contains(condition.Message, "would be restarted by spec.restart.strategy RollingRestart: Deployment "+r.name+"/web")
	})
	if r.rollouts(w) != 0 {
		t.Error("it was restarted")
	}
}

// Several changes within a short time lead to one restart.
func TestDebounce(t *testing.T) {
	t.Parallel()
	r := newRealm(t, rolling(1))
	w := r.deployment("web", byVolume)
	r.run(w)
	before := r.pods("web")
	r.renew()
	r.renew()
	r.renew()
	r.done()
	r.isRestarted(w, before, 1)
}
