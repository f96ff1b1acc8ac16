package policy_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/policy"
)

// TestForWorkload checks that the policy of a workload is that of its Services or, if no policy
// applies to those, the one that selects its namespace.
func TestForWorkload(t *testing.T) {
	t.Parallel()
	set := policy.NewSet([]v1alpha1.ServingCertPolicy{
		newPolicy("all"),
		newPolicy("web", priority(5), services("app", "web")),
		newPolicy("critical", priority(9), namespaces("ns", "prod"), services("tier", "critical")),
		newPolicy("shop", priority(7), namespaces("ns", "shop"), services("app", "nothing")),
	})
	for name, tc := range map[string]struct {
		namespace labels.Set
		services  []labels.Set
		want      string
	}{
		"no Service, whatever a policy selects": {nil, nil, "web"},
		"no Service, by namespace":              {labels.Set{"ns": "shop"}, nil, "shop"},
		"one":                                   {nil, []labels.Set{{"app": "web"}}, "web"},
		"one, whatever the namespace":           {labels.Set{"ns": "shop"}, []labels.Set{{"app": "web"}}, "web"},
		"the highest of several":                {labels.Set{"ns": "prod"}, []labels.Set{{"app": "other"}, {"tier": "critical"}, {"app": "web"}}, "critical"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := set.ForWorkload(tc.namespace, tc.services...); got == nil || got.Name != tc.want {
				t.Errorf("%v rules, want %s", got, tc.want)
			}
		})
	}
	if got := policy.NewSet(nil).ForWorkload(nil, labels.Set{}); got != nil {
		t.Errorf("%s rules, and there is no policy", got.Name)
	}
}
