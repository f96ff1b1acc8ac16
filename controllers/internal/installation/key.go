package installation

import (
	"context"
	"encoding/pem"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// maxSecretsPerNamespace limits how many labelled Secrets of another namespace are read. An
// operator's namespace has one or two for each ServiceCA; a tenant could label so many that reading
// them takes longer than the operator's timeouts allow.
const maxSecretsPerNamespace = 10

// SigningKeyOutside returns the Secret of another namespace that holds the private key of the CA
// that the status of a ServiceCA names. It returns nil if namespace holds the key, or no namespace
// does. Labels and certificates can be copied by any tenant: only the key counts.
func SigningKeyOutside(
	ctx context.Context, now time.Time, live client.Reader, ca *v1alpha1.ServiceCA, namespace string,
) (*types.NamespacedName, error) {
	if ca.Status.Active == nil && ca.Status.Next == nil {
		return nil, nil
	}
	var ownSecret corev1.Secret
	err := live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: ca.SigningKeySecretName()}, &ownSecret)
	if client.IgnoreNotFound(err) != nil || holdsKey(now, ca, &ownSecret) {
		return nil, client.IgnoreNotFound(err)
	}
	secrets, err := signingKeys(ctx, live, ca.Name)
	if err != nil {
		return nil, err
	}
	var outside *types.NamespacedName
	for _, candidate := range limitPerNamespace(secrets, namespace) {
		key := client.ObjectKeyFromObject(&candidate)
		var secret corev1.Secret
		if err := live.Get(ctx, key, &secret); client.IgnoreNotFound(err) != nil {
			return nil, err
		}
		switch {
		case !holdsKey(now, ca, &secret):
		case key.Namespace == namespace:
			return nil, nil
		default:
			outside = &key
		}
	}
	return outside, nil
}

// limitPerNamespace returns all Secrets of a namespace, and the first maxSecretsPerNamespace of
// each other one.
func limitPerNamespace(secrets []metav1.PartialObjectMetadata, namespace string) []metav1.PartialObjectMetadata {
	perNamespace := map[string]int{}
	return slices.DeleteFunc(secrets, func(secret metav1.PartialObjectMetadata) bool {
		perNamespace[secret.Namespace]++
		return secret.Namespace != namespace && perNamespace[secret.Namespace] > maxSecretsPerNamespace
	})
}

// signingKeys lists the metadata of the Secrets with the labels of a signing-key Secret.
func signingKeys(ctx context.Context, live client.Reader, ca string) ([]metav1.PartialObjectMetadata, error) {
	belongsToCA, err := labels.NewRequirement(v1alpha1.LabelServiceCA, selection.Equals, []string{ca})
	if err != nil {
		return nil, err
	}
	noCertificate, err := labels.NewRequirement(v1alpha1.LabelService, selection.DoesNotExist, nil)
	if err != nil {
		return nil, err
	}
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	err = live.List(ctx, &list, client.MatchingLabelsSelector{Selector: labels.NewSelector().Add(*belongsToCA, *noCertificate)})
	return list.Items, err
}

// holdsKey reports whether a Secret holds the key of the CA that signs, or that is going to.
func holdsKey(now time.Time, ca *v1alpha1.ServiceCA, secret *corev1.Secret) bool {
	if !mayHoldKey(ca, secret) {
		return false
	}
	state, _ := rotation.Read(now, secret)
	if state == nil {
		return false
	}
	for _, generation := range []*v1alpha1.CAGeneration{ca.Status.Active, ca.Status.Next} {
		for _, signer := range []*rotation.Signer{state.Active, state.Next} {
			if generation != nil && signer != nil && signer.Fingerprint() == generation.Fingerprint {
				return true
			}
		}
	}
	return false
}

// mayHoldKey reports whether the first certificate of a pair in a Secret has the subject key ID of
// a CA that the status names, and whether the key beside it fits. It is cheap, while reading a whole
// Secret full of certificates takes longer. A tenant can make a Secret for which it returns true, by
// a certificate with that ID for a key of his own; only few Secrets of a namespace are read.
func mayHoldKey(ca *v1alpha1.ServiceCA, secret *corev1.Secret) bool {
	for certificate, key := range map[string]string{corev1.TLSCertKey: corev1.TLSPrivateKeyKey, rotation.NextCertKey: rotation.NextPrivateKeyKey} {
		block, _ := pem.Decode(secret.Data[certificate])
		if block == nil {
			continue
		}
		leaf, err := pki.ParseLeaf(pem.EncodeToMemory(block))
		if err != nil || leaf.CheckKey(secret.Data[key]) != nil {
			continue
		}
		for _, generation := range []*v1alpha1.CAGeneration{ca.Status.Active, ca.Status.Next} {
			if generation != nil && generation.SubjectKeyID == pki.KeyID(leaf.SubjectKeyId) {
				return true
			}
		}
	}
	return false
}
