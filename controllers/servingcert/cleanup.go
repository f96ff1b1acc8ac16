package servingcert

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/inventory"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// cleanUp removes the Secrets that were made for this very Service under names that it no longer wants, as soon as no pod uses
// them; it tells whether one does.
func (r *Reconciler) cleanUp(ctx context.Context, service *corev1.Service, wanted string) (inUse bool, err error) {
	secrets, err := r.View.secretsOf(ctx, service)
	if err != nil {
		return false, err
	}
	for i := range secrets {
		secret := &secrets[i]
		if secret.Name == wanted || !issuance.HasOwner(secret, service) {
			continue
		}
		used, err := r.Usage.uses(ctx, secret)
		if err != nil {
			return inUse, err
		}
		if used {
			inUse = true
			continue
		}
		if err := r.remove(ctx, service, secret); err != nil {
			return inUse, err
		}
	}
	return inUse, nil
}

// remove deletes a Secret, unless it is a copy that somebody made of ours, labels and all.
func (r *Reconciler) remove(ctx context.Context, service *corev1.Service, secret *corev1.Secret) error {
	live := &metav1.PartialObjectMetadata{}
	live.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	if err := r.Live.Get(ctx, client.ObjectKeyFromObject(secret), live); err != nil {
		return client.IgnoreNotFound(err)
	}
	if live.UID != secret.UID || !apply.MadeBy(live, apply.ServingCert) {
		return nil
	}
	// The cache need not see the deletion before it is read again, and would wait for ever where it never does.
	err := r.Client.Delete(ctx, secret, apply.Unchanged(secret), client.DisableReadYourWritesConsistency)
	if apply.Conflict(err) || apply.Going(err) {
		return nil
	}
	if err != nil {
		return err
	}
	r.Recorder.Eventf(service, secret, corev1.EventTypeNormal, "CleanedUp", "Delete",
		"Secret %s was removed: this Service no longer wants it, and no pod uses it", secret.Name)
	return nil
}

const (
	// usageLasts is how long an answer about the pods of a namespace serves for all its Secrets.
	usageLasts = 5 * time.Second
	// podsPerPage bounds what is held of a namespace's pods at a time.
	podsPerPage = 250
)

// Usage knows which Secrets the pods of a namespace use. It is asked only about Secrets that nobody wants any more, and then often
// about many: so it reads the pods of a namespace once for all of them.
type Usage struct {
	// Live reads without a cache.
	Live  client.Reader
	Clock clock.PassiveClock

	mu sync.Mutex
	// read are the namespaces that were, as long as that serves.
	read map[string]usage
}

// usage are the Secrets that pods of a namespace used at a time.
type usage struct {
	asOf    time.Time
	secrets sets.Set[string]
}

func (u *Usage) uses(ctx context.Context, secret *corev1.Secret) (bool, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.Clock.Now()
	known, ok := u.read[secret.Namespace]
	if !ok || now.Sub(known.asOf).Abs() > usageLasts {
		secrets, err := u.used(ctx, secret.Namespace)
		if err != nil {
			return false, err
		}
		fresh := map[string]usage{}
		for namespace, other := range u.read {
			if now.Sub(other.asOf).Abs() <= usageLasts {
				fresh[namespace] = other
			}
		}
		known = usage{now, secrets}
		fresh[secret.Namespace], u.read = known, fresh
	}
	return known.secrets.Has(secret.Name), nil
}

func (u *Usage) used(ctx context.Context, namespace string) (sets.Set[string], error) {
	used, page := sets.New[string](), corev1.PodList{}
	for {
		err := u.Live.List(ctx, &page, client.InNamespace(namespace), client.Limit(podsPerPage), client.Continue(page.Continue))
		if err != nil {
			return nil, err
		}
		for i := range page.Items {
			if phase := page.Items[i].Status.Phase; phase != corev1.PodSucceeded && phase != corev1.PodFailed {
				used.Insert(inventory.Secrets(&page.Items[i].Spec)...)
			}
		}
		if page.Continue == "" {
			return used, nil
		}
	}
}
