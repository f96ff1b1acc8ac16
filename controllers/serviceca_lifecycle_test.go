package controllers_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
)

// A CA of every key algorithm issues certificates of every key algorithm, and a handshake shows
// that they verify.
func TestServiceCAOfEveryKind(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		ca, leaf v1alpha1.PrivateKey
		right    func(caKey, leafKey any) bool
	}{
		{v1alpha1.PrivateKey{}, v1alpha1.PrivateKey{Algorithm: v1alpha1.Ed25519}, func(ca, leaf any) bool {
			key, ok := ca.(*ecdsa.PublicKey)
			_, alsoOK := leaf.(ed25519.PublicKey)
			return ok && alsoOK && key.Params().BitSize == 256
		}},
		{v1alpha1.PrivateKey{Algorithm: v1alpha1.ECDSA, Size: 521}, v1alpha1.PrivateKey{}, func(ca, leaf any) bool {
			key, ok := ca.(*ecdsa.PublicKey)
			other, alsoOK := leaf.(*ecdsa.PublicKey)
			return ok && alsoOK && key.Params().BitSize == 521 && other.Params().BitSize == 256
		}},
		{v1alpha1.PrivateKey{Algorithm: v1alpha1.RSA}, v1alpha1.PrivateKey{Algorithm: v1alpha1.ECDSA, Size: 384}, func(ca, leaf any) bool {
			key, ok := ca.(*rsa.PublicKey)
			other, alsoOK := leaf.(*ecdsa.PublicKey)
			return ok && alsoOK && key.N.BitLen() == 2048 && other.Params().BitSize == 384
		}},
		{v1alpha1.PrivateKey{Algorithm: v1alpha1.Ed25519}, v1alpha1.PrivateKey{Algorithm: v1alpha1.RSA, Size: 3072}, func(ca, leaf any) bool {
			_, ok := ca.(ed25519.PublicKey)
			other, alsoOK := leaf.(*rsa.PublicKey)
			return ok && alsoOK && other.N.BitLen() == 3072
		}},
	} {
		t.Run(fmt.Sprintf("%s%d-signs-%s%d", tc.ca.Algorithm, tc.ca.Size, tc.leaf.Algorithm, tc.leaf.Size), func(t *testing.T) {
			t.Parallel()
			r := newRealm(t, func(ca *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
				ca.Spec.Certificate.PrivateKey = tc.ca
				p.Spec.Certificate.PrivateKey.PrivateKey = tc.leaf
			})
			r.service("web", withSecretName("web-tls"))
			secret := r.secret("web-tls", r.issued("web."+r.name+".svc", "web."+r.name+".svc.cluster.local"))
			if certificate, ca := leaf(t, secret), r.signer(); !tc.right(ca.PublicKey, certificate.PublicKey) {
				t.Errorf("the CA has a %T, the certificate a %T", ca.PublicKey, certificate.PublicKey)
			}
			r.handshake(secret, "web."+r.name+".svc")
		})
	}
}

