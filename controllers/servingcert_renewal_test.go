package controllers_test

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// versions waits for that many versions of a Secret, including the present one, and returns them in
// order.
func (r realm) versions(name string, count int) []*corev1.Secret {
	r.Helper()
	watching, err := client.NewWithWatch(running.Config, client.Options{Scheme: kube.Scheme()})
	if err != nil {
		r.Fatal(err)
	}
	selector := client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector(metav1.ObjectNameField, name)}
	changes, err := watching.Watch(r.Context(), &corev1.SecretList{}, client.InNamespace(r.name), selector)
	if err != nil {
		r.Fatal(err)
	}
	defer changes.Stop()
	var secrets []*corev1.Secret
	timeout := time.After(timeout)
	for len(secrets) < count {
		select {
		case change := <-changes.ResultChan():
			if secret, ok := change.Object.(*corev1.Secret); ok && change.Type != watch.Deleted {
				secrets = append(secrets, secret)
				continue
			}
			r.Fatalf("after %d versions of Secret %s: %+v", len(secrets), name, change)
		case <-timeout:
			r.Fatalf("there are %d versions of Secret %s, want %d", len(secrets), name, count)
		}
	}
	return secrets
}

// Certificates are renewed in time with one write each, and the certificate in the Secret is valid
// at every instant.
func TestCertificateIsRenewed(t *testing.T) {
	t.Parallel()
	for policy, keepsKey := range map[v1alpha1.RotationPolicy]bool{v1alpha1.RotateAlways: false, v1alpha1.RotateNever: true} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			renewBefore := v1alpha1.Duration("55s")
			r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
				p.Spec.Certificate.Duration, p.Spec.Certificate.RenewBefore = "1m", &renewBefore
				p.Spec.Certificate.PrivateKey.RotationPolicy = policy
			})
			service := r.service("web", withSecretName("web-tls"))
			r.secret("web-tls", r.issued("web."+r.name+".svc"))
			secrets := r.versions("web-tls", 4)
			for i, secret := range secrets {
				if problem := r.issued("web." + r.name + ".svc")(secret); problem != "" {
					t.Errorf("version %d: %s", i, problem)
				}
				if i == 0 {
					continue
				}
				before, now := leaf(t, secrets[i-1]), leaf(t, secret)
				if now.SerialNumber.Cmp(before.SerialNumber) == 0 {
					t.Errorf("version %d has the certificate of the one before", i)
				}
				// The certificate is renewed between 55s before notAfter and a tenth of its
				// remaining lifetime, 0.5s, earlier.
				made := now.NotBefore.Add(5 * time.Minute)
				if left := before.NotAfter.Sub(made); left < 50*time.Second || left > 57*time.Second {
					t.Errorf("version %d was made when %s of the one before were left", i, left)
				}
				if same := sameKey(before, now); same != keepsKey {
					t.Errorf("version %d has the key of the one before: %t, want %t", i, same, keepsKey)
				}
			}
			event(t, service, corev1.EventTypeNormal, "Renewed", "because the one before it ends")
			p := r.serves(1)
			if until := time.Until(p.Status.NextRenewalTime.Time); until > 6*time.Second {
				t.Errorf("the policy says that the next renewal comes after %s", until)
			}
		})
	}
}

func sameKey(a, b *x509.Certificate) bool {
	return slices.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

// A policy that keeps keys keeps them over a lost CA too, but not if it asks for another algorithm
// or size.
func TestKeptKeyFollowsThePolicy(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		p.Spec.Certificate.PrivateKey.RotationPolicy = v1alpha1.RotateNever
	})
	r.service("web", withSecretName("web-tls"))
	first := leaf(t, r.secret("web-tls", r.issued("web."+r.name+".svc")))
	remove(t, r.signingKey())
	second := leaf(t, r.secret("web-tls", func(secret *corev1.Secret) string {
		if leaf(t, secret).Equal(first) {
			return "it is not signed anew"
		}
		return r.issued("web." + r.name + ".svc")(secret)
	}))
	if !sameKey(first, second) {
		t.Error("the key was not kept")
	}
	update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) { p.Spec.Certificate.PrivateKey.Size = 384 })
	r.secret("web-tls", func(secret *corev1.Secret) string {
		if sameKey(leaf(t, secret), second) {
			return "the key is not as the policy wants it"
		}
		return r.issued("web." + r.name + ".svc")(secret)
	})
}

