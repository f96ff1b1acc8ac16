package trust

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

// content is what an object should hold.
type content struct {
	request
	// data are our keys.
	data map[string][]byte
	// hash is that of the ServiceCA's bundle, for everybody who counts who carries it.
	hash string
}

func (c *content) bundle() []byte { return c.data[c.key] }

// fill is what a request comes to, with the bundle of its CA.
func (r *Reconciler) fill(ctx context.Context, asked request, bundle []byte, namespace string) (*content, *issuance.Obstacle, error) {
	filled := &content{request: asked, data: map[string][]byte{asked.key: bundle}, hash: pki.Hash(bundle)}
	if asked.form == formLegacy {
		root, err := r.rootCA(ctx, namespace)
		filled.data[asked.key] = []byte(strings.TrimRight(string(bundle), "\n") + "\n" + root)
		return filled, nil, err
	}
	if asked.truststore == "" {
		return filled, nil, nil
	}
	password, _, obstacle, err := Password(ctx, r.live, namespace, asked.password)
	if err != nil || obstacle != nil {
		return nil, obstacle, err
	}
	filled.data[v1alpha1.TruststoreKey], err = pki.Truststore(bundle, password)
	return filled, nil, err
}

// rootCA is the root CA of the API server.
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
