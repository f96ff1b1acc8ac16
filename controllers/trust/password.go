package trust

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// Password reads the password that an annotation refers to; empty without a reference. The Secret must say by a label that it is meant for that:
// whoever may write one object, and not read a Secret beside it, could otherwise try out what stands there.
func Password(ctx context.Context, live client.Reader, namespace string, of reference) (string, *issuance.Obstacle, error) {
	if of.secret == "" {
		return "", nil, nil
	}
	var secret corev1.Secret
	switch err := live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: of.secret}, &secret); {
	case apierrors.IsNotFound(err):
		return "", issuance.NewObstacle(reasonNoPassword, "there is no Secret %.64q with the password: create it", of.secret), nil
	case err != nil:
		return "", nil, err
	}
	if _, meant := secret.Labels[v1alpha1.LabelKeystorePassword]; !meant {
		return "", issuance.NewObstacle(reasonNoPassword, "Secret %s is not meant for passwords of keystores: label it %s",
			of.secret, v1alpha1.LabelKeystorePassword), nil
	}
	if len(secret.Data[of.key]) == 0 {
		return "", issuance.NewObstacle(reasonNoPassword, "Secret %s has no key %.64q with the password", of.secret, of.key), nil
	}
	return string(secret.Data[of.key]), nil, nil
}
