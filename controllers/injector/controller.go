package injector

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
	"github.com/servingcert/operator/controllers/internal/conflict"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/ownwrites"
)

// retryRefused is how often an object is tried again that the API server refuses to change: no event would tell that it allows it.
const retryRefused = 30 * time.Second

// retryNoRootCA is how often the root CA of the API server is looked for: a new namespace gets it a moment later.
const retryNoRootCA = 2 * time.Second

// retryCAChanging is how often a CA is asked for again that is ready and changing, and retryNotReady one that says why it is not ready: what puts its
// Secrets right need not change the ServiceCA.
const retryCAChanging, retryNotReady = 5 * time.Second, 5 * time.Minute

// errCAChanging means that the CA will have a bundle in a moment.
var errCAChanging = errors.New("the signing key is changing")

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

	conflicts conflict.Tracker
	// ownAnnotations are the annotations that were written on objects, until their events come.
	ownAnnotations ownwrites.Annotations
	// conflictsResolved has the objects over which a fight has ended; nil where nobody counts.
	conflictsResolved chan event.GenericEvent
}

// bundleWriter is how a bundle gets into an object of some kind.
type bundleWriter interface {
	// object is an empty one, to be read into.
	object() client.Object
	// holds reports whether an object has what it should, and nothing of ours besides.
	holds(client.Object, *desiredContent) bool
	// write brings it there, or gives up what was ours where content is nil. The problem is what only its owner can put right.
	write(context.Context, client.Object, *desiredContent) (*issuance.Problem, error)
	// bundle is the bundle that an object carries.
	bundle(object client.Object, key string) []byte
}