// The status, the Secret and the ConfigMap of a new CA agree, and are correct.
func TestServiceCAStatus(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(ca *v1alpha1.ServiceCA, _ *v1alpha1.ServingCertPolicy) {
		ca.Spec.Certificate.CommonName = "Our Signer"
		ca.Spec.Certificate.Duration, ca.Spec.Rotation.RotateBefore = "48h", "12h"
	})
	if got := kstatus(r.ca); got != inProgress {
		t.Errorf("kstatus of a fresh ServiceCA is %s, want %s", got, inProgress)
	}
	r.service("web", withSecretName("web-tls"))
	r.service("api", withSecretName("api-tls"))
	ca := r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if active := ca.Status.Active; active == nil || active.Certificates == nil || *active.Certificates != 2 {
			return "2 certificates are not counted"
		}
		return isReady(ca)
	})
	root := r.signer()
	if want := fmt.Sprintf("Our Signer@%d", root.NotBefore.Add(5*time.Minute).Unix()); root.Subject.CommonName != want {
		t.Errorf("the subject is %s, want %s", root.Subject.CommonName, want)
	}
	active := ca.Status.Active
	for what, pair := range map[string][2]string{
		"subject":          {active.Subject, root.Subject.CommonName},
		"serialNumber":     {active.SerialNumber, root.SerialNumber.Text(16)},
		"subjectKeyID":     {active.SubjectKeyID, hex.EncodeToString(root.SubjectKeyId)},
		"notBefore":        {active.NotBefore.UTC().String(), root.NotBefore.UTC().String()},
		"notAfter":         {active.NotAfter.UTC().String(), root.NotAfter.UTC().String()},
		"nextRotationTime": {ca.Status.NextRotationTime.UTC().String(), root.NotAfter.Add(-12 * time.Hour).UTC().String()},
		"phase":            {string(ca.Status.Rotation.Phase), "Stable"},
		"lifetime":         {root.NotAfter.Sub(root.NotBefore).String(), (48*time.Hour + 5*time.Minute).String()},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %s, want %s", what, pair[0], pair[1])
		}
	}
	if !root.IsCA || root.MaxPathLen != 3 || root.SerialNumber.BitLen() < 100 {
		t.Errorf("the root has CA %t, pathLen %d, serial %s", root.IsCA, root.MaxPathLen, root.SerialNumber)
	}
	for kind, want := range map[string]metav1.ConditionStatus{
		v1alpha1.ConditionReady: "True", v1alpha1.ConditionTrustEstablished: "True", v1alpha1.ConditionRotating: "False",
		v1alpha1.ConditionExpiringSoon: "False", v1alpha1.ConditionStalled: "", v1alpha1.ConditionReconciling: "",
	} {
		got := metav1.ConditionStatus("")
		if condition := meta.FindStatusCondition(ca.Status.Conditions, kind); condition != nil {
			got = condition.Status
			if condition.Message == "" || condition.Reason == "" || condition.ObservedGeneration != ca.Generation {
				t.Errorf("%s is incomplete: %+v", kind, condition)
			}
		}
		if got != want {
			t.Errorf("%s is %q, want %q", kind, got, want)
		}
	}
	if bundle := ca.Status.TrustBundle; bundle.Certificates != 1 || bundle.Targets != 2 || bundle.CurrentTargets != 2 || len(bundle.Hash) != 64 {
		t.Errorf("trustBundle is %+v", bundle)
	}
	r.trusts(root)
	event(t, ca, corev1.EventTypeNormal, "CACreated", root.Subject.CommonName)
	for _, object := range []client.Object{&corev1.Secret{ObjectMeta: inOperatorNamespace(r.name + "-signing-key")},
		&corev1.ConfigMap{ObjectMeta: inOperatorNamespace(r.name + "-trust-bundle")}} {
		uidOf(t, object)
		if object.GetLabels()[v1alpha1.LabelServiceCA] != r.name {
			t.Errorf("%T bears %v", object, object.GetLabels())
		}
	}
	if key := r.signingKey(); key.Type != corev1.SecretTypeTLS || len(key.Data) != 4 || key.Annotations[v1alpha1.AnnotationSource] != "selfSigned" {
		t.Errorf("the signing key is of type %s with %d keys and %v", key.Type, len(key.Data), key.Annotations)
	}
}

// ExpiringSoon reports that the threshold has passed, and that nothing renews the CA automatically.
func TestServiceCAExpiringSoon(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(ca *v1alpha1.ServiceCA, _ *v1alpha1.ServingCertPolicy) {
		ca.Spec.Certificate.Duration, ca.Spec.Rotation.RotateBefore, ca.Spec.Rotation.Propagation.Minimum = "90s", "87s", "1s"
		ca.Spec.Rotation.Mode = v1alpha1.RotationPaused
	})
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if !meta.IsStatusConditionTrue(ca.Status.Conditions, v1alpha1.ConditionExpiringSoon) {
			return "not expiring soon"
		}
		return isReady(ca)
	})
}

// kubectl runs the real kubectl on the shared cluster.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	path, err := testoperator.Path("bin", "k8s", "kubectl")
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), path, append([]string{"--kubeconfig", running.Kubeconfig}, args...)...)
	command.Env = append(os.Environ(), "HOME="+t.TempDir())
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %v: %v\n%s", args, err, output)
	}
	return string(output)
}

// table returns by column what kubectl prints of one object; columns are two or more spaces apart.
func table(t *testing.T, output string) map[string]string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if len(lines) != 2 {
		t.Fatalf("want one row, got\n%s", output)
	}
	row := map[string]string{}
	columns := regexp.MustCompile(`\S+\s*`).FindAllStringIndex(lines[0], -1)
	for i, column := range columns {
		end := len(lines[1])
		if i+1 < len(columns) {
			end = min(end, column[1])
		}
		row[strings.TrimSpace(lines[0][column[0]:column[1]])] = strings.TrimSpace(lines[1][min(column[0], end):end])
	}
	return row
}

