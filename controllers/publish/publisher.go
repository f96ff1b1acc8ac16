package publish

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/conflict"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
)

const (
	// retryRefused is how often the operator retries a write that the API server rejects, and
	// retryNotReady how often it checks for a CA that has no bundle. A change of the ServiceCA
	// triggers that sooner.
	retryRefused, retryNotReady = time.Minute, 5 * time.Minute
	// eventBurst and eventsPerSecond limit the Events: every namespace of the cluster may have a
	// ConfigMap of this name that belongs to another client.
	eventBurst, eventsPerSecond = 25, 1
	// reasonNotOurs, reasonRefused and reasonOverwritten are the reasons of Events on ConfigMaps.
	reasonNotOurs, reasonRefused, reasonOverwritten = "ConfigMapNotOurs", "PublishRefused", "Overwritten"
)

// Publisher reconciles the ConfigMaps that ServiceCAs publish.
type Publisher struct {
	// Cache reads ServiceCAs, and the metadata of namespaces and ConfigMaps.
	Cache client.Reader
	// Live reads and writes without a cache.
	Live     client.Client
	Keyring  *keyring.Keyring
	Recorder events.EventRecorder
	Clock    clock.PassiveClock
	// RequestedServiceCA returns the ServiceCA whose bundle an object requests by an annotation.
	RequestedServiceCA func(ctx context.Context, kind string, key client.ObjectKey) (string, error)
	// Namespace is the operator's own namespace.
	Namespace string

	permitted atomic.Bool
	conflicts conflict.Tracker
	events    flowcontrol.PassiveRateLimiter
	changes   chan event.GenericEvent
	written   writtenVersions

	mu sync.Mutex
	// problems holds why ConfigMaps do not have the bundle, until an administrator or another
	// client changes something.
	problems map[types.NamespacedName]string
}

// New initialises and returns the given Publisher, whose exported fields are set.
func New(publisher *Publisher) *Publisher {
	publisher.events = flowcontrol.NewTokenBucketPassiveRateLimiter(eventsPerSecond, eventBurst)
	publisher.changes = make(chan event.GenericEvent, eventBurst)
	publisher.problems = map[types.NamespacedName]string{}
	return publisher
}

// Changes announces ServiceCAs when the problem of one of their ConfigMaps changes or ends.
func (p *Publisher) Changes() <-chan event.GenericEvent { return p.changes }

