// Package publish keeps a ConfigMap with the trust bundle in each namespace that
// spec.trustBundle.publish of a ServiceCA selects.
package publish

import (
	"cmp"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/servingcert/operator/api/v1alpha1"
)

// claim is an entry of spec.trustBundle.publish of one ServiceCA.
type claim struct {
	ca     *v1alpha1.ServiceCA
	bundle *v1alpha1.PublishedBundle

	namespaces labels.Selector
}

// claims are the claims of all ServiceCAs, those of older ServiceCAs first.
type claims struct {
	all []claim
	// reserved are the trust-bundle ConfigMaps of the ServiceCAs in the operator's namespace.
	reserved map[types.NamespacedName]bool
}

// newClaims returns the claims of ServiceCAs. An invalid selector, which the API server rejects,
// selects nothing.
func newClaims(cas []v1alpha1.ServiceCA, ownNamespace string) claims {
	result := claims{reserved: map[types.NamespacedName]bool{}}
	for i := range cas {
		ca := &cas[i]
		result.reserved[types.NamespacedName{Namespace: ownNamespace, Name: ca.TrustBundleConfigMapName()}] = true
		for j := range ca.Spec.TrustBundle.Publish {
			bundle := &ca.Spec.TrustBundle.Publish[j]
			if selector, err := metav1.LabelSelectorAsSelector(&bundle.NamespaceSelector); err == nil {
				result.all = append(result.all, claim{ca: ca, bundle: bundle, namespaces: selector})
			}
		}
	}
	slices.SortStableFunc(result.all, func(a, b claim) int {
		return cmp.Or(a.ca.CreationTimestamp.Compare(b.ca.CreationTimestamp.Time), cmp.Compare(a.ca.Name, b.ca.Name))
	})
	return result
}

// effectiveClaim returns the claim that applies to a ConfigMap; nil if none does. namespace holds
// the labels of the ConfigMap's namespace.
func (c claims) effectiveClaim(configMap types.NamespacedName, namespace labels.Set) *claim {
	if c.reserved[configMap] {
		return nil
	}
	for i := range c.all {
		if c := &c.all[i]; c.bundle.ConfigMapName == configMap.Name && c.namespaces.Matches(namespace) {
			return c
		}
	}
	return nil
}

// names returns the names of all published ConfigMaps, sorted.
func (c claims) names() []string {
	var names []string
	for _, c := range c.all {
		names = append(names, c.bundle.ConfigMapName)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
