package restart

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// errBudgets is the error when more than one PodDisruptionBudget selects a pod: the API server
// evicts no such pod, whatever the budgets allow.
var errBudgets = errors.New("more than one PodDisruptionBudget selects it, and the API server evicts no such pod")

// explain adds to a refused eviction which PodDisruptionBudgets refused it, and the remedy.
func (r *Reconciler) explain(ctx context.Context, pod *corev1.Pod, err error) error {
	switch status := apierrors.APIStatus(nil); {
	case !errors.As(err, &status):
		return err
	case strings.Contains(err.Error(), "more than one PodDisruptionBudget"):
		return fmt.Errorf("%w: delete one of %s, or change its selector", errBudgets, r.budgets(ctx, pod))
	case apierrors.IsTooManyRequests(err):
		words := []string{err.Error()}
		if details := status.Status().Details; details != nil {
			for _, cause := range details.Causes {
				words = append(words, cause.Message)
			}
		}
		if !isReady(pod) {
			words = append(words, "(the pod is not ready: unhealthyPodEvictionPolicy AlwaysAllow in the budget lets it be evicted)")
		}
		return errors.New(strings.Join(words, " "))
	}
	return err
}

// budgets names the PodDisruptionBudgets that select a pod, as far as the operator may list them.
func (r *Reconciler) budgets(ctx context.Context, pod *corev1.Pod) string {
	var names []string
	var budgets policyv1.PodDisruptionBudgetList
	if err := r.Live.List(ctx, &budgets, client.InNamespace(pod.Namespace), client.Limit(podsPerPage)); err == nil {
		for _, budget := range budgets.Items {
			selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
			if err == nil && selector.Matches(labels.Set(pod.Labels)) {
				names = insertSorted(names, budget.Name)
			}
		}
	}
	if len(names) == 0 {
		return "them"
	}
	return "the PodDisruptionBudgets " + joinNames(names)
}
