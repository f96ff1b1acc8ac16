// Package installation lets one installation of the operator work in a cluster: the one whose namespace an annotation of the CRD
// of ServiceCAs names. A second one, in another namespace, has none of the signing keys: it would take them for lost.
package installation

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
)

const (
	// interval is the time between two looks at the claim.
	interval = 5 * time.Second
	// checkTimeout bounds one look: a cache that cannot be filled answers never.
	checkTimeout = 30 * time.Second
	// reasonAnotherInstallation is the reason of the Event on each ServiceCA.
	reasonAnotherInstallation = "AnotherInstallation"
	// crdName is the CRD that carries the claim: it is as old as the first installation, and goes with the last.
	crdName = "servicecas." + v1alpha1.GroupName
)

// errClaimLost ends the manager: it starts again and waits for the claim.
var errClaimLost = errors.New("another installation has the ServiceCAs of this cluster now")

// Claim is the claim of one installation on the ServiceCAs of the cluster.
type Claim struct {
	// Cache reads the metadata of CRDs.
	Cache client.Reader
	// Live reads and writes without a cache.
	Live     client.Client
	Recorder events.EventRecorder
	Clock    clock.PassiveClock
	// Namespace is the operator's own.
	Namespace string

	// acquired is closed when the claim is ours.
	acquired chan struct{}
	// refusal is why it is not; nil before the first look, and when it is.
	refusal atomic.Pointer[string]
}

// Guard returns a manager that starts what works for a leader only when the claim is ours.
func (c *Claim) Guard(mgr ctrl.Manager) (ctrl.Manager, error) {
	c.acquired = make(chan struct{})
	return guardedManager{mgr, c}, mgr.Add(c)
}

// Ready returns an error that says why the claim is not ours.
func (c *Claim) Ready() error {
	if refusal := c.refusal.Load(); refusal != nil {
		return errors.New(*refusal)
	}
	return nil
}

// Start takes the claim as soon as it is free, and returns an error when it was handed over to another installation.
func (c *Claim) Start(ctx context.Context) error {
	acquired := false
	for {
		refusal, err := c.check(ctx)
		switch {
		case apply.IsConflict(err):
			// Another installation wrote at the same time: the next look finds out what.
		case err != nil:
			ctrl.LoggerFrom(ctx).Error(err, "find out which installation has the ServiceCAs of this cluster")
			if !acquired {
				unknown := "it is not known which installation has the ServiceCAs of this cluster: " + err.Error()
				c.refusal.Store(&unknown)
			}
		case refusal == "":
			c.refusal.Store(nil)
			if !acquired {
				close(c.acquired)
			}
			acquired = true
		case acquired:
			return fmt.Errorf("%w: %s", errClaimLost, refusal)
		default:
			c.reportRefusal(ctx, refusal)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
	}
}

// reportRefusal reports, once, why this installation does nothing.
func (c *Claim) reportRefusal(ctx context.Context, refusal string) {
	if before := c.refusal.Swap(&refusal); before != nil && *before == refusal {
		return
	}
	ctrl.LoggerFrom(ctx).Info(refusal)
	var list v1alpha1.ServiceCAList
	if err := c.Live.List(ctx, &list); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list the ServiceCAs")
	}
	for i := range list.Items {
		c.Recorder.Eventf(&list.Items[i], nil, corev1.EventTypeWarning, reasonAnotherInstallation, "Claim", "%s", refusal)
	}
}

// check returns why the claim is not ours, empty when it is. It asks the API server only where the caches say that it may be taken.
func (c *Claim) check(ctx context.Context) (refusal string, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	for _, reader := range []client.Reader{c.Cache, c.Live} {
		crd, err := readCRD(ctx, reader)
		if err != nil {
			return "", err
		}
		if crd.Annotations[v1alpha1.AnnotationInstallation] == c.Namespace {
			return "", nil
		}
		refusal, err := c.refusalOf(ctx, crd)
		if refusal == "" && err == nil && reader == c.Live {
			if refusal, err = c.refusalForForeignKeys(ctx); refusal == "" && err == nil {
				err = c.acquire(ctx, crd)
			}
		}
		if refusal != "" || err != nil {
			return refusal, err
		}
	}
	return "", nil
}

// readCRD reads the metadata of the CRD that carries the claim.
func readCRD(ctx context.Context, reader client.Reader) (*metav1.PartialObjectMetadata, error) {
	crd := partialMetadata(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	return crd, reader.Get(ctx, client.ObjectKey{Name: crdName}, crd)
}

// refusalOf returns a refusal where the claim is that of another installation, whose namespace is there.
func (c *Claim) refusalOf(ctx context.Context, crd *metav1.PartialObjectMetadata) (string, error) {
	other := crd.Annotations[v1alpha1.AnnotationInstallation]
	if other == "" || other == c.Namespace {
		return "", nil
	}
	err := c.Live.Get(ctx, client.ObjectKey{Name: other}, partialMetadata(corev1.SchemeGroupVersion.WithKind("Namespace")))
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	return fmt.Sprintf("the ServiceCAs of this cluster belong to the installation in namespace %s, so the one in namespace %s does nothing: "+
		"remove it, or move the signing keys to it and then set annotation %s of CustomResourceDefinition %s to %s",
		other, c.Namespace, v1alpha1.AnnotationInstallation, crdName, c.Namespace), err
}

// refusalForForeignKeys returns a refusal where another namespace holds a signing key in use that ours does not: nobody has claimed it yet.
func (c *Claim) refusalForForeignKeys(ctx context.Context) (string, error) {
	var list v1alpha1.ServiceCAList
	if err := c.Live.List(ctx, &list); err != nil {
		return "", err
	}
	for i := range list.Items {
		ca := &list.Items[i]
		other, err := SigningKeyOutside(ctx, c.Clock.Now(), c.Live, ca, c.Namespace)
		if err != nil {
			return "", err
		}
		if other != nil {
			return fmt.Sprintf("the signing key of ServiceCA %s is in Secret %s, so the installation in namespace %s does nothing: "+
				"remove it, or move that Secret to its namespace", ca.Name, other, c.Namespace), nil
		}
	}
	return "", nil
}

// acquire writes the claim into the very version of the CRD that was read: of two installations that start at once, one succeeds.
func (c *Claim) acquire(ctx context.Context, crd *metav1.PartialObjectMetadata) error {
	before := crd.DeepCopy()
	metav1.SetMetaDataAnnotation(&crd.ObjectMeta, v1alpha1.AnnotationInstallation, c.Namespace)
	return c.Live.Patch(ctx, crd, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), apply.ServiceCA)
}

func partialMetadata(kind schema.GroupVersionKind) *metav1.PartialObjectMetadata {
	object := &metav1.PartialObjectMetadata{}
	object.SetGroupVersionKind(kind)
	return object
}

// guardedManager is a manager that holds back what works for a leader.
type guardedManager struct {
	ctrl.Manager

	claim *Claim
}

// Add adds a runnable, which waits for the claim unless it runs on every replica: caches do.
func (g guardedManager) Add(runnable manager.Runnable) error {
	if elected, ok := runnable.(manager.LeaderElectionRunnable); ok && !elected.NeedLeaderElection() {
		return g.Manager.Add(runnable)
	}
	return g.Manager.Add(manager.RunnableFunc(func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case <-g.claim.acquired:
			return runnable.Start(ctx)
		}
	}))
}
