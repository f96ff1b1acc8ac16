package issuance_test

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

const ownError = v1alpha1.AnnotationError

// patched returns annotations after a patch; a nil value in changes removes an annotation.
func patched(annotations map[string]string, changes map[string]*string) map[string]string {
	result := map[string]string{}
	maps.Copy(result, annotations)
	for key, value := range changes {
		if value == nil {
			delete(result, key)
		} else {
			result[key] = *value
		}
	}
	return result
}

// bothFamilies returns an annotation in both OpenShift families.
func bothFamilies(suffix, value string) map[string]string {
	return map[string]string{beta + suffix: value, alpha + suffix: value}
}

func merged(all ...map[string]string) map[string]string {
	result := map[string]string{}
	for _, some := range all {
		maps.Copy(result, some)
	}
	return result
}

func TestAnnotationChanges(t *testing.T) {
	problem := &issuance.Problem{Reason: "SecretNotOurs", Message: "it is: another's"}
	ownMessage := map[string]string{ownError: "SecretNotOurs: it is: another's"}
	message := bothFamilies("serving-cert-generation-error", "it is: another's")
	number := func(value string) map[string]string { return bothFamilies("serving-cert-generation-error-num", value) }
	signed := bothFamilies("serving-cert-signed-by", "signer@1")
	asksByBeta := map[string]string{beta + "serving-cert-secret-name": "web-cert"}
	asksByAlpha := map[string]string{alpha + "serving-cert-secret-name": "web-cert"}
	asksByOwn := map[string]string{v1alpha1.AnnotationSecretName: "web-cert"}
	for _, tc := range []struct {
		name          string
		before, after map[string]string
		problem       *issuance.Problem
		signedBy      string
	}{
		{"own: nothing to say", asksByOwn, asksByOwn, nil, "signer@1"},
		{"own: an obstacle", asksByOwn, merged(asksByOwn, ownMessage), problem, ""},
		{"own: an obstacle beside a certificate", asksByOwn, merged(asksByOwn, ownMessage), problem, "signer@1"},
		{"own: it is gone", merged(asksByOwn, ownMessage), asksByOwn, nil, "signer@1"},
		{"own: another one", merged(asksByOwn, map[string]string{ownError: "NoPolicy: x"}), merged(asksByOwn, ownMessage), problem, ""},
		{"beta: signed", asksByBeta, merged(asksByBeta, signed), nil, "signer@1"},
		{"alpha: signed", asksByAlpha, merged(asksByAlpha, signed), nil, "signer@1"},
		{"beta: signed by another CA", merged(asksByBeta, bothFamilies("serving-cert-signed-by", "signer@0")), merged(asksByBeta, signed), nil, "signer@1"},
		{"beta: no certificate any more", merged(asksByBeta, signed), asksByBeta, nil, ""},
		{"beta: an obstacle", asksByBeta, merged(asksByBeta, ownMessage, message, number("1")), problem, ""},
		{"alpha: an obstacle", asksByAlpha, merged(asksByAlpha, ownMessage, message, number("1")), problem, ""},
		{"beta: an obstacle beside a certificate", merged(asksByBeta, signed), merged(asksByBeta, signed, ownMessage, message, number("1")), problem, "signer@1"},
		{"beta: the same obstacle", merged(asksByBeta, ownMessage, message, number("4")), merged(asksByBeta, ownMessage, message, number("4")), problem, ""},
		{"beta: another obstacle", merged(asksByBeta, bothFamilies("serving-cert-generation-error", "x"), number("4")),
			merged(asksByBeta, ownMessage, message, number("5")), problem, ""},
		{"beta: only one family was cleared by hand", merged(asksByBeta, ownMessage, map[string]string{
			alpha + "serving-cert-generation-error": "it is: another's", alpha + "serving-cert-generation-error-num": "10"}),
			merged(asksByBeta, ownMessage, message, map[string]string{
				beta + "serving-cert-generation-error-num": "1", alpha + "serving-cert-generation-error-num": "10"}), problem, ""},
		{"beta: it is gone", merged(asksByBeta, ownMessage, message, number("10")), merged(asksByBeta, signed), nil, "signer@1"},
		{"beta: a number that is none", merged(asksByBeta, number("x")), merged(asksByBeta, ownMessage, message, number("1")), problem, ""},
		{"beta: a number below one", merged(asksByBeta, number("-1")), merged(asksByBeta, ownMessage, message, number("1")), problem, ""},
		{"it does not ask any more", merged(ownMessage, message, number("2"), signed), map[string]string{}, nil, ""},
		{"it asks by our annotation now", merged(asksByOwn, asksByBeta, message, number("2"), signed), merged(asksByOwn, asksByBeta), nil, "signer@1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			service := newService(func(s *corev1.Service) { s.Annotations = merged(tc.before, map[string]string{"note": "x"}) })
			want := merged(tc.after, map[string]string{"note": "x"})
			service.Annotations = patched(service.Annotations, resolver.AnnotationChanges(service, tc.problem, tc.signedBy))
			if diff := cmp.Diff(want, service.Annotations); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if again := resolver.AnnotationChanges(service, tc.problem, tc.signedBy); len(again) > 0 {
				t.Errorf("asked again, it changes %v", slices.Collect(maps.Keys(again)))
			}
		})
	}
}

