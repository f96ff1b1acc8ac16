package restart

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/policy"
)

// rulings tell which policy rules a workload.
type rulings struct {
	policies   []v1alpha1.ServingCertPolicy
	set        policy.Set
	namespaces map[string]labels.Set
	services   map[pair][]*corev1.Service
}

// pair is one label that the pods of a Service bear: there are too many Services to ask each about each workload.
type pair struct{ namespace, key, value string }

func (r *Reconciler) rulings(ctx context.Context) (rulings, error) {
	found := rulings{namespaces: map[string]labels.Set{}, services: map[pair][]*corev1.Service{}}
	var policies v1alpha1.ServingCertPolicyList
	if err := r.View.List(ctx, &policies); err != nil {
		return found, err
	}
	found.policies, found.set = policies.Items, policy.NewSet(policies.Items)
	var services corev1.ServiceList
	if err := r.View.List(ctx, &services, client.UnsafeDisableDeepCopy); err != nil {
		return found, err
	}
	for i := range services.Items {
		service := &services.Items[i]
		if keys := slices.Sorted(maps.Keys(service.Spec.Selector)); len(keys) > 0 {
			first := pair{service.Namespace, keys[0], service.Spec.Selector[keys[0]]}
			found.services[first] = append(found.services[first], service)
		}
	}
	var namespaces metav1.PartialObjectMetadataList
	namespaces.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NamespaceList"))
	if err := r.View.List(ctx, &namespaces, client.UnsafeDisableDeepCopy); err != nil {
		return found, err
	}
	for _, namespace := range namespaces.Items {
		found.namespaces[namespace.Name] = namespace.Labels
	}
	return found, nil
}

// of is the policy that rules a workload.
func (r rulings) of(w *workload) *v1alpha1.ServingCertPolicy {
	var selecting []labels.Set
	for key, value := range w.template.Labels {
		for _, service := range r.services[pair{w.GetNamespace(), key, value}] {
			if labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(w.template.Labels)) {
				selecting = append(selecting, service.Labels)
			}
		}
	}
	if ruling := r.set.ForWorkload(r.namespaces[w.GetNamespace()], selecting...); ruling != nil {
		return ruling
	}
	return noPolicy
}
