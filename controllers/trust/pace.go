package trust

import (
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// burst is how often one ConfigMap may closely be given what it was given before: the annotation, another key, a hand.
	burst = 5
	// calm is how long somebody who keeps undoing our writes is left alone after a burst.
	calm = 30 * time.Second
)

// pace keeps us from fighting with whoever writes a ConfigMap again and again. It is forgotten with the process, and nothing is
// lost by that but patience.
type pace struct {
	mu     sync.Mutex
	writes map[types.NamespacedName]series
}

// series is a number of writes, each within calm of the one before.
type series struct {
	number int
	last   time.Time
	// given are the hashes of the bundles that were written.
	given []string
}

// write counts a write. It counts from the beginning where the bundle is a new one: that is the doing of a CA, and nobody's fight.
func (p *pace) write(key types.NamespacedName, hash string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writes == nil {
		p.writes = map[types.NamespacedName]series{}
	}
	for other, s := range p.writes {
		if now.Sub(s.last) >= calm {
			delete(p.writes, other)
		}
	}
	s := p.writes[key]
	if !slices.Contains(s.given, hash) {
		s.number, s.given = 0, append(s.given, hash)
	}
	s.number++
	s.last = now
	p.writes[key] = s
}

// wait is how long to leave a ConfigMap alone.
func (p *pace) wait(key types.NamespacedName, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.writes[key]
	if s.number < burst {
		return 0
	}
	return max(0, calm-now.Sub(s.last))
}