// A certificate expires with its CA at the latest, and is not reissued repeatedly for that,
// whatever duration the policy asks for.
func TestCertificateEndsWithItsCA(t *testing.T) {
	t.Parallel()
	for name, life := range map[string][2]v1alpha1.Duration{
		"long-life":      {"2160h", ""},
		"renewed-at-end": {"1h", "59m50s"},
		"always-due":     {"2160h", "2159h59m59s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRealm(t, func(ca *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
				ca.Spec.Certificate.Duration, ca.Spec.Rotation.RotateBefore, ca.Spec.Rotation.Propagation.Minimum = "2m", "1m", "1s"
				if p.Spec.Certificate.Duration = life[0]; life[1] != "" {
					p.Spec.Certificate.RenewBefore = &life[1]
				}
			})
			r.service("web", withSecretName("web-tls"))
			secret := r.secret("web-tls", r.issued("web."+r.name+".svc"))
			if deadline, ca := leaf(t, secret).NotAfter, r.signer().NotAfter; !deadline.Equal(ca) {
				t.Errorf("it ends %s, and its CA %s", deadline, ca)
			}
			p := r.serves(1)
			if p.Status.NextRenewalTime != nil || !p.Status.EarliestExpiry.Time.Equal(r.signer().NotAfter) {
				t.Errorf("the next renewal is %s, the earliest expiry %s", p.Status.NextRenewalTime, p.Status.EarliestExpiry)
			}
			ca := r.serviceCA(isReady)
			r.passes()
			unchanged(t, secret)
			if now := r.serviceCA(isReady); ca.ResourceVersion == "" || activeOf(now).SerialNumber != activeOf(ca).SerialNumber {
				t.Error("another CA signs")
			}
		})
	}
}

// When a CA whose rotation was paused expires, a new one takes over as soon as it may: no
// certificate that could stop verifying is still valid.
func TestCAEnds(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(ca *v1alpha1.ServiceCA, _ *v1alpha1.ServingCertPolicy) {
		ca.Spec.Certificate.Duration, ca.Spec.Rotation.RotateBefore, ca.Spec.Rotation.Propagation.Minimum = "1m", "59s", "58s"
		ca.Spec.Rotation.Mode = v1alpha1.RotationPaused
	})
	configMap := r.injected("trust")
	r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	first := r.signer()
	time.Sleep(time.Until(first.NotAfter) - 5*time.Second) // nothing but time passes
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if waits := ca.Status.Rotation.BlockedBy; len(waits) == 0 || !strings.Contains(waits[0], "Paused") || time.Now().Before(first.NotAfter) {
			return "it does not say what holds it"
		}
		return ""
	})
	update(t, r.ca, func(ca *v1alpha1.ServiceCA) {
		ca.Spec.Rotation.Mode, ca.Spec.Rotation.RotateBefore, ca.Spec.Rotation.Propagation.Minimum = v1alpha1.RotationAutomatic, "10s", "5s"
	})
	ca := r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if activeOf(ca).SerialNumber == first.SerialNumber.Text(16) {
			return "the same CA signs"
		}
		return isReady(ca)
	})
	if time.Now().Before(first.NotAfter) {
		t.Error("the CA was replaced before its end")
	}
	event(t, ca, corev1.EventTypeNormal, "RotationStarted", "CAExpired", first.Subject.CommonName)
	r.handshake(r.secret("web-tls", r.signedBy(r.signer())), "web."+r.name+".svc")
	r.trusts(r.signer())
	r.carries(configMap)
	r.report(func(p *v1alpha1.ServingCertPolicy) string {
		if counts := *p.Status.Services; counts.Issued != 1 {
			return fmt.Sprintf("the counts are %+v", counts)
		}
		return ""
	})
}
