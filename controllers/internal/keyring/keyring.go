// Package keyring hands out the ServiceCAs that may sign. What may sign is what a ServiceCA's status says: its key is read from
// the signing-key Secret when it is first needed, and forgotten when the status names another.
package keyring

import (
	"context"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// BundleKey is where a signing-key Secret holds its trust bundle.
const BundleKey = "ca-bundle.crt"

// ErrNotReady means that a ServiceCA cannot sign now; a change of its status will tell when it can.
var ErrNotReady = errors.New("is not ready")

// CA is a ServiceCA that can sign.
type CA struct {
	issuance.CA
	Authority *pki.Authority
}

// Keyring holds the CAs in memory.
type Keyring struct {
	// reader reads from the API server: no cache holds a signing key.
	reader    client.Reader
	namespace string

	mu   sync.Mutex
	held map[string]held
}

// held is a CA and the state for which it was read.
type held struct {
	uid                       types.UID
	keyID, serial, bundleHash string
	ca                        *CA
}

// New makes a keyring over the signing-key Secrets of the operator's namespace.
func New(reader client.Reader, namespace string) *Keyring {
	return &Keyring{reader: reader, namespace: namespace, held: map[string]held{}}
}

// Get is the CA that the status of a ServiceCA names, or ErrNotReady.
func (k *Keyring) Get(ctx context.Context, serviceCA *v1alpha1.ServiceCA) (*CA, error) {
	active, bundle := serviceCA.Status.Active, serviceCA.Status.TrustBundle
	if active == nil || bundle == nil || bundle.Hash == "" {
		return nil, fmt.Errorf("ServiceCA %s %w: it has no signing key yet", serviceCA.Name, ErrNotReady)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	named := held{uid: serviceCA.UID, keyID: active.SubjectKeyID, serial: active.SerialNumber, bundleHash: bundle.Hash}
	known := k.held[serviceCA.Name]
	if named.ca = known.ca; known == named && known.ca != nil {
		return known.ca, nil
	}
	ca, err := k.read(ctx, serviceCA)
	if err != nil {
		return nil, err
	}
	named.ca = ca
	k.held[serviceCA.Name] = named
	return ca, nil
}

func (k *Keyring) read(ctx context.Context, serviceCA *v1alpha1.ServiceCA) (*CA, error) {
	var secret corev1.Secret
	key := client.ObjectKey{Namespace: k.namespace, Name: serviceCA.SigningKeySecretName()}
	switch err := k.reader.Get(ctx, key, &secret); {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("ServiceCA %s %w: %w", serviceCA.Name, ErrNotReady, err)
	case err != nil:
		return nil, fmt.Errorf("read the signing key of ServiceCA %s: %w", serviceCA.Name, err)
	}
	authority, err := pki.LoadAuthority(pki.Pair{
		Certificate: secret.Data[corev1.TLSCertKey], PrivateKey: secret.Data[corev1.TLSPrivateKeyKey],
	})
	if err != nil {
		return nil, fmt.Errorf("ServiceCA %s %w: Secret %s: %w", serviceCA.Name, ErrNotReady, key, err)
	}
	bundle := secret.Data[BundleKey]
	certificate, active := authority.Certificate(), serviceCA.Status.Active
	if pki.KeyID(certificate.SubjectKeyId) != active.SubjectKeyID || certificate.SerialNumber.Text(16) != active.SerialNumber ||
		pki.Hash(bundle) != serviceCA.Status.TrustBundle.Hash {
		return nil, fmt.Errorf("ServiceCA %s %w: its signing key is changing", serviceCA.Name, ErrNotReady)
	}
	return &CA{
		Authority: authority,
		CA:        issuance.CA{Certificate: certificate, Chain: authority.Chain(), Bundle: bundle},
	}, nil
}

// Find is the CA of that name. Without one there is an obstacle for a person to read, or nothing at all where it will be ready
// by itself; a change of the ServiceCA tells when to ask again (see Changed).
func (k *Keyring) Find(ctx context.Context, serviceCAs client.Reader, name string) (*CA, *issuance.Obstacle, error) {
	var serviceCA v1alpha1.ServiceCA
	switch err := serviceCAs.Get(ctx, client.ObjectKey{Name: name}, &serviceCA); {
	case apierrors.IsNotFound(err):
		return nil, &issuance.Obstacle{Reason: issuance.ReasonServiceCANotReady,
			Message: fmt.Sprintf("there is no ServiceCA %s: create it", name)}, nil
	case err != nil:
		return nil, nil, err
	}
	ca, err := k.Get(ctx, &serviceCA)
	if !errors.Is(err, ErrNotReady) {
		return ca, nil, err
	}
	if stalled := meta.FindStatusCondition(serviceCA.Status.Conditions, v1alpha1.ConditionStalled); stalled != nil {
		return nil, &issuance.Obstacle{Reason: issuance.ReasonServiceCANotReady,
			Message: fmt.Sprintf("ServiceCA %s: %s", name, stalled.Message)}, nil
	}
	return nil, nil, nil
}

// Changed lets the changes of a ServiceCA through that may change what Find answers.
func Changed() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return answer(e.ObjectOld) != answer(e.ObjectNew)
	}}
}

// answer is what Find depends on.
func answer(object client.Object) (key struct{ active, serial, bundle, stalled string }) {
	ca, ok := object.(*v1alpha1.ServiceCA)
	if !ok {
		return key
	}
	if ca.Status.Active != nil {
		key.active, key.serial = ca.Status.Active.SubjectKeyID, ca.Status.Active.SerialNumber
	}
	if ca.Status.TrustBundle != nil {
		key.bundle = ca.Status.TrustBundle.Hash
	}
	if stalled := meta.FindStatusCondition(ca.Status.Conditions, v1alpha1.ConditionStalled); stalled != nil {
		key.stalled = stalled.Message
	}
	return key
}

// Forget drops the key of a ServiceCA: it is gone, or there is another.
func (k *Keyring) Forget(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.held, name)
}