func TestServiceCAColumns(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	ca := r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if *activeOf(ca).Certificates != 1 {
			return "nothing is counted"
		}
		return isReady(ca)
	})
	for _, name := range []string{"serviceca", "sca"} {
		row := table(t, kubectl(t, "get", name, r.name, "-o", "wide"))
		for column, want := range map[string]string{
			"NAME": r.name, "READY": "True", "PHASE": "Stable", "CERTIFICATES": "1",
			"EXPIRES": activeOf(ca).NotAfter.UTC().Format(time.RFC3339),
			"ROTATES": ca.Status.NextRotationTime.UTC().Format(time.RFC3339),
			"MESSAGE": activeOf(ca).Subject + " signs until " + activeOf(ca).NotAfter.UTC().Format(time.RFC3339),
		} {
			if row[column] != want {
				t.Errorf("%s is %q, want %q", column, row[column], want)
			}
		}
	}
	if output := kubectl(t, "get", "serving-certs"); !strings.Contains(output, "serviceca.servingcert.dev/"+r.name) ||
		!strings.Contains(output, "servingcertpolicy.servingcert.dev/"+r.name) {
		t.Errorf("the category serving-certs shows\n%s", output)
	}
}

// A CA with name constraints marks them critical, issues certificates for the names that they
// permit, and reports an error on Services that ask for others.
func TestServiceCANameConstraints(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(ca *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		ca.Spec.Certificate.PermittedDNSDomains = []string{"svc", "svc.cluster.local", "example.org"}
		ca.Spec.Certificate.PermittedUsages = []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth}
		p.Spec.Certificate.ExtraDNSNames = []string{"$(service).example.org"}
	})
	r.service("web", withSecretName("web-tls"))
	r.handshake(r.secret("web-tls", r.issued("web."+r.name+".svc", "web.example.org")), "web.example.org")
	root := r.signer()
	critical := false
	for _, extension := range root.Extensions {
		critical = critical || (extension.Id.String() == "2.5.29.30" && extension.Critical)
	}
	if !critical || len(root.PermittedDNSDomains) != 3 {
		t.Errorf("the name constraints are %v, critical %t", root.PermittedDNSDomains, critical)
	}
	update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) {
		p.Spec.Certificate.ExtraDNSNames = []string{"$(service).example.com"}
	})
	if len(root.ExcludedIPRanges) != 2 || len(root.ExtKeyUsage) != 1 {
		t.Errorf("the excluded addresses are %v, and the usages %v", root.ExcludedIPRanges, root.ExtKeyUsage)
	}
	service := r.expectError("web", "NameNotPermitted: ", "web.example.com", "example.org")
	r.policyReports("NameNotPermitted", "web")
	event(t, service, corev1.EventTypeWarning, "NameNotPermitted", "web.example.com")
	update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) {
		p.Spec.Certificate.ExtraDNSNames, p.Spec.Certificate.Usages = nil, []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth, v1alpha1.UsageClientAuth}
	})
	r.expectError("web", "UsageNotPermitted: ", "client auth")
	update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) {
		p.Spec.Certificate.Usages = []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth}
	})
	r.expectError("web")
	r.secret("web-tls", func(secret *corev1.Secret) string {
		if certificate := leaf(t, secret); len(certificate.DNSNames) != 2 {
			return fmt.Sprintf("the names are %v", certificate.DNSNames)
		}
		return ""
	})
}

// A ServiceCA that is deleted and created again resumes with the same root, and no certificate
// changes.
func TestServiceCADeletedAndMadeAgain(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	before := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	root := r.signer()
	if err := kube.Delete(t.Context(), r.ca); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) string {
		var p v1alpha1.ServingCertPolicy
		if err := kube.Get(ctx, client.ObjectKeyFromObject(r.policy), &p); err != nil {
			return err.Error()
		}
		if ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady); ready == nil || ready.Reason != "ServiceCANotFound" {
			return fmt.Sprintf("the policy is ready: %+v", ready)
		}
		if counts := p.Status.Services; counts.Issued != 1 || counts.Failed != 0 || len(p.Status.Failures) != 0 {
			return fmt.Sprintf("a Service has a certificate, and the policy reports %+v %v", *counts, p.Status.Failures)
		}
		return ""
	})
	create(t, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: r.name}})
	ca := r.serviceCA(isReady)
	if !r.signer().Equal(root) || activeOf(ca).SubjectKeyID != hex.EncodeToString(root.SubjectKeyId) {
		t.Errorf("the new ServiceCA signs by %s, want %s", activeOf(ca).Subject, root.Subject)
	}
	r.trusts(root)
	r.service("api", withSecretName("api-tls"))
	r.secret("api-tls", r.signedBy(root))
	unchanged(t, before)
}

// differentGenerations checks that two generations of a CA share no subject, serial or key.
func differentGenerations(t *testing.T, a, b *x509.Certificate) {
	t.Helper()
	if a.Subject.String() == b.Subject.String() || a.SerialNumber.Cmp(b.SerialNumber) == 0 || bytes.Equal(a.SubjectKeyId, b.SubjectKeyId) {
		t.Errorf("two generations are too alike: %s and %s", a.Subject, b.Subject)
	}
}
