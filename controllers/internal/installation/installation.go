// Package installation ensures that only one installation of the operator works in a cluster: the
// one whose namespace an annotation of the CRD of ServiceCAs names. A second installation, in
// another namespace, has none of the signing keys and would treat them as lost.
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
	// interval is the time between two checks of the claim.
	interval = 5 * time.Second
	// checkTimeout limits one check: a read from a cache that cannot sync never returns.
	checkTimeout = 30 * time.Second
	// reasonAnotherInstallation is the reason of the Event on each ServiceCA.
	reasonAnotherInstallation = "AnotherInstallation"
	// crdName is the CRD that carries the claim: it is created with the first installation and
	// deleted with the last.
	crdName = "servicecas." + v1alpha1.GroupName
)

// errClaimLost stops the manager. It is restarted and then waits for the claim.
var errClaimLost = errors.New("another installation has the ServiceCAs of this cluster now")

// Claim is an installation's claim on the ServiceCAs of the cluster.
type Claim struct {
	// Cache reads the metadata of CRDs.
	Cache client.Reader
	// Live reads and writes without a cache.
	Live     client.Client
	Recorder events.EventRecorder
	Clock    clock.PassiveClock
	// Namespace is the operator's own namespace.
	Namespace string

	// acquired is closed when this installation has the claim.
	acquired chan struct{}
	// refusal is why this installation does not have the claim; nil before the first check, and
	// when it has the claim.
	refusal atomic.Pointer[string]
}

// Guard returns a manager that starts runnables that need leader election only when this
// installation has the claim.
func (c *Claim) Guard(mgr ctrl.Manager) (ctrl.Manager, error) {
	c.acquired = make(chan struct{})
	return guardedManager{mgr, c}, mgr.Add(c)
}

// Ready returns an error if this installation is known not to have the claim.
func (c *Claim) Ready() error {
	if refusal := c.refusal.Load(); refusal != nil {
		return errors.New(*refusal)
	}
	return nil
}

// Start acquires the claim as soon as it is free. It returns an error when the claim is moved to
// another installation.
func (c *Claim) Start(ctx context.Context) error {
	acquired := false
	for {
		refusal, err := c.check(ctx)
		switch {
		case apply.IsConflict(err):
			// Another installation wrote at the same time: the next check shows the result.
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

// reportRefusal reports, once per refusal, why this installation does nothing.
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

// check returns why this installation does not have the claim; empty when it has it. It reads the
// CRD and the signing keys from the API server only if the claim is free according to the cache.
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

// refusalOf returns a refusal if another installation, whose namespace exists, has the claim.
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

// refusalForForeignKeys returns a refusal if another namespace holds a signing key in use that this
// installation's namespace does not. It matters only while there is no claim.
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

// acquire writes the claim into the exact version of the CRD that was read: of two installations
// that start at once, one succeeds.
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

// guardedManager is a manager that delays runnables that need leader election.
type guardedManager struct {
	ctrl.Manager

	claim *Claim
}

// Add adds a runnable. The runnable waits for the claim unless it runs on every replica, as caches
// do.
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
