package restart

import (
	"context"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// podOf returns a pod of a Deployment whose container started that long ago.
func podOf(deployment string, n int, started time.Duration) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: fmt.Sprintf("%s-abc-%d", deployment, n),
			Labels:          map[string]string{"app": deployment, appsv1.DefaultDeploymentUniqueLabelKey: "abc"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: deployment + "-abc", UID: "r", Controller: new(true)}},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{
			Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.Add(-started))},
		}}}},
	}
}

// The pods of a few workloads are listed by their selectors, and those of many at once. Either way
// each workload gets its own pods, and they are not listed again before the workload changes.
func TestRefresh(t *testing.T) {
	t.Parallel()
	for _, workloads := range []int{1, 2, listThreshold, 9} {
		t.Run(fmt.Sprint(workloads), func(t *testing.T) {
			t.Parallel()
			lists := 0
			builder := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
				List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
					lists++
					return c.List(ctx, list, options...)
				},
			})
			var items []*workloadState
			for i := range workloads {
				name := fmt.Sprintf("web-%d", i)
				item := stale(deployment(name, func(d *appsv1.Deployment) {
					d.UID, d.ResourceVersion = types.UID(name), "1"
					d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
				}), renewed(time.Hour))
				items = append(items, item)
				gone, ended, other := podOf(name, 3, 9*time.Hour), podOf(name, 4, 9*time.Hour), podOf(name, 5, 9*time.Hour)
				gone.DeletionTimestamp, gone.Finalizers = new(metav1.NewTime(now)), []string{"example.org/keep"}
				ended.Status.Phase, other.OwnerReferences = corev1.PodFailed, nil
				// Every other workload was restarted without the operator.
				started := []time.Duration{2 * time.Hour, time.Minute}[i%2]
				builder.WithObjects(podOf(name, 1, time.Minute), podOf(name, 2, started), gone, ended, other)
			}
			r := New(Reconciler{Live: builder.Build()})
			for range 2 {
				if failed := r.refresh(t.Context(), now, items); len(failed) > 0 {
					t.Fatal(failed)
				}
			}
			for i, item := range items {
				if got := len(item.pendingChanges) > 0; got != (i%2 == 0) {
					t.Errorf("%s holds something old: %t", item, got)
				}
			}
			if want := map[bool]int{true: 1, false: workloads}[workloads >= listThreshold]; lists != want {
				t.Errorf("pods were listed %d times, want %d", lists, want)
			}
			items[0].SetResourceVersion("2")
			if failed := r.refresh(t.Context(), now, items); len(failed) > 0 || lists > workloads+1 {
				t.Errorf("one has changed, and pods were listed %d times (%v)", lists, failed)
			}
		})
	}
}

// If another writer undoes the restarts, they are not repeated endlessly.
func TestRestartThatDoesNotHelp(t *testing.T) {
	t.Parallel()
	w := deployment("web", func(d *appsv1.Deployment) {
		d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	})
	r := New(Reconciler{Live: fake.NewClientBuilder().WithObjects(podOf("web", 1, 9*time.Hour)).Build()})
	record := &restartRecord{}
	look := func(at time.Time, changes ...change) state {
		t.Helper()
		item := stale(w, changes...)
		item.restartRecord = record
		if failed := r.refresh(t.Context(), at, []*workloadState{item}); len(failed) > 0 {
			t.Fatal(failed)
		}
		got, _ := item.state(at)
		return got
	}
	if got := look(now, renewed(time.Hour)); got != pending {
		t.Fatalf("it is %s before it is restarted", got)
	}
	record.restartedFor, record.restartedAt = now.Add(-time.Hour), now
	filled := trusts(time.Minute)
	filled.filled = true
	for name, tc := range map[string]struct {
		after   time.Duration
		changes []change
		want    state
	}{
		"for the same":     {time.Minute, []change{renewed(time.Hour)}, blocked},
		"for another":      {time.Minute, []change{renewed(time.Hour), trusts(time.Minute)}, pending},
		"for a bundle":     {time.Minute, []change{filled}, pending},
		"an hour later":    {retryInterval, []change{renewed(time.Hour)}, pending},
		"for nothing more": {time.Minute, nil, current},
	} {
		if got := look(now.Add(tc.after), tc.changes...); got != tc.want {
			t.Errorf("restarted once more %s it is %s, want %s", name, got, tc.want)
		}
	}
	// Something replaces an object as a whole again and again, and it is filled anew each time.
	record.restartedFilled = true
	for after, want := range map[time.Duration]state{time.Minute: blocked, retryInterval: pending} {
		if got := look(now.Add(after), renewed(time.Hour), filled); got != want {
			t.Errorf("filled anew %s after a restart for that, it is %s, want %s", after, got, want)
		}
	}
	if got := look(now.Add(time.Minute), filled, renewed(0)); got != pending {
		t.Errorf("filled anew, and renewed, it is %s", got)
	}
}
