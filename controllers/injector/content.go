package injector

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// desiredContent is the content that an object should have.
type desiredContent struct {
	bundleRequest
	// data holds the keys that the operator writes.
	data map[string][]byte
	// hash is the hash of the ServiceCA's bundle, by which objects that carry the bundle are
	// counted.
	hash string
}

func (c *desiredContent) bundle() []byte { return c.data[c.key] }

// buildContent returns the content that fulfils a request with the bundle of its CA. The problem is
// one that an administrator or the tenant must fix.
func (r *Reconciler) buildContent(ctx context.Context, request bundleRequest, bundle []byte, namespace string) (*desiredContent, *issuance.Problem, error) {
	content := &desiredContent{bundleRequest: request, data: map[string][]byte{request.key: bundle}, hash: pki.Hash(bundle)}
	if request.form == formLegacy {
		root, err := r.rootCA(ctx, namespace)
		content.data[request.key] = []byte(strings.TrimRight(string(bundle), "\n") + "\n" + root)
		return content, nil, err
	}
	if request.truststore == "" {
		return content, nil, nil
	}
	password, _, problem, err := ReadPassword(ctx, r.live, namespace, request.password)
	if err != nil || problem != nil {
		return nil, problem, err
	}
	content.data[v1alpha1.TruststoreKey], err = pki.Truststore(bundle, password)
	return content, nil, err
}

// rootCA returns the root CA of the API server, or errNoRootCA if the namespace does not have it
// yet.
func (r *Reconciler) rootCA(ctx context.Context, namespace string) (string, error) {
	var root corev1.ConfigMap
	switch err := r.live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: rootCAName}, &root); {
	case apierrors.IsNotFound(err):
		return "", errNoRootCA
	case err != nil:
		return "", fmt.Errorf("read the root CA of the API server: %w", err)
	}
	return root.Data[corev1.ServiceAccountRootCAKey], nil
}
