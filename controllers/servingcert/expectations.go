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

// Expectations are the Secrets that the last look at a Service has made, as digests, until they come from the API server. Whatever comes as it was made
// tells that look nothing new, and need not cause another; whatever somebody changed on the way does. What is lost with the process costs a look.
type Expectations struct {
	mu      sync.Mutex
	secrets map[types.NamespacedName]*corev1.Secret
}

// expect that a Secret comes.
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

// forget a Service: there is a new look at it, or its Secret was not made.
func (e *Expectations) forget(service types.NamespacedName) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.secrets, service)
}

// observed reports whether a Secret, a digest, is the one that was expected for its Service. None is any more after that.
func (e *Expectations) observed(object client.Object) bool {
	service := types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetLabels()[v1alpha1.LabelService]}
	e.mu.Lock()
	defer e.mu.Unlock()
	expected := e.secrets[service]
	delete(e.secrets, service)
	digest, ok := object.(*corev1.Secret)
	return ok && expected != nil && issuance.SameContent(expected, digest)
}
