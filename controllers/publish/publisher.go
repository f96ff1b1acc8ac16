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
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pace"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/trust"
)

const (
	// retryRefused is how often a write is tried again that the API server refuses, and retryNotReady how often a CA is asked for that has
	// no bundle: a change of the ServiceCA tells sooner.
	retryRefused, retryNotReady = time.Minute, 5 * time.Minute
	// burst Events come at once, and then perSecond: as many namespaces may have a ConfigMap of somebody else's as there are.
	burst, perSecond = 25, 1
	// reasonNotOurs, reasonRefused and reasonOverwritten are the reasons of the Events on ConfigMaps.
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
	// Asked returns the ServiceCA whose bundle an object asks for by an annotation.
	Asked func(ctx context.Context, kind string, key client.ObjectKey) (string, error)
	// Namespace is the operator's own.
	Namespace string

	permitted atomic.Bool
	pace      pace.Pace
	events    flowcontrol.PassiveRateLimiter
	changes   chan event.GenericEvent
	written   written

	mu sync.Mutex
	// problems are why ConfigMaps do not have the bundle, until somebody else changes something.
	problems map[types.NamespacedName]string
}

// New returns a Publisher with the fields that are set in from.
func New(from *Publisher) *Publisher {
	from.events = flowcontrol.NewTokenBucketPassiveRateLimiter(perSecond, burst)
	from.changes = make(chan event.GenericEvent, burst)
	from.problems = map[types.NamespacedName]string{}
	return from
}

// Changes announces ServiceCAs of which a ConfigMap has another problem, or none any more.
func (p *Publisher) Changes() <-chan event.GenericEvent { return p.changes }

// Reconcile makes, updates or removes one ConfigMap.
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
	won := newClaims(cas, p.Namespace).winner(req.NamespacedName, namespace.Labels)
	if won == nil {
		return p.remove(ctx, req.NamespacedName, cas)
	}
	if wait := p.pace.Wait(req.NamespacedName, p.Clock.Now()); wait > 0 {
		p.reportOverwritten(won.ca, req.NamespacedName)
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	ca, _, err := p.Keyring.Find(ctx, p.Cache, won.ca.Name)
	if err != nil || ca == nil {
		return ctrl.Result{RequeueAfter: retryNotReady}, err
	}
	return p.publish(ctx, won, ca.Bundle, req.NamespacedName)
}

// publish brings a ConfigMap up to date, or reports why it cannot be.
func (p *Publisher) publish(ctx context.Context, won *claim, bundle []byte, key types.NamespacedName) (ctrl.Result, error) {
	configMap, changed, err := p.write(ctx, won, bundle, key)
	if changed {
		p.pace.Wrote(key, pki.Hash(bundle), p.Clock.Now(), err)
	}
	if err != nil {
		return p.failed(won.ca, configMap, "written", err)
	}
	p.pace.Recovered(key)
	if configMap.UID != "" && !ours(configMap) {
		return ctrl.Result{}, p.reportForeign(ctx, won, configMap)
	}
	p.written.remember(key, configMap)
	if lasts := p.pace.Fought(key, p.Clock.Now()); lasts > 0 {
		return ctrl.Result{RequeueAfter: lasts}, nil
	}
	if p.pace.Ended(key, p.Clock.Now()) {
		// It was not counted as current, and may have been reported to nobody.
		p.announce(won.ca)
	}
	p.note(key, won.ca, "")
	return ctrl.Result{}, nil
}

// failed reports why a ConfigMap cannot be written or removed: at once where that is for somebody to put right, and else once it has lasted.
func (p *Publisher) failed(ca *v1alpha1.ServiceCA, configMap *corev1.ConfigMap, done string, err error) (ctrl.Result, error) {
	key := client.ObjectKeyFromObject(configMap)
	failure := p.pace.Failed(key, p.Clock.Now(), err)
	switch {
	case apply.Going(err):
		return ctrl.Result{}, nil
	case apply.Refused(err), configMap.UID == "" && apply.Unpermitted(err):
		// Where the right to create is taken away again, nobody waits, as before it was given.
		p.report(ca, configMap, issuance.NewObstacle(reasonRefused, "ConfigMap %s cannot be %s: %v", key, done, err))
		return ctrl.Result{RequeueAfter: retryRefused}, nil
	case apierrors.IsAlreadyExists(err):
		return ctrl.Result{}, nil // the cache was behind, and its event causes the next reconciliation
	case failure != nil:
		p.report(ca, configMap, issuance.NewObstacle(failure.Reason, "ConfigMap %s cannot be %s: %s", key, done, failure.Message))
	}
	return ctrl.Result{}, err
}

// reportOverwritten reports once who keeps overwriting a ConfigMap, until that has ended.
func (p *Publisher) reportOverwritten(ca *v1alpha1.ServiceCA, key types.NamespacedName) {
	rival, unreported := p.pace.Rival(key)
	if !unreported {
		return
	}
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	p.report(ca, configMap, issuance.NewObstacle(reasonOverwritten, "%s keeps overwriting or deleting ConfigMap %s, which is put back a few times "+
		"every 30 seconds: let that client leave it alone, or exclude its namespace by spec.trustBundle.publish of ServiceCA %s", rival, key, ca.Name))
}

