package installation

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// KeyElsewhere returns the Secret of another namespace that holds the private key of the CA which the status of a ServiceCA names;
// nil where namespace holds it, or none does. Anybody may copy labels and certificates: only the key counts.
func KeyElsewhere(
	ctx context.Context, now time.Time, live client.Reader, ca *v1alpha1.ServiceCA, namespace string,
) (*types.NamespacedName, error) {
	if ca.Status.Active == nil && ca.Status.Next == nil {
		return nil, nil
	}
	secrets, err := signingKeys(ctx, live, ca.Name)
	if err != nil {
		return nil, err
	}
	var elsewhere *types.NamespacedName
	for i := range secrets {
		key := client.ObjectKeyFromObject(&secrets[i])
		var secret corev1.Secret
		if err := live.Get(ctx, key, &secret); client.IgnoreNotFound(err) != nil {
			return nil, err
		}
		switch {
		case !holdsKey(now, ca, &secret):
		case key.Namespace == namespace:
			return nil, nil
		default:
			elsewhere = &key
		}
	}
	return elsewhere, nil
}

// signingKeys lists the metadata of what bears the label of a signing-key Secret.
func signingKeys(ctx context.Context, live client.Reader, ca string) ([]metav1.PartialObjectMetadata, error) {
	ours, err := labels.NewRequirement(v1alpha1.LabelServiceCA, selection.Equals, []string{ca})
	if err != nil {
		return nil, err
	}
	noCertificate, err := labels.NewRequirement(v1alpha1.LabelService, selection.DoesNotExist, nil)
	if err != nil {
		return nil, err
	}
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	err = live.List(ctx, &list, client.MatchingLabelsSelector{Selector: labels.NewSelector().Add(*ours, *noCertificate)})
	return list.Items, err
}

// holdsKey reports whether a Secret holds the key of the CA that signs, or that is going to.
func holdsKey(now time.Time, ca *v1alpha1.ServiceCA, secret *corev1.Secret) bool {
	state, _ := rotation.Read(now, secret)
	if state == nil {
		return false
	}
	for _, named := range []*v1alpha1.CAGeneration{ca.Status.Active, ca.Status.Next} {
		for _, signer := range []*rotation.Signer{state.Active, state.Next} {
			if named != nil && signer != nil && signer.Fingerprint() == named.Fingerprint {
				return true
			}
		}
	}
	return false
}
