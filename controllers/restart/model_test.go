package restart

import (
	"testing"

	"pgregory.net/rapid"
)

// In each run every workload reaches its expected final state, and the status reports it. No
// available workload waits longer than its bound for those of other policies, or for those of its
// own policy that never finish. At most maxConcurrent restarts are under way. No workload is
// restarted without a reason.
func TestLiveness(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		x := newTrial(rt, mutant{})
		if wrong := x.run(t); len(wrong) > 0 {
			rt.Fatal(wrong)
		}
	})
}

// The model detects faults of the operator: each of these mutants fails in some run.
func TestLivenessCatchesMutants(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]mutant{
		"a back-off is shared":                    {backsOff: true},
		"a label is believed":                     {believes: true},
		"progress makes a turn longer":            {progresses: true},
		"a restart that failed gets no other one": {forgets: true},
		"what expires waits for a window":         {strict: true},
		"everything is taken to expire":           {loose: true},
		"nothing halts":                           {goesOn: true},
		"pods that are not ready are waited for":  {waits: true},
		"a partition is not seen":                 {unstages: true},
		"a refused eviction is not tried again":   {givesUp: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			trials := rapid.Custom(func(t *rapid.T) *trial { return newTrial(t, broken) })
			// The fixed seeds are known to fail; new ones are tried only if they no longer do.
			for n := range 300 {
				seed := append([]int{2, 16, 18, 34, 40, 88, 202}, n)[min(n, 7)]
				if wrong := trials.Example(seed).run(t); len(wrong) > 0 {
					t.Logf("seed %d: %s", seed, wrong[0])
					return
				}
			}
			t.Error("nobody noticed")
		})
	}
}
