package restart

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// At most one pod is unavailable at a time: the next pod is evicted when all are ready, and a pod
// that is outdated and not ready is evicted first.
func TestPodToEvict(t *testing.T) {
	t.Parallel()
	pod := func(ordinal int, started time.Duration, ready corev1.ConditionStatus) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("set-%d", ordinal)},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}},
			Status: corev1.PodStatus{
				Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}},
				ContainerStatuses: []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.Add(-started))}}}},
			},
		}
	}
	const old, fresh, yes, no = 2 * time.Hour, time.Minute, corev1.ConditionTrue, corev1.ConditionFalse
	for name, tc := range map[string]struct {
		available int32
		pods      []*corev1.Pod
		want      string
	}{
		"all are well":             {3, []*corev1.Pod{pod(0, old, yes), pod(1, old, yes), pod(2, old, yes)}, "set-2"},
		"ten come after two":       {3, []*corev1.Pod{pod(2, old, yes), pod(10, old, yes), pod(9, old, yes)}, "set-10"},
		"some are new":             {3, []*corev1.Pod{pod(0, old, yes), pod(1, old, yes), pod(2, fresh, yes)}, "set-1"},
		"all are new":              {3, []*corev1.Pod{pod(0, fresh, yes), pod(1, fresh, yes), pod(2, fresh, yes)}, ""},
		"a new one is not ready":   {2, []*corev1.Pod{pod(0, old, yes), pod(1, old, yes), pod(2, fresh, no)}, ""},
		"a new one is not made":    {2, []*corev1.Pod{pod(0, old, yes), pod(1, old, yes)}, ""},
		"an old one is not ready":  {2, []*corev1.Pod{pod(0, old, no), pod(1, old, yes), pod(2, old, yes)}, "set-0"},
		"an old one, and a new":    {1, []*corev1.Pod{pod(0, old, no), pod(1, old, yes), pod(2, fresh, no)}, ""},
		"not well, as before":      {1, []*corev1.Pod{pod(0, old, no), pod(1, old, yes), pod(2, fresh, no)}, "set-0"},
		"nothing else goes on":     {1, []*corev1.Pod{pod(0, fresh, no), pod(1, old, yes), pod(2, fresh, no)}, "set-1"},
		"something else goes on":   {1, []*corev1.Pod{pod(0, fresh, no), pod(1, old, yes), pod(2, fresh, no)}, ""},
		"one is missing for ever":  {2, []*corev1.Pod{pod(0, old, no), pod(1, old, yes)}, "set-0"},
		"several old ones are not": {1, []*corev1.Pod{pod(1, old, no), pod(0, old, no), pod(2, old, yes)}, "set-0"},
		"one waits for an old one": {1, []*corev1.Pod{pod(0, old, no), pod(1, old, yes)}, "set-0"},
		"a new one never is ready": {1, []*corev1.Pod{pod(0, old, no), pod(1, old, yes), pod(2, fresh, no)}, "set-0"},
		"ready, and not available": {2, []*corev1.Pod{pod(0, old, yes), pod(1, old, yes), pod(2, fresh, yes)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			item := stale(statefulSet(func(s *appsv1.StatefulSet) {
				s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
				s.Spec.Replicas, s.Status.Replicas, s.Status.UpdatedReplicas, s.Status.AvailableReplicas = new(int32(3)), 3, 3, tc.available
			}), renewed(time.Hour))
			item.ongoing = &ongoingRestart{since: now.Add(-time.Minute)}
			if name == "a new one never is ready" {
				item.ongoing.since = now.Add(-progressTimeout - time.Minute)
			}
			if ago, lame := map[string]time.Duration{
				"not well, as before": time.Minute, "nothing else goes on": progressTimeout + time.Minute, "something else goes on": time.Minute, "one is missing for ever": time.Minute,
			}[name]; lame {
				item.ongoing = &ongoingRestart{since: now.Add(-ago), unavailable: true}
			}
			got := ""
			if next := podToEvict(now, item, tc.pods); next != nil {
				got = next.Name
			}
			if got != tc.want {
				t.Errorf("%q is evicted next, want %q", got, tc.want)
			}
		})
	}
}

