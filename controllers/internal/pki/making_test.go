package pki

import (
	"context"
	"crypto"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// takes is how long a key takes in these tests.
const takes = 70 * time.Millisecond

// orders are so many keys, asked for by so many who take a while to use one before they ask for another.
type orders struct {
	keys, askers int
	use          time.Duration
}

// by lets makers carry orders out; when each was made and when it was handed out, in the order in which they were.
func (o orders) by(t *testing.T, m *makers) (made, given []time.Duration) {
	t.Helper()
	begin := time.Now()
	left := make(chan struct{}, o.keys)
	for range o.keys {
		left <- struct{}{}
	}
	close(left)
	var mu sync.Mutex
	var askers sync.WaitGroup
	for range o.askers {
		askers.Go(func() {
			for range left {
				_, err := m.make(t.Context(), func() (crypto.Signer, error) {
					time.Sleep(takes)
					mu.Lock()
					defer mu.Unlock()
					made = append(made, time.Since(begin))
					return nil, errors.ErrUnsupported
				})
				if !errors.Is(err, errors.ErrUnsupported) {
					t.Error(err)
				}
				mu.Lock()
				given = append(given, time.Since(begin))
				mu.Unlock()
				time.Sleep(o.use)
			}
		})
	}
	askers.Wait()
	return made, given
}

// Keys are handed out together while the cores have many to make, and at once where they have not; and no core is idle for that.
func TestMakers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		orders
		cores, groups int
	}{
		{"one", orders{1, 16, 0}, 2, 1},
		{"as many as there are cores", orders{2, 16, 0}, 2, 1},
		{"no more than the cores have at hand", orders{4, 16, 0}, 2, 2},
		{"a few more", orders{8, 16, 0}, 2, 2},
		{"many", orders{64, 16, 20 * time.Millisecond}, 2, 9},
		{"by few", orders{20, 5, 60 * time.Millisecond}, 2, 10},
		{"on many cores", orders{64, 16, 60 * time.Millisecond}, 8, 8},
		{"on more", orders{64, 16, 0}, 16, 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				made, given := tc.by(t, newMakers(tc.cores, noGC))
				for i, at := range given {
					if at-made[i] > together {
						t.Errorf("%d: it was made after %s, and handed out after %s", i, made[i], at)
					}
				}
				took, want := made[len(made)-1], time.Duration((tc.keys+tc.cores-1)/tc.cores)*takes
				if took != want {
					t.Errorf("it took %s, and the cores make them in %s", took, want)
				}
				if groups := slices.Compact(given); len(groups) != tc.groups {
					t.Errorf("they came in %d groups, want %d: %v", len(groups), tc.groups, groups)
				}
			})
		})
	}
}

// Those who wait are not sent on when the wait of others ends, who went long before.
func TestMakersWaitAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, begin := newMakers(2, noGC), time.Now()
		var askers sync.WaitGroup
		var fifth time.Duration
		ask := func(i int, takes time.Duration) {
			askers.Go(func() {
				_, _ = m.make(t.Context(), func() (crypto.Signer, error) {
					time.Sleep(takes)
					return nil, nil
				})
				if i == 5 {
					fifth = time.Since(begin)
				}
			})
			time.Sleep(time.Millisecond)
		}
		for i := range 4 {
			ask(i+1, takes)
		}
		for i := range 2 {
			ask(i+5, 20*time.Millisecond)
		}
		// The first two went with the third, at 140 ms. The fifth is made at 160 ms, before those would have gone.
		time.Sleep(145*time.Millisecond - time.Since(begin))
		for i := range 10 {
			ask(i+7, 200*time.Millisecond)
		}
		askers.Wait()
		if want := 160*time.Millisecond + together; fifth != want {
			t.Errorf("the fifth came after %s, want %s", fifth, want)
		}
	})
}

func noGC(int) int { return 0 }

// Garbage may grow more from when many keys are wanted until none is, and as before then.
func TestMakersLeaveGarbage(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		orders
		want []int
	}{
		{"few at a time", orders{12, 3, 0}, []int{40}},
		{"many at first, and then few at a time", orders{8, 4, 2 * takes}, []int{40, roomForGarbage, 40}},
		{"many", orders{64, 16, 20 * time.Millisecond}, []int{40, roomForGarbage, 40}},
		{"many, one by one in the end", orders{5, 4, 0}, []int{40, roomForGarbage, 40}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				percents := []int{40}
				m := newMakers(2, func(percent int) int {
					before := percents[len(percents)-1]
					percents = append(percents, percent)
					return before
				})
				tc.by(t, m)
				if !slices.Equal(percents, tc.want) {
					t.Errorf("garbage may grow by %v, want %v", percents, tc.want)
				}
			})
		})
	}
}

// Who gives up has no key made, and neither holds others up nor keeps the cores: those at the front get theirs, however long the line is.
func TestMakersGiveUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		percent := 40
		m := newMakers(2, func(next int) (before int) {
			before, percent = percent, next
			return before
		})
		ctx, cancel := context.WithTimeout(t.Context(), 2*takes+takes/2)
		defer cancel()
		made, given := 0, 0
		var mu sync.Mutex
		var askers sync.WaitGroup
		for range 16 {
			askers.Go(func() {
				_, err := m.make(ctx, func() (crypto.Signer, error) {
					time.Sleep(takes)
					mu.Lock()
					defer mu.Unlock()
					made++
					return nil, nil
				})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					given++
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			})
		}
		askers.Wait()
		if made != 6 || given != 6 {
			t.Errorf("%d keys were made, and %d handed out; two cores begin six before all give up", made, given)
		}
		if percent != 40 || m.wanted != 0 || len(m.cores) != 0 {
			t.Errorf("garbage may grow by %d, %d are wanted, %d cores are held", percent, m.wanted, len(m.cores))
		}
	})
}
