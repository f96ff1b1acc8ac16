package trust

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/ownwrites"
	"github.com/servingcert/operator/controllers/internal/pace"
)

// retryRefused is how often an object is tried again that the API server refuses to change: no event would tell that it allows it.
const retryRefused = 30 * time.Second

// retryNoRootCA is how often the root CA of the API server is looked for: a new namespace gets it a moment later.
const retryNoRootCA = 2 * time.Second

// retryNotYet is how often a CA is asked for again that is ready and changing, and retryNotReady one that says why it is not ready: what puts its
// Secrets right need not change the ServiceCA.
const retryNotYet, retryNotReady = 5 * time.Second, 5 * time.Minute

// errNotYet means that the CA will have a bundle in a moment.
var errNotYet = errors.New("the signing key is changing")

// errNoRootCA means to try again: a new namespace gets the root CA a moment later. It is not the error of the ConfigMap itself
// not being there any more.
var errNoRootCA = errors.New("the namespace has no ConfigMap kube-root-ca.crt yet")

// The reasons for which an object gets no bundle.
const (
	reasonInvalidKey        = issuance.ReasonInvalidKey
	reasonInvalidTruststore = issuance.ReasonInvalidTruststore
	reasonKeyNotOurs        = issuance.ReasonKeyNotOurs
	reasonRefused           = issuance.ReasonInjectionRefused
	reasonNoRootCA          = "NoRootCA"
	reasonOverwritten       = "Overwritten"
)

// Reconciler puts trust bundles into the objects of one kind that ask for one.
type Reconciler struct {
	kind Kind
	// cache reads ServiceCAs, and targets the metadata of the objects.
	cache, targets client.Reader
	// live reads and writes without a cache.
	live      client.Client
	keyring   *keyring.Keyring
	recorder  events.EventRecorder
	openShift bool
	clock     clock.PassiveClock

	pace pace.Pace
	// reports are the annotations that were written on objects, until their events come.
	reports ownwrites.Annotations
	// fightsEnded has the objects over which a fight has ended; nil where nobody counts.
	fightsEnded chan event.GenericEvent
}

// door is how a bundle gets into an object of some kind.
type door interface {
	// object is an empty one, to be read into.
	object() client.Object
	// holds tells whether an object has what it should, and nothing of ours besides.
	holds(client.Object, *content) bool
	// write brings it there, or gives up what was ours where content is nil. The obstacle is what only its owner can put right.
	write(context.Context, client.Object, *content) (*issuance.Obstacle, error)
	// bundle is the bundle that an object carries.
	bundle(object client.Object, key string) []byte
}