// Of a workload that was not available before, one ready pod is evicted at a time: neither while the
// one before terminates, nor before its replacement had its time, whatever the status says by then.
func TestReadyPodsOfAnUnavailableWorkload(t *testing.T) {
	t.Parallel()
	pod := func(ordinal int, edit func(*corev1.Pod)) *corev1.Pod {
		made := podOf("set", ordinal, 2*time.Hour)
		made.Name, made.CreationTimestamp = fmt.Sprintf("set-%d", ordinal), metav1.NewTime(now.Add(-2*time.Hour))
		made.OwnerReferences = []metav1.OwnerReference{{Kind: kindStatefulSet, Name: "set", UID: "u", Controller: new(true)}}
		made.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		edit(made)
		return made
	}
	for want, third := range map[string]func(*corev1.Pod){
		"set-2": func(*corev1.Pod) {},
		"set-1": func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(now.Add(-time.Minute)) // an hour after its pod
		},
		"": func(p *corev1.Pod) {
			p.DeletionTimestamp, p.Finalizers = new(metav1.NewTime(now.Add(time.Second))), []string{"example.org/keep"}
		},
		" ": func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-time.Minute)) },
	} {
		evicted := ""
		kube := fake.NewClientBuilder().WithObjects(pod(0, func(*corev1.Pod) {}), pod(1, func(*corev1.Pod) {}), pod(2, third)).WithInterceptorFuncs(interceptor.Funcs{
			SubResourceCreate: func(_ context.Context, _ client.Client, _ string, pod, _ client.Object, _ ...client.SubResourceCreateOption) error {
				evicted = pod.GetName()
				return nil
			},
		}).Build()
		item := stale(statefulSet(func(s *appsv1.StatefulSet) {
			s.UID, s.Spec.Selector = "u", &metav1.LabelSelector{}
			s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
			s.Spec.Replicas = new(int32(4))
		}), renewed(time.Hour))
		item.ongoing = &ongoingRestart{since: now.Add(-progressTimeout - time.Minute), unavailable: true}
		if _, err := New(Reconciler{Live: kube}).evictNext(t.Context(), now, item); err != nil || evicted != strings.TrimSpace(want) {
			t.Errorf("%q is evicted next, want %q (%v)", evicted, want, err)
		}
	}
}

// The controller of a StatefulSet replaces no pod while one is not ready. Of the pods that are not
// ready, only outdated ones with the old template are evicted.
func TestNextPodInOrder(t *testing.T) {
	t.Parallel()
	pod := func(ordinal int, revision string, started time.Duration, ready corev1.ConditionStatus) *corev1.Pod {
		made := podOf("set", ordinal, started)
		made.Name, made.Labels = fmt.Sprintf("set-%d", ordinal), map[string]string{appsv1.ControllerRevisionHashLabelKey: revision}
		made.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
		return made
	}
	const old, fresh, yes, no = 2 * time.Hour, time.Minute, corev1.ConditionTrue, corev1.ConditionFalse
	for name, tc := range map[string]struct {
		pods []*corev1.Pod
		want string
	}{
		"all are ready":                   {[]*corev1.Pod{pod(0, "a", old, yes), pod(1, "a", old, yes)}, ""},
		"one is not":                      {[]*corev1.Pod{pod(0, "a", old, yes), pod(1, "a", old, no)}, "set-1"},
		"none is":                         {[]*corev1.Pod{pod(1, "a", old, no), pod(0, "a", old, no)}, "set-0"},
		"it holds nothing old":            {[]*corev1.Pod{pod(0, "a", old, yes), pod(1, "a", fresh, no)}, ""},
		"it has the new template":         {[]*corev1.Pod{pod(0, "a", old, yes), pod(1, "b", old, no)}, ""},
		"a new one waits for an old one":  {[]*corev1.Pod{pod(0, "a", old, no), pod(1, "b", fresh, no)}, "set-0"},
		"one is not made before it is so": {[]*corev1.Pod{pod(0, "a", old, no)}, "set-0"},
	} {
		for _, lame := range []bool{false, true} {
			item := stale(statefulSet(func(s *appsv1.StatefulSet) { s.Status.UpdateRevision = "b" }), renewed(time.Hour))
			item.ongoing = &ongoingRestart{since: now.Add(-progressTimeout - time.Minute), unavailable: lame}
			got := ""
			if next := podToEvict(now, item, tc.pods); next != nil {
				got = next.Name
			}
			if got != tc.want {
				t.Errorf("%s: %q is evicted next, want %q (unavailable before: %t)", name, got, tc.want, lame)
			}
		}
	}
}

