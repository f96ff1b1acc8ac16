package servingcert

import (
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// Expectations holds the Secrets that the last reconciliation of each Service created, as digests,
// until their watch events arrive. A Secret that arrives unchanged needs no further reconciliation;
// one that another client or a webhook changed does. Losing the expectations with the process costs
// one reconciliation each.
type Expectations struct {
	mu      sync.Mutex
	secrets map[types.NamespacedName]*corev1.Secret
}

// expect records that secret is about to be created for a Service.
func (e *Expectations) expect(service types.NamespacedName, secret *corev1.Secret) {
	digest := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: secret.Namespace, Name: secret.Name, Labels: maps.Clone(secret.Labels), Annotations: secret.Annotations,
			OwnerReferences: secret.OwnerReferences,
		},
		Data: secret.Data,
	}
	issuance.Digest(digest)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.secrets == nil {
		e.secrets = map[types.NamespacedName]*corev1.Secret{}
	}
	e.secrets[service] = digest
}

// forget clears the expectation for a Service, because it is reconciled again or its Secret was not
// created.
func (e *Expectations) forget(service types.NamespacedName) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.secrets, service)
}

// observed reports whether object, a digest of a Secret, is the one that is expected for its
// Service, and clears the expectation.
func (e *Expectations) observed(object client.Object) bool {
	service := types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetLabels()[v1alpha1.LabelService]}
	e.mu.Lock()
	defer e.mu.Unlock()
	expected := e.secrets[service]
	delete(e.secrets, service)
	digest, ok := object.(*corev1.Secret)
	return ok && expected != nil && issuance.SameContent(expected, digest)
}
