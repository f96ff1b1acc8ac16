package liveintegrations_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// issuer is a corporate root CA, and acts as cert-manager's issuer for it.
type issuer struct {
	root *x509.Certificate
	key  crypto.Signer
}

func newIssuer(t *testing.T) issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "corp root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{root, key}
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// sign answers a request as an issuer does.
func (i issuer) sign(t *testing.T, request *cmapi.CertificateRequest, serial int64) {
	t.Helper()
	block, _ := pem.Decode(request.Spec.Request)
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: parsed.Subject, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(request.Spec.Duration.Duration),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: 2, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}, i.root, parsed.PublicKey, i.key)
	if err != nil {
		t.Fatal(err)
	}
	now := metav1.Now()
	request.Status.Certificate, request.Status.CA = encode(der), encode(i.root.Raw)
	request.Status.Conditions = []cmapi.CertificateRequestCondition{
		{Type: cmapi.CertificateRequestConditionApproved, Status: cmmeta.ConditionTrue, Reason: "Test", LastTransitionTime: &now},
		{Type: cmapi.CertificateRequestConditionReady, Status: cmmeta.ConditionTrue, Reason: cmapi.CertificateRequestReasonIssued, LastTransitionTime: &now},
	}
	if err := env.kube.Status().Update(t.Context(), request); err != nil {
		t.Fatal(err)
	}
}

// request waits for the one request of the realm's CA.
func (r realm) request() *cmapi.CertificateRequest {
	r.Helper()
	var found cmapi.CertificateRequest
	eventually(r.T, func(ctx context.Context) string {
		var requests cmapi.CertificateRequestList
		err := env.kube.List(ctx, &requests, client.InNamespace(operatorNamespace), client.MatchingLabels{v1alpha1.LabelServiceCA: r.name})
		if err != nil || len(requests.Items) != 1 {
			return fmt.Sprintf("%d requests (%v)", len(requests.Items), err)
		}
		found = requests.Items[0]
		return ""
	})
	return &found
}

// collected waits until the request, and everything that belongs to it, has been deleted.
func (r realm) collected() {
	r.Helper()
	eventually(r.T, func(ctx context.Context) string {
		var requests cmapi.CertificateRequestList
		err := env.kube.List(ctx, &requests, client.InNamespace(operatorNamespace), client.MatchingLabels{v1alpha1.LabelServiceCA: r.name})
		if err != nil || len(requests.Items) > 0 {
			return fmt.Sprintf("%d requests are left (%v)", len(requests.Items), err)
		}
		key := client.ObjectKey{Namespace: operatorNamespace, Name: r.name + "-signing-key-request"}
		if err := env.kube.Get(ctx, key, &corev1.Secret{}); !apierrors.IsNotFound(err) {
			return fmt.Sprintf("the private key still waits (%v)", err)
		}
		return ""
	})
}

// intermediate lets an issuer of cert-manager sign the CA, and its successor after a rotation; it
// runs while cert-manager's CRDs exist.
func intermediate(t *testing.T) {
	t.Helper()
	corp := newIssuer(t)
	name := "intermediate"
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	policy := &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
	policy.Spec.ServiceCAName = name
	policy.Spec.NamespaceSelector.MatchLabels = map[string]string{corev1.LabelMetadataName: name}
	create(t, policy)
	ca := &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: name}}
	ca.Spec.Source.CertManager = &v1alpha1.CertManagerSource{IssuerRef: v1alpha1.IssuerReference{Name: "corp"}}
	ca.Spec.Rotation.Propagation.Minimum = "2s"
	create(t, ca)
	r := realm{t, name}
	request := r.request()
	if !request.Spec.IsCA || request.Spec.IssuerRef.Name != "corp" || request.Spec.IssuerRef.Kind != "ClusterIssuer" {
		t.Errorf("it asks for %+v", request.Spec)
	}
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		for _, condition := range ca.Status.Conditions {
			if condition.Type == v1alpha1.ConditionReady && strings.Contains(condition.Message, "waits for ClusterIssuer corp, and for its approval") {
				return ""
			}
		}
		return fmt.Sprintf("nobody is told what it waits for: %+v", ca.Status.Conditions)
	})
	corp.sign(t, request, 2)
	first := r.ready().Status.Active.SubjectKeyID
	if bundle := r.bundle(); bundle != string(encode(corp.root.Raw)) {
		t.Errorf("the bundle is not the issuer's root: %s", bundle)
	}
	r.collected()
	r.service("web")
	asking, key := requestFor(t, x509.CertificateRequest{DNSNames: []string{"web." + name + ".svc"}})
	signed := r.want("signed", asking)
	r.decide(signed, cmapi.CertificateRequestConditionApproved)
	response := r.reads(signed, cmapi.CertificateRequestReasonIssued, "signed by")
	verify(t, response.Status.Certificate, r.bundle(), key, "web."+name+".svc")

	old := r.bundle()
	r.rotate("now")
	newIssuer(t).sign(t, r.request(), 3)
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if ca.Status.Active == nil || ca.Status.Active.SubjectKeyID == first {
			return fmt.Sprintf("another CA does not sign yet: %+v", ca.Status.Rotation)
		}
		return ""
	})
	r.collected()
	asking, key = requestFor(t, x509.CertificateRequest{DNSNames: []string{"web." + name + ".svc"}})
	signed = r.want("signed-after", asking)
	r.decide(signed, cmapi.CertificateRequestConditionApproved)
	response = r.reads(signed, cmapi.CertificateRequestReasonIssued, "signed by")
	// The issuer now has another root: the chain verifies by either, whichever a client has.
	for _, roots := range []string{old, r.bundle(), strings.Replace(r.bundle(), old, "", 1)} {
		verify(t, response.Status.Certificate, roots, key, "web."+name+".svc")
		opensslVerifies(t, response.Status.Certificate, roots)
	}
	leftBehind(t)
}

// leftBehind deletes a ServiceCA whose request has not been answered.
func leftBehind(t *testing.T) {
	t.Helper()
	ca := &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "left-behind"}}
	ca.Spec.Source.CertManager = &v1alpha1.CertManagerSource{IssuerRef: v1alpha1.IssuerReference{Name: "corp"}}
	create(t, ca)
	r := realm{t, ca.Name}
	owners := r.request().OwnerReferences
	if len(owners) != 1 || owners[0].UID != ca.UID || owners[0].Kind != "ServiceCA" {
		t.Errorf("the request has the owners %+v", owners)
	}
	if err := env.kube.Delete(t.Context(), ca); err != nil {
		t.Fatal(err)
	}
	r.collected()
}

// opensslVerifies checks that OpenSSL verifies a chain by roots, both in PEM.
func opensslVerifies(t *testing.T, chain []byte, roots string) {
	t.Helper()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Log("there is no openssl here")
		return
	}
	files := t.TempDir()
	sent, trusted := filepath.Join(files, "tls.crt"), filepath.Join(files, "ca-bundle.crt")
	if err := errors.Join(os.WriteFile(sent, chain, 0o600), os.WriteFile(trusted, []byte(roots), 0o600)); err != nil {
		t.Fatal(err)
	}
	output, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-purpose", "sslserver",
		"-CAfile", trusted, "-no-CApath", "-no-CAstore", "-untrusted", sent, sent).CombinedOutput()
	if err != nil {
		t.Errorf("OpenSSL refuses it: %s", output)
	}
}
