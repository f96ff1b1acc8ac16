package serviceca

import (
	"strconv"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// A request for every attempt, however many were turned down, and another for every issuer.
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
			if got := (asked{secret: secret}).attempts(); got != attempt {
				t.Errorf("after %d attempts: %d", attempt, got)
			}
		}
	}
}

// The wait doubles from five minutes to a day, and never ends or turns negative.
func TestAskedAgain(t *testing.T) {
	t.Parallel()
	made := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for attempts, want := range map[int]time.Duration{0: 5 * time.Minute, 1: 10 * time.Minute, 9: lastBackoff, 17: lastBackoff, 1000: lastBackoff} {
		a := asked{
			secret:  &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{annotationAttempts: strconv.Itoa(attempts)}}},
			request: &cmapi.CertificateRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(made)}},
		}
		if got := a.again().Sub(made); got != want {
			t.Errorf("after %d attempts it is asked again in %s, want %s", attempts, got, want)
		}
	}
}
