package serviceca

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// TestPlan checks the plan for each observed state.
func TestPlan(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		given   func(*history)
		reason  string
		problem string
		message string
		roots   int
	}{
		"nothing":                {func(*history) {}, eventCACreated, "", "signs from now on", 1},
		"all in order":           {func(s *history) { s.settle() }, "", "", "", 1},
		"past the threshold":     {func(s *history) { s.settle(); s.now = s.now.Add(51 * day) }, eventRotationStarted, "", "ThresholdPassed", 2},
		"the key is lost":        {func(s *history) { s.settle(); s.secret = nil }, eventSigningKeyLost, "", "its Secret is gone", 2},
		"the bundle is lost":     {func(s *history) { s.settle(); s.published = nil }, "", "", "", 1},
		"the key and bundle are": {func(s *history) { s.settle(); s.secret, s.published = nil, nil }, eventSigningKeyLost, "", "do not trust", 1},
		"but targets have it": {func(s *history) {
			s.settle()
			s.injectedBundles, s.secret, s.published = [][]byte{s.published}, nil, nil
		}, eventSigningKeyLost, "", "stay trusted", 2},
		"it ended":                   {func(s *history) { s.settle(); s.now = s.now.Add(100 * day) }, eventRotationStarted, "", "CAExpired", 2},
		"the key is unreadable":      {func(s *history) { s.settle(); s.corrupt(corev1.TLSPrivateKeyKey, []byte("?")) }, eventSigningKeyLost, "", "tls.key holds no", 2},
		"the certificate is":         {func(s *history) { s.settle(); s.corrupt(corev1.TLSCertKey, nil) }, eventCertificatePutBack, "", "tls.crt is missing", 1},
		"the key lost while paused":  {func(s *history) { s.settle(); s.pause(); s.secret = nil }, "", reasonRotationPaused, "set it to Automatic", 0},
		"the threshold while paused": {func(s *history) { s.settle(); s.pause(); s.now = s.now.Add(51 * day) }, "", "", "", 1},
		"the Secret's bundle is":     {func(s *history) { s.settle(); s.corrupt(rotation.BundleKey, []byte("?")) }, "", "", "", 1},
		"the Secret is another's":    {func(s *history) { s.settle(); s.secret.Labels[v1alpha1.LabelServiceCA] = "other" }, "", reasonSigningKeyNotOur, "belongs to ServiceCA other", 0},
		"the Secret is somebody's":   {func(s *history) { s.secret = &corev1.Secret{} }, "", reasonSigningKeyNotOur, "did not make it", 0},
		"the name was changed":       {func(s *history) { s.settle(); s.formerSecret, s.secret = s.secret, nil }, "", "", "", 1},
		"cert-manager, nothing yet":  {func(s *history) { s.serviceCA.Spec.Source.CertManager = &v1alpha1.CertManagerSource{} }, "", reasonSourceNotThere, "is being asked for a CA", 0},
		"cert-manager, after a CA":   {func(s *history) { s.settle(); s.serviceCA.Spec.Source.CertManager = &v1alpha1.CertManagerSource{} }, "", "", "", 1},
		"one is brought":             {func(s *history) { s.brings(10 * day) }, eventCACreated, "", "another", 1},
		"one is brought later":       {func(s *history) { s.settle(); s.brings(10 * day) }, eventRotationStarted, "", "SourceChanged", 2},
		"one is to be brought":       {func(s *history) { s.brings(10 * day); s.sourceSecret = nil }, "", reasonSourceNotThere, "create it with tls.crt and tls.key", 0},
		"what was brought is gone":   {func(s *history) { s.brings(10 * day); s.settle(); s.sourceSecret = nil }, "", reasonSourceNotThere, "create it", 1},
		"what was brought ended":     {func(s *history) { s.brings(10 * day); s.settle(); s.now = s.now.Add(10 * day) }, "", reasonSourceInvalid, "expired", 1},
		"what was brought is no CA":  {func(s *history) { s.brings(10 * day); s.sourceSecret.Data[corev1.TLSPrivateKeyKey] = nil }, "", reasonSourceInvalid, "tls.key holds no", 0},
		"what was brought comes":     {func(s *history) { s.brings(10 * day); s.now = s.now.Add(-day) }, "", reasonSourceInvalid, "not valid before", 0},
		"the clock is set back":      {func(s *history) { s.settle(); s.now = s.now.Add(-day) }, "", reasonNotYetValid, "correct the clock", 1},
		"the key lost while brought": {func(s *history) { s.brings(10 * day); s.settle(); s.secret = nil }, eventReissued, "", "", 1},
		"triggered":                  {func(s *history) { s.settle(); s.rotation().Trigger = "now" }, eventRotationStarted, "", "Triggered", 2},
		"compromised": {func(s *history) {
			s.settle()
			s.rotation().Trigger, s.rotation().TriggerReason = "stolen", v1alpha1.TriggerCompromise
		}, eventRotationStarted, "", "Compromise", 2},
		"triggered, and brought": {func(s *history) { s.brings(10 * day); s.settle(); s.rotation().Trigger = "now" }, "", "", "", 1},
		"another key":            {func(s *history) { s.settle(); s.serviceCA.Spec.Certificate.PrivateKey = v1alpha1.PrivateKey{} }, eventRotationStarted, "", "SpecChanged", 2},
		"other constraints": {func(s *history) {
			s.settle()
			s.serviceCA.Spec.Certificate.PermittedDNSDomains = []string{"svc"}
		}, eventRotationStarted, "", "SpecChanged", 2},
		"other usages": {func(s *history) {
			s.settle()
			s.serviceCA.Spec.Certificate.PermittedUsages = []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth}
		}, eventRotationStarted, "", "SpecChanged", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newHistory(t)
			tc.given(s)
			resolved := resolve(s.observed)
			plan := makePlan(s.observed, resolved, currentEvidence(s.observed, resolved))
			reason, note := "", ""
			for _, happened := range plan.events {
				reason, note = happened.reason, happened.message
			}
			if reason != tc.reason || !strings.Contains(note, tc.message) && tc.problem == "" {
				t.Errorf("the reason is %q: %s; want %q: …%s…", reason, note, tc.reason, tc.message)
			}
			switch {
			case tc.problem == "" && plan.problem != nil:
				t.Errorf("the problem is %+v, want none", *plan.problem)
			case tc.problem != "" && (plan.problem == nil || plan.problem.reason != tc.problem || !strings.Contains(plan.problem.message, tc.message)):
				t.Errorf("the problem is %+v, want %s: …%s…", plan.problem, tc.problem, tc.message)
			}
			if got := len(bundleOf(plan)); got != tc.roots {
				t.Errorf("the bundle has %d roots, want %d", got, tc.roots)
			}
		})
	}
}

