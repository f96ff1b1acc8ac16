package v1alpha1_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"
)

// The messages that several fields share.
const (
	sayDuration = "write a duration as numbers with the units h, m, s and ms, such as 90m, 36h or 2160h (90 days); " +
		"there is no unit for days"
	sayRSA     = "an RSA key has 2048, 3072 or 4096 bits: set size to one of these, or leave it out for 2048"
	sayECDSA   = "an ECDSA key is on the curve P-256, P-384 or P-521: set size to 256, 384 or 521, or leave it out for 256"
	sayEd25519 = "an Ed25519 key has only one size: leave size out"
	saySecret  = "a Secret's name has lower-case letters, digits, '-' and '.' only, and starts and ends with a letter or digit, " +
		"such as corp-ca"
	saySameSecret = "source.secret must name another Secret than that of %ssigningKey (<name>-signing-key by default): " +
		"the operator only reads the one, and keeps and rotates the CA in the other"
)

// ruleCase is an object and the messages with which the API server rejects it; none if the object
// is valid.
type ruleCase struct {
	name     string
	manifest string
	want     []string
}

// spec returns the manifest of an object named default with this spec.
func spec(fields string) string {
	return "metadata: {name: default}\nspec: " + fields
}

var serviceCARules = []ruleCase{
	{name: "nothing set", manifest: spec(`{}`)},
	{name: "nulls", manifest: spec(`{rotation: null, certificate: {duration: null}}`)},

	{name: "name of 63 characters", manifest: "metadata: {name: " + strings.Repeat("a", 63) + "}"},
	{name: "name of 64 characters", manifest: "metadata: {name: " + strings.Repeat("a", 64) + "}",
		want: []string{": a ServiceCA's name has at most 63 characters, because it labels what the CA makes: choose a shorter one"}},

	{name: "self-signed", manifest: spec(`{source: {selfSigned: {}}}`)},
	{name: "two sources", manifest: spec(`{source: {selfSigned: {}, secret: {name: corp-ca}}}`),
		want: []string{"spec.source: a CA has one source: keep one of selfSigned, secret and certManager"}},
	{name: "three sources", manifest: spec(`{source: {selfSigned: {}, secret: {name: corp-ca}, certManager: {issuerRef: {name: corp}}}}`),
		want: []string{"spec.source: a CA has one source: keep one of selfSigned, secret and certManager"}},
	{name: "source Secret", manifest: spec(`{source: {secret: {name: corp-ca}}}`)},
	{name: "source Secret that is the signing key", manifest: spec(`{source: {secret: {name: corp-ca}}, signingKey: {secretName: corp-ca}}`),
		want: []string{"spec: " + fmt.Sprintf(saySameSecret, "")}},
	{name: "source Secret that is the signing key by default", manifest: spec(`{source: {secret: {name: default-signing-key}}}`),
		want: []string{": spec." + fmt.Sprintf(saySameSecret, "spec.")}},
	{name: "source Secret of the default name, and another signing key", manifest: spec(`{source: {secret: {name: default-signing-key}}, signingKey: {secretName: own}}`)},
	{name: "source Secret with a bad name", manifest: spec(`{source: {secret: {name: Corp_CA}}}`),
		want: []string{"spec.source.secret.name: " + saySecret}},
	{name: "source issuer", manifest: spec(`{source: {certManager: {issuerRef: {name: corp}}}}`)},
	{name: "source issuer without a name", manifest: spec(`{source: {certManager: {issuerRef: {}}}}`),
		want: []string{"spec.source.certManager.issuerRef.name: "}},

	{name: "common name", manifest: spec(`{certificate: {commonName: "Corp Service_CA 1.0"}}`)},
	{name: "common name with a slash", manifest: spec(`{certificate: {commonName: corp/ca}}`),
		want: []string{"spec.certificate.commonName: commonName may hold letters, digits, spaces, '.', '_' and '-', " +
			"and starts and ends with a letter or digit, such as service-serving-signer"}},
	{name: "lifetime of a minute", manifest: spec(`{certificate: {duration: 1m}, rotation: {rotateBefore: 30s, propagation: {minimum: 0s}}}`)},
	{name: "lifetime of a second", manifest: spec(`{certificate: {duration: 1s}, rotation: {rotateBefore: 500ms, propagation: {minimum: 0s}}}`),
		want: []string{"spec.certificate.duration: duration must be at least 1m: 18960h (26 months) is a good choice"}},
	{name: "lifetime in days", manifest: spec(`{certificate: {duration: 790d}}`),
		want: []string{"spec.certificate.duration: " + sayDuration}},
	{name: "lifetime without a unit", manifest: spec(`{certificate: {duration: "18960"}}`),
		want: []string{"spec.certificate.duration: " + sayDuration}},
	{name: "lifetime beyond what fits", manifest: spec(`{certificate: {duration: 9999999h}}`),
		want: []string{"spec.certificate.duration: " + sayDuration}},
	{name: "the longest lifetime", manifest: spec(`{certificate: {duration: 999999h999999h99999h}}`)},

	{name: "RSA", manifest: spec(`{certificate: {privateKey: {algorithm: RSA, size: 3072}}}`)},
	{name: "RSA without a size", manifest: spec(`{certificate: {privateKey: {algorithm: RSA}}}`)},
	{name: "RSA of a size that does not exist", manifest: spec(`{certificate: {privateKey: {algorithm: RSA, size: 1024}}}`),
		want: []string{"spec.certificate.privateKey: " + sayRSA}},
	{name: "RSA of an enormous size", manifest: spec(`{certificate: {privateKey: {algorithm: RSA, size: 16384}}}`),
		want: []string{"spec.certificate.privateKey: " + sayRSA}},
	{name: "ECDSA", manifest: spec(`{certificate: {privateKey: {size: 384}}}`)},
	{name: "ECDSA of a size that does not exist", manifest: spec(`{certificate: {privateKey: {size: 512}}}`),
		want: []string{"spec.certificate.privateKey: " + sayECDSA}},
	{name: "Ed25519", manifest: spec(`{certificate: {privateKey: {algorithm: Ed25519}}}`)},
	{name: "Ed25519 with a size", manifest: spec(`{certificate: {privateKey: {algorithm: Ed25519, size: 256}}}`),
		want: []string{"spec.certificate.privateKey: " + sayEd25519}},

	{name: "PKCS #1", manifest: spec(`{certificate: {privateKey: {algorithm: RSA, encoding: PKCS1}}}`)},
	{name: "SEC 1", manifest: spec(`{certificate: {privateKey: {encoding: PKCS1}}}`)},
	{name: "Ed25519 as PKCS #8", manifest: spec(`{certificate: {privateKey: {algorithm: Ed25519, encoding: PKCS8}}}`)},
	{name: "Ed25519 as PKCS #1", manifest: spec(`{certificate: {privateKey: {algorithm: Ed25519, encoding: PKCS1}}}`),
		want: []string{"spec.certificate.privateKey: an Ed25519 key is always PKCS #8: leave encoding out, or set it to PKCS8"}},

	{name: "permitted domains", manifest: spec(`{certificate: {permittedDNSDomains: [svc, svc.cluster.local]}}`)},
	{name: "permitted wildcard", manifest: spec(`{certificate: {permittedDNSDomains: ["*.svc"]}}`),
		want: []string{"spec.certificate.permittedDNSDomains: a permitted DNS domain is a plain domain such as svc or cluster.local: " +
			"lower-case, without '*' and without a leading dot"}},

	{name: "permitted usages", manifest: spec(`{certificate: {permittedUsages: [server auth]}}`)},
	{name: "no permitted usage", manifest: spec(`{certificate: {permittedUsages: []}}`)},
	{name: "no server is permitted", manifest: spec(`{certificate: {permittedUsages: [client auth]}}`),
		want: []string{"spec.certificate.permittedUsages: every serving certificate has the usage 'server auth': add it, or leave " +
			"permittedUsages out for any usage"}},

	{name: "threshold equal to the validity", manifest: spec(`{certificate: {duration: 100h}, rotation: {rotateBefore: 100h}}`),
		want: []string{"spec: rotation.rotateBefore must be shorter than certificate.duration, or the CA would rotate for ever: " +
			"about half of it is a good choice"}},
	{name: "threshold longer than the default validity", manifest: spec(`{rotation: {rotateBefore: 20000h}}`),
		want: []string{"spec: rotation.rotateBefore must be shorter than certificate.duration, or the CA would rotate for ever: " +
			"about half of it is a good choice"}},
	{name: "threshold of nothing", manifest: spec(`{rotation: {rotateBefore: 0s, propagation: {minimum: 0s}}}`),
		want: []string{
			"spec.rotation.rotateBefore: rotateBefore must be longer than 0s: about half of certificate.duration is a good choice",
			"spec: rotation.propagation.minimum must be shorter than rotation.rotateBefore, " +
				"or the CA would expire before its successor signs: 10m is a good choice",
		}},
	{name: "threshold that is negative", manifest: spec(`{rotation: {rotateBefore: -1h}}`),
		want: []string{"spec.rotation.rotateBefore: " + sayDuration}},
	{name: "propagation as long as the threshold", manifest: spec(`{rotation: {propagation: {minimum: 9480h}}}`),
		want: []string{"spec: rotation.propagation.minimum must be shorter than rotation.rotateBefore, " +
			"or the CA would expire before its successor signs: 10m is a good choice"}},
	{name: "propagation in words", manifest: spec(`{rotation: {propagation: {minimum: ten minutes}}}`),
		want: []string{"spec.rotation.propagation.minimum: " + sayDuration}},

	{name: "names of what is made", manifest: spec(`{signingKey: {secretName: signing-key}, trustBundle: {configMapName: signing-cabundle, key: CA_bundle.crt}}`)},
	{name: "bad names of what is made", manifest: spec(`{signingKey: {secretName: -key}, trustBundle: {configMapName: Bundle, key: ca/bundle}}`),
		want: []string{
			"spec.signingKey.secretName: " + saySecret,
			"spec.trustBundle.configMapName: a ConfigMap's name has lower-case letters, digits, '-' and '.' only, " +
				"and starts and ends with a letter or digit, such as corp-trust",
			"spec.trustBundle.key: a ConfigMap's key has letters, digits, '-', '_' and '.' only, such as ca-bundle.crt",
		}},
	{name: "published in every namespace", manifest: spec(`{trustBundle: {publish: [{configMapName: openshift-service-ca.crt}, {configMapName: corp, key: ca.crt}]}}`)},
	{name: "published by the name of another's", manifest: spec(`{trustBundle: {publish: [{configMapName: kube-root-ca.crt}]}}`),
		want: []string{
			"spec.trustBundle.publish[0].configMapName: Kubernetes itself publishes kube-root-ca.crt: choose another name, such as openshift-service-ca.crt",
		}},
	{name: "published by bad names", manifest: spec(`{trustBundle: {publish: [{configMapName: Corp, key: a/b}]}}`),
		want: []string{
			"spec.trustBundle.publish[0].configMapName: a ConfigMap's name has lower-case letters, digits, '-' and '.' only, " +
				"and starts and ends with a letter or digit, such as openshift-service-ca.crt",
			"spec.trustBundle.publish[0].key: a ConfigMap's key has letters, digits, '-', '_' and '.' only, such as service-ca.crt",
		}},
	{name: "published by a bad selector", manifest: spec(`{trustBundle: {publish: [{configMapName: corp, namespaceSelector: {matchExpressions: [{key: a, operator: Is, values: [b]}]}}]}}`),
		want: []string{
			"spec.trustBundle.publish[0].namespaceSelector: " + sayValues,
			"spec.trustBundle.publish[0].namespaceSelector: " + sayOperator,
		}},
}

