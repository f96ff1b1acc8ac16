package controllers_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math"
	"regexp"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// The Secret signing-key and the ConfigMap signing-cabundle have the names by which scripts read
// them.
func TestOpenShiftSigningKeyAndBundle(t *testing.T) {
	r := newOpenShift(t)
	var secret corev1.Secret
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: "signing-key"}, &secret); err != nil {
			return err.Error()
		}
		return ""
	})
	if secret.Type != corev1.SecretTypeTLS {
		t.Errorf("the type is %s", secret.Type)
	}
	if block, _ := pem.Decode(secret.Data["tls.key"]); block == nil || block.Type != "RSA PRIVATE KEY" {
		t.Error("tls.key is no private key as OpenShift writes it, in PKCS #1")
	}
	var published corev1.ConfigMap
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: "signing-cabundle"}, &published); err != nil {
			return err.Error()
		}
		return ""
	})
	if published.Data["ca-bundle.crt"] != string(secret.Data["ca-bundle.crt"]) || len(published.Data) != 1 {
		t.Error("signing-cabundle is not the bundle of signing-key")
	}
	if !bytes.HasPrefix(secret.Data["ca-bundle.crt"], secret.Data["tls.crt"]) {
		t.Error("the bundle does not begin with the active CA")
	}
	if signer := r.signer(); !bytes.Equal(signer.RawSubject, signer.RawIssuer) {
		t.Error("the CA is not self-signed")
	}
}

// The CA has an RSA key of 2048 bits, SHA256WithRSA, 790 days and OpenShift's subject, and rotates
// when fewer than 395 days are left.
func TestOpenShiftCAProfile(t *testing.T) {
	r := newOpenShift(t)
	r.served("web")
	signer := r.signer()
	public, isRSA := signer.PublicKey.(*rsa.PublicKey)
	name := regexp.MustCompile(`^openshift-service-serving-signer@\d+$`)
	lifetime := signer.NotAfter.Sub(signer.NotBefore.Add(clockSkew))
	for what, ok := range map[string]bool{
		"RSA 2048":      isRSA && public.N.BitLen() == 2048,
		"SHA256WithRSA": signer.SignatureAlgorithm == x509.SHA256WithRSA,
		"a CA for leaves, and for those after it": signer.IsCA && signer.MaxPathLen == 3,
		"the name": name.MatchString(signer.Subject.CommonName),
		"790 days": math.Abs(float64(lifetime-790*day)) < float64(time.Minute),
	} {
		if !ok {
			t.Errorf("not so: %s", what)
		}
	}
	var ca v1alpha1.ServiceCA
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKey{Name: "default"}, &ca); err != nil {
			return err.Error()
		}
		if ca.Status.NextRotationTime == nil {
			return "the ServiceCA does not say when it rotates"
		}
		if left := signer.NotAfter.Sub(ca.Status.NextRotationTime.Time); left.Round(time.Minute) != 395*day {
			return fmt.Sprintf("it rotates %s before its end", left)
		}
		return ""
	})
}
