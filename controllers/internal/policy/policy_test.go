package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/policy"
)

var epoch = time.Date(2071, time.March, 14, 15, 9, 26, 0, time.UTC)

func newPolicy(name string, edits ...func(*v1alpha1.ServingCertPolicy)) v1alpha1.ServingCertPolicy {
	made := v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(epoch)}}
	for _, edit := range edits {
		edit(&made)
	}
	return made
}

func priority(value int32) func(*v1alpha1.ServingCertPolicy) {
	return func(p *v1alpha1.ServingCertPolicy) { p.Spec.Priority = value }
}

func age(seconds int) func(*v1alpha1.ServingCertPolicy) {
	return func(p *v1alpha1.ServingCertPolicy) {
		p.CreationTimestamp = metav1.NewTime(epoch.Add(time.Duration(-seconds) * time.Second))
	}
}

func namespaces(key, value string) func(*v1alpha1.ServingCertPolicy) {
	return func(p *v1alpha1.ServingCertPolicy) {
		p.Spec.NamespaceSelector.MatchLabels = map[string]string{key: value}
	}
}

func services(key, value string) func(*v1alpha1.ServingCertPolicy) {
	return func(p *v1alpha1.ServingCertPolicy) {
		p.Spec.ServiceSelector.MatchLabels = map[string]string{key: value}
	}
}

func expression(key string, operator metav1.LabelSelectorOperator, values ...string) metav1.LabelSelector {
	return metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: operator, Values: values}}}
}

func namesOf(policies []*v1alpha1.ServingCertPolicy) []string {
	var names []string
	for _, p := range policies {
		names = append(names, p.Name)
	}
	return names
}

func nameOf(p *v1alpha1.ServingCertPolicy) string {
	if p == nil {
		return ""
	}
	return p.Name
}

func TestFor(t *testing.T) {
	for _, tc := range []struct {
		name     string
		policies []v1alpha1.ServingCertPolicy
		ruling   string
		tied     []string
	}{
		{"no policy", nil, "", nil},
		{"the empty selectors take all", []v1alpha1.ServingCertPolicy{newPolicy("a")}, "a", nil},
		{"the namespace must match", []v1alpha1.ServingCertPolicy{newPolicy("a", namespaces("env", "test"))}, "", nil},
		{"the Service must match", []v1alpha1.ServingCertPolicy{newPolicy("a", services("app", "db"))}, "", nil},
		{"one matching selector is not enough", []v1alpha1.ServingCertPolicy{newPolicy("a", namespaces("env", "prod"), services("app", "db"))}, "", nil},
		{"both match", []v1alpha1.ServingCertPolicy{newPolicy("a", namespaces("env", "prod"), services("app", "web"))}, "a", nil},
		{"the selectors are not mixed up", []v1alpha1.ServingCertPolicy{newPolicy("a", namespaces("app", "web"), services("env", "prod"))}, "", nil},
		{"the highest priority", []v1alpha1.ServingCertPolicy{newPolicy("a"), newPolicy("b", priority(1)), newPolicy("c", priority(-1))}, "b", nil},
		{"the highest that matches", []v1alpha1.ServingCertPolicy{newPolicy("a", priority(2), services("app", "db")), newPolicy("b", priority(1))}, "b", nil},
		{"the older wins a tie", []v1alpha1.ServingCertPolicy{newPolicy("a"), newPolicy("b", age(1))}, "b", []string{"a"}},
		{"then the name", []v1alpha1.ServingCertPolicy{newPolicy("c"), newPolicy("b"), newPolicy("a")}, "a", []string{"b", "c"}},
		{"age does not beat priority", []v1alpha1.ServingCertPolicy{newPolicy("a", age(9)), newPolicy("b", priority(1))}, "b", nil},
		{"a tie below is no tie", []v1alpha1.ServingCertPolicy{newPolicy("a", priority(1)), newPolicy("b"), newPolicy("c")}, "a", nil},
		{"a tie with what does not match is none", []v1alpha1.ServingCertPolicy{newPolicy("a"), newPolicy("b", services("app", "db"))}, "a", nil},
		{"one that cannot be read rules nothing", []v1alpha1.ServingCertPolicy{
			newPolicy("a", priority(1), func(p *v1alpha1.ServingCertPolicy) { p.Spec.ServiceSelector = expression("app", "Like", "w*") }), newPolicy("b")}, "b", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ruling, tied := policy.NewSet(tc.policies).For(labels.Set{"env": "prod"}, labels.Set{"app": "web"})
			if nameOf(ruling) != tc.ruling {
				t.Errorf("%q rules, want %q", nameOf(ruling), tc.ruling)
			}
			if diff := cmp.Diff(tc.tied, namesOf(tied)); diff != "" {
				t.Errorf("tied (-want +got):\n%s", diff)
			}
		})
	}
}

