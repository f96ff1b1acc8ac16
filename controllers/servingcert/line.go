package servingcert

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/retry"
)

const (
	// together is for how long a key that is made waits for others while many are wanted: what comes together costs the API server a third less than
	// what comes one by one.
	together = 250 * time.Millisecond
	// roomForGarbage is the percentage of what is in use by which garbage may grow while many keys are made: an RSA key leaves half a MiB of it, and all
	// that comes besides leaves little.
	roomForGarbage = 100
	// ahead is how many keys are made that wait for their look, before only urgent ones are, and twice as many before none is.
	ahead = 1000
	// share is of how many keys one is made for somebody who can wait, however many cannot.
	share = 5
)

// place is that of a Service in the line.
type place struct {
	spec pki.KeySpec
	// urgent: it does not wait behind those that are not.
	urgent bool
}

// Line is where Services wait whose private key takes long to make, so that no other Service waits behind them. A controller makes the keys and nothing
// else, as many at a time as there are cores: a Service whose key is made is looked at again, and that look takes it. What is lost with the process is
// wanted again.
type Line struct {
	cores int
	// newKey is pki.NewKey.
	newKey func(pki.KeySpec) (*pki.Key, error)
	// setGCPercent is debug.SetGCPercent.
	setGCPercent func(percent int) (before int)

	mu sync.Mutex
	// wanted are the keys that are not made yet, and made are those that nobody has taken yet.
	wanted map[types.NamespacedName]place
	made   map[types.NamespacedName]*pki.Key
	// back are those of them that could not be written.
	back sets.Set[types.NamespacedName]
	// turns are how many were made.
	turns int
	// ready are the Services that will be looked at, all at once.
	ready []reconcile.Request
	// endBulk is called when a core has none to make any more; nil until many are wanted.
	endBulk func()
	// queue is where Services wait for their key, and looks where they wait to be looked at.
	queue priorityqueue.PriorityQueue[reconcile.Request]
	looks workqueue.TypedRateLimitingInterface[reconcile.Request]
}

func newLine(cores int, newKey func(pki.KeySpec) (*pki.Key, error), setGCPercent func(percent int) (before int)) *Line {
	return &Line{
		cores: cores, newKey: newKey, setGCPercent: setGCPercent,
		wanted: map[types.NamespacedName]place{}, made: map[types.NamespacedName]*pki.Key{}, back: sets.Set[types.NamespacedName]{},
	}
}

// SetupWithManager adds the controller that makes the keys.
func (l *Line) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named(controllerName + "-keys").
		WatchesRawSource(source.Func(l.opens)).
		WithOptions(retry.Options(l.cores)).
		Complete(retry.Quietly(l))
}

// opens is called with the queue of those who wait for a key. Some may have come before.
func (l *Line) opens(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	priorities, ok := queue.(priorityqueue.PriorityQueue[reconcile.Request])
	if !ok {
		return fmt.Errorf("%T has no priorities", queue)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = priorities
	for service, asked := range l.wanted {
		l.enqueue(service, asked.priority())
	}
	return nil
}

// wakes is called with the queue of those who are looked at.
func (l *Line) wakes(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looks = queue
	return nil
}

// add puts a Service into the line, behind all that are not urgent if it is not.
func (l *Line) add(service types.NamespacedName, spec pki.KeySpec, urgent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := place{spec, urgent}
	l.wanted[service] = asked
	if l.many() && l.endBulk == nil {
		usual := l.setGCPercent(roomForGarbage)
		l.endBulk = func() { l.setGCPercent(usual) }
	}
	if l.queue != nil {
		l.enqueue(service, asked.priority())
	}
}

func (p place) priority() int {
	if p.urgent {
		return 0
	}
	return handler.LowPriority
}

func (l *Line) enqueue(service types.NamespacedName, priority int) {
	l.queue.AddWithOpts(priorityqueue.AddOpts{Priority: &priority}, reconcile.Request{NamespacedName: service})
}

// many tells whether the cores have as many keys again to make after those that they make now.
func (l *Line) many() bool { return len(l.wanted) >= 2*l.cores }

// take is the key that was made for a Service; nil for none. It is looked at, and no key is wanted for it unless that look asks for one.
func (l *Line) take(service types.NamespacedName) *pki.Key {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := l.made[service]
	delete(l.made, service)
	l.back.Delete(service)
	l.unwanted(service)
	return key
}

func (l *Line) unwanted(service types.NamespacedName) {
	delete(l.wanted, service)
	if len(l.wanted) < l.cores && l.endBulk != nil {
		l.endBulk()
		l.endBulk = nil
	}
}

// Reconcile makes the key of a Service, if it still wants one.
func (l *Line) Reconcile(_ context.Context, request ctrl.Request) (ctrl.Result, error) {
	l.mu.Lock()
	asked, wanted := l.wanted[request.NamespacedName]
	waiting := len(l.made) - len(l.back)
	l.mu.Unlock()
	switch {
	case !wanted:
		return ctrl.Result{}, nil
	case waiting >= 2*ahead, waiting >= ahead && !asked.urgent:
		return ctrl.Result{RequeueAfter: time.Second}, nil
	}
	key, err := l.newKey(asked.spec)
	if err != nil {
		return ctrl.Result{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wanted[request.NamespacedName].spec != asked.spec {
		return ctrl.Result{}, nil
	}
	l.unwanted(request.NamespacedName)
	l.giveTurn()
	l.made[request.NamespacedName] = key
	l.ready = append(l.ready, request)
	switch {
	case !l.many():
		l.wake()
	case len(l.ready) == 1:
		time.AfterFunc(together, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.wake()
		})
	}
	return ctrl.Result{}, nil
}

// giveTurn has the next key made for one who is not urgent, now and then: with a Service that is made and removed every second a tenant could hold up a rotation.
func (l *Line) giveTurn() {
	l.turns++
	if l.turns%share != 0 {
		return
	}
	for service, asked := range l.wanted {
		if !asked.urgent {
			l.wanted[service] = place{asked.spec, true}
			l.enqueue(service, 1)
			return
		}
	}
}

// giveBack keeps a key that could not be written for the next look; nil is none.
func (l *Line) giveBack(service types.NamespacedName, key *pki.Key) {
	if key == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made[service] = key
	l.back.Insert(service)
}

// wake has the Services looked at whose keys are made.
func (l *Line) wake() {
	for _, request := range l.ready {
		l.looks.Add(request)
	}
	l.ready = nil
}
