package controllers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

func (r realm) foreign(name string, adjust ...func(*corev1.Secret)) *corev1.Secret {
	r.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name}}
	for _, a := range adjust {
		a(secret)
	}
	return create(r.T, secret)
}

// A Secret of another client under the requested name is reported everywhere, left as it is, and no
// longer reported once it is deleted.
func TestSecretIsForeign(t *testing.T) {
	t.Parallel()
	theirs := generateCA(t, "Theirs", nil)
	for name, adjust := range map[string]func(*corev1.Secret){
		"opaque": func(s *corev1.Secret) { s.Data = map[string][]byte{"password": []byte("theirs")} },
		"empty":  func(*corev1.Secret) {},
		"tls":    func(s *corev1.Secret) { s.Type, s.Data = corev1.SecretTypeTLS, theirs.data(t) },
		"owned-by-another": func(s *corev1.Secret) {
			s.Type, s.Data = corev1.SecretTypeTLS, theirs.data(t)
			s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "kube-root-ca.crt", UID: "to be replaced"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRealm(t)
			secret := r.foreign("web-tls", func(s *corev1.Secret) {
				adjust(s)
				if s.OwnerReferences != nil {
					s.OwnerReferences[0].UID = r.rootCA().UID
				}
			})
			r.service("other", withSecretName("other-tls"))
			service := r.service("web", withSecretName("web-tls"))
			r.expectError("web", "SecretNotOurs: ", "Secret web-tls", "ask for another name, or delete that Secret")
			event(t, service, corev1.EventTypeWarning, "SecretNotOurs", "Secret web-tls")
			r.secret("other-tls", r.issued("other."+r.name+".svc"))
			p := r.policyReports("SecretNotOurs", "web")
			if counts := p.Status.Services; counts.Matched != 2 || counts.Issued != 1 || counts.Failed != 1 {
				t.Errorf("the counts are %+v", *counts)
			}
			unchanged(t, secret)
			// The name that the Service asks for next is free.
			update(t, service, func(s *corev1.Service) { s.Annotations["servingcert.dev/secret-name"] = "web-cert" })
			r.secret("web-cert", r.issued("web."+r.name+".svc"))
			r.expectError("web")
			r.serves(2)
			// Back to the first name: this time the Secret is deleted.
			update(t, service, func(s *corev1.Service) { s.Annotations["servingcert.dev/secret-name"] = "web-tls" })
			r.expectError("web", "SecretNotOurs: ")
			unchanged(t, secret)
			remove(t, secret)
			r.secret("web-tls", r.issued("web."+r.name+".svc"))
			r.expectError("web")
			r.serves(2)
		})
	}
}

// rootCA returns the ConfigMap with the API server's root CA, which every namespace has.
func (r realm) rootCA() *corev1.ConfigMap {
	r.Helper()
	var configMap corev1.ConfigMap
	eventually(r.T, func(ctx context.Context) string {
		return errorText(kube.Get(ctx, client.ObjectKey{Namespace: r.name, Name: "kube-root-ca.crt"}, &configMap))
	})
	return &configMap
}