// genPolicies draws policies with different names, few different priorities and ages, and selectors
// that often match.
func genPolicies(t *rapid.T) []v1alpha1.ServingCertPolicy {
	var policies []v1alpha1.ServingCertPolicy
	for i := range rapid.IntRange(0, 8).Draw(t, "policies") {
		p := newPolicy(fmt.Sprintf("p%d", i),
			priority(rapid.Int32Range(-1, 1).Draw(t, "priority")), age(rapid.IntRange(0, 2).Draw(t, "age")))
		p.Spec.NamespaceSelector = genSelector(t, "env")
		p.Spec.ServiceSelector = genSelector(t, "app")
		policies = append(policies, p)
	}
	return policies
}

func genSelector(t *rapid.T, key string) metav1.LabelSelector {
	return rapid.SampledFrom([]metav1.LabelSelector{
		{}, {}, {MatchLabels: map[string]string{key: "x"}}, {MatchLabels: map[string]string{key: "y"}},
		expression(key, metav1.LabelSelectorOpNotIn, "y"), expression(key, metav1.LabelSelectorOpExists), expression(key, "Like", "x"),
	}).Draw(t, key)
}

// matches evaluates one of the drawn selectors without the package under test.
func matches(selector metav1.LabelSelector, key string, set labels.Set) bool {
	value, has := set[key]
	if want, ok := selector.MatchLabels[key]; ok {
		return value == want
	}
	for _, e := range selector.MatchExpressions {
		switch e.Operator {
		case metav1.LabelSelectorOpNotIn:
			return value != "y"
		case metav1.LabelSelectorOpExists:
			return has
		default:
			return false
		}
	}
	return true
}

// before reports whether a precedes b in the documented order: the highest priority, then the
// oldest, then the name.
func before(a, b v1alpha1.ServingCertPolicy) bool {
	if a.Spec.Priority != b.Spec.Priority {
		return a.Spec.Priority > b.Spec.Priority
	}
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Name < b.Name
}

func validPolicies(p v1alpha1.ServingCertPolicy) bool {
	return !slices.ContainsFunc(append(p.Spec.NamespaceSelector.MatchExpressions, p.Spec.ServiceSelector.MatchExpressions...),
		func(e metav1.LabelSelectorRequirement) bool { return e.Operator == "Like" })
}

// TestPrecedence checks that, for any order of the input, the policy that applies is the first in
// precedence of those that match, and that the tied policies are exactly those of the same
// priority.
func TestPrecedence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policies := genPolicies(t)
		set := rapid.SampledFrom([]labels.Set{nil, {"env": "x", "app": "x"}, {"env": "y", "app": "x"}, {"env": "x"}})
		namespace, service := set.Draw(t, "namespace"), set.Draw(t, "service")
		ruling, tied := policy.NewSet(policies).For(namespace, service)

		var want *v1alpha1.ServingCertPolicy
		for _, p := range policies {
			if validPolicies(p) && matches(p.Spec.NamespaceSelector, "env", namespace) && matches(p.Spec.ServiceSelector, "app", service) &&
				(want == nil || before(p, *want)) {
				want = &p
			}
		}
		var wantTied []string
		for _, p := range policies {
			if want != nil && p.Name != want.Name && p.Spec.Priority == want.Spec.Priority && validPolicies(p) &&
				matches(p.Spec.NamespaceSelector, "env", namespace) && matches(p.Spec.ServiceSelector, "app", service) {
				wantTied = append(wantTied, p.Name)
			}
		}
		if nameOf(ruling) != nameOf(want) {
			t.Errorf("%q rules, want %q", nameOf(ruling), nameOf(want))
		}
		if diff := cmp.Diff(wantTied, slices.Sorted(slices.Values(namesOf(tied)))); diff != "" {
			t.Errorf("tied (-want +got):\n%s", diff)
		}
		shuffled := rapid.Permutation(policies).Draw(t, "another order")
		again, tiedAgain := policy.NewSet(shuffled).For(namespace, service)
		if nameOf(again) != nameOf(ruling) || !cmp.Equal(namesOf(tiedAgain), namesOf(tied)) {
			t.Errorf("in another order %q rules with %v tied, and not %q with %v", nameOf(again), namesOf(tiedAgain), nameOf(ruling), namesOf(tied))
		}
	})
}

