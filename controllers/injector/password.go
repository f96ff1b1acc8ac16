package injector

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// maxUCS2 is the largest code point that a password can contain (RFC 7292 §B.1).
const maxUCS2 = 0xffff

// ReadPassword returns the password that an annotation refers to, as "<name>" or "<name>/<key>",
// and the version of the Secret that holds it. Both are empty if the annotation is empty. The
// Secret must have LabelKeystorePassword. Without it, a tenant that may write an object, but not
// read a Secret in the same namespace, could use the operator to guess the Secret's content.
func ReadPassword(ctx context.Context, live client.Reader, namespace, annotation string) (password, version string, problem *issuance.Problem, err error) {
	name, key := issuance.SplitPassword(annotation)
	if name == "" {
		return "", "", nil, nil
	}
	missing := func(format string, arguments ...any) (string, string, *issuance.Problem, error) {
		return "", "", issuance.NewProblem(issuance.ReasonNoPassword, format, arguments...), nil
	}
	var secret corev1.Secret
	switch err := live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &secret); {
	case apierrors.IsNotFound(err):
		return missing("there is no Secret %.64q with the password: create it", name)
	case err != nil:
		return "", "", nil, err
	}
	if _, ok := secret.Labels[v1alpha1.LabelKeystorePassword]; !ok {
		return missing("Secret %s is not meant for passwords of keystores: label it %s", name, v1alpha1.LabelKeystorePassword)
	}
	if len(secret.Data[key]) == 0 {
		return missing("Secret %s has no key %.64q with the password", name, key)
	}
	if strings.ContainsFunc(string(secret.Data[key]), func(r rune) bool { return r > maxUCS2 }) {
		return missing("Secret %s, key %.64q: PKCS #12 takes no such characters in a password (RFC 7292 §B.1): leave them out", name, key)
	}
	return string(secret.Data[key]), string(secret.UID) + "." + secret.ResourceVersion + "." + key, nil, nil
}