// If two Services ask for one Secret, both report the conflict and the one that has it keeps it; a
// change of either Service resolves it.
func TestTwoServicesWantOneSecret(t *testing.T) {
	t.Parallel()
	for name, resolve := range map[string]func(t *testing.T, r realm, first, second *corev1.Service){
		"second-asks-for-another": func(t *testing.T, r realm, _, second *corev1.Service) {
			t.Helper()
			update(t, second, func(s *corev1.Service) { s.Annotations = withSecretName("second-tls") })
			r.secret("second-tls", r.issued("second."+r.name+".svc"))
			r.secret("shared", r.issued("first."+r.name+".svc"))
			r.serves(2)
		},
		"first-asks-for-another": func(t *testing.T, r realm, first, _ *corev1.Service) {
			t.Helper()
			update(t, first, func(s *corev1.Service) { s.Annotations = withSecretName("first-tls") })
			r.secret("first-tls", r.issued("first."+r.name+".svc"))
			r.secret("shared", r.issued("second."+r.name+".svc"))
			r.serves(2)
		},
		"first-goes": func(t *testing.T, r realm, first, _ *corev1.Service) {
			t.Helper()
			remove(t, first)
			r.secret("shared", r.issued("second."+r.name+".svc"))
			r.serves(1)
		},
		"second-goes": func(t *testing.T, r realm, _, second *corev1.Service) {
			t.Helper()
			remove(t, second)
			r.serves(1)
			r.secret("shared", r.issued("first."+r.name+".svc"))
		},
		"second-asks-no-more": func(t *testing.T, r realm, _, second *corev1.Service) {
			t.Helper()
			update(t, second, func(s *corev1.Service) { s.Annotations = nil })
			r.serves(1)
			r.secret("shared", r.issued("first."+r.name+".svc"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRealm(t)
			first := r.service("first", withSecretName("shared"))
			served := r.secret("shared", r.issued("first."+r.name+".svc"))
			second := r.service("second", withSecretName("shared"))
			r.expectError("first", "SecretConflict: ", "Secret shared", "also wanted by Service second")
			r.expectError("second", "SecretConflict: ", "Secret shared", "also wanted by Service first", "one of them must ask for another name")
			event(t, second, corev1.EventTypeWarning, "SecretConflict", "Service first")
			p := r.policyReports("SecretConflict", "first", "second")
			if counts := p.Status.Services; counts.Issued != 1 || counts.Failed != 1 {
				t.Errorf("the counts are %+v", *counts)
			}
			unchanged(t, served)
			resolve(t, r, first, second)
			if uidOf(t, first) != "" && name != "first-goes" {
				r.expectError("first")
			}
			if name != "second-goes" {
				r.expectError("second")
			}
		})
	}
}

// A policy with issuance All uses names that other Services may ask for: that is a conflict like
// any other.
func TestConflictWithNameOfIssueAll(t *testing.T) {
	t.Parallel()
	r := newRealm(t, issueAll)
	r.service("web", nil)
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.service("asking", withSecretName("web-tls"))
	r.expectError("web", "SecretConflict: ", "Service asking")
	r.expectError("asking", "SecretConflict: ", "Service web")
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
}

// A Secret of the operator's that another client created again with another type is reported,
// because a type is immutable.
func TestSecretOfWrongType(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	served := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	opaque := r.foreign("web2-tls", func(s *corev1.Secret) {
		s.Labels, s.Data = map[string]string{"servingcert.dev/service": "web2"}, served.Data
	})
	r.service("web2", withSecretName("web2-tls"))
	r.expectError("web2", "SecretNotOurs: ", `is of type "Opaque" instead of kubernetes.io/tls`, "delete that Secret")
	r.policyReports("SecretNotOurs", "web2")
	unchanged(t, opaque)
	remove(t, opaque)
	r.secret("web2-tls", r.issued("web2."+r.name+".svc"))
	r.expectError("web2")
}

// An immutable Secret cannot be renewed: that is reported, and deleting it is the fix.
func TestSecretIsImmutable(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	service := r.service("web", withSecretName("web-tls"))
	secret := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	update(t, secret, func(s *corev1.Secret) { s.Immutable = new(true) })
	update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) { p.Spec.Certificate.Duration = "100h" })
	r.expectError("web", "SecretRefused: ", "immutable")
	event(t, service, corev1.EventTypeWarning, "SecretRefused", "immutable")
	r.policyReports("SecretRefused", "web")
	unchanged(t, secret)
	remove(t, secret)
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.expectError("web")
	r.serves(1)
}

// A Secret that exceeds a quota is reported, and is created without further action once the quota
// allows it.
func TestQuotaRefusesSecrets(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	quota := create(t, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "no-secrets"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/secrets": resource.MustParse("0")}}})
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(quota), quota); err != nil || len(quota.Status.Hard) == 0 {
			return fmt.Sprintf("the quota is not in force: %v", err)
		}
		return ""
	})
	service := r.service("web", withSecretName("web-tls"))
	r.expectError("web", "SecretRefused: ", "exceeded quota: no-secrets")
	event(t, service, corev1.EventTypeWarning, "SecretRefused", "no-secrets")
	p := r.policyReports("SecretRefused", "web")
	if message := p.Status.Failures[0].Message; strings.Contains(message, "BEGIN") {
		t.Errorf("the message shows the Secret: %s", message)
	}
	remove(t, quota)
	start := time.Now()
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	t.Logf("recovered after %s", time.Since(start))
	r.expectError("web")
	r.serves(1)
}