var servingCertPolicyRules = []ruleCase{
	{name: "nothing set", manifest: spec(`{}`)},

	{name: "suffix", manifest: spec(`{issuance: All, secretNameSuffix: .serving-cert}`)},
	{name: "suffix that ends badly", manifest: spec(`{issuance: All, secretNameSuffix: tls-}`),
		want: []string{"spec.secretNameSuffix: secretNameSuffix has lower-case letters, digits, '-' and '.', " +
			"and ends with a letter or digit, such as -tls"}},

	{name: "lifetime of a minute", manifest: spec(`{certificate: {duration: 1m}}`)},
	{name: "lifetime of nothing", manifest: spec(`{certificate: {duration: 0s}}`),
		want: []string{"spec.certificate.duration: duration must be at least 1m: 2160h (90 days) is a good choice"}},
	{name: "lifetime in days", manifest: spec(`{certificate: {duration: 90d, renewBefore: 30d}}`),
		want: []string{"spec.certificate.duration: " + sayDuration, "spec.certificate.renewBefore: " + sayDuration}},
	{name: "renewal", manifest: spec(`{certificate: {duration: 48h, renewBefore: 16h}}`)},
	{name: "renewal at once", manifest: spec(`{certificate: {duration: 48h, renewBefore: 48h}}`),
		want: []string{"spec.certificate: renewBefore must be shorter than duration, or every certificate would be renewed for ever: " +
			"leave it out for a third of the lifetime"}},
	{name: "renewal never", manifest: spec(`{certificate: {renewBefore: 0h}}`),
		want: []string{"spec.certificate.renewBefore: renewBefore must be longer than 0s: leave it out for a third of the lifetime"}},

	{name: "keys", manifest: spec(`{certificate: {privateKey: {algorithm: RSA, size: 4096, rotationPolicy: Never}}}`)},
	{name: "RSA of a size that does not exist", manifest: spec(`{certificate: {privateKey: {algorithm: RSA, size: 2000}}}`),
		want: []string{"spec.certificate.privateKey: " + sayRSA}},
	{name: "ECDSA of a size that does not exist", manifest: spec(`{certificate: {privateKey: {algorithm: ECDSA, size: 2048}}}`),
		want: []string{"spec.certificate.privateKey: " + sayECDSA}},
	{name: "Ed25519 as PKCS #1", manifest: spec(`{certificate: {privateKey: {algorithm: Ed25519, encoding: PKCS1}}}`),
		want: []string{"spec.certificate.privateKey: an Ed25519 key is always PKCS #8: leave encoding out, or set it to PKCS8"}},
	{name: "Ed25519 with a size", manifest: spec(`{certificate: {privateKey: {algorithm: Ed25519, size: 256}}}`),
		want: []string{"spec.certificate.privateKey: " + sayEd25519}},

	{name: "mutual TLS", manifest: spec(`{certificate: {usages: [server auth, client auth]}}`)},
	{name: "clients only", manifest: spec(`{certificate: {usages: [client auth]}}`),
		want: []string{"spec.certificate.usages: a serving certificate needs the usage 'server auth': " +
			"add it, and 'client auth' beside it for mutual TLS"}},

	{name: "cluster domains", manifest: spec(`{certificate: {clusterDomains: [cluster.local, prod.example.org]}}`)},
	{name: "cluster domain with a dot at its end", manifest: spec(`{certificate: {clusterDomains: [cluster.local.]}}`),
		want: []string{"spec.certificate.clusterDomains: a cluster domain is a plain domain such as cluster.local: " +
			"lower-case, without '*' and without a leading or trailing dot"}},

	{name: "extra names", manifest: spec(`{certificate: {extraDNSNames: ["$(service).$(namespace).example.org", "*.$(service).example.org"]}}`)},
	{name: "placeholder beside other text", manifest: spec(`{certificate: {extraDNSNames: [$(service)-$(namespace).example.org]}}`), want: []string{sayExtraName}},
	{name: "unknown placeholder", manifest: spec(`{certificate: {extraDNSNames: [$(pod).example.org]}}`), want: []string{sayExtraName}},
	{name: "wildcard in the middle", manifest: spec(`{certificate: {extraDNSNames: [a.*.example.org]}}`), want: []string{sayExtraName}},
	{name: "upper case", manifest: spec(`{certificate: {extraDNSNames: [$(service).Example.org]}}`), want: []string{sayExtraName}},

	{name: "selectors", manifest: spec(`{namespaceSelector: {matchExpressions: [{key: a, operator: In, values: [b]}]}, serviceSelector: {matchExpressions: [{key: a, operator: Exists}]}}`)},
	{name: "unknown operator of a namespace", manifest: spec(`{namespaceSelector: {matchExpressions: [{key: a, operator: in}]}}`),
		want: []string{"spec.namespaceSelector: " + sayOperator}},
	{name: "unknown operator of a Service", manifest: spec(`{serviceSelector: {matchExpressions: [{key: a, operator: in}]}}`),
		want: []string{"spec.serviceSelector: " + sayOperator}},
	{name: "In nothing, of a namespace", manifest: spec(`{namespaceSelector: {matchExpressions: [{key: a, operator: In}]}}`),
		want: []string{"spec.namespaceSelector: " + sayValues}},
	{name: "Exists with a value, of a Service", manifest: spec(`{serviceSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}`),
		want: []string{"spec.serviceSelector: " + sayValues}},

	{name: "windows", manifest: spec(`{restart: {windows: [{schedule: "0 2 * * 6", duration: 4h, timeZone: America/Argentina/Buenos_Aires}]}}`)},
	{name: "window without a time zone", manifest: spec(`{restart: {windows: [{schedule: "*/15 0-4 1,15 JAN MON-FRI", duration: 15m}]}}`)},
	{name: "schedule by name", manifest: spec(`{restart: {windows: [{schedule: "@weekly", duration: 4h}]}}`), want: []string{saySchedule}},
	{name: "zone in the schedule", manifest: spec(`{restart: {windows: [{schedule: "TZ=UTC 0 2 * * 6", duration: 4h}]}}`), want: []string{saySchedule}},
	{name: "window of nothing", manifest: spec(`{restart: {windows: [{schedule: "0 2 * * 6", duration: 0h}]}}`),
		want: []string{"spec.restart.windows[0].duration: duration must be longer than 0s, such as 4h"}},
	{name: "window in words", manifest: spec(`{restart: {windows: [{schedule: "0 2 * * 6", duration: all night}]}}`),
		want: []string{"spec.restart.windows[0].duration: " + sayDuration}},
	{name: "local time", manifest: spec(`{restart: {windows: [{schedule: "0 2 * * 6", duration: 4h, timeZone: Local}]}}`), want: []string{sayTimeZone}},
	{name: "time zone by its offset", manifest: spec(`{restart: {windows: [{schedule: "0 2 * * 6", duration: 4h, timeZone: "+01:00"}]}}`), want: []string{sayTimeZone}},
}