// TestKeyEncoding checks that a changed encoding of the signing key is written at once without a
// rotation, and that an imported key is not changed.
func TestKeyEncoding(t *testing.T) {
	for name, brought := range map[string]bool{"self-signed": false, "brought": true} {
		t.Run(name, func(t *testing.T) {
			s := newHistory(t)
			s.serviceCA.Spec.Certificate.PrivateKey.Algorithm = v1alpha1.ECDSA
			if brought {
				s.brings(100 * day)
			}
			s.settle()
			before := s.secret.DeepCopy()
			s.serviceCA.Spec.Certificate.PrivateKey.Encoding = v1alpha1.PKCS1
			if happened := s.settle(); len(happened) > 0 {
				t.Errorf("it happens that %v", happened)
			}
			now, was := s.secret.Data[corev1.TLSPrivateKeyKey], before.Data[corev1.TLSPrivateKeyKey]
			if changed := !bytes.Equal(now, was); changed == brought {
				t.Errorf("the key is written anew: %v, want %v", changed, !brought)
			}
			before.Data[corev1.TLSPrivateKeyKey] = now
			if diff := cmp.Diff(before.Data, s.secret.Data); diff != "" {
				t.Errorf("something else changed, too (-before +after):\n%s", diff)
			}
			if back, err := pki.EncodeKey(now, v1alpha1.PKCS8); err != nil || (!brought && !bytes.Equal(back, was)) {
				t.Errorf("the key is another: %v", err)
			}
		})
	}
}

