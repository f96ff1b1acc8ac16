package controllers_test

import (
	"bytes"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Whatever is done to a Secret, the operator repairs it without help, and reissues the certificate
// only where it has to.
func TestSecretIsRepaired(t *testing.T) {
	t.Parallel()
	root := generateCA(t, "Corp Root", nil)
	issuing := generateCA(t, "Corp Issuing", root)
	other := generateCA(t, "Corp Issuing", root)
	otherData := other.data(t)
	for name, tc := range map[string]struct {
		corrupt func(t *testing.T, s *corev1.Secret)
		keeps   bool
	}{
		"deleted":       {corrupt: nil},
		"crt-corrupt":   {corrupt: func(_ *testing.T, s *corev1.Secret) { s.Data[corev1.TLSCertKey] = []byte("what?") }},
		"crt-empty":     {corrupt: func(_ *testing.T, s *corev1.Secret) { s.Data[corev1.TLSCertKey] = []byte{} }},
		"crt-truncated": {corrupt: func(_ *testing.T, s *corev1.Secret) { s.Data[corev1.TLSCertKey] = s.Data[corev1.TLSCertKey][:300] }},
		"key-corrupt":   {corrupt: func(_ *testing.T, s *corev1.Secret) { s.Data[corev1.TLSPrivateKeyKey] = []byte("what?") }},
		"key-empty":     {corrupt: func(_ *testing.T, s *corev1.Secret) { s.Data[corev1.TLSPrivateKeyKey] = []byte{} }},
		"key-of-another": {corrupt: func(_ *testing.T, s *corev1.Secret) {
			s.Data[corev1.TLSPrivateKeyKey] = otherData[corev1.TLSPrivateKeyKey]
		}},
		"pair-of-another": {corrupt: func(_ *testing.T, s *corev1.Secret) { s.Data = otherData }},
		"chain-cut-off": {corrupt: func(t *testing.T, s *corev1.Secret) {
			t.Helper()
			s.Data[corev1.TLSCertKey] = (&ownCA{certificate: leaf(t, s)}).pem()
		}},
		"chain-of-another": {corrupt: func(t *testing.T, s *corev1.Secret) {
			t.Helper()
			s.Data[corev1.TLSCertKey] = (&ownCA{certificate: leaf(t, s)}).pem(other)
		}},
		"chain-with-root": {corrupt: func(_ *testing.T, s *corev1.Secret) {
			s.Data[corev1.TLSCertKey] = append(s.Data[corev1.TLSCertKey], root.pem()...)
		}},
		"owner-gone":  {corrupt: func(_ *testing.T, s *corev1.Secret) { s.OwnerReferences = nil }},
		"labels-gone": {corrupt: func(_ *testing.T, s *corev1.Secret) { s.Labels = nil }, keeps: true},
		"all-data-gone": {corrupt: func(_ *testing.T, s *corev1.Secret) {
			s.Data = map[string][]byte{corev1.TLSCertKey: {}, corev1.TLSPrivateKeyKey: {}}
		}},
		"label-changed": {corrupt: func(_ *testing.T, s *corev1.Secret) { s.Labels[v1alpha1.LabelService] = "another" }, keeps: true},
		"ca-label-gone": {corrupt: func(_ *testing.T, s *corev1.Secret) { delete(s.Labels, v1alpha1.LabelServiceCA) }, keeps: true},
		"comment-added": {corrupt: func(_ *testing.T, s *corev1.Secret) {
			s.Data[corev1.TLSCertKey] = append([]byte("# a comment\n"), s.Data[corev1.TLSCertKey]...)
		}, keeps: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := "corp-" + realmName(t)
			createSourceSecret(t, source, with(issuing.data(t), "ca.crt", root.pem()))
			r := newRealm(t, withSourceSecret(source))
			r.service("web", withSecretName("web-tls"))
			before := r.secret("web-tls", r.signedBy(issuing.certificate, "web."+r.name+".svc"))
			first := leaf(t, before)
			if tc.corrupt == nil {
				remove(t, before)
			} else {
				update(t, before.DeepCopy(), func(s *corev1.Secret) { tc.corrupt(t, s) })
			}
			after := r.secret("web-tls", func(s *corev1.Secret) string {
				if !tc.keeps && bytes.Contains(s.Data[corev1.TLSCertKey], (&ownCA{certificate: first}).pem()) {
					return "the certificate is the one before"
				}
				if s.Labels[v1alpha1.LabelService] != "web" || s.Labels[v1alpha1.LabelServiceCA] != r.name {
					return "the labels are not right"
				}
				if len(s.OwnerReferences) != 1 || s.OwnerReferences[0].Name != "web" {
					return "the owner is not right"
				}
				return r.signedBy(issuing.certificate, "web."+r.name+".svc")(s)
			})
			if leaf(t, after).Equal(first) != tc.keeps {
				t.Errorf("the certificate is the same: %t, want %t", !tc.keeps, tc.keeps)
			}
			r.handshake(after, "web."+r.name+".svc")
			r.expectError("web")
			if tc.keeps {
				// Anything else that the operator has to write, it writes before it serves a later
				// Service.
				r.service("late", withSecretName("late-tls"))
				r.secret("late-tls", r.issued("late."+r.name+".svc"))
				unchanged(t, after)
			}
		})
	}
}

// Every reissue is recorded by an Event on its Service, with the reason.
func TestReissueIsAnnounced(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	service := r.service("web", withSecretName("web-tls"))
	secret := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	event(t, service, corev1.EventTypeNormal, "Issued", "because there was none")
	update(t, secret, func(s *corev1.Secret) { s.Data[corev1.TLSPrivateKeyKey] = []byte("what?") })
	event(t, service, corev1.EventTypeNormal, "Reissued", "because tls.key holds no readable private key in PEM")
}

// The Event names the reason even where the full text is longer than an Event allows.
func TestReissueForManyNamesIsAnnounced(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	service := r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) {
		for _, letter := range "abcdefghijklmnop" {
			p.Spec.Certificate.ExtraDNSNames = append(p.Spec.Certificate.ExtraDNSNames,
				"a-rather-long-name-as-people-do-have-them-"+string(letter)+".$(service).$(namespace).example.org")
		}
	})
	event(t, service, corev1.EventTypeNormal, "Reissued", "because its names are [web.")
}