// The messages about one field.
const (
	sayExtraName = "spec.certificate.extraDNSNames: an extra DNS name is lower-case and may hold a leading '*.', " +
		"and $(service) and $(namespace) between dots, such as $(service).$(namespace).example.org"
	sayOperator = "the operator of a matchExpression is In, NotIn, Exists or DoesNotExist"
	sayValues   = "a matchExpression has values with the operators In and NotIn, and none with Exists and DoesNotExist"
	saySchedule = "spec.restart.windows[0].schedule: a schedule has five fields, minute, hour, day of the month, month and day of the week, " +
		"such as 0 2 * * 6 for Saturdays at 2:00; the zone belongs in timeZone"
	sayTimeZone = "spec.restart.windows[0].timeZone: timeZone is a name from the IANA database, such as UTC or Europe/Zurich"
)

// TestServiceCARules checks each rule of the ServiceCA with a valid and an invalid object.
func TestServiceCARules(t *testing.T) {
	testRules(t, serviceCAFile, serviceCARules)
}

// TestServingCertPolicyRules checks each rule of the ServingCertPolicy with a valid and an invalid
// object.
func TestServingCertPolicyRules(t *testing.T) {
	testRules(t, servingCertPolicyFile, servingCertPolicyRules)
}

func testRules(t *testing.T, file string, cases []ruleCase) {
	t.Helper()
	crd := loadCRD(t, file)
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			_, got := crd.admit(t, tc.manifest)
			slices.Sort(got)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("refusals (-want +got):\n%s", diff)
			}
		})
	}
	for path, message := range crd.messages() {
		if !refuses(cases, path+": "+message) {
			t.Errorf("no case breaks the rule of %s: %s", path, message)
		}
	}
}

