// Package policy decides which ServingCertPolicy applies to a Service.
package policy

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Set is the set of all policies of a cluster.
type Set struct {
	// valid are the policies whose selectors are valid, in order of precedence.
	valid      []compiledPolicy
	hasInvalid bool
}

type compiledPolicy struct {
	policy              *v1alpha1.ServingCertPolicy
	namespaces, service labels.Selector
}

// NewSet returns the Set of policies. Precedence is by the highest priority, then by age (the
// oldest first), then by name. A policy with an invalid selector applies to nothing; CheckSelectors
// returns why.
func NewSet(policies []v1alpha1.ServingCertPolicy) Set {
	var set Set
	for i := range policies {
		c, err := compile(&policies[i])
		if err != nil {
			set.hasInvalid = true
			continue
		}
		set.valid = append(set.valid, c)
	}
	slices.SortFunc(set.valid, func(a, b compiledPolicy) int {
		return cmp.Or(
			cmp.Compare(b.policy.Spec.Priority, a.policy.Spec.Priority),
			a.policy.CreationTimestamp.Compare(b.policy.CreationTimestamp.Time),
			cmp.Compare(a.policy.Name, b.policy.Name),
		)
	})
	return set
}

// SetCache caches a Set while the policies stay the same, because every reconcile of a Service
// needs it.
type SetCache struct {
	mu       sync.Mutex
	versions map[string]version
	set      Set
}

// version identifies one state of a policy.
type version struct {
	uid             types.UID
	resourceVersion string
}

// Get returns the Set of these policies. The caller must not change the policies afterwards.
func (c *SetCache) Get(policies []v1alpha1.ServingCertPolicy) Set {
	c.mu.Lock()
	defer c.mu.Unlock()
	same := len(policies) == len(c.versions)
	for i := range policies {
		previous, ok := c.versions[policies[i].Name]
		same = same && ok && previous == versionOf(&policies[i])
	}
	if same {
		return c.set
	}
	c.set, c.versions = NewSet(policies), make(map[string]version, len(policies))
	for i := range policies {
		c.versions[policies[i].Name] = versionOf(&policies[i])
	}
	return c.set
}

func versionOf(policy *v1alpha1.ServingCertPolicy) version {
	return version{policy.UID, policy.ResourceVersion}
}

// HasInvalid reports whether a policy has an invalid selector, so that it is not known which
// Services it is meant for.
func (s Set) HasInvalid() bool { return s.hasInvalid }

// CheckSelectors returns an error that says which selector of a policy is invalid, and why.
func CheckSelectors(policy *v1alpha1.ServingCertPolicy) error {
	_, err := compile(policy)
	return err
}

func compile(policy *v1alpha1.ServingCertPolicy) (compiledPolicy, error) {
	namespaces, err := metav1.LabelSelectorAsSelector(&policy.Spec.NamespaceSelector)
	if err != nil {
		return compiledPolicy{}, fmt.Errorf("spec.namespaceSelector: %w", err)
	}
	service, err := metav1.LabelSelectorAsSelector(&policy.Spec.ServiceSelector)
	if err != nil {
		return compiledPolicy{}, fmt.Errorf("spec.serviceSelector: %w", err)
	}
	return compiledPolicy{policy: policy, namespaces: namespaces, service: service}, nil
}

// For returns the policy that applies to a Service with these labels, or nil if there is none. tied
// are the other policies of the same priority that select it.
func (s Set) For(namespace, service labels.Set) (ruling *v1alpha1.ServingCertPolicy, tied []*v1alpha1.ServingCertPolicy) {
	for _, c := range s.valid {
		switch {
		case ruling != nil && c.policy.Spec.Priority != ruling.Spec.Priority:
			return ruling, tied
		case !c.namespaces.Matches(namespace) || !c.service.Matches(service):
		case ruling == nil:
			ruling = c.policy
		default:
			tied = append(tied, c.policy)
		}
	}
	return ruling, tied
}

// ForWorkload returns the policy that applies to a workload, or nil if there is none: the one with
// the highest precedence of those that apply to its Services or, if none does, of those whose
// namespace selector matches.
func (s Set) ForWorkload(namespace labels.Set, services ...labels.Set) *v1alpha1.ServingCertPolicy {
	var ruling []*v1alpha1.ServingCertPolicy
	for _, service := range services {
		if policy, _ := s.For(namespace, service); policy != nil {
			ruling = append(ruling, policy)
		}
	}
	for _, c := range s.valid {
		if slices.Contains(ruling, c.policy) || (len(ruling) == 0 && c.namespaces.Matches(namespace)) {
			return c.policy
		}
	}
	return nil
}

// Suffixes returns the distinct secretNameSuffixes of the policies that issue for every Service.
func (s Set) Suffixes() []string {
	var suffixes []string
	for _, c := range s.valid {
		if c.policy.Spec.Issuance == v1alpha1.IssueAll && !slices.Contains(suffixes, c.policy.Spec.SecretNameSuffix) {
			suffixes = append(suffixes, c.policy.Spec.SecretNameSuffix)
		}
	}
	return suffixes
}