// outputs are the annotation keys that the operator writes on a Service.
var outputs = []string{
	ownError,
	beta + "serving-cert-signed-by", beta + "serving-cert-generation-error", beta + "serving-cert-generation-error-num",
	alpha + "serving-cert-signed-by", alpha + "serving-cert-generation-error", alpha + "serving-cert-generation-error-num",
}

var inputs = []string{
	v1alpha1.AnnotationSecretName, beta + "serving-cert-secret-name", alpha + "serving-cert-secret-name", "note", beta + "note",
	beta + "expiry", beta + "inject-cabundle", v1alpha1.AnnotationInjectCABundle,
}

func genProblem(t *rapid.T) *issuance.Problem {
	return rapid.SampledFrom([]*issuance.Problem{
		nil, {Reason: "NoPolicy", Message: "no policy"}, {Reason: "SecretNotOurs", Message: "it is: another's"}, {Reason: "NoPolicy", Message: "none: at all"},
	}).Draw(t, "obstacle")
}

// TestAnnotationsAtRest checks that, from any annotations, the changes bring a Service to rest:
// applied once, they leave no further change. Other annotations are not touched.
func TestAnnotationsAtRest(t *testing.T) {
	value := rapid.SampledFrom([]string{"", "web-cert", "signer@1", "no policy", "NoPolicy: no policy", "0", "1", "-1", "41", "x"})
	rapid.Check(t, func(t *rapid.T) {
		service := newService()
		service.Annotations = rapid.MapOf(rapid.SampledFrom(slices.Concat(inputs, outputs)), value).Draw(t, "annotations")
		given := issuance.Resolver{OpenShiftAnnotations: rapid.Bool().Draw(t, "OpenShift's annotations")}
		problem, signedBy := genProblem(t), rapid.SampledFrom([]string{"", "signer@1", "signer@2"}).Draw(t, "signed by")
		before := maps.Clone(service.Annotations)
		changes := given.AnnotationChanges(service, problem, signedBy)
		if diff := cmp.Diff(before, service.Annotations); diff != "" {
			t.Errorf("the Service itself was changed (-before +after):\n%s", diff)
		}
		for key, value := range changes {
			if !slices.Contains(outputs, key) || (!given.OpenShiftAnnotations && key != ownError) {
				t.Errorf("it changes %s", key)
			}
			if current, has := before[key]; has == (value != nil) && (value == nil || current == *value) {
				t.Errorf("the change of %s changes nothing", key)
			}
		}
		service.Annotations = patched(before, changes)
		if again := given.AnnotationChanges(service, problem, signedBy); len(again) > 0 {
			t.Errorf("asked again, it changes %v in %v", slices.Collect(maps.Keys(again)), service.Annotations)
		}
		if _, has := service.Annotations[ownError]; has != (problem != nil) {
			t.Errorf("it bears an error: %v, and there is one: %v", has, problem != nil)
		}
	})
}

// TestErrorNumber follows a Service through a series of errors: the number counts the different
// consecutive ones.
func TestErrorNumber(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		service := newService(betaAnnotation)
		message, number := "", 0
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			problem := genProblem(t)
			switch {
			case problem == nil:
				message, number = "", 0
			case number == 0 || problem.Message != message:
				message, number = problem.Message, number+1
			}
			service.Annotations = patched(service.Annotations, resolver.AnnotationChanges(service, problem, ""))
			want := merged(map[string]string{beta + "serving-cert-secret-name": "web-cert"})
			if problem != nil {
				want = merged(want, map[string]string{ownError: problem.String()},
					bothFamilies("serving-cert-generation-error", message), bothFamilies("serving-cert-generation-error-num", strconv.Itoa(number)))
			}
			if diff := cmp.Diff(want, service.Annotations); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
		}
	})
}

