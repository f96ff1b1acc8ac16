package trust

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// concurrency keeps one slow ConfigMap from holding up the others.
const concurrency = 8

// indexCA indexes ConfigMaps by the ServiceCA whose bundle they ask for.
const indexCA = "trust.serviceca"

// ConfigMapMetadata is an empty ConfigMap, of which the caches hold the metadata.
func ConfigMapMetadata() *metav1.PartialObjectMetadata {
	object := &metav1.PartialObjectMetadata{}
	object.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	return object
}

// marked tells whether we left something on a ConfigMap.
func marked(object metav1.Object) bool {
	_, _, carries := readMark(object)
	_, told := object.GetAnnotations()[v1alpha1.AnnotationError]
	return carries || told || wrote(object, metav1.ManagedFieldsOperationApply)
}

// wrote tells whether a field is ours by this operation.
func wrote(object metav1.Object, operation metav1.ManagedFieldsOperationType) bool {
	return slices.ContainsFunc(object.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == string(apply.Trust) && entry.Operation == operation
	})
}

// Slim leaves of the managed fields of a ConfigMap only that some are applied by us: the trace that nobody removes by editing it.
func Slim(configMap metav1.Object) {
	var applied []metav1.ManagedFieldsEntry
	if wrote(configMap, metav1.ManagedFieldsOperationApply) {
		applied = []metav1.ManagedFieldsEntry{{Manager: string(apply.Trust), Operation: metav1.ManagedFieldsOperationApply}}
	}
	configMap.SetManagedFields(applied)
}

// SetupWithManager watches the metadata of ConfigMaps, and ServiceCAs for a new bundle.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	err := mgr.GetFieldIndexer().IndexField(ctx, ConfigMapMetadata(), indexCA, func(object client.Object) []string {
		if asked, asks := requestOf(object, r.OpenShiftAnnotations); asks {
			return []string{asked.ca}
		}
		return nil
	})
	if err != nil {
		return err
	}
	concerned := predicate.NewPredicateFuncs(func(object client.Object) bool {
		_, asks := requestOf(object, r.OpenShiftAnnotations)
		return asks || marked(object)
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("trust").
		For(ConfigMapMetadata(), builder.OnlyMetadata, builder.WithPredicates(concerned)).
		Watches(&v1alpha1.ServiceCA{}, handler.EnqueueRequestsFromMapFunc(r.asking), builder.WithPredicates(keyring.Changed())).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrency}).
		Complete(r)
}

func (r *Reconciler) asking(ctx context.Context, ca client.Object) []reconcile.Request {
	targets, err := listTargets(ctx, r.Cache, ca.GetName())
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list the ConfigMaps that ask for a bundle", "serviceCA", ca.GetName())
	}
	requests := make([]reconcile.Request, 0, len(targets))
	for _, target := range targets {
		requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: target.Namespace, Name: target.Name}})
	}
	return requests
}

func listTargets(ctx context.Context, c client.Reader, ca string) ([]metav1.PartialObjectMetadata, error) {
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMapList"))
	err := c.List(ctx, &list, client.MatchingFields{indexCA: ca}, client.UnsafeDisableDeepCopy)
	return list.Items, err
}

// Targets counts what asks for a bundle.
type Targets struct {
	All int32
	// Current targets carry the bundle.
	Current int32
	// Blocked targets do not, because of something that only their owners can put right.
	Blocked int32
	// Behind are the others that carried, or should have carried, another bundle before; BehindNames are some.
	Behind      int32
	BehindNames []string
}

// Count counts a target.
func (t *Targets) Count(current, blocked bool, name string) {
	t.All++
	switch {
	case current:
		t.Current++
	case blocked:
		t.Blocked++
	default:
		t.Behind++
		t.BehindNames = Some(t.BehindNames, name)
	}
}

// Some are the first few, by the alphabet, of some names and one more: the same ones, in whichever order they come.
func Some(names []string, more string) []string {
	const few = 10
	at, _ := slices.BinarySearch(names, more)
	names = slices.Insert(names, at, more)
	return names[:min(len(names), few)]
}

// CountTargets counts the ConfigMaps that ask for the bundle of a ServiceCA; the current one has this hash. Those that were made since
// then get no other bundle: nobody has to wait for them. Neither for those that are fought over.
func CountTargets(
	ctx context.Context, c client.Reader, fought func(client.ObjectKey) bool, ca, hash string, since time.Time,
) (Targets, error) {
	list, err := listTargets(ctx, c, ca)
	var counted Targets
	for i := range list {
		target := &list[i]
		carried, _, _ := readMark(target)
		if carried != hash && target.CreationTimestamp.After(since) {
			counted.All++
			continue
		}
		problem, told := target.Annotations[v1alpha1.AnnotationError]
		// A CA that was not ready is nothing that an owner can put right.
		told = told && issuance.ParseObstacle(problem).Reason != issuance.ReasonServiceCANotReady
		counted.Count(carried == hash, told || fought(client.ObjectKeyFromObject(target)), "ConfigMap "+target.Namespace+"/"+target.Name)
	}
	return counted, err
}

// manyTargets are more than have to be looked at where nobody writes marks of our own by hand.
const manyTargets = 100

// Carried is what ConfigMaps carry that say that they have the bundle of a ServiceCA with this hash, until one has.
func Carried(ctx context.Context, c, live client.Reader, ca, hash string) ([][]byte, error) {
	list, err := listTargets(ctx, c, ca)
	var carried [][]byte
	for i := range list {
		of, key, _ := readMark(&list[i])
		if _, told := list[i].Annotations[v1alpha1.AnnotationError]; of != hash || told || len(carried) == manyTargets {
			continue
		}
		var configMap corev1.ConfigMap
		if err := live.Get(ctx, client.ObjectKeyFromObject(&list[i]), &configMap); client.IgnoreNotFound(err) != nil {
			return nil, err
		}
		carried = append(carried, []byte(configMap.Data[key]))
		if pki.Hash(carried[len(carried)-1]) == hash {
			break
		}
	}
	return carried, err
}
