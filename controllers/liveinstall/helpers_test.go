package liveinstall_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// authority is a CA of a company's.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := ca(pkix.Name{CommonName: "corp"})
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{certificate, key}
}

func ca(subject pkix.Name) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: subject,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(2000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// bringCA is `kubectl create secret tls corp-ca`.
func bringCA(t *testing.T) {
	t.Helper()
	corp := newAuthority(t)
	key, err := x509.MarshalPKCS8PrivateKey(corp.key)
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: "corp-ca"},
		Type:       corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSCertKey: encode("CERTIFICATE", corp.certificate.Raw), corev1.TLSPrivateKeyKey: encode("PRIVATE KEY", key),
		},
	}
	if err := world.kube.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
}

// signIntermediate is cert-manager, and the issuer that the sample names.
func signIntermediate(t *testing.T) {
	t.Helper()
	var requests cmapi.CertificateRequestList
	eventually(t, func(ctx context.Context) error {
		err := world.kube.List(ctx, &requests, client.InNamespace(operatorNamespace))
		if err == nil && len(requests.Items) != 1 {
			err = fmt.Errorf("%d CertificateRequests", len(requests.Items))
		}
		return err
	})
	request, corp := &requests.Items[0], newAuthority(t)
	block, _ := pem.Decode(request.Spec.Request)
	asked, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, ca(asked.Subject), corp.certificate, asked.PublicKey, corp.key)
	if err != nil {
		t.Fatal(err)
	}
	now := metav1.Now()
	request.Status.Certificate, request.Status.CA = encode("CERTIFICATE", der), encode("CERTIFICATE", corp.certificate.Raw)
	request.Status.Conditions = []cmapi.CertificateRequestCondition{
		{Type: cmapi.CertificateRequestConditionApproved, Status: cmmeta.ConditionTrue, Reason: "Test", LastTransitionTime: &now},
		{Type: cmapi.CertificateRequestConditionReady, Status: cmmeta.ConditionTrue, Reason: cmapi.CertificateRequestReasonIssued, LastTransitionTime: &now},
	}
	if err := world.kube.Status().Update(t.Context(), request); err != nil {
		t.Fatal(err)
	}
}

func approve(t *testing.T) {
	t.Helper()
	if _, err := kubectl(t.Context(), "certificate", "approve", "web"); err != nil {
		t.Fatal(err)
	}
}
