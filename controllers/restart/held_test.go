package restart

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/servingcert"
)

// The expiry of the certificate that a container holds that started before the renewal an hour ago.
func TestHeldCertificate(t *testing.T) {
	t.Parallel()
	const hour = time.Hour
	record := func(written, expires time.Duration) string {
		return now.Add(-written).Format(time.RFC3339) + "/" + now.Add(expires).Format(time.RFC3339)
	}
	two := record(9*hour, 3*hour) + " " + record(5*hour, 7*hour)
	longer := record(9*hour, 90*hour) + " " + record(5*hour, 7*hour)
	for name, tc := range map[string]struct {
		recorded string
		reason   v1alpha1.RotationReason
		started  time.Duration
		want     time.Duration
	}{
		"the one before":                 {two, "", 4 * hour, 7 * hour},
		"the one before that":            {two, "", 6 * hour, 3 * hour},
		"between them, as clocks tell":   {two, "", 5*hour - 3*time.Second, 3 * hour},
		"the same, the later ends first": {longer, "", 5*hour - 3*time.Second, 7 * hour},
		"older than what is recorded":    {two, "", 10 * hour, -9*hour + 20*time.Minute},
		"nothing is recorded":            {"", "", 4 * hour, -hour + 20*time.Minute},
		"nobody can read it":             {"nonsense", "", 4 * hour, -hour + 20*time.Minute},
		"its CA was compromised":         {two, v1alpha1.RotationCompromise, 4 * hour, -hour},
		"its CA rotates":                 {two, v1alpha1.RotationTriggered, 4 * hour, 7 * hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			secret := certificate(t, 99*hour, hour)
			secret.Annotations = map[string]string{v1alpha1.AnnotationReplaced: tc.recorded}
			policy, read := rollingPolicy(), world(t, secret, servingcert.Claim{Wanted: true})
			policy.Spec.Certificate.Duration = "1h"
			read.cas["default"].Status.Rotation = &v1alpha1.RotationStatus{Reason: tc.reason}
			changes, err := read.affecting(t.Context(), reading(mounts("", secretNamed("web-tls"))), policy)
			if err != nil || len(changes) != 1 {
				t.Fatal(changes, err)
			}
			if got := changes[0].expires(now.Add(-tc.started)); !got.Equal(now.Add(tc.want).Truncate(time.Second)) {
				t.Errorf("it expires %s, want %s", got, now.Add(tc.want).Truncate(time.Second))
			}
		})
	}
}

// A bundle that a container read before the change is valid for as long as servers send a chain to
// a CA in it.
func TestHeldBundle(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	generation := func(made, left time.Duration) v1alpha1.CAGeneration {
		return v1alpha1.CAGeneration{NotBefore: metav1.NewTime(now.Add(-made)), NotAfter: metav1.NewTime(now.Add(left))}
	}
	oldest, older, newest := generation(900*day, 100*day), generation(500*day, 500*day), generation(2*day, 998*day)
	changed := day
	for name, tc := range map[string]struct {
		status  v1alpha1.ServiceCAStatus
		reason  v1alpha1.RotationReason
		started time.Duration
		want    time.Duration
	}{
		"before the switch":                 {v1alpha1.ServiceCAStatus{Active: &older, Next: &newest}, "", 9 * day, 500 * day},
		"after it":                          {v1alpha1.ServiceCAStatus{Active: &newest, Previous: []v1alpha1.CAGeneration{older, oldest}}, "", 9 * day, 500 * day},
		"it missed the rotation before too": {v1alpha1.ServiceCAStatus{Active: &newest, Previous: []v1alpha1.CAGeneration{older, oldest}}, "", 600 * day, 100 * day},
		"what it knew has gone":             {v1alpha1.ServiceCAStatus{Active: &newest}, "", 9 * day, -changed},
		"the key was lost":                  {v1alpha1.ServiceCAStatus{Next: &newest, Previous: []v1alpha1.CAGeneration{older}}, v1alpha1.RotationSigningKeyLost, 9 * day, -changed},
		"the key was stolen":                {v1alpha1.ServiceCAStatus{Active: &older, Next: &newest}, v1alpha1.RotationCompromise, 9 * day, -changed},
		"the threshold passed":              {v1alpha1.ServiceCAStatus{Active: &older, Next: &newest}, v1alpha1.RotationThresholdPassed, 9 * day, 500 * day},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := &v1alpha1.ServiceCA{Status: tc.status}
			ca.Status.Rotation = &v1alpha1.RotationStatus{Reason: tc.reason}
			change := change{heldObjects: heldBundles(ca, now.Add(-changed))}
			if got := change.expires(now.Add(-tc.started)).Sub(now); got != tc.want {
				t.Errorf("it expires in %s, want %s", got, tc.want)
			}
		})
	}
}

// The expiry of a workload is the earliest expiry of what its pods hold.
func TestFirstExpiry(t *testing.T) {
	t.Parallel()
	at := func(reason v1alpha1.RestartReason, container string, from, expires time.Duration) change {
		return change{reason: reason, container: container, heldObjects: []heldObject{{}, {now.Add(from), now.Add(expires)}}}
	}
	starts := newPodStarts(podOf("web", 1, time.Hour), podOf("web", 2, time.Minute))
	for name, tc := range map[string]struct {
		unknown []change
		want    string
	}{
		"nothing":      {nil, ""},
		"not known":    {[]change{at("A", "main", -time.Second, time.Hour)}, ""},
		"one of two":   {[]change{at("A", "main", -2*time.Hour, 3*time.Hour), at("B", "main", -2*time.Hour, 2*time.Hour)}, "B 2h0m0s"},
		"the known":    {[]change{at("A", "main", -2*time.Hour, 3*time.Hour), at("B", "main", -time.Second, time.Hour)}, "A 3h0m0s"},
		"long expired": {[]change{at("A", "main", -2*time.Hour, -time.Hour)}, "A -1h0m0s"},
	} {
		got := ""
		if expires, of := starts.firstExpiry(tc.unknown); of != nil {
			got = fmt.Sprint(of.reason, " ", expires.Sub(now))
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}
