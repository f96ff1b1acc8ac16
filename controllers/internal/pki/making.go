package pki

import (
	"context"
	"crypto"
	"fmt"
	"sync"
	"time"
)

// together is for how long a key that is made waits for others while many are wanted: what comes together costs the API server a third less than
// what comes one by one.
const together = 250 * time.Millisecond

// roomForGarbage is the percentage of what is in use by which garbage may grow while many keys are made: an RSA key leaves half a MiB of it, and all
// that comes besides leaves little.
const roomForGarbage = 100

// makers make keys that take a core for a tenth of a second and longer, in which others wait to be reconciled: as many at once as there are cores.
type makers struct {
	cores chan struct{}
	// setGCPercent is debug.SetGCPercent.
	setGCPercent func(percent int) (before int)

	mu sync.Mutex
	// wanted are those that are not made yet.
	wanted int
	// waiting is closed when those that are made are handed out; nil without any.
	waiting chan struct{}
	// endBulk is called when a core has none to make any more; nil until many are wanted.
	endBulk func()
}

func newMakers(cores int, setGCPercent func(percent int) int) *makers {
	return &makers{cores: make(chan struct{}, cores), setGCPercent: setGCPercent}
}

// make hands out what work makes: at once, unless the cores have other keys to make, and as many again after them. Where there are so many cores that
// their keys come together anyway, those who ask are too few for that. Who gives up waiting for a core has none made.
func (m *makers) make(ctx context.Context, work func() (crypto.Signer, error)) (crypto.Signer, error) {
	m.want()
	defer m.gather(ctx)
	select {
	case m.cores <- struct{}{}:
		defer func() { <-m.cores }()
	case <-ctx.Done():
	}
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("wait for a core to make a private key: %w", err)
	}
	return work()
}

func (m *makers) want() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted++
	if m.many() && m.endBulk == nil {
		usual := m.setGCPercent(roomForGarbage)
		m.endBulk = func() { m.setGCPercent(usual) }
	}
}

// many tells whether the cores have as many keys again to make after those that they make now.
func (m *makers) many() bool { return m.wanted >= 2*cap(m.cores) }

// gather waits for others as long as the cores do not run out of work for that, and not long.
func (m *makers) gather(ctx context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted--
	if m.wanted < cap(m.cores) && m.endBulk != nil {
		m.endBulk()
		m.endBulk = nil
	}
	if !m.many() {
		m.handOut(m.waiting)
		return
	}
	if m.waiting == nil {
		begun := make(chan struct{})
		m.waiting = begun
		time.AfterFunc(together, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.handOut(begun)
		})
	}
	waiting := m.waiting
	m.mu.Unlock()
	select {
	case <-waiting:
	case <-ctx.Done():
	}
	m.mu.Lock()
}

// handOut ends the wait of those that wait now.
func (m *makers) handOut(waiting chan struct{}) {
	if waiting != nil && m.waiting == waiting {
		close(waiting)
		m.waiting = nil
	}
}
