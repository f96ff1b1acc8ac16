package controllers_test

import (
	"strings"
	"testing"
	"unicode"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// hostileText clears a terminal, adds a line and reverses the direction of the text that follows.
const hostileText = "x\x1b[2J\nReason: fine\u202e\u009b31m"

// No annotation, Event or status contains a tenant's text in a form that a terminal would
// interpret.
func TestTenantTextIsEscaped(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.foreign("web-tls", func(s *corev1.Secret) { s.Type = corev1.SecretType(hostileText) })
	web := r.service("web", withSecretName("web-tls"))
	named := r.service("named", withSecretName(hostileText))
	printable(t, r.expectError("web", "SecretNotOurs: ").Annotations[v1alpha1.AnnotationError])
	printable(t, r.expectError("named", "InvalidSecretName: ").Annotations[v1alpha1.AnnotationError])
	event(t, web, corev1.EventTypeWarning, "SecretNotOurs")
	event(t, named, corev1.EventTypeWarning, "InvalidSecretName")
	for _, service := range []*corev1.Service{web, named} {
		events, err := eventsOf(t.Context(), service)
		if err != nil {
			t.Fatal(err)
		}
		for _, event := range events {
			printable(t, event.Message)
		}
	}
	status := r.report(func(p *v1alpha1.ServingCertPolicy) string {
		if len(p.Status.Failures) != 2 {
			return "not both are reported"
		}
		return ""
	}).Status
	for _, failure := range status.Failures {
		printable(t, failure.Message)
	}
	for _, condition := range status.Conditions {
		printable(t, condition.Message)
	}
	// The same holds for text that a tenant writes into the error annotation itself.
	update(t, web, func(s *corev1.Service) { s.Annotations[v1alpha1.AnnotationError] = "SecretNotOurs: " + hostileText })
	printable(t, r.expectError("web", "of type").Annotations[v1alpha1.AnnotationError])
}

func printable(t *testing.T, text string) {
	t.Helper()
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("a person is told %q", text)
	}
}
