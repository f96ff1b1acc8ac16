package trust

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// burst is how many writes to one ConfigMap may follow each other closely: the annotation, a rotation, a hand.
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
}

// write counts a write.
func (p *pace) write(key types.NamespacedName, now time.Time) {
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
	p.writes[key] = series{number: p.writes[key].number + 1, last: now}
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