// Reconcile brings the bundle in one object up to date, or gives up what it put there.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	r.ownAnnotations.Forget(req.NamespacedName)
	cached := r.kind.Metadata()
	if err := r.targets.Get(ctx, req.NamespacedName, cached); err != nil {
		r.conflicts.SetReportable(req.NamespacedName, true)
		r.conflicts.ClearFailure(req.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if _, ok := r.kind.requestOf(cached, r.openShift); !ok && !isMarked(cached) {
		r.conflicts.SetReportable(req.NamespacedName, true)
		r.conflicts.ClearFailure(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	writer := r.kind.newWriter(r)
	object := writer.object()
	if err := r.live.Get(ctx, req.NamespacedName, object); err != nil {
		return ctrl.Result{}, r.reportFailure(ctx, cached, client.IgnoreNotFound(err))
	}
	if wait := r.conflicts.RetryAfter(req.NamespacedName, r.clock.Now()); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, r.reportConflict(ctx, object)
	}
	resolved := r.conflicts.Resolved(req.NamespacedName, r.clock.Now())
	problem, err := r.inject(ctx, writer, object)
	problem, requeueAfter, err := classifyError(problem, err)
	switch {
	case apply.IsGone(err):
		return ctrl.Result{}, nil
	case errors.Is(err, errCAChanging):
		return ctrl.Result{RequeueAfter: retryCAChanging}, nil
	case err != nil:
		return ctrl.Result{}, r.reportFailure(ctx, object, err)
	}
	if contestedFor := r.conflicts.ContestedFor(req.NamespacedName, r.clock.Now()); problem == nil && contestedFor > 0 {
		r.conflicts.ClearFailure(req.NamespacedName)
		return ctrl.Result{RequeueAfter: contestedFor}, nil
	}
	if resolved {
		defer r.notifyResolved(ctx, object)
	}
	return r.report(ctx, req, object, problem, requeueAfter)
}

// report is the end of a look: the object is told what stands in its way, or that nothing does.
func (r *Reconciler) report(
	ctx context.Context, req ctrl.Request, object client.Object, problem *issuance.Problem, requeueAfter time.Duration,
) (ctrl.Result, error) {
	if err := r.reportProblem(ctx, object, problem); err != nil {
		return r.handleReportError(req, err)
	}
	r.conflicts.SetReportable(req.NamespacedName, true)
	r.conflicts.ClearFailure(req.NamespacedName)
	return ctrl.Result{RequeueAfter: requeueAfter}, nil
}

// notifyResolved has the targets counted again after a fight: its annotation may have been undone, too, and then no event tells of the end.
func (r *Reconciler) notifyResolved(ctx context.Context, object client.Object) {
	if r.conflictsResolved == nil {
		return
	}
	select {
	case r.conflictsResolved <- event.GenericEvent{Object: object}:
	case <-ctx.Done():
	}
}

// reportFailure reports an error that is about this object and has lasted, and returns it: it is tried again. The object itself may be what cannot be
// written; an Event says it then.
func (r *Reconciler) reportFailure(ctx context.Context, object client.Object, err error) error {
	failure := r.conflicts.RecordFailure(client.ObjectKeyFromObject(object), r.clock.Now(), err)
	if failure == nil {
		return err
	}
	if unreported := r.reportProblem(ctx, object, failure); !apply.IsServerFailure(unreported) {
		return errors.Join(err, unreported)
	}
	return err
}

// classifyError makes a problem of the errors that somebody has to put right, and says when to look again for what no event of ours tells of.
func classifyError(problem *issuance.Problem, err error) (*issuance.Problem, time.Duration, error) {
	switch {
	case errors.Is(err, errNoRootCA):
		// A tenant that keeps it away is not waited for.
		return issuance.NewProblem(reasonNoRootCA, "%v", err), retryNoRootCA, nil
	case err != nil && apply.IsRejected(err):
		return issuance.NewProblem(reasonRefused, "%v", err), retryRefused, nil
	case problem != nil && problem.Reason == issuance.ReasonServiceCANotReady:
		return problem, retryNotReady, err
	}
	return problem, 0, err
}

// handleReportError notes that an object could not be told what stands in its way: where its owner keeps it from that, nobody waits for it.
func (r *Reconciler) handleReportError(req ctrl.Request, err error) (ctrl.Result, error) {
	if apply.IsRejected(err) {
		r.conflicts.SetReportable(req.NamespacedName, false)
		return ctrl.Result{RequeueAfter: retryRefused}, nil
	}
	r.conflicts.SetReportable(req.NamespacedName, true)
	r.conflicts.RecordFailure(req.NamespacedName, r.clock.Now(), err)
	return ctrl.Result{}, err
}

// inject makes the object what it asks to be. What stands in the way of a person's wish comes back as a problem, and the
// bundle that is there stays.
func (r *Reconciler) inject(ctx context.Context, writer bundleWriter, object client.Object) (*issuance.Problem, error) {
	request, ok := r.kind.requestOf(object, r.openShift)
	if !ok {
		r.conflicts.Forget(client.ObjectKeyFromObject(object))
		return writer.write(ctx, object, nil)
	}
	if problem := request.check(); problem != nil {
		return problem, nil
	}
	ca, problem, err := r.keyring.Find(ctx, r.cache, request.ca)
	if ca == nil && problem == nil && err == nil {
		return nil, errCAChanging
	}
	if ca == nil {
		return problem, err
	}
	wanted, problem, err := r.buildContent(ctx, request, ca.Bundle, object.GetNamespace())
	if err != nil || problem != nil || writer.holds(object, wanted) {
		return problem, err
	}
	key := client.ObjectKeyFromObject(object)
	r.conflicts.SetOtherWriter(key, apply.OtherWriter(object, apply.Trust, request.key, caBundleField, v1alpha1.AnnotationCABundleHash))
	problem, err = writer.write(ctx, object, wanted)
	r.conflicts.RecordWrite(key, wanted.hash, r.clock.Now(), err)
	return problem, err
}

// reportConflict says once who keeps overwriting an object, where somebody does: whoever does may undo that, too.
func (r *Reconciler) reportConflict(ctx context.Context, object client.Object) error {
	otherWriter, report := r.conflicts.ReportOtherWriter(client.ObjectKeyFromObject(object))
	if !report {
		return nil
	}
	err := r.reportProblem(ctx, object, issuance.NewProblem(reasonOverwritten, "%s keeps overwriting the bundle, or changing the object meanwhile; it is put back "+
		"a few times every 30 seconds: take the bundle out of what that client writes, or take away the annotation that asks for it", otherWriter))
	if apply.IsRejected(err) {
		return nil
	}
	return err
}

// reportProblem writes the error annotation, and an Event when it says something new.
func (r *Reconciler) reportProblem(ctx context.Context, object client.Object, problem *issuance.Problem) error {
	changes := issuance.ErrorAnnotationChanges(object.GetAnnotations(), problem)
	if problem != nil && len(changes) > 0 && r.conflicts.AllowEvent(problem, r.clock.Now()) {
		r.recorder.Eventf(object, nil, corev1.EventTypeWarning, problem.Reason, "InjectCABundle", "%s", problem.Message)
	}
	key := client.ObjectKeyFromObject(object)
	r.ownAnnotations.Expect(key, changes)
	err := apply.Annotations(ctx, r.live, apply.Trust, object, changes)
	if err != nil {
		r.ownAnnotations.Forget(key)
	}
	return apply.IgnoreGone(err)
}