var reasons = []string{
	issuance.ReasonNoPolicy, issuance.ReasonServiceCANotReady, issuance.ReasonInvalidSecretName, issuance.ReasonInvalidDNSName,
	issuance.ReasonNameNotPermitted, issuance.ReasonSecretNotOurs, issuance.ReasonSecretConflict, issuance.ReasonSecretRefused,
}

// TestProblem checks that a problem can be parsed back from its annotation, is never too long, and
// is never cut within a character.
func TestProblem(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		message := strings.Repeat(rapid.String().Draw(t, "message"), rapid.IntRange(1, 99).Draw(t, "times"))
		made := issuance.NewProblem(rapid.SampledFrom(reasons).Draw(t, "reason"), "%s", message)
		if got := issuance.ParseProblem(made.String()); got != *made {
			t.Errorf("ParseObstacle = %q, want %q", got, made)
		}
		if len(made.Message) > 512 || (utf8.ValidString(message) && !utf8.ValidString(made.Message)) {
			t.Errorf("the message has %d bytes, valid %v", len(made.Message), utf8.ValidString(made.Message))
		}
		hostile := func(r rune) bool { return !unicode.IsPrint(r) }
		if strings.ContainsFunc(made.Message, hostile) {
			t.Errorf("the message is %q", made.Message)
		}
		if len(message) <= 512 && utf8.ValidString(message) && !strings.ContainsFunc(message, hostile) && made.Message != message {
			t.Errorf("the message %q became %q", message, made.Message)
		}
	})
	for _, written := range []string{"", "NoPolicy: "} {
		if got := issuance.ParseProblem(written + strings.Repeat("long ", 1000)); len(got.Message) > 512 {
			t.Errorf("of what a tenant wrote %d bytes are told", len(got.Message))
		}
	}
	for annotation, want := range map[string]issuance.Problem{
		"":                    {Reason: "Unknown"},
		"written by a tenant": {Reason: "Unknown", Message: "written by a tenant"},
		"Hacked: by a tenant": {Reason: "Unknown", Message: "Hacked: by a tenant"},
		"NoPolicy: a: b":      {Reason: "NoPolicy", Message: "a: b"},
		"NoPolicy: ":          {Reason: "NoPolicy"},
		"NoPolicy:none":       {Reason: "Unknown", Message: "NoPolicy:none"},
	} {
		if got := issuance.ParseProblem(annotation); got != want {
			t.Errorf("ParseObstacle(%q) = %+v, want %+v", annotation, got, want)
		}
	}
}

// TestErrorAnnotationChanges checks that objects other than Services get annotations of our own
// family only.
func TestErrorAnnotationChanges(t *testing.T) {
	problem := &issuance.Problem{Reason: "NoServiceCA", Message: "there is none"}
	for _, tc := range []struct {
		name          string
		before, after map[string]string
		problem       *issuance.Problem
	}{
		{"nothing", nil, map[string]string{}, nil},
		{"new", map[string]string{"note": "x"}, map[string]string{"note": "x", ownError: "NoServiceCA: there is none"}, problem},
		{"gone", map[string]string{"note": "x", ownError: "x"}, map[string]string{"note": "x"}, nil},
		{"OpenShift's stay", bothFamilies("serving-cert-generation-error", "x"), bothFamilies("serving-cert-generation-error", "x"), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			after := patched(tc.before, issuance.ErrorAnnotationChanges(tc.before, tc.problem))
			if diff := cmp.Diff(tc.after, after); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if again := issuance.ErrorAnnotationChanges(after, tc.problem); len(again) > 0 {
				t.Errorf("asked again, it changes %v", slices.Collect(maps.Keys(again)))
			}
		})
	}
}

func TestSignedBy(t *testing.T) {
	for _, tc := range []struct {
		annotations map[string]string
		want        string
	}{
		{nil, ""},
		{map[string]string{beta + "serving-cert-signed-by": "b", alpha + "serving-cert-signed-by": "a"}, "b"},
		{map[string]string{beta + "serving-cert-signed-by": "", alpha + "serving-cert-signed-by": "a"}, "a"},
	} {
		service := newService(func(s *corev1.Service) { s.Annotations = tc.annotations })
		if got := issuance.SignedBy(service); got != tc.want {
			t.Errorf("SignedBy(%v) = %q, want %q", tc.annotations, got, tc.want)
		}
	}
}