// refuses reports whether a case expects the message, regardless of list indexes.
func refuses(cases []ruleCase, sentence string) bool {
	return slices.ContainsFunc(cases, func(tc ruleCase) bool {
		return slices.ContainsFunc(tc.want, func(want string) bool {
			return strings.ReplaceAll(want, "[0]", "") == sentence
		})
	})
}

// messages yields the path of the field and the message of each rule of the CRD.
func (c *crd) messages() func(yield func(path, message string) bool) {
	return func(yield func(path, message string) bool) {
		eachRule(c.structural, "", yield)
	}
}

// eachRule walks a schema for messages.
func eachRule(s *structuralschema.Structural, path string, yield func(path, message string) bool) bool {
	for _, rule := range s.XValidations {
		if !yield(path, rule.Message) {
			return false
		}
	}
	if s.Items != nil && !eachRule(s.Items, path, yield) {
		return false
	}
	for name, property := range s.Properties {
		if !eachRule(&property, strings.TrimPrefix(path+"."+name, "."), yield) {
			return false
		}
	}
	return true
}

// TestSameSecretStoredBefore checks that a ServiceCA whose source is its own signing key, stored
// before the rule existed, can still be updated, including its status, and that no other ServiceCA
// can be changed to that.
func TestSameSecretStoredBefore(t *testing.T) {
	c := loadCRD(t, serviceCAFile)
	object := func(source string) map[string]any {
		stored, _ := c.admit(t, spec(`{source: {secret: {name: `+source+`}}, signingKey: {secretName: own}}`))
		return stored
	}
	for name, tc := range map[string]struct {
		before  string
		refused bool
	}{"stored before": {"own", false}, "changed": {"corp", true}} {
		after, before := object("own"), object(tc.before)
		errs, _ := c.rules.Validate(t.Context(), nil, c.structural, after, before, celconfig.RuntimeCELCostBudget,
			cel.WithRatcheting(common.NewCorrelatedObject(after, before, &model.Structural{Structural: c.structural})))
		if (len(errs) > 0) != tc.refused {
			t.Errorf("%s: %v", name, errs)
		}
	}
}
