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
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/podrefs"
)

// deleteUnused deletes the Secrets that were made for this Service, by UID, under names that it no
// longer wants, once no pod uses them. It reports whether a pod still uses one.
func (r *Reconciler) deleteUnused(ctx context.Context, service *corev1.Service, wanted string) (inUse bool, err error) {
	secrets, err := r.View.secretsOf(ctx, service)
	if err != nil {
		return false, err
	}
	for i := range secrets {
		secret := &secrets[i]
		if secret.Name == wanted || !issuance.IsOwnedBy(secret, service) {
			continue
		}
		used, err := r.Usage.isUsed(ctx, secret)
		if err != nil {
			return inUse, err
		}
		if used {
			inUse = true
			continue
		}
		if err := r.deleteSecret(ctx, service, secret); err != nil {
			return inUse, err
		}
	}
	return inUse, nil
}

// deleteSecret deletes a Secret unless it is another client's copy of an operator Secret, which has
// the same labels but other field managers.
func (r *Reconciler) deleteSecret(ctx context.Context, service *corev1.Service, secret *corev1.Secret) error {
	live := &metav1.PartialObjectMetadata{}
	live.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	if err := r.Live.Get(ctx, client.ObjectKeyFromObject(secret), live); err != nil {
		return client.IgnoreNotFound(err)
	}
	if live.UID != secret.UID || !apply.IsManagedBy(live, apply.ServingCert) {
		return nil
	}
	// Do not make the next cache read wait for this deletion: nothing depends on it, and if the
	// cache never observed the deletion, that read would wait forever.
	err := r.Client.Delete(ctx, secret, apply.PreconditionsFor(secret), client.DisableReadYourWritesConsistency)
	if apply.IsConflict(err) || apply.IsGone(err) {
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
	// usageTTL is how long the list of Secrets that the pods of a namespace use is cached.
	usageTTL = 5 * time.Second
	// podsPerPage bounds how many pods of a namespace are held in memory at a time.
	podsPerPage = 250
)

// SecretUsage reports which Secrets the pods of a namespace use. It is asked only about Secrets
// that no Service wants any more, and then often about many at a time, so it lists the pods of a
// namespace once for all of them.
type SecretUsage struct {
	// Live reads without a cache.
	Live  client.Reader
	Clock clock.PassiveClock

	mu sync.Mutex
	// namespaces holds the usage of each namespace, until usageTTL has passed.
	namespaces map[string]namespaceUsage
}

// namespaceUsage holds the Secrets that the pods of a namespace used at a point in time.
type namespaceUsage struct {
	asOf    time.Time
	secrets sets.Set[string]
}

func (u *SecretUsage) isUsed(ctx context.Context, secret *corev1.Secret) (bool, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.Clock.Now()
	cached, ok := u.namespaces[secret.Namespace]
	if !ok || now.Sub(cached.asOf).Abs() > usageTTL {
		secrets, err := u.listUsed(ctx, secret.Namespace)
		if err != nil {
			return false, err
		}
		current := map[string]namespaceUsage{}
		for namespace, other := range u.namespaces {
			if now.Sub(other.asOf).Abs() <= usageTTL {
				current[namespace] = other
			}
		}
		cached = namespaceUsage{now, secrets}
		current[secret.Namespace], u.namespaces = cached, current
	}
	return cached.secrets.Has(secret.Name), nil
}

func (u *SecretUsage) listUsed(ctx context.Context, namespace string) (sets.Set[string], error) {
	used, page := sets.New[string](), corev1.PodList{}
	for {
		err := u.Live.List(ctx, &page, client.InNamespace(namespace), client.Limit(podsPerPage), client.Continue(page.Continue))
		if err != nil {
			return nil, err
		}
		for i := range page.Items {
			if phase := page.Items[i].Status.Phase; phase != corev1.PodSucceeded && phase != corev1.PodFailed {
				used.Insert(podrefs.SecretNames(&page.Items[i].Spec)...)
			}
		}
		if page.Continue == "" {
			return used, nil
		}
	}
}
