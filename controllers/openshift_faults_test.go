package controllers_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Fault 3 of OpenShift's service CA: a bundle write that fails after the key write is never
// repaired.
func TestFault3FailedBundleWriteIsRepaired(t *testing.T) {
	t.Parallel()
	name := realmName(t)
	allow := forbid(t, fmt.Sprintf("object.metadata.name == '%s-trust-bundle'", name))
	r := newRealm(t)
	r.signingKey()
	r.service("web", withSecretName("web-tls"))
	other := newRealmIn(t, kube, name+"-other")
	other.service("web", withSecretName("web-tls"))
	other.secret("web-tls", other.issued("web."+other.name+".svc"))
	if err := kube.Get(t.Context(), client.ObjectKey{Namespace: r.name, Name: "web-tls"}, &corev1.Secret{}); err == nil {
		t.Error("a certificate was issued that no client can verify yet")
	}
	allow()
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
}

// The same holds for a bundle that is corrupted or removed later.
func TestFault3CorruptedBundleIsRepaired(t *testing.T) {
	r := newOpenShift(t)
	want := r.published()
	bundle := &corev1.ConfigMap{ObjectMeta: inOperatorNamespace("signing-cabundle")}
	for name, corrupt := range map[string]func(*corev1.ConfigMap){
		"changed": func(c *corev1.ConfigMap) { c.Data["ca-bundle.crt"] = "spoilt" },
		"removed": func(c *corev1.ConfigMap) { c.Data = nil },
		"deleted": nil,
	} {
		t.Run(name, func(t *testing.T) {
			if corrupt != nil {
				update(t, bundle, corrupt)
			} else if err := kube.Delete(t.Context(), bundle); err != nil {
				t.Fatal(err)
			}
			eventuallyHolds(t, bundle, func() map[string]string { return map[string]string{"ca-bundle.crt": want} })
		})
	}
}

// Fault 4: an empty bundle file is injected. Here the bundle has two roots, of which only the
// second can be derived from the key.
func TestFault4EmptyBundleIsNeverInjected(t *testing.T) {
	r := newRealm(t)
	r.serviceCA(isReady)
	r.loseKey()
	want := r.published()
	ask := map[string]string{v1alpha1.AnnotationInjectCABundle: r.ca.Name}
	target := r.configMap("target", ask, nil)
	eventuallyHolds(t, target, r.exactly)
	stop := follow(t, target)
	bundle := &corev1.ConfigMap{ObjectMeta: inOperatorNamespace(r.ca.TrustBundleConfigMapName())}
	update(t, bundle, func(c *corev1.ConfigMap) { c.Data["ca-bundle.crt"] = "" })
	eventuallyHolds(t, r.configMap("late", ask, nil), func() map[string]string { return map[string]string{"service-ca.crt": want} })
	// Two objects hold all the roots; one of them has to be intact for the operator to repair the
	// other.
	eventuallyHolds(t, bundle, func() map[string]string { return map[string]string{"ca-bundle.crt": want} })
	update(t, r.signingKey(), func(s *corev1.Secret) { s.Data["ca-bundle.crt"] = nil })
	eventuallyHolds(t, r.configMap("later", ask, nil), func() map[string]string { return map[string]string{"service-ca.crt": want} })
	eventually(t, func(context.Context) string {
		if string(r.signingKey().Data["ca-bundle.crt"]) != want {
			return "the Secret of the signing key has not got its bundle back"
		}
		return ""
	})
	r.settle()
	for _, state := range stop() {
		if state.Data["service-ca.crt"] != want {
			t.Errorf("the ConfigMap once held %q", state.Data["service-ca.crt"])
		}
	}
}

// A signing key that is restored from a backup does not end the trust in the CA that signed
// meanwhile.
func TestFault4RestoredKeyKeepsAllTrust(t *testing.T) {
	r := newRealm(t)
	r.serviceCA(isReady)
	backup, old := r.signingKey().Data, r.signer()
	r.loseKey()
	meanwhile := r.signer()
	r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", r.signedBy(meanwhile, "web."+r.name+".svc"))
	target := r.configMap("target", map[string]string{v1alpha1.AnnotationInjectCABundle: r.ca.Name}, nil)
	eventuallyHolds(t, target, r.exactly)
	stop := follow(t, target)
	update(t, r.signingKey(), func(s *corev1.Secret) { s.Data = backup })
	// The old key had been given up: a new CA follows both.
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if len(ca.Status.Previous) != 2 || *activeOf(ca).Certificates != 1 {
			return "no other CA has taken over"
		}
		return isReady(ca)
	})
	r.secret("web-tls", r.signedBy(r.signer(), "web."+r.name+".svc"))
	r.trustsToo(old, meanwhile)
	eventuallyHolds(t, target, r.exactly)
	for _, state := range stop() {
		for _, root := range []*x509.Certificate{old, meanwhile} {
			if problem := lacks(state.Data["service-ca.crt"], root); problem != "" {
				t.Error(problem)
			}
		}
	}
}

