package liveinstall_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
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

// authority is the CA of a company.
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

// bringCA runs `kubectl create secret tls corp-ca`, and expects that this CA signs.
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
	if err := env.kube.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) error {
		var signing corev1.Secret
		if err := env.kube.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: "default-signing-key"}, &signing); err != nil {
			return err
		}
		if !bytes.Equal(signing.Data[corev1.TLSCertKey], secret.Data[corev1.TLSCertKey]) {
			return errors.New("another CA signs than the one that was brought")
		}
		return nil
	})
}

// signIntermediate acts as cert-manager, and as the issuer that the sample names.
func signIntermediate(t *testing.T) {
	t.Helper()
	var requests cmapi.CertificateRequestList
	eventually(t, func(ctx context.Context) error {
		err := env.kube.List(ctx, &requests, client.InNamespace(operatorNamespace))
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
	if err := env.kube.Status().Update(t.Context(), request); err != nil {
		t.Fatal(err)
	}
}

// requestCertificate acts as cert-manager, which creates a request for the Certificate and approves
// it. It expects that the request is signed.
func requestCertificate(t *testing.T) {
	t.Helper()
	var certificate cmapi.Certificate
	if err := env.kube.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "web"}, &certificate); err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	asked, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: certificate.Spec.DNSNames}, key)
	if err != nil {
		t.Fatal(err)
	}
	request := &cmapi.CertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: certificate.Namespace, Name: "web-1"},
		Spec: cmapi.CertificateRequestSpec{
			Request: encode("CERTIFICATE REQUEST", asked), IssuerRef: certificate.Spec.IssuerRef, Usages: certificate.Spec.Usages,
		},
	}
	if err := env.kube.Create(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	now := metav1.Now()
	request.Status.Conditions = []cmapi.CertificateRequestCondition{
		{Type: cmapi.CertificateRequestConditionApproved, Status: cmmeta.ConditionTrue, Reason: "Test", LastTransitionTime: &now},
	}
	if err := env.kube.Status().Update(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) error {
		err := env.kube.Get(ctx, client.ObjectKeyFromObject(request), request)
		if err == nil && (len(request.Status.Certificate) == 0 || len(request.Status.CA) == 0) {
			err = fmt.Errorf("it is not signed: %+v", request.Status.Conditions)
		}
		return err
	})
}

func approve(t *testing.T) {
	t.Helper()
	if _, err := kubectl(t.Context(), "certificate", "approve", "web"); err != nil {
		t.Fatal(err)
	}
}
