// Package gather bounds what a controller spends on counting all that there is.
package gather

import (
	"sync/atomic"
	"time"
)

const (
	// least is how long changes gather before they are counted.
	least = time.Second
	// share is how many times longer changes gather than the last count took: so counting takes a twentieth of a core, as long as most allows that.
	share = 20
	// most is how long anybody waits for a count.
	most = 5 * time.Second
)

// Changes gather until it is time to count. The zero value is ready.
type Changes struct{ took atomic.Int64 }

// Delay is how long the next changes gather.
func (c *Changes) Delay() time.Duration {
	return min(max(least, share*time.Duration(c.took.Load())), most)
}

// Counted notes how long it took to count.
func (c *Changes) Counted(took time.Duration) { c.took.Store(int64(took)) }