// write makes the ConfigMap or, where it is ours, puts it right in the version that was read. It returns what it found, or made.
func (p *Publisher) write(ctx context.Context, won *claim, bundle []byte, key types.NamespacedName) (*corev1.ConfigMap, bool, error) {
	configMap, err := p.read(ctx, key, bundle)
	configMap.Namespace, configMap.Name = key.Namespace, key.Name
	if apierrors.IsNotFound(err) {
		// Created, and not applied: what somebody else makes at this moment stays as it is.
		won.fill(configMap, bundle)
		return configMap, true, p.Live.Create(ctx, configMap, apply.Publish)
	}
	before := configMap.DeepCopy()
	if err != nil || !ours(configMap) || !won.fill(configMap, bundle) {
		return configMap, false, err
	}
	p.pace.Blame(key, apply.Rival(before, apply.Publish, won.bundle.Key))
	guarded := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	return configMap, true, p.Live.Patch(ctx, configMap, guarded, apply.Publish)
}

// read returns a ConfigMap that is to hold a bundle, empty where it is not found. It asks the API server only where the cache does not say what there is: no
// ConfigMap, or the version that the operator wrote.
func (p *Publisher) read(ctx context.Context, key types.NamespacedName, bundle []byte) (*corev1.ConfigMap, error) {
	cached := trust.ConfigMaps.Metadata()
	err := p.Cache.Get(ctx, key, cached, client.UnsafeDisableDeepCopy)
	if err == nil {
		if configMap := p.written.recall(key, cached, bundle); configMap != nil {
			return configMap, nil
		}
	}
	configMap := &corev1.ConfigMap{}
	// Where it was written before, the cache may not have it yet.
	if remembered := p.written.forget(key); err != nil && (!apierrors.IsNotFound(err) || !remembered) {
		return configMap, err
	}
	return configMap, p.Live.Get(ctx, key, configMap)
}

// reportForeign reports a ConfigMap that somebody else made, unless that asks for the same bundle by an annotation.
func (p *Publisher) reportForeign(ctx context.Context, won *claim, configMap *corev1.ConfigMap) error {
	key := client.ObjectKeyFromObject(configMap)
	asked, err := p.Asked(ctx, "ConfigMap", key)
	if err != nil || asked == won.ca.Name {
		p.note(key, won.ca, "")
		return err
	}
	p.report(won.ca, configMap, issuance.NewObstacle(reasonNotOurs, "ConfigMap %s is left alone, because the operator did not make it: delete it, "+
		"annotate it %s=%s, or exclude its namespace by spec.trustBundle.publish of ServiceCA %s",
		key, v1alpha1.AnnotationInjectCABundle, won.ca.Name, won.ca.Name))
	return nil
}

// report records a problem, and an Event where it is a new one.
func (p *Publisher) report(ca *v1alpha1.ServiceCA, configMap *corev1.ConfigMap, problem *issuance.Obstacle) {
	if p.note(client.ObjectKeyFromObject(configMap), ca, problem.Message) && p.events.TryAccept() {
		p.Recorder.Eventf(configMap, nil, corev1.EventTypeWarning, problem.Reason, "PublishCABundle", "%s", problem.Message)
	}
}

// note remembers the problem of a ConfigMap, none where it is empty, and returns whether it is another one than before.
func (p *Publisher) note(key types.NamespacedName, ca *v1alpha1.ServiceCA, problem string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.problems[key] == problem {
		return false
	}
	p.problems[key] = problem
	if problem == "" {
		delete(p.problems, key)
	}
	p.announce(ca)
	return true
}

// announce has a ServiceCA counted again; nil is none.
func (p *Publisher) announce(ca *v1alpha1.ServiceCA) {
	if ca == nil {
		return
	}
	select {
	case p.changes <- event.GenericEvent{Object: ca}:
	default: // one that is not announced is counted with the next
	}
}

// forget leaves nothing of a ConfigMap that is not published any more.
func (p *Publisher) forget(key types.NamespacedName) {
	p.written.forget(key)
	p.note(key, nil, "")
	p.pace.Recovered(key)
	p.pace.Forget(key)
}

// remove removes a ConfigMap that no ServiceCA publishes any more, if it is ours. That of a ServiceCA which is gone stays, as all that it made.
func (p *Publisher) remove(ctx context.Context, key types.NamespacedName, cas []v1alpha1.ServiceCA) (ctrl.Result, error) {
	err := p.removeOurs(ctx, key, cas)
	if apply.IgnoreGone(err) != nil {
		return p.failed(nil, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}, "removed", err)
	}
	p.forget(key)
	return ctrl.Result{}, nil
}

func (p *Publisher) removeOurs(ctx context.Context, key types.NamespacedName, cas []v1alpha1.ServiceCA) error {
	cached := trust.ConfigMaps.Metadata()
	if err := p.Cache.Get(ctx, key, cached, client.UnsafeDisableDeepCopy); err != nil || !isThere(cas, trust.Published(cached)) {
		return err
	}
	var configMap corev1.ConfigMap
	if err := p.Live.Get(ctx, key, &configMap); err != nil || !isThere(cas, trust.Published(&configMap)) || !ours(&configMap) {
		return err
	}
	return p.Live.Delete(ctx, &configMap, apply.Unchanged(&configMap))
}

func isThere(cas []v1alpha1.ServiceCA, name string) bool {
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
