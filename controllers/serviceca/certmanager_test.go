package serviceca

import (
	"bytes"
	"crypto/x509"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// TestRequestName checks that each attempt has its own CertificateRequest, regardless of how many
// were rejected, and so does each issuer.
func TestRequestName(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, issuer := range []string{"a", "b"} {
		for attempt := range 40 {
			ca := &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
			ca.Spec.Source.CertManager = &v1alpha1.CertManagerSource{IssuerRef: v1alpha1.IssuerReference{Name: issuer}}
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{UID: "uid", Annotations: map[string]string{annotationAttempts: strconv.Itoa(attempt)}}}
			is := issuer + strconv.Itoa(attempt)
			if name := requestName(ca, secret); seen[name] != "" {
				t.Errorf("%s and %s are both %s", seen[name], is, name)
			} else {
				seen[name] = is
			}
			if got := (pendingRequest{secret: secret}).attempts(); got != attempt {
				t.Errorf("after %d attempts: %d", attempt, got)
			}
		}
	}
}

// TestRequestIsRetried checks that the backoff doubles from five minutes up to a day, and does not
// overflow.
func TestRequestIsRetried(t *testing.T) {
	t.Parallel()
	made := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for attempts, want := range map[int]time.Duration{0: 5 * time.Minute, 1: 10 * time.Minute, 9: lastBackoff, 17: lastBackoff, 1000: lastBackoff} {
		a := pendingRequest{
			secret:  &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{annotationAttempts: strconv.Itoa(attempts)}}},
			request: &cmapi.CertificateRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(made)}},
		}
		if got := a.retryAt().Sub(made); got != want {
			t.Errorf("after %d attempts it is asked again in %s, want %s", attempts, got, want)
		}
	}
}

// newRequestFixture returns a fixture in which cert-manager has answered a request with this chain
// and, if root is not nil, with this root.
func newRequestFixture(t *testing.T, root []byte, chain ...*testCA) *fixture {
	t.Helper()
	s := newFixture(t, "")
	s.answer(root, chain...)
	return s
}

// answer switches the source to cert-manager, with a request that cert-manager has answered.
func (f *fixture) answer(root []byte, chain ...*testCA) {
	f.Helper()
	f.serviceCA.Spec.Source = v1alpha1.CASource{
		CertManager: &v1alpha1.CertManagerSource{IssuerRef: v1alpha1.IssuerReference{Name: "corp", Kind: "ClusterIssuer"}},
	}
	waiting := sourceSecret(f.T, nil, chain...)
	waiting.Name, waiting.Labels = requestSecretName(f.serviceCA), map[string]string{labelRequester: string(f.serviceCA.UID)}
	delete(waiting.Data, corev1.TLSCertKey)
	f.pendingRequest = pendingRequest{secret: waiting, request: &cmapi.CertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "default-1", CreationTimestamp: metav1.NewTime(now)},
		Status: cmapi.CertificateRequestStatus{Certificate: pemOf(chain...), CA: root, Conditions: []cmapi.CertificateRequestCondition{
			{Type: cmapi.CertificateRequestConditionReady, Status: cmmeta.ConditionTrue},
		}},
	}}
}