func TestCheckSelectors(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		edit       func(*v1alpha1.ServingCertPolicySpec)
	}{
		{"empty", "", func(*v1alpha1.ServingCertPolicySpec) {}},
		{"sound", "", func(s *v1alpha1.ServingCertPolicySpec) {
			s.NamespaceSelector, s.ServiceSelector = expression("a", "In", "b"), expression("a", "DoesNotExist")
		}},
		{"an unknown operator", "spec.namespaceSelector: ", func(s *v1alpha1.ServingCertPolicySpec) { s.NamespaceSelector = expression("a", "Like", "b") }},
		{"In without a value", "spec.serviceSelector: ", func(s *v1alpha1.ServingCertPolicySpec) { s.ServiceSelector = expression("a", "In") }},
		{"Exists with a value", "spec.serviceSelector: ", func(s *v1alpha1.ServingCertPolicySpec) { s.ServiceSelector = expression("a", "Exists", "b") }},
		{"no label's key", "spec.namespaceSelector: ", func(s *v1alpha1.ServingCertPolicySpec) {
			s.NamespaceSelector = metav1.LabelSelector{MatchLabels: map[string]string{"not a key": "b"}}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPolicy("p", func(p *v1alpha1.ServingCertPolicy) { tc.edit(&p.Spec) })
			err := policy.CheckSelectors(&p)
			if (err == nil) != (tc.want == "") || (err != nil && !strings.HasPrefix(err.Error(), tc.want)) {
				t.Errorf("CheckSelectors = %v, want %q", err, tc.want)
			}
			set := policy.NewSet([]v1alpha1.ServingCertPolicy{newPolicy("sound"), p})
			if got := set.HasInvalid(); got != (tc.want != "") {
				t.Errorf("Unreadable = %v, and CheckSelectors = %v", got, err)
			}
		})
	}
}

func TestSuffixes(t *testing.T) {
	all := func(suffix string) func(*v1alpha1.ServingCertPolicy) {
		return func(p *v1alpha1.ServingCertPolicy) {
			p.Spec.Issuance, p.Spec.SecretNameSuffix = v1alpha1.IssueAll, suffix
		}
	}
	annotated := func(p *v1alpha1.ServingCertPolicy) {
		p.Spec.Issuance, p.Spec.SecretNameSuffix = v1alpha1.IssueAnnotated, "-annotated"
	}
	broken := func(p *v1alpha1.ServingCertPolicy) { p.Spec.ServiceSelector = expression("a", "Like", "b") }
	for _, tc := range []struct {
		name     string
		policies []v1alpha1.ServingCertPolicy
		want     []string
	}{
		{"no policy", nil, nil},
		{"only for those who ask", []v1alpha1.ServingCertPolicy{newPolicy("a", annotated)}, nil},
		{"each once, by precedence", []v1alpha1.ServingCertPolicy{newPolicy("a", all("-tls")), newPolicy("b", annotated),
			newPolicy("c", all("-cert"), priority(1)), newPolicy("d", all("-tls"))}, []string{"-cert", "-tls"}},
		{"none of one that cannot be read", []v1alpha1.ServingCertPolicy{newPolicy("a", all("-tls"), broken)}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, policy.NewSet(tc.policies).Suffixes()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestSetCache checks that a Set is reused until a policy is added, removed or changed, for any
// order of the input.
func TestSetCache(t *testing.T) {
	version := func(name, uid, resourceVersion string, edits ...func(*v1alpha1.ServingCertPolicy)) v1alpha1.ServingCertPolicy {
		made := newPolicy(name, edits...)
		made.UID, made.ResourceVersion = types.UID(uid), resourceVersion
		return made
	}
	a, b := version("a", "1", "10", priority(1)), version("b", "2", "11")
	var sets policy.SetCache
	for _, step := range []struct {
		name, ruling string
		policies     []v1alpha1.ServingCertPolicy
	}{
		{name: "none"},
		{name: "one", policies: []v1alpha1.ServingCertPolicy{b}, ruling: "b"},
		{name: "another above it", policies: []v1alpha1.ServingCertPolicy{b, a}, ruling: "a"},
		{name: "in another order", policies: []v1alpha1.ServingCertPolicy{a, b}, ruling: "a"},
		{name: "the one above changed", policies: []v1alpha1.ServingCertPolicy{version("a", "1", "12", priority(-1)), b}, ruling: "b"},
		{name: "both changed", policies: []v1alpha1.ServingCertPolicy{version("a", "1", "13"), version("b", "2", "14", priority(1))}, ruling: "b"},
		{name: "made anew", policies: []v1alpha1.ServingCertPolicy{version("a", "3", "13", priority(2)), version("b", "2", "14", priority(1))}, ruling: "a"},
		{name: "one in the place of another", policies: []v1alpha1.ServingCertPolicy{version("c", "3", "13"), version("b", "2", "14")}, ruling: "b"},
		{name: "none again"},
	} {
		ruling, _ := sets.Get(step.policies).For(nil, nil)
		switch {
		case step.ruling == "" && ruling != nil:
			t.Errorf("%s: %s rules", step.name, ruling.Name)
		case step.ruling != "" && (ruling == nil || ruling.Name != step.ruling):
			t.Errorf("%s: %v rules, want %s", step.name, ruling, step.ruling)
		}
	}
	if ruling, _ := sets.Get([]v1alpha1.ServingCertPolicy{a, b}).For(nil, nil); ruling != nil {
		if other, _ := sets.Get([]v1alpha1.ServingCertPolicy{b, a}).For(nil, nil); ruling != other {
			t.Error("the same policies are compiled again")
		}
	}
}
