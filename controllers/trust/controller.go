package trust

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/csaupgrade"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
)

// retryRefused is how often a ConfigMap is tried again that the API server refuses to change: no event would tell that it allows it.
const retryRefused = 30 * time.Second

// retryNoRootCA is how often the root CA of the API server is looked for: a new namespace gets it a moment later.
const retryNoRootCA = 2 * time.Second

// errNoRootCA means to try again: a new namespace gets the root CA a moment later. It is not the error of the ConfigMap itself
// not being there any more.
var errNoRootCA = errors.New("the namespace has no ConfigMap kube-root-ca.crt yet")

// Reconciler puts trust bundles into the ConfigMaps that ask for one.
type Reconciler struct {
	// Cache reads ServiceCAs, and of ConfigMaps the metadata only.
	Cache client.Reader
	// Live reads and writes without a cache.
	Live     client.Client
	Keyring  *keyring.Keyring
	Recorder events.EventRecorder
	// OpenShiftAnnotations are honoured, except where OpenShift's own service CA runs.
	OpenShiftAnnotations bool
	Clock                clock.PassiveClock

	pace pace
}

// Target is the ServiceCA whose bundle an object asks for, empty when it asks for none.
func (r *Reconciler) Target(object client.Object) string {
	asked, _ := requestOf(object, r.OpenShiftAnnotations)
	return asked.ca
}

// Fought tells whether somebody else changes a ConfigMap back again and again.
func (r *Reconciler) Fought(key client.ObjectKey) bool { return r.pace.wait(key, r.Clock.Now()) > 0 }

// Reconcile brings the bundle in one ConfigMap up to date, or gives up what it put there.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	cached := ConfigMapMetadata()
	if err := r.Cache.Get(ctx, req.NamespacedName, cached); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if _, asks := requestOf(cached, r.OpenShiftAnnotations); !asks && !marked(cached) {
		return ctrl.Result{}, nil
	}
	var configMap corev1.ConfigMap
	if err := r.Live.Get(ctx, req.NamespacedName, &configMap); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if wait := r.pace.wait(req.NamespacedName, r.Clock.Now()); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	obstacle, err := r.inject(ctx, &configMap)
	if apply.Going(err) {
		return ctrl.Result{}, nil
	}
	var result ctrl.Result
	if errors.Is(err, errNoRootCA) {
		// No event of ours tells of it. A tenant that keeps it away is not waited for.
		obstacle, err = issuance.NewObstacle(reasonNoRootCA, "%v", err), nil
		result.RequeueAfter = retryNoRootCA
	}
	if err != nil && apply.Refused(err) {
		obstacle, err = issuance.NewObstacle(reasonRefused, "%v", err), nil
		result.RequeueAfter = retryRefused
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	return result, r.tell(ctx, &configMap, obstacle)
}

// inject makes the ConfigMap what it asks to be. What stands in the way of a person's wish comes back as an obstacle, and the
// bundle that is there stays.
func (r *Reconciler) inject(ctx context.Context, configMap *corev1.ConfigMap) (*issuance.Obstacle, error) {
	asked, asks := requestOf(configMap, r.OpenShiftAnnotations)
	if !asks {
		return nil, r.giveUp(ctx, configMap)
	}
	if obstacle := asked.check(); obstacle != nil {
		return obstacle, nil
	}
	ca, obstacle, err := r.Keyring.Find(ctx, r.Cache, asked.ca)
	if ca == nil {
		return obstacle, err
	}
	wanted, err := r.fill(ctx, asked, ca.Bundle, configMap.Namespace)
	if err != nil || wanted.current(configMap) {
		return nil, err
	}
	r.pace.write(types.NamespacedName{Namespace: configMap.Namespace, Name: configMap.Name}, wanted.hash, r.Clock.Now())
	if asked.form == formOwn {
		return r.add(ctx, wanted, configMap)
	}
	patch, err := wanted.exactly(configMap)
	if err != nil {
		return nil, err
	}
	return nil, r.Live.Patch(ctx, configMap, client.RawPatch(types.MergePatchType, patch), apply.Trust)
}

func (r *Reconciler) fill(ctx context.Context, asked request, bundle []byte, namespace string) (content, error) {
	if asked.form != formLegacy {
		return asked.fill(bundle, ""), nil
	}
	var root corev1.ConfigMap
	switch err := r.Live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: rootCAName}, &root); {
	case apierrors.IsNotFound(err):
		return content{}, errNoRootCA
	case err != nil:
		return content{}, fmt.Errorf("read the root CA of the API server: %w", err)
	}
	return asked.fill(bundle, root.Data[corev1.ServiceAccountRootCAKey]), nil
}

// add applies our key. It yields to whoever wrote that key before us; once the key is ours, it puts back what was changed by hand.
func (r *Reconciler) add(ctx context.Context, wanted content, configMap *corev1.ConfigMap) (*issuance.Obstacle, error) {
	options := []client.ApplyOption{apply.Trust}
	if _, key, carries := readMark(configMap); carries && key == wanted.key {
		if err := r.adopt(ctx, configMap); err != nil {
			return nil, err
		}
		options = append(options, client.ForceOwnership)
	}
	err := r.Live.Apply(ctx, wanted.own(configMap), options...)
	if apierrors.HasStatusCause(err, "FieldManagerConflict") {
		return issuance.NewObstacle(reasonKeyNotOurs,
			"data[%q] is somebody else's and is left alone: delete it, or name another key by annotation %s",
			wanted.key, v1alpha1.AnnotationCABundleKey), nil
	}
	return nil, err
}

// adopt makes what we patched into a ConfigMap, as long as it asked by OpenShift's annotation, a part of what we apply: or that
// would stay when we give up.
func (r *Reconciler) adopt(ctx context.Context, configMap *corev1.ConfigMap) error {
	manager := string(apply.Trust)
	patch, err := csaupgrade.UpgradeManagedFieldsPatch(configMap, sets.New(manager), manager)
	if err != nil || !wrote(configMap, metav1.ManagedFieldsOperationUpdate) {
		return err
	}
	return r.Live.Patch(ctx, configMap, client.RawPatch(types.JSONPatchType, patch), apply.Trust)
}

// giveUp leaves a ConfigMap as if we had never been there; where data was all ours, as OpenShift has it, the bundle stays, as there.
func (r *Reconciler) giveUp(ctx context.Context, configMap *corev1.ConfigMap) error {
	if err := r.Live.Apply(ctx, identity(configMap), apply.Trust); err != nil {
		return err
	}
	var left corev1.ConfigMap
	if err := r.Live.Get(ctx, client.ObjectKeyFromObject(configMap), &left); err != nil {
		return err
	}
	*configMap = left
	if _, _, carries := readMark(&left); !carries {
		return nil
	}
	return apply.Annotations(ctx, r.Live, apply.Trust, configMap, map[string]*string{v1alpha1.AnnotationCABundleHash: nil})
}

// tell writes the error annotation, and an Event when it says something new.
func (r *Reconciler) tell(ctx context.Context, configMap *corev1.ConfigMap, obstacle *issuance.Obstacle) error {
	changes := issuance.Report(configMap.Annotations, obstacle)
	if obstacle != nil && len(changes) > 0 {
		r.Recorder.Eventf(configMap, nil, corev1.EventTypeWarning, obstacle.Reason, "InjectCABundle", "%s", obstacle.Message)
	}
	return client.IgnoreNotFound(apply.Annotations(ctx, r.Live, apply.Trust, configMap, changes))
}