// Reconcile creates, updates or removes one ConfigMap.
func (p *Publisher) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	namespace := namespaceMetadata()
	err := p.Cache.Get(ctx, client.ObjectKey{Name: req.Namespace}, namespace, client.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) || (err == nil && !namespace.DeletionTimestamp.IsZero()) {
		p.forget(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	cas, err := p.serviceCAs(ctx)
	if err != nil {
		return ctrl.Result{}, err
	}
	effective := newClaims(cas, p.Namespace).effectiveClaim(req.NamespacedName, namespace.Labels)
	if effective == nil {
		return p.remove(ctx, req.NamespacedName, cas)
	}
	if wait := p.conflicts.RetryAfter(req.NamespacedName, p.Clock.Now()); wait > 0 {
		p.reportOverwritten(effective.ca, req.NamespacedName)
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	ca, _, err := p.Keyring.Find(ctx, p.Cache, effective.ca.Name)
	if err != nil || ca == nil {
		return ctrl.Result{RequeueAfter: retryNotReady}, err
	}
	return p.publish(ctx, effective, ca.Bundle, req.NamespacedName)
}

// publish updates a ConfigMap, or reports why it cannot be updated.
func (p *Publisher) publish(ctx context.Context, effective *claim, bundle []byte, key types.NamespacedName) (ctrl.Result, error) {
	configMap, changed, err := p.write(ctx, effective, bundle, key)
	if changed {
		p.conflicts.RecordWrite(key, pki.Hash(bundle), p.Clock.Now(), err)
	}
	if err != nil {
		return p.reportFailure(effective.ca, configMap, "written", err)
	}
	p.conflicts.ClearFailure(key)
	if configMap.UID != "" && !isOurs(configMap) {
		return ctrl.Result{}, p.reportForeign(ctx, effective, configMap)
	}
	p.written.store(key, configMap)
	if duration := p.conflicts.ContestedFor(key, p.Clock.Now()); duration > 0 {
		return ctrl.Result{RequeueAfter: duration}, nil
	}
	if p.conflicts.Resolved(key, p.Clock.Now()) {
		// The ConfigMap was not counted as current, and the conflict may not have been reported.
		p.notifyChanged(effective.ca)
	}
	p.setProblem(key, effective.ca, "")
	return ctrl.Result{}, nil
}

// reportFailure reports why a ConfigMap cannot be written or removed: at once if an administrator
// or a tenant must fix the cause, and otherwise once the failure persists.
func (p *Publisher) reportFailure(ca *v1alpha1.ServiceCA, configMap *corev1.ConfigMap, done string, err error) (ctrl.Result, error) {
	key := client.ObjectKeyFromObject(configMap)
	failure := p.conflicts.RecordFailure(key, p.Clock.Now(), err)
	switch {
	case apply.IsGone(err):
		return ctrl.Result{}, nil
	case apply.IsRejected(err), configMap.UID == "" && apply.IsNotPermitted(err):
		// If the permission to create ConfigMaps is revoked, rotations do not wait, as before it
		// was granted.
		p.report(ca, configMap, issuance.NewProblem(reasonRefused, "ConfigMap %s cannot be %s: %v", key, done, err))
		return ctrl.Result{RequeueAfter: retryRefused}, nil
	case apierrors.IsAlreadyExists(err):
		return ctrl.Result{}, nil // the cache was out of date, and its next event triggers a reconciliation
	case failure != nil:
		p.report(ca, configMap, issuance.NewProblem(failure.Reason, "ConfigMap %s cannot be %s: %s", key, done, failure.Message))
	}
	return ctrl.Result{}, err
}

// reportOverwritten reports once which client keeps overwriting a ConfigMap, until the conflict
// ends.
func (p *Publisher) reportOverwritten(ca *v1alpha1.ServiceCA, key types.NamespacedName) {
	otherWriter, unreported := p.conflicts.ReportOtherWriter(key)
	if !unreported {
		return
	}
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	p.report(ca, configMap, issuance.NewProblem(reasonOverwritten, "%s keeps overwriting or deleting ConfigMap %s, which is put back a few times "+
		"every 30 seconds: let that client leave it alone, or exclude its namespace by spec.trustBundle.publish of ServiceCA %s", otherWriter, key, ca.Name))
}

// write creates the ConfigMap or, if it is the operator's, updates exactly the version that was
// read. It returns the ConfigMap, and whether it wrote it.
func (p *Publisher) write(ctx context.Context, effective *claim, bundle []byte, key types.NamespacedName) (*corev1.ConfigMap, bool, error) {
	configMap, err := p.read(ctx, key, bundle)
	configMap.Namespace, configMap.Name = key.Namespace, key.Name
	if apierrors.IsNotFound(err) {
		// Create, not apply: a ConfigMap that another client creates at this moment is kept as it
		// is.
		effective.fill(configMap, bundle)
		return configMap, true, p.Live.Create(ctx, configMap, apply.Publish)
	}
	before := configMap.DeepCopy()
	if err != nil || !isOurs(configMap) || !effective.fill(configMap, bundle) {
		return configMap, false, err
	}
	p.conflicts.SetOtherWriter(key, apply.OtherWriter(before, apply.Publish, effective.bundle.Key))
	guarded := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	return configMap, true, p.Live.Patch(ctx, configMap, guarded, apply.Publish)
}

// read returns the ConfigMap that is to hold a bundle; it is empty if the error is NotFound. It
// asks the API server only if the cache does not suffice: it suffices if there is no ConfigMap, or
// if it is the version that the operator wrote.
func (p *Publisher) read(ctx context.Context, key types.NamespacedName, bundle []byte) (*corev1.ConfigMap, error) {
	cached := injector.ConfigMaps.Metadata()
	err := p.Cache.Get(ctx, key, cached, client.UnsafeDisableDeepCopy)
	if err == nil {
		if configMap := p.written.lookUp(key, cached, bundle); configMap != nil {
			return configMap, nil
		}
	}
	configMap := &corev1.ConfigMap{}
	// If the operator wrote the ConfigMap before, the cache may not have it yet.
	if remembered := p.written.forget(key); err != nil && (!apierrors.IsNotFound(err) || !remembered) {
		return configMap, err
	}
	return configMap, p.Live.Get(ctx, key, configMap)
}

// reportForeign reports a ConfigMap that another client created, unless it requests the same bundle
// by an annotation.
func (p *Publisher) reportForeign(ctx context.Context, effective *claim, configMap *corev1.ConfigMap) error {
	key := client.ObjectKeyFromObject(configMap)
	requested, err := p.RequestedServiceCA(ctx, "ConfigMap", key)
	if err != nil || requested == effective.ca.Name {
		p.setProblem(key, effective.ca, "")
		return err
	}
	p.report(effective.ca, configMap, issuance.NewProblem(reasonNotOurs, "ConfigMap %s is left alone, because the operator did not make it: delete it, "+
		"annotate it %s=%s, or exclude its namespace by spec.trustBundle.publish of ServiceCA %s",
		key, v1alpha1.AnnotationInjectCABundle, effective.ca.Name, effective.ca.Name))
	return nil
}

// report records a problem, and an Event if the problem is new.
func (p *Publisher) report(ca *v1alpha1.ServiceCA, configMap *corev1.ConfigMap, problem *issuance.Problem) {
	if p.setProblem(client.ObjectKeyFromObject(configMap), ca, problem.Message) && p.events.TryAccept() {
		p.Recorder.Eventf(configMap, nil, corev1.EventTypeWarning, problem.Reason, "PublishCABundle", "%s", problem.Message)
	}
}

// setProblem records the problem of a ConfigMap; an empty one removes it. It reports whether the
// problem differs from the previous one.
func (p *Publisher) setProblem(key types.NamespacedName, ca *v1alpha1.ServiceCA, problem string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.problems[key] == problem {
		return false
	}
	p.problems[key] = problem
	if problem == "" {
		delete(p.problems, key)
	}
	p.notifyChanged(ca)
	return true
}

// notifyChanged triggers another count of a ServiceCA's targets; it does nothing if ca is nil.
func (p *Publisher) notifyChanged(ca *v1alpha1.ServiceCA) {
	if ca == nil {
		return
	}
	select {
	case p.changes <- event.GenericEvent{Object: ca}:
	default: // the channel is full: a later announcement triggers the count
	}
}

// forget drops the state of a ConfigMap that is no longer published.
func (p *Publisher) forget(key types.NamespacedName) {
	p.written.forget(key)
	p.setProblem(key, nil, "")
	p.conflicts.ClearFailure(key)
	p.conflicts.Forget(key)
}

// remove deletes a ConfigMap that no ServiceCA publishes any more, if the operator created it. The
// ConfigMaps of a deleted ServiceCA remain, like everything else that it created.
func (p *Publisher) remove(ctx context.Context, key types.NamespacedName, cas []v1alpha1.ServiceCA) (ctrl.Result, error) {
	err := p.deleteOwn(ctx, key, cas)
	if apply.IgnoreGone(err) != nil {
		return p.reportFailure(nil, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}, "removed", err)
	}
	p.forget(key)
	return ctrl.Result{}, nil
}

func (p *Publisher) deleteOwn(ctx context.Context, key types.NamespacedName, cas []v1alpha1.ServiceCA) error {
	cached := injector.ConfigMaps.Metadata()
	if err := p.Cache.Get(ctx, key, cached, client.UnsafeDisableDeepCopy); err != nil || !exists(cas, injector.PublishedBy(cached)) {
		return err
	}
	var configMap corev1.ConfigMap
	if err := p.Live.Get(ctx, key, &configMap); err != nil || !exists(cas, injector.PublishedBy(&configMap)) || !isOurs(&configMap) {
		return err
	}
	return p.Live.Delete(ctx, &configMap, apply.PreconditionsFor(&configMap))
}

func exists(cas []v1alpha1.ServiceCA, name string) bool {
	for i := range cas {
		if cas[i].Name == name {
			return true
		}
	}
	return false
}

func (p *Publisher) serviceCAs(ctx context.Context) ([]v1alpha1.ServiceCA, error) {
	var list v1alpha1.ServiceCAList
	err := p.Cache.List(ctx, &list, client.UnsafeDisableDeepCopy)
	return list.Items, err
}

func namespaceMetadata() *metav1.PartialObjectMetadata {
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	return namespace
}
