package publish

import (
	"context"
	"fmt"
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
	// reasonNotOurs and reasonRefused are the reasons of the Events on ConfigMaps.
	reasonNotOurs, reasonRefused = "ConfigMapNotOurs", "PublishRefused"
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
		p.note(req.NamespacedName, nil, "")
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
		p.note(req.NamespacedName, nil, "")
		return ctrl.Result{}, p.remove(ctx, req.NamespacedName, cas)
	}
	if wait := p.pace.Wait(req.NamespacedName, p.Clock.Now()); wait > 0 {
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
	switch {
	case apply.Going(err):
		return ctrl.Result{}, nil
	case err != nil && apply.Refused(err):
		p.report(won.ca, configMap, reasonRefused, fmt.Sprintf("ConfigMap %s cannot be written: %v", key, err))
		return ctrl.Result{RequeueAfter: retryRefused}, nil
	case err != nil:
		return ctrl.Result{}, err
	case configMap.UID != "" && !ours(configMap):
		return ctrl.Result{}, p.reportForeign(ctx, won, configMap)
	}
	p.note(key, won.ca, "")
	return ctrl.Result{}, nil
}

// write makes the ConfigMap or, where it is ours, puts it right in the version that was read. It returns what it found, or made.
func (p *Publisher) write(ctx context.Context, won *claim, bundle []byte, key types.NamespacedName) (*corev1.ConfigMap, bool, error) {
	configMap := &corev1.ConfigMap{}
	err := p.Live.Get(ctx, key, configMap)
	if apierrors.IsNotFound(err) {
		// Created, and not applied: what somebody else makes at this moment stays as it is.
		configMap.Namespace, configMap.Name = key.Namespace, key.Name
		won.fill(configMap, bundle)
		return configMap, true, p.Live.Create(ctx, configMap, apply.Publish)
	}
	before := configMap.DeepCopy()
	if err != nil || !ours(configMap) || !won.fill(configMap, bundle) {
		return configMap, false, err
	}
	guarded := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	return configMap, true, p.Live.Patch(ctx, configMap, guarded, apply.Publish)
}

// reportForeign reports a ConfigMap that somebody else made, unless that asks for the same bundle by an annotation.
func (p *Publisher) reportForeign(ctx context.Context, won *claim, configMap *corev1.ConfigMap) error {
	key := client.ObjectKeyFromObject(configMap)
	asked, err := p.Asked(ctx, "ConfigMap", key)
	if err != nil || asked == won.ca.Name {
		p.note(key, won.ca, "")
		return err
	}
	p.report(won.ca, configMap, reasonNotOurs, fmt.Sprintf("ConfigMap %s is left alone, because the operator did not make it: delete it, "+
		"annotate it %s=%s, or exclude its namespace by spec.trustBundle.publish of ServiceCA %s",
		key, v1alpha1.AnnotationInjectCABundle, won.ca.Name, won.ca.Name))
	return nil
}

// report records a problem, and an Event where it is a new one.
func (p *Publisher) report(ca *v1alpha1.ServiceCA, configMap *corev1.ConfigMap, reason, message string) {
	if p.note(client.ObjectKeyFromObject(configMap), ca, message) && p.events.TryAccept() {
		p.Recorder.Eventf(configMap, nil, corev1.EventTypeWarning, reason, "PublishCABundle", "%s", message)
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
	if ca != nil {
		select {
		case p.changes <- event.GenericEvent{Object: ca}:
		default: // one that is not announced is counted with the next
		}
	}
	return true
}

// remove removes a ConfigMap that no ServiceCA publishes any more, if it is ours. That of a ServiceCA which is gone stays, as all that it made.
func (p *Publisher) remove(ctx context.Context, key types.NamespacedName, cas []v1alpha1.ServiceCA) error {
	cached := trust.ConfigMaps.Metadata()
	if err := p.Cache.Get(ctx, key, cached, client.UnsafeDisableDeepCopy); err != nil || !isThere(cas, trust.Published(cached)) {
		return client.IgnoreNotFound(err)
	}
	var configMap corev1.ConfigMap
	if err := p.Live.Get(ctx, key, &configMap); err != nil || !isThere(cas, trust.Published(&configMap)) || !ours(&configMap) {
		return client.IgnoreNotFound(err)
	}
	return client.IgnoreNotFound(p.Live.Delete(ctx, &configMap, apply.Unchanged(&configMap)))
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