// TestRequestIsAnswered checks that an unusable answer is reported and followed by another request
// after the backoff, and that a usable CA signs.
func TestRequestIsAnswered(t *testing.T) {
	t.Parallel()
	root := generateCA(t, "corp root", nil)
	narrow := generateCA(t, "narrow", root, func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true })
	ended := lives(-2*time.Hour, time.Minute)
	for name, tc := range map[string]struct {
		root    []byte
		chain   []*testCA
		message string
	}{
		"good":                        {pemOf(root), []*testCA{generateCA(t, "good", root)}, ""},
		"a root itself":               {nil, []*testCA{root}, ""},
		"no root":                     {nil, []*testCA{generateCA(t, "rootless", root)}, "put its root into ca.crt"},
		"none below the one above it": {pemOf(root), []*testCA{generateCA(t, "deep", narrow), narrow}, "a CA above it allows none"},
		"no CA":                       {pemOf(root), []*testCA{generateCA(t, "leaf", root, func(c *x509.Certificate) { c.IsCA = false })}, "is no CA"},
		"ended":                       {pemOf(root), []*testCA{generateCA(t, "short", root, ended)}, "expired"},
		"a root that has ended":       {nil, []*testCA{generateCA(t, "short root", nil, ended)}, "the CA expired 2071-03-14T15:10:26Z"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newRequestFixture(t, tc.root, tc.chain...)
			s.later(2 * time.Minute)
			plan := s.plan()
			if tc.message == "" {
				if plan.problem != nil || plan.state == nil {
					t.Errorf("the problem is %+v", plan.problem)
				}
				return
			}
			if p := plan.problem; p == nil || p.reason != reasonSourceInvalid || !p.transient || !plan.needsRequest ||
				!strings.Contains(p.message, tc.message) || !strings.Contains(p.message, "it is asked again 2071-03-14T15:14:26Z") {
				t.Fatalf("the problem is %+v", p)
			}
			live := fake.NewClientBuilder().WithReturnManagedFields().Build()
			if err := live.Create(t.Context(), s.pendingRequest.secret, apply.ServiceCA); err != nil {
				t.Fatal(err)
			}
			r := &Reconciler{Live: live, Namespace: "system", Clock: clocktesting.NewFakePassiveClock(now)}
			for _, moment := range []struct {
				after    time.Duration
				attempts int
			}{{0, 0}, {firstBackoff, 1}} {
				s.later(moment.after)
				var before corev1.Secret
				if err := live.Get(t.Context(), client.ObjectKeyFromObject(s.pendingRequest.secret), &before); err != nil {
					t.Fatal(err)
				}
				s.pendingRequest.secret = &before
				if problem, err := r.advanceRequest(t.Context(), s.observed); problem != nil || err != nil {
					t.Fatal(problem, err)
				}
				after, err := get(t.Context(), live, client.ObjectKeyFromObject(&before), &corev1.Secret{})
				if err != nil {
					t.Fatal(err)
				}
				made := !bytes.Equal(after.Data[corev1.TLSPrivateKeyKey], before.Data[corev1.TLSPrivateKeyKey])
				if got := (pendingRequest{secret: after}).attempts(); got != moment.attempts || made != (got > 0) {
					t.Errorf("after %s it was asked %d times in vain, and another key is made: %t", moment.after, got, made)
				}
			}
		})
	}
}

// TestRequestCannotBeMade checks that a request that cannot be created becomes a problem once the
// failure has lasted, and at once if the API server rejects it, with the API server's message.
func TestRequestCannotBeMade(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	passive := clocktesting.NewFakePassiveClock(now)
	r := &Reconciler{Clock: passive}
	resource := corev1.Resource("secrets")
	away := apierrors.NewInternalError(errors.New("failed calling webhook"))
	for _, step := range []struct {
		after           time.Duration
		err             error
		reason, message string
	}{
		{0, away, "", ""},
		{4 * time.Second, away, "", ""},
		{5 * time.Second, away, issuance.ReasonRequestFailed, "failed calling webhook"},
		{time.Minute, nil, "", ""},
		{2 * time.Minute, away, "", ""},
		{2 * time.Minute, apierrors.NewForbidden(resource, "key", errors.New("exceeded quota")), reasonSourceNotThere, "exceeded quota"},
		{2 * time.Minute, apierrors.NewNotFound(resource, "webhook denied the request"), reasonSourceInvalid, "denied the request"},
		{2 * time.Minute, apierrors.NewNotFound(resource, "key"), reasonSourceNotThere, "no cert-manager"},
	} {
		passive.SetTime(now.Add(step.after))
		found, err := r.classifyRequestError(s.serviceCA, step.err)
		if (err != nil) != (step.err != nil && step.reason == "") {
			t.Errorf("after %s: %v comes back as %v", step.after, step.err, err)
		}
		if (found == nil) != (step.reason == "") || (found != nil && (found.reason != step.reason || !strings.Contains(found.message, step.message))) {
			t.Errorf("after %s: the problem is %+v, want %s with %q", step.after, found, step.reason, step.message)
		}
	}
}