// Pods of a StatefulSet that rolls out by itself are evicted only under the stamp of its restart,
// and only if its controller waits for one of them.
func TestBlocked(t *testing.T) {
	t.Parallel()
	type s = appsv1.StatefulSet
	rolls := func(edits ...func(*s)) *workloadState {
		all := append([]func(*s){func(s *s) { s.Status.UpdateRevision = "b" }}, edits...)
		item := marked(stale(statefulSet(all...), renewed(time.Hour)), time.Minute, "")
		item.unreadyOutdated = true
		return item
	}
	waiting, undone, ready, abandoned := rolls(), rolls(), rolls(), rolls()
	waiting.ongoing, ready.unreadyOutdated, abandoned.unmanaged = nil, false, true
	undone.template.Annotations = nil
	for name, tc := range map[string]struct {
		one  *workloadState
		want bool
	}{
		"in its turn":             {rolls(), true},
		"before its turn":         {waiting, false},
		"undone":                  {undone, false},
		"no policy wants it more": {abandoned, false},
		"every old pod is ready":  {ready, false},
		"the stamp is not seen":   {rolls(func(s *s) { s.Generation++ }), false},
		"its pods need no order":  {rolls(func(s *s) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }), false},
	} {
		if got := tc.one.needsEviction(); got != tc.want {
			t.Errorf("%s: pods are evicted: %t, want %t", name, got, tc.want)
		}
	}
}

// The message on a refused eviction names the PodDisruptionBudgets and the remedy.
func TestExplain(t *testing.T) {
	t.Parallel()
	budget := func(name string, selects map[string]string) *policyv1.PodDisruptionBudget {
		return &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: selects}},
		}
	}
	db := map[string]string{"app": "db"}
	kube := fake.NewClientBuilder().WithObjects(budget("chart", db), budget("everything", nil), budget("web", map[string]string{"app": "web"})).Build()
	forbidden := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
			return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudgets"), "", nil)
		},
	}).Build()
	several := apierrors.FromObject(&metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
		Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
	})
	full := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 10)
	full.ErrStatus.Details.Causes = []metav1.StatusCause{{Message: "The disruption budget db needs 2 healthy pods and has 1 currently"}}
	const cannot = "Cannot evict pod as it would violate the pod's disruption budget. The disruption budget db needs 2 healthy pods and has 1 currently"
	for name, tc := range map[string]struct {
		kube  client.Client
		ready corev1.ConditionStatus
		err   error
		want  string
	}{
		"several budgets":  {kube, corev1.ConditionTrue, several, errBudgets.Error() + ": delete one of the PodDisruptionBudgets chart, everything, or change its selector"},
		"they are unknown": {forbidden, corev1.ConditionTrue, several, errBudgets.Error() + ": delete one of them, or change its selector"},
		"a full budget":    {kube, corev1.ConditionTrue, full, cannot},
		"a pod not ready":  {kube, corev1.ConditionFalse, full, cannot + " (the pod is not ready: unhealthyPodEvictionPolicy AlwaysAllow in the budget lets it be evicted)"},
		"another failure":  {kube, corev1.ConditionTrue, errors.New("no route to host"), "no route to host"},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db-0", Labels: db}}
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: tc.ready}}
		r := New(Reconciler{Live: tc.kube})
		if got := r.explain(t.Context(), pod, tc.err); got.Error() != tc.want {
			t.Errorf("%s: it says %q, want %q", name, got, tc.want)
		}
	}
	if err := New(Reconciler{}).explain(t.Context(), nil, nil); err != nil {
		t.Errorf("an eviction that succeeded is told as %v", err)
	}
}
