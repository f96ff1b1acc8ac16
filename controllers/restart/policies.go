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

// policyResolver determines which policy applies to a workload.
type policyResolver struct {
	policies   []v1alpha1.ServingCertPolicy
	set        policy.Set
	namespaces map[string]labels.Set
	services   map[selectorLabel][]*corev1.Service
}

// selectorLabel is one label of a Service's selector. It indexes the Services: there are too many
// to match each of them with each workload.
type selectorLabel struct{ namespace, key, value string }

func (r *Reconciler) newPolicyResolver(ctx context.Context) (policyResolver, error) {
	resolver := policyResolver{namespaces: map[string]labels.Set{}, services: map[selectorLabel][]*corev1.Service{}}
	var policies v1alpha1.ServingCertPolicyList
	if err := r.View.List(ctx, &policies); err != nil {
		return resolver, err
	}
	resolver.policies, resolver.set = policies.Items, policy.NewSet(policies.Items)
	var services corev1.ServiceList
	if err := r.View.List(ctx, &services, client.UnsafeDisableDeepCopy); err != nil {
		return resolver, err
	}
	for i := range services.Items {
		service := &services.Items[i]
		if keys := slices.Sorted(maps.Keys(service.Spec.Selector)); len(keys) > 0 {
			first := selectorLabel{service.Namespace, keys[0], service.Spec.Selector[keys[0]]}
			resolver.services[first] = append(resolver.services[first], service)
		}
	}
	var namespaces metav1.PartialObjectMetadataList
	namespaces.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NamespaceList"))
	if err := r.View.List(ctx, &namespaces, client.UnsafeDisableDeepCopy); err != nil {
		return resolver, err
	}
	for _, namespace := range namespaces.Items {
		resolver.namespaces[namespace.Name] = namespace.Labels
	}
	return resolver, nil
}

// policyFor returns the policy that applies to a workload; noPolicy if none does.
func (r policyResolver) policyFor(w *workload) *v1alpha1.ServingCertPolicy {
	var selecting []labels.Set
	for key, value := range w.template.Labels {
		for _, service := range r.services[selectorLabel{w.GetNamespace(), key, value}] {
			if selects(service.Spec.Selector, w.template.Labels) {
				selecting = append(selecting, service.Labels)
			}
		}
	}
	if ruling := r.set.ForWorkload(r.namespaces[w.GetNamespace()], selecting...); ruling != nil {
		return ruling
	}
	return noPolicy
}

// selects reports whether the selector of a Service matches the labels of pods. It allocates nothing, as
// labels.SelectorFromSet would: one tenant may have thousands of Services, and of Jobs.
func selects(selector, podLabels map[string]string) bool {
	for key, want := range selector {
		if value, has := podLabels[key]; !has || value != want {
			return false
		}
	}
	return true
}