// Reconcile brings the bundle in one object up to date, or gives up what it put there.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	r.reports.Forget(req.NamespacedName)
	cached := r.kind.Metadata()
	if err := r.targets.Get(ctx, req.NamespacedName, cached); err != nil {
		r.pace.Told(req.NamespacedName, true)
		r.pace.Recovered(req.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if _, asks := r.kind.requestOf(cached, r.openShift); !asks && !marked(cached) {
		r.pace.Told(req.NamespacedName, true)
		r.pace.Recovered(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	door := r.kind.door(r)
	object := door.object()
	if err := r.live.Get(ctx, req.NamespacedName, object); err != nil {
		return ctrl.Result{}, r.failed(ctx, cached, client.IgnoreNotFound(err))
	}
	if wait := r.pace.Wait(req.NamespacedName, r.clock.Now()); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, r.tellOfFight(ctx, object)
	}
	ended := r.pace.Ended(req.NamespacedName, r.clock.Now())
	obstacle, err := r.inject(ctx, door, object)
	obstacle, again, err := hindered(obstacle, err)
	switch {
	case apply.Going(err):
		return ctrl.Result{}, nil
	case errors.Is(err, errNotYet):
		return ctrl.Result{RequeueAfter: retryNotYet}, nil
	case err != nil:
		return ctrl.Result{}, r.failed(ctx, object, err)
	}
	if lasts := r.pace.Fought(req.NamespacedName, r.clock.Now()); obstacle == nil && lasts > 0 {
		r.pace.Recovered(req.NamespacedName)
		return ctrl.Result{RequeueAfter: lasts}, nil
	}
	if ended {
		defer r.recount(ctx, object)
	}
	return r.report(ctx, req, object, obstacle, again)
}

// report is the end of a look: the object is told what stands in its way, or that nothing does.
func (r *Reconciler) report(
	ctx context.Context, req ctrl.Request, object client.Object, obstacle *issuance.Obstacle, again time.Duration,
) (ctrl.Result, error) {
	if err := r.tell(ctx, object, obstacle); err != nil {
		return r.told(req, err)
	}
	r.pace.Told(req.NamespacedName, true)
	r.pace.Recovered(req.NamespacedName)
	return ctrl.Result{RequeueAfter: again}, nil
}

// recount has the targets counted again after a fight: its annotation may have been undone, too, and then no event tells of the end.
func (r *Reconciler) recount(ctx context.Context, object client.Object) {
	if r.fightsEnded == nil {
		return
	}
	select {
	case r.fightsEnded <- event.GenericEvent{Object: object}:
	case <-ctx.Done():
	}
}

// failed reports an error that is about this object and has lasted, and returns it: it is tried again. The object itself may be what cannot be
// written; an Event says it then.
func (r *Reconciler) failed(ctx context.Context, object client.Object, err error) error {
	failure := r.pace.Failed(client.ObjectKeyFromObject(object), r.clock.Now(), err)
	if failure == nil {
		return err
	}
	if unreported := r.tell(ctx, object, failure); !apply.Failed(unreported) {
		return errors.Join(err, unreported)
	}
	return err
}

// hindered makes an obstacle of the errors that somebody has to put right, and says when to look again for what no event of ours tells of.
func hindered(obstacle *issuance.Obstacle, err error) (*issuance.Obstacle, time.Duration, error) {
	switch {
	case errors.Is(err, errNoRootCA):
		// A tenant that keeps it away is not waited for.
		return issuance.NewObstacle(reasonNoRootCA, "%v", err), retryNoRootCA, nil
	case err != nil && apply.Refused(err):
		return issuance.NewObstacle(reasonRefused, "%v", err), retryRefused, nil
	case obstacle != nil && obstacle.Reason == issuance.ReasonServiceCANotReady:
		return obstacle, retryNotReady, err
	}
	return obstacle, 0, err
}

// told notes that an object could not be told what stands in its way: where its owner keeps it from that, nobody waits for it.
func (r *Reconciler) told(req ctrl.Request, err error) (ctrl.Result, error) {
	if apply.Refused(err) {
		r.pace.Told(req.NamespacedName, false)
		return ctrl.Result{RequeueAfter: retryRefused}, nil
	}
	r.pace.Told(req.NamespacedName, true)
	r.pace.Failed(req.NamespacedName, r.clock.Now(), err)
	return ctrl.Result{}, err
}

// inject makes the object what it asks to be. What stands in the way of a person's wish comes back as an obstacle, and the
// bundle that is there stays.
func (r *Reconciler) inject(ctx context.Context, door door, object client.Object) (*issuance.Obstacle, error) {
	asked, asks := r.kind.requestOf(object, r.openShift)
	if !asks {
		r.pace.Forget(client.ObjectKeyFromObject(object))
		return door.write(ctx, object, nil)
	}
	if obstacle := asked.check(); obstacle != nil {
		return obstacle, nil
	}
	ca, obstacle, err := r.keyring.Find(ctx, r.cache, asked.ca)
	if ca == nil && obstacle == nil && err == nil {
		return nil, errNotYet
	}
	if ca == nil {
		return obstacle, err
	}
	wanted, obstacle, err := r.fill(ctx, asked, ca.Bundle, object.GetNamespace())
	if err != nil || obstacle != nil || door.holds(object, wanted) {
		return obstacle, err
	}
	key := client.ObjectKeyFromObject(object)
	r.pace.Blame(key, apply.Rival(object, apply.Trust, asked.key, field, v1alpha1.AnnotationCABundleHash))
	obstacle, err = door.write(ctx, object, wanted)
	r.pace.Wrote(key, wanted.hash, r.clock.Now(), err)
	return obstacle, err
}

// tellOfFight says once who keeps overwriting an object, where somebody does: whoever does may undo that, too.
func (r *Reconciler) tellOfFight(ctx context.Context, object client.Object) error {
	rival, tell := r.pace.Rival(client.ObjectKeyFromObject(object))
	if !tell {
		return nil
	}
	err := r.tell(ctx, object, issuance.NewObstacle(reasonOverwritten, "%s keeps overwriting the bundle, or changing the object meanwhile; it is put back "+
		"a few times every 30 seconds: take the bundle out of what that client writes, or take away the annotation that asks for it", rival))
	if apply.Refused(err) {
		return nil
	}
	return err
}

// tell writes the error annotation, and an Event when it says something new.
func (r *Reconciler) tell(ctx context.Context, object client.Object, obstacle *issuance.Obstacle) error {
	changes := issuance.Report(object.GetAnnotations(), obstacle)
	if obstacle != nil && len(changes) > 0 && r.pace.AllowsEvent(obstacle, r.clock.Now()) {
		r.recorder.Eventf(object, nil, corev1.EventTypeWarning, obstacle.Reason, "InjectCABundle", "%s", obstacle.Message)
	}
	key := client.ObjectKeyFromObject(object)
	r.reports.Expect(key, changes)
	err := apply.Annotations(ctx, r.live, apply.Trust, object, changes)
	if err != nil {
		r.reports.Forget(key)
	}
	return apply.IgnoreGone(err)
}
