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

// retryRefused is how often the operator retries an object that the API server refuses to change:
// no event announces that it accepts the change later.
const retryRefused = 30 * time.Second

// retryNoRootCA is how often the operator checks for the root CA of the API server, which a new
// namespace gets within moments.
const retryNoRootCA = 2 * time.Second

// retryCAChanging is how often the operator retries while a CA is ready but changing, and
// retryNotReady while a CA is not ready and reports why: fixing its Secrets need not change the
// ServiceCA.
const retryCAChanging, retryNotReady = 5 * time.Second, 5 * time.Minute

// errCAChanging means that the CA will have a bundle within moments.
var errCAChanging = errors.New("the signing key is changing")

// errNoRootCA means that the reconciliation must be retried: a new namespace gets the root CA
// within moments. It differs from the NotFound error of a ConfigMap that is being injected.
var errNoRootCA = errors.New("the namespace has no ConfigMap kube-root-ca.crt yet")

// The reasons why an object gets no bundle.
const (
	reasonInvalidKey        = issuance.ReasonInvalidKey
	reasonInvalidTruststore = issuance.ReasonInvalidTruststore
	reasonKeyNotOurs        = issuance.ReasonKeyNotOurs
	reasonRefused           = issuance.ReasonInjectionRefused
	reasonNoRootCA          = "NoRootCA"
	reasonOverwritten       = "Overwritten"
)

// Reconciler injects trust bundles into the objects of one kind that request one.
type Reconciler struct {
	kind Kind
	// cache reads ServiceCAs, and targets reads the metadata of the objects.
	cache, targets client.Reader
	// live reads and writes without a cache.
	live      client.Client
	keyring   *keyring.Keyring
	recorder  events.EventRecorder
	openShift bool
	clock     clock.PassiveClock

	conflicts conflict.Tracker
	// ownAnnotations holds the annotations that the operator wrote, until the watch delivers them.
	ownAnnotations ownwrites.Annotations
	// conflictsResolved receives the objects that other clients no longer overwrite; nil if the
	// targets are not counted.
	conflictsResolved chan event.GenericEvent
}

// bundleWriter injects a bundle into objects of one kind.
type bundleWriter interface {
	// object returns an empty object to read into.
	object() client.Object
	// holds reports whether the object has the content and nothing else that the operator wrote.
	holds(client.Object, *desiredContent) bool
	// write gives the object the content, or removes what the operator wrote if the content is nil.
	// The problem is one that only the owner of the object can fix.
	write(context.Context, client.Object, *desiredContent) (*issuance.Problem, error)
	// bundle returns the bundle that the object carries.
	bundle(object client.Object, key string) []byte
}

// Reconcile updates the bundle in one object, or removes what the operator wrote there if the
// object no longer requests it.
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

// report ends a reconciliation: it writes the problem to the object's error annotation, or removes
// the annotation if the problem is nil.
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

// notifyResolved triggers another count of the targets after a conflict ends. The annotation may
// have been reverted too, and then no event announces the end.
func (r *Reconciler) notifyResolved(ctx context.Context, object client.Object) {
	if r.conflictsResolved == nil {
		return
	}
	select {
	case r.conflictsResolved <- event.GenericEvent{Object: object}:
	case <-ctx.Done():
	}
}

// reportFailure reports an error about this object that persists, and returns the error so that the
// reconciliation is retried. If the object itself cannot be written, an Event reports it.
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

// classifyError turns errors that an administrator or a tenant must fix into problems. It also
// returns the time after which to reconcile again if no watch announces the fix.
func classifyError(problem *issuance.Problem, err error) (*issuance.Problem, time.Duration, error) {
	switch {
	case errors.Is(err, errNoRootCA):
		// A problem, not an error: rotations do not wait for a tenant that keeps the ConfigMap
		// away.
		return issuance.NewProblem(reasonNoRootCA, "%v", err), retryNoRootCA, nil
	case err != nil && apply.IsRejected(err):
		return issuance.NewProblem(reasonRefused, "%v", err), retryRefused, nil
	case problem != nil && problem.Reason == issuance.ReasonServiceCANotReady:
		return problem, retryNotReady, err
	}
	return problem, 0, err
}

// handleReportError records that the operator could not report a problem on the object. If the
// object's owner prevents that, rotations do not wait for the object.
func (r *Reconciler) handleReportError(req ctrl.Request, err error) (ctrl.Result, error) {
	if apply.IsRejected(err) {
		r.conflicts.SetReportable(req.NamespacedName, false)
		return ctrl.Result{RequeueAfter: retryRefused}, nil
	}
	r.conflicts.SetReportable(req.NamespacedName, true)
	r.conflicts.RecordFailure(req.NamespacedName, r.clock.Now(), err)
	return ctrl.Result{}, err
}

// inject gives the object the content that it requests. If that is impossible until an
// administrator or a tenant acts, it returns the problem and keeps the bundle that is there.
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

// reportConflict reports once which client keeps overwriting an object. That client may revert the
// report too.
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

// reportProblem writes the error annotation, and records an Event if the problem is new.
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
