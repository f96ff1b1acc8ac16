// Package policy decides which ServingCertPolicy rules a Service.
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

// Set is all policies of a cluster.
type Set struct {
	// valid are those whose selectors can be read, in the order in which they rule.
	valid      []compiledPolicy
	hasInvalid bool
}

type compiledPolicy struct {
	policy              *v1alpha1.ServingCertPolicy
	namespaces, service labels.Selector
}

// NewSet sorts policies by precedence: the highest priority first, then the older, then the name. A policy with a selector that
// cannot be read rules nothing; CheckSelectors says why.
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

// SetCache makes Sets, and the same one for as long as the policies are the same: every look at a Service needs it.
type SetCache struct {
	mu       sync.Mutex
	versions map[string]version
	set      Set
}

// version tells a state of a policy from every other.
type version struct {
	uid             types.UID
	resourceVersion string
}

// Get is the Set of these policies, which are not to be changed after that.
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

// HasInvalid reports whether there is a policy of which nobody knows whom it means.
func (s Set) HasInvalid() bool { return s.hasInvalid }

// CheckSelectors tells which selector of a policy cannot be read, and why.
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

// For is the policy that rules a Service with these labels, nil when none does, and the policies of the same priority that
// would, but for the tie.
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

// ForWorkload is the policy that rules a workload: the highest of those that rule the Services in front of it or, without any, the
// highest that selects its namespace; nil when none does.
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

// Suffixes are the secretNameSuffixes of the policies that serve every Service, each once.
func (s Set) Suffixes() []string {
	var suffixes []string
	for _, c := range s.valid {
		if c.policy.Spec.Issuance == v1alpha1.IssueAll && !slices.Contains(suffixes, c.policy.Spec.SecretNameSuffix) {
			suffixes = append(suffixes, c.policy.Spec.SecretNameSuffix)
		}
	}
	return suffixes
}
