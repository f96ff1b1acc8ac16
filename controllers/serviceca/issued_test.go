package serviceca

import (
	"context"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/certrequest"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// TestCountIssued checks that certificates from requests are counted by the CA that signed them,
// and not by the one that they name: a certificate that only names the ServiceCA has to be renewed.
func TestCountIssued(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	before := s.settle()
	old := issue(t, before.Active)
	s.serviceCA.Spec.Rotation.Trigger = "now"
	s.settle()
	s.later(timeout)
	state := s.settle()
	if state.Active.Fingerprint() == before.Active.Fingerprint() {
		t.Fatal("the CA has not rotated")
	}
	s.later(time.Minute)
	dropped := *state
	dropped.Previous = nil
	ours := state.Active.Certificate()
	forged := generateCA(t, "", nil, func(c *x509.Certificate) { c.Subject, c.SubjectKeyId = ours.Subject, ours.SubjectKeyId })
	root := generateCA(t, "corp root", nil)
	for name, tc := range map[string]struct {
		state                *rotation.State
		certificate          []byte
		requests, unverified []string
	}{
		"by the CA that signs":        {state, issue(t, state.Active), nil, nil},
		"by the one before":           {state, old, []string{"renew it"}, nil},
		"by one that is not trusted":  {&dropped, old, nil, []string{"renew it"}},
		"by one that calls itself so": {state, pemOf(forge(t, forged)), nil, []string{"renew it"}},
		"by somebody else":            {state, pemOf(forge(t, root)), nil, []string{"renew it"}},
		"that has ended":              {&dropped, pemOf(ended(t, root)), nil, nil},
		"by one below a trusted root": {below(state, root), pemOf(forge(t, generateCA(t, "below", root))), []string{"renew it"}, nil},
		"while nobody signs":          {&rotation.State{Next: state.Active, Previous: state.Previous}, old, []string{"renew it"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaf, err := pki.ParseLeaf(tc.certificate)
			if err != nil {
				t.Fatal(err)
			}
			r := &Reconciler{
				Clock: clocktesting.NewFakePassiveClock(s.now), Signatures: pki.NewSignatures(),
				IssuedCertificates: func(context.Context, string) ([]certrequest.Issued, bool, error) {
					return []certrequest.Issued{{Leaf: leaf, RenewCommand: "renew it"}}, true, nil
				},
			}
			var evidence clusterEvidence
			if err := r.countIssued(t.Context(), "default", tc.state, &evidence); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(evidence.RequestNames, tc.requests) || !slices.Equal(evidence.unverifiedNames, tc.unverified) {
				t.Errorf("to be renewed are %v, and not verified %v", evidence.RequestNames, evidence.unverifiedNames)
			}
		})
	}
}

func issue(t *testing.T, by *rotation.Signer) []byte {
	t.Helper()
	pair, err := by.Issue(now, pki.LeafSpec{
		DNSNames: []string{"web.shop.svc"}, Usages: []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth}, Key: pki.KeySpec{Algorithm: v1alpha1.Ed25519},
	}, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Certificate
}

func ended(t *testing.T, by *testCA) *testCA {
	t.Helper()
	return generateCAWith(t, "web.shop.svc", by.key, by, lives(-time.Hour, time.Minute), func(c *x509.Certificate) { c.IsCA = false })
}

// below returns state with another trusted root, which has signed intermediate CAs before.
func below(state *rotation.State, root *testCA) *rotation.State {
	changed := *state
	changed.Previous = []rotation.Predecessor{{Root: root.Certificate, KeyID: "of a CA below it"}}
	return &changed
}
