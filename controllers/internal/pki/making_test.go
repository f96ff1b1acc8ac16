package pki

import (
	"crypto"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Keys are handed out together while the cores have others to make; at once where they have not; and no core is idle for that.
func TestMakers(t *testing.T) {
	t.Parallel()
	const cores, takes = 2, 70 * time.Millisecond
	for _, tc := range []struct {
		name string
		// wanted are asked for at once, by so many who take a key before they ask for another.
		wanted, askers, groups int
	}{
		{"one", 1, 16, 1},
		{"as many as there are cores", 2, 16, 1},
		{"a few more", 5, 16, 2},
		{"many", 64, 16, 8},
		{"by hardly more than there are cores", 12, 3, 6},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, begin := newMakers(cores), time.Now()
				var mu sync.Mutex
				at := map[time.Duration]int{}
				orders := make(chan struct{}, tc.wanted)
				for range tc.wanted {
					orders <- struct{}{}
				}
				close(orders)
				var askers sync.WaitGroup
				for range tc.askers {
					askers.Go(func() {
						for range orders {
							var made time.Duration
							_, err := m.make(func() (crypto.Signer, error) {
								time.Sleep(takes)
								made = time.Since(begin)
								return nil, errors.ErrUnsupported
							})
							given := time.Since(begin)
							if given-made > together || !errors.Is(err, errors.ErrUnsupported) {
								t.Errorf("%v: it was made after %s, and handed out after %s", err, made, given)
							}
							mu.Lock()
							at[given]++
							mu.Unlock()
						}
					})
				}
				askers.Wait()
				if took, want := time.Since(begin), time.Duration((tc.wanted+cores-1)/cores)*takes; took != want {
					t.Errorf("it took %s, and the cores make them in %s", took, want)
				}
				if len(at) > tc.groups {
					t.Errorf("they came in %d groups, want %d: %v", len(at), tc.groups, at)
				}
			})
		})
	}
}