func bundleOf(plan changePlan) pki.Bundle {
	if plan.state == nil {
		return nil
	}
	return plan.state.Bundle()
}

// TestPlanOfServiceCAMadeAgain checks that a ServiceCA that was deleted and created again, and so
// has no status, loses nothing that its ConfigMap or Secret holds.
func TestPlanOfServiceCAMadeAgain(t *testing.T) {
	t.Parallel()
	s := newHistory(t)
	s.settle()
	ours := s.roots()[0]
	s.serviceCA.Status = v1alpha1.ServiceCAStatus{}
	if happened := s.settle(); len(happened) > 0 || !s.roots()[0].Equal(ours) {
		t.Errorf("a CA that is there is replaced: %v", happened)
	}
	s.secret, s.serviceCA.Status = nil, v1alpha1.ServiceCAStatus{}
	s.settle()
	if roots := s.roots(); len(roots) != 2 || !slices.ContainsFunc(roots, ours.Equal) {
		t.Errorf("the bundle has %d roots", len(roots))
	}
}

// TestPlanAfterACrash checks that a crash between the writes creates no second CA and removes no
// trust.
func TestPlanAfterACrash(t *testing.T) {
	t.Parallel()
	for steps := range all {
		s := newHistory(t)
		s.settle()
		first := s.roots()[0]
		s.secret = nil
		plan := s.act(steps)
		s.settle()
		roots := s.roots()
		if len(roots) != 2 || !slices.ContainsFunc(roots, first.Equal) {
			t.Errorf("after a crash at step %d the bundle has %d roots", steps, len(roots))
		}
		if same := slices.ContainsFunc(roots, plan.state.Next.Root.Equal); same != (steps > 0) {
			t.Errorf("after a crash at step %d the same CA goes on: %t", steps, same)
		}
	}
}

// TestPlanKeepsTrust checks for any sequence of events that the plan settles, and that the root of
// a CA that has signed stays in the bundle until its notAfter, unless Secret and ConfigMap were
// lost at once.
func TestPlanKeepsTrust(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s := newHistory(t)
		s.t = rt
		s.settle()
		signed := s.roots()
		for range rapid.IntRange(1, 8).Draw(rt, "events") {
			switch rapid.SampledFrom([]string{"key", "bundle", "both", "secret's bundle", "by hand", "brought", "self-signed", "time", "crash", "intruder", "moved"}).Draw(rt, "event") {
			case "key":
				s.secret = nil
			case "bundle":
				if s.published = nil; s.secret == nil {
					// The key was lost and there is no CA to replace it, so now both are lost.
					signed = nil
				}
			case "both":
				s.secret, s.published, signed = nil, nil, nil
			case "secret's bundle":
				s.corrupt(rotation.BundleKey, nil)
			case "by hand":
				pair := s.another(50 * day)
				s.corrupt(corev1.TLSCertKey, pair.Certificate)
				s.corrupt(corev1.TLSPrivateKeyKey, pair.PrivateKey)
				s.corrupt(rotation.BundleKey, pair.Certificate)
				s.serviceCA.Spec.Source = v1alpha1.CASource{}
			case "brought":
				s.brings(30 * day)
			case "self-signed":
				s.serviceCA.Spec.Source = v1alpha1.CASource{}
			case "time":
				s.now = s.now.Add(day * 20)
			case "crash":
				s.secret = nil
				s.act(rapid.IntRange(0, all-1).Draw(rt, "steps"))
			case "intruder":
				s.published = append(bytes.Clone(s.published), s.another(day).Certificate...)
			case "moved":
				s.formerSecret, s.secret = s.secret, nil
			}
			if rapid.Bool().Draw(rt, "and time for it") {
				s.pass()
			} else {
				s.settle()
			}
			roots := s.roots()
			for _, root := range signed {
				if s.now.Before(root.NotAfter) && !slices.ContainsFunc(roots, root.Equal) {
					rt.Fatalf("clients no longer trust %s", root.Subject)
				}
			}
			for _, root := range roots {
				if active := s.serviceCA.Status.Active; active != nil && active.Fingerprint == pki.Fingerprint(root) {
					signed = append(signed, root)
				}
			}
		}
	})
}
