// Package pace keeps us from fighting over an object, and from waiting for one that nobody can help. It is forgotten with the process, and
// nothing is lost by that but patience.
package pace

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"

	"github.com/servingcert/operator/controllers/internal/apply"
)

const (
	// burst is how often one object may closely be given what it was given before: the annotation, another key, a hand.
	burst = 5
	// calm is how long somebody who keeps undoing our writes is left alone after a burst.
	calm = 30 * time.Second
	// truce is after how long without another write a fight is over: the one after a pause was not undone.
	truce = 2 * calm
)

// Pace is that of the objects of one kind. The zero value is ready to use.
type Pace struct {
	mu     sync.Mutex
	writes map[types.NamespacedName]series
	// swept is when what was long past was last forgotten.
	swept time.Time
	// speechless are the objects that would not be told what stands in the way.
	speechless map[types.NamespacedName]bool
	// failures are the objects about which requests fail, and events bounds what is recorded of them.
	failures map[types.NamespacedName]failure
	events   *rate.Limiter
}

// series is a number of writes, each within calm of the one before.
type series struct {
	number int
	last   time.Time
	// given is what was written.
	given []string
	// fought reports whether a burst of writes was undone or overtaken, and reported whether people were told.
	fought, reported bool
	// rival is who did it, for a person.
	rival string
}

// lasts is for how long a series is remembered: of a fight until somebody has looked after it was over.
func (s series) lasts() time.Duration {
	if s.fought {
		return 2 * truce
	}
	return calm
}

// Wrote counts a write that was made, or that the object or its owner kept us from, as err says; a fault of the API server is nobody's fight. It
// counts from the beginning where what is given is new: that is the doing of a CA.
func (p *Pace) Wrote(key types.NamespacedName, given string, now time.Time, err error) {
	if err != nil && !apply.Refused(err) && !apply.Conflict(err) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweep(now)
	s := p.writes[key]
	switch since := now.Sub(s.last); {
	case s.fought && since < truce && since >= calm:
		s.number, s.given = 0, nil
	case since >= calm:
		s = series{}
	}
	if !slices.Contains(s.given, given) {
		s.number, s.given = 0, append(s.given, given)
	}
	s.number++
	s.last = now
	s.fought = s.fought || (s.number >= burst && !apply.Refused(err))
	p.writes[key] = s
}

// sweep forgets what is long past, now and then: ten thousand objects may be written in a few seconds.
func (p *Pace) sweep(now time.Time) {
	if p.writes != nil && (len(p.writes) == 0 || now.Sub(p.swept) < calm) {
		return
	}
	before := p.writes
	p.writes, p.swept = map[types.NamespacedName]series{}, now
	for key, s := range before {
		if now.Sub(s.last) < s.lasts() {
			p.writes[key] = s
		}
	}
}

// Wait is how long to leave an object alone.
func (p *Pace) Wait(key types.NamespacedName, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wait(key, now)
}

func (p *Pace) wait(key types.NamespacedName, now time.Time) time.Duration {
	p.sweep(now)
	s := p.writes[key]
	if s.number < burst {
		return 0
	}
	return max(0, calm-now.Sub(s.last))
}

// Fought returns for how long an object yet counts as one that somebody keeps overwriting, unless it is written again; 0 when nobody does.
func (p *Pace) Fought(key types.NamespacedName, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fought(key, now)
}

func (p *Pace) fought(key types.NamespacedName, now time.Time) time.Duration {
	s := p.writes[key]
	if !s.fought {
		return 0
	}
	return max(0, truce-now.Sub(s.last))
}

// Blame notes who has undone the last write of an object, for a person: as it was read before it is written again.
func (p *Pace) Blame(key types.NamespacedName, rival string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, is := p.writes[key]; is && rival != "" {
		s.rival = rival
		p.writes[key] = s
	}
}

// Exhausts reports whether one more write of an object ends a burst.
func (p *Pace) Exhausts(key types.NamespacedName) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.writes[key].number == burst-1
}

// Rival names for a person who keeps overwriting an object, and reports whether people have to be told so, which is once.
func (p *Pace) Rival(key types.NamespacedName) (rival string, tell bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.writes[key]
	tell = s.fought && !s.reported
	if tell {
		s.reported = true
		p.writes[key] = s
	}
	return cmp.Or(s.rival, "a client or an admission webhook"), tell
}

// Ended reports once that a fight over an object is over.
func (p *Pace) Ended(key types.NamespacedName, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	ended := p.writes[key].fought && p.fought(key, now) == 0
	if ended {
		delete(p.writes, key)
	}
	return ended
}

// Forget ends what there was over an object: nothing is written into it any more.
func (p *Pace) Forget(key types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.writes, key)
}

// Told notes whether an object could be told what stands in its way.
func (p *Pace) Told(key types.NamespacedName, told bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case told:
		delete(p.speechless, key)
	case p.speechless == nil:
		p.speechless = map[types.NamespacedName]bool{key: true}
	default:
		p.speechless[key] = true
	}
}

// Hopeless tells whether nobody should wait for an object: it is fought over, would not be told why it is not served, or has failed for too long.
func (p *Pace) Hopeless(key types.NamespacedName, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.speechless[key] || p.wait(key, now) > 0 || p.fought(key, now) > 0 || p.failsTooLong(key, now)
}
