package restart

import (
	"testing"

	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"
)

// A Service selects what its selector matches in Kubernetes, and asking costs no memory.
func TestSelects(t *testing.T) {
	set := rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "c"}), rapid.SampledFrom([]string{"", "x", "y"}), 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		selector, on := set.Draw(t, "selector"), set.Draw(t, "labels")
		if got, want := selects(selector, on), labels.SelectorFromSet(selector).Matches(labels.Set(on)); got != want {
			t.Errorf("selects(%v, %v) = %t, want %t", selector, on, got, want)
		}
	})
	web := map[string]string{"app": "web", "tier": "front"}
	if allocs := testing.AllocsPerRun(10, func() { selects(web, web) }); allocs > 0 {
		t.Errorf("it allocates %v times", allocs)
	}
}
