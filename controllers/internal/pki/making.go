package pki

import (
	"crypto"
	"sync"
	"time"
)

// together is for how long a key that is made waits for others while many are wanted: what comes together costs the API server a third less than
// what comes one by one.
const together = 250 * time.Millisecond

// makers make keys that take a core for a tenth of a second and longer, in which others wait to be reconciled: as many at once as there are cores.
type makers struct {
	cores chan struct{}

	mu sync.Mutex
	// wanted are those that are not made yet.
	wanted int
	// waiting is closed when those that are made are handed out; nil without any.
	waiting chan struct{}
}

func newMakers(cores int) *makers { return &makers{cores: make(chan struct{}, cores)} }

// make hands out what work makes: at once, unless the cores have other keys to make, and as many again after them. Where there are so many cores that
// their keys come together anyway, those who ask are too few for that.
func (m *makers) make(work func() (crypto.Signer, error)) (crypto.Signer, error) {
	m.mu.Lock()
	m.wanted++
	m.mu.Unlock()
	defer m.gather()
	m.cores <- struct{}{}
	defer func() { <-m.cores }()
	return work()
}

// gather waits for others as long as the cores do not run out of work for that, and not long.
func (m *makers) gather() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted--
	if m.wanted < 2*cap(m.cores) {
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
	<-waiting
	m.mu.Lock()
}

// handOut ends the wait of those that wait now.
func (m *makers) handOut(waiting chan struct{}) {
	if waiting != nil && m.waiting == waiting {
		close(waiting)
		m.waiting = nil
	}
}