// Fault 5: a changed bundle reaches idle objects only at the 20-minute resync. Fault 15: the
// controller must be restarted to sign with a new key. By design, OpenShift also drops the trust in
// the old CA when signing-key is deleted.
func TestFault5And15NewKeyReachesAllAtOnce(t *testing.T) {
	r := newOpenShift(t)
	before := r.signer()
	service, secret := r.served("web")
	var idle []*corev1.ConfigMap
	for i, annotations := range []map[string]string{
		{beta + "inject-cabundle": "true"}, {alpha + "inject-cabundle": "true"}, {v1alpha1.AnnotationInjectCABundle: "default"},
	} {
		for j := range 5 {
			idle = append(idle, r.configMap(fmt.Sprintf("idle-%d-%d", i, j), annotations, nil))
		}
	}
	legacy := r.configMap("openshift-service-ca.crt", map[string]string{alpha + "inject-vulnerable-legacy-cabundle": "true"}, nil)
	for _, configMap := range idle {
		eventuallyHolds(t, configMap, r.exactly)
	}
	r.loseKey()
	after := r.signer()
	differentGenerations(t, before, after)
	r.trustsToo(before, after)
	for _, configMap := range idle {
		eventuallyHolds(t, configMap, r.exactly)
	}
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(legacy), legacy); err != nil {
			return err.Error()
		}
		if !strings.HasPrefix(legacy.Data["service-ca.crt"], r.published()) {
			return "the legacy bundle is not the new one"
		}
		return ""
	})
	r.secret(secret.Name, r.signedBy(after, "web."+r.name+".svc"))
	r.eventuallySigned(service)
	r.service("late", map[string]string{beta + "serving-cert-secret-name": "late-tls"})
	r.secret("late-tls", r.signedBy(after, "late."+r.name+".svc"))
}

// loseKey deletes the Secret of the signing key, and waits until there is a new one.
func (r realm) loseKey() {
	r.Helper()
	lost := r.signingKey()
	if err := kube.Delete(r.Context(), lost); err != nil {
		r.Fatal(err)
	}
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if activeOf(ca).Subject == parse(r.T, lost.Data["tls.crt"])[0].Subject.CommonName {
			return "the lost CA is still the active one"
		}
		return isReady(ca)
	})
}

// Fault 11: a leaf can outlive its CA by 334 days.
func TestFault11LeafNeverOutlivesItsCA(t *testing.T) {
	r := newRealm(t, func(ca *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		ca.Spec.Certificate.Duration, ca.Spec.Rotation.RotateBefore = "9480h", "24h"
		p.Spec.Certificate.Duration = "17520h"
	})
	service, secret := r.served("web")
	if deadline, caEnd := leaf(t, secret).NotAfter, r.signer().NotAfter; deadline.After(caEnd) || caEnd.Sub(deadline) > time.Minute {
		t.Errorf("the leaf ends %s, its CA %s", deadline, caEnd)
	}
	// The leaf is not reissued repeatedly because it is shorter than the policy's duration.
	r.barrier()
	if now := r.secret("web-tls", r.issued(service.Name+"."+r.name+".svc")); now.ResourceVersion != secret.ResourceVersion {
		t.Error("the Secret was written again")
	}
}

// Fault 12: both CAs have the same subject. Here the subjects differ, however fast one CA follows
// the other.
func TestFault12EveryCAHasASubjectOfItsOwn(t *testing.T) {
	r := newRealm(t)
	r.serviceCA(isReady)
	for range 3 {
		r.loseKey()
	}
	visited := map[string]bool{}
	for _, root := range r.publishedRoots() {
		if visited[root.Subject.CommonName] {
			t.Errorf("two CAs bear the subject %s", root.Subject)
		}
		visited[root.Subject.CommonName] = true
	}
	if len(visited) != 4 {
		t.Errorf("there are %d subjects in the bundle, want 4", len(visited))
	}
}

// Fault 14: serials come from a time-seeded generator.
func TestFault14SerialsAreRandom(t *testing.T) {
	r := newOpenShift(t)
	visited := map[string]bool{r.signer().SerialNumber.Text(16): true}
	for i := range 8 {
		_, secret := r.served(fmt.Sprintf("web-%d", i))
		serial := leaf(t, secret).SerialNumber
		if serial.Sign() <= 0 || serial.BitLen() < 96 || serial.BitLen() > 128 {
			t.Errorf("serial %s has %d bits", serial.Text(16), serial.BitLen())
		}
		// Successive values of a counter or a clock would have the same first digits.
		if begin := fmt.Sprintf("%032x", serial)[:6]; visited[begin] {
			t.Errorf("two serials begin with %s", begin)
		} else {
			visited[begin] = true
		}
	}
}

// trustsToo checks that the published bundle holds at least these certificates.
func (r realm) trustsToo(want ...*x509.Certificate) {
	r.Helper()
	published := r.publishedRoots()
	for _, certificate := range want {
		if !slices.ContainsFunc(published, certificate.Equal) {
			r.Errorf("the bundle lacks %s", certificate.Subject)
		}
	}
}
