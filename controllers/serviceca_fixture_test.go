package controllers_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	kstatuslib "github.com/fluxcd/cli-utils/pkg/kstatus/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// The results of kstatus, by which Flux and Argo CD assess health.
const (
	inProgress = kstatuslib.InProgressStatus
	current    = kstatuslib.CurrentStatus
	failed     = kstatuslib.FailedStatus
)

// kstatus returns the status that Flux computes for an object.
func kstatus(object client.Object) kstatuslib.Status {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		panic(err)
	}
	computed, err := kstatuslib.Compute(&unstructured.Unstructured{Object: content})
	if err != nil {
		panic(err)
	}
	return computed.Status
}

// serviceCA waits until check accepts the realm's ServiceCA by returning an empty string.
func (r realm) serviceCA(check func(*v1alpha1.ServiceCA) string) *v1alpha1.ServiceCA {
	r.Helper()
	var ca v1alpha1.ServiceCA
	eventually(r.T, func(ctx context.Context) string {
		if err := r.admin().Get(ctx, client.ObjectKey{Name: r.ca.Name}, &ca); err != nil {
			return err.Error()
		}
		if problem := check(&ca); problem != "" {
			return fmt.Sprintf("%s; the status is %+v", problem, ca.Status)
		}
		return ""
	})
	return &ca
}

// activeOf returns the CA that signs, and an empty one while there is none.
func activeOf(ca *v1alpha1.ServiceCA) v1alpha1.CAGeneration {
	if ca.Status.Active == nil {
		return v1alpha1.CAGeneration{Certificates: new(int32(-1))}
	}
	return *ca.Status.Active
}

// isReady accepts a ServiceCA that is Ready, and current by kstatus.
func isReady(ca *v1alpha1.ServiceCA) string {
	if got := kstatus(ca); got != current || !meta.IsStatusConditionTrue(ca.Status.Conditions, v1alpha1.ConditionReady) {
		return "kstatus is " + got.String()
	}
	return ""
}

// isStalled accepts a ServiceCA that is stalled for that reason, with a message that contains each
// of these texts.
func isStalled(reason string, says ...string) func(*v1alpha1.ServiceCA) string {
	// A state that may only need waiting for is no failure, for example a Secret that is created
	// later.
	health, standing := failed, v1alpha1.ConditionStalled
	if reason == "SourceNotThere" {
		health, standing = inProgress, v1alpha1.ConditionReconciling
	}
	return func(ca *v1alpha1.ServiceCA) string {
		if got := kstatus(ca); got != health {
			return "kstatus is " + got.String()
		}
		for _, kind := range []string{standing, v1alpha1.ConditionReady} {
			condition := meta.FindStatusCondition(ca.Status.Conditions, kind)
			if condition == nil || condition.Reason != reason {
				return fmt.Sprintf("%s is %+v, want the reason %s", kind, condition, reason)
			}
			for _, part := range says {
				if !strings.Contains(condition.Message, part) {
					return fmt.Sprintf("%s says %q, without %q", kind, condition.Message, part)
				}
			}
		}
		return ""
	}
}

// event waits for an Event with that reason on an object; an empty reason matches any.
func event(t *testing.T, object client.Object, kind, reason string, says ...string) {
	t.Helper()
	eventually(t, func(ctx context.Context) string {
		events, err := eventsOf(ctx, object)
		if err != nil {
			return err.Error()
		}
		for _, event := range events {
			if event.Type != kind || event.Reason != reason {
				continue
			}
			for _, part := range says {
				if !strings.Contains(event.Message, part) {
					return fmt.Sprintf("Event %s says %q, without %q", reason, event.Message, part)
				}
			}
			return ""
		}
		return fmt.Sprintf("there is no %s Event %s among %d", kind, reason, len(events))
	})
}

func eventsOf(ctx context.Context, object client.Object) ([]corev1.Event, error) {
	var list corev1.EventList
	err := kube.List(ctx, &list, client.MatchingFields{"involvedObject.uid": string(object.GetUID())})
	return list.Items, err
}

// inOperatorNamespace returns the metadata of an object in the operator's namespace.
func inOperatorNamespace(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: operatorNamespace, Name: name}
}

// bundle returns the bundle in the realm's trust-bundle ConfigMap.
func (r realm) bundle(ctx context.Context) (string, error) {
	var configMap corev1.ConfigMap
	key := client.ObjectKey{Namespace: operatorNamespace, Name: r.ca.TrustBundleConfigMapName()}
	err := r.admin().Get(ctx, key, &configMap)
	return configMap.Data[r.ca.Spec.TrustBundle.Key], err
}

// trusts waits until the published bundle holds exactly these certificates.
func (r realm) trusts(want ...*x509.Certificate) {
	r.Helper()
	eventually(r.T, func(ctx context.Context) string {
		bundle, err := r.bundle(ctx)
		if err != nil {
			return err.Error()
		}
		return differs(bundle, want)
	})
}

// differs returns how a bundle in PEM differs from exactly these certificates, and an empty string
// if it does not.
func differs(bundle string, want []*x509.Certificate) string {
	if got := strings.Count(bundle, "BEGIN CERTIFICATE"); got != len(want) {
		return fmt.Sprintf("the bundle holds %d certificates, want %d", got, len(want))
	}
	for _, certificate := range want {
		if problem := lacks(bundle, certificate); problem != "" {
			return problem
		}
	}
	return ""
}

// lacks returns an error text if a certificate is not in a bundle in PEM, and an empty string if it
// is.
func lacks(bundle string, certificate *x509.Certificate) string {
	encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
	if !strings.Contains(bundle, string(encoded)) {
		return "the bundle lacks " + certificate.Subject.CommonName
	}
	return ""
}

// signedBy accepts a Secret whose certificate has the issuer and the authority key identifier of a
// CA, and verifies by the published bundle.
func (r realm) signedBy(ca *x509.Certificate, names ...string) func(*corev1.Secret) string {
	return func(secret *corev1.Secret) string {
		if problem := r.issued(names...)(secret); problem != "" {
			return problem
		}
		certificate := leaf(r.T, secret)
		if !bytes.Equal(certificate.AuthorityKeyId, ca.SubjectKeyId) || certificate.Issuer.String() != ca.Subject.String() {
			return fmt.Sprintf("it is signed by %s, want %s", certificate.Issuer, ca.Subject)
		}
		return ""
	}
}

// ownCA is a CA that an administrator created outside the cluster.
type ownCA struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// generateCA generates a CA, signed by parent or self-signed if parent is nil; adjust may change
// the certificate before.
func generateCA(t *testing.T, name string, parent *ownCA, adjust ...func(*x509.Certificate)) *ownCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return generateCAWith(t, name, key, parent, adjust...)
}

// generateCAWith is generateCA for an existing key.
func generateCAWith(t *testing.T, name string, key crypto.Signer, parent *ownCA, adjust ...func(*x509.Certificate)) *ownCA {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	for _, a := range adjust {
		a(template)
	}
	signer, signerKey := template, key
	if parent != nil {
		signer, signerKey = parent.certificate, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer, key.Public(), signerKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &ownCA{certificate: certificate, key: key}
}

// pem returns the certificate in PEM, followed by those of others.
func (c *ownCA) pem(others ...*ownCA) []byte {
	encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.certificate.Raw})
	for _, other := range others {
		encoded = append(encoded, other.pem()...)
	}
	return encoded
}

func (c *ownCA) keyPEM(t *testing.T) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// data returns what an administrator puts into a Secret of source.secret.
func (c *ownCA) data(t *testing.T, chain ...*ownCA) map[string][]byte {
	t.Helper()
	return map[string][]byte{corev1.TLSCertKey: c.pem(chain...), corev1.TLSPrivateKeyKey: c.keyPEM(t)}
}

// withSourceSecret makes a realm's ServiceCA take its CA from the Secret of that name.
func withSourceSecret(name string) func(*v1alpha1.ServiceCA, *v1alpha1.ServingCertPolicy) {
	return func(ca *v1alpha1.ServiceCA, _ *v1alpha1.ServingCertPolicy) {
		ca.Spec.Source.Secret = &v1alpha1.SecretSource{Name: name}
	}
}

// uidOf returns the UID of an object, and an empty one if it does not exist.
func uidOf(t *testing.T, object client.Object) types.UID {
	t.Helper()
	if err := client.IgnoreNotFound(kube.Get(t.Context(), client.ObjectKeyFromObject(object), object)); err != nil {
		t.Fatal(err)
	}
	return object.GetUID()
}
