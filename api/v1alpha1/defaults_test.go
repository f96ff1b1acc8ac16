package v1alpha1_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDefaults creates objects with an empty spec and compares the defaults. The size of a key has
// no default, because it depends on the algorithm.
func TestDefaults(t *testing.T) {
	tests := []struct {
		name, file, want string
	}{
		{name: "ServiceCA", file: serviceCAFile, want: `
metadata: {name: default}
spec:
  source: {}
  certificate:
    commonName: service-serving-signer
    duration: 18960h
    privateKey: {algorithm: ECDSA, encoding: PKCS8}
  rotation:
    rotateBefore: 9480h
    mode: Automatic
    triggerReason: Routine
    propagation: {minimum: 10m}
    previousTrust: UntilExpiry
  signingKey: {}
  trustBundle: {key: ca-bundle.crt}
status: {observedGeneration: -1}
`},
		{name: "ServingCertPolicy", file: servingCertPolicyFile, want: `
metadata: {name: default}
spec:
  serviceCAName: default
  priority: 0
  namespaceSelector: {}
  serviceSelector: {}
  issuance: Annotated
  secretNameSuffix: -tls
  certificate:
    duration: 2160h
    privateKey: {algorithm: ECDSA, encoding: PKCS8, rotationPolicy: Always}
    usages: [server auth]
    caBundle: Omit
  restart:
    strategy: None
    triggers: [CertificateRenewed, TrustChanged]
    consumers: All
    maxConcurrent: 1
    outsideWindows: WhenExpiring
    onFailure: Halt
status: {observedGeneration: -1}
`},
	}
	for _, tc := range tests {
		for _, manifest := range []string{spec("{}"), "metadata: {name: default}"} {
			t.Run(tc.name, func(t *testing.T) {
				got, refusals := loadCRD(t, tc.file).admit(t, manifest)
				if diff := cmp.Diff(decode(t, tc.want), got); diff != "" {
					t.Errorf("defaulted object (-want +got):\n%s", diff)
				}
				if len(refusals) > 0 {
					t.Errorf("the defaults are refused: %q", refusals)
				}
			})
		}
	}
}

// TestPrinterColumns compares the columns of `kubectl get` with the documented ones. Those in the
// second list appear only with `-o wide`.
func TestPrinterColumns(t *testing.T) {
	tests := []struct {
		name, file string
		want, wide []string
	}{
		{
			name: "ServiceCA", file: serviceCAFile,
			want: []string{"Ready", "Phase", "Expires", "Rotates", "Certificates", "Age"},
			wide: []string{"Message"},
		},
		{
			name: "ServingCertPolicy", file: servingCertPolicyFile,
			want: []string{"CA", "Services", "Issued", "Failed", "Next-Renewal", "Restart", "Ready", "Age"},
			wide: []string{"Message"},
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var got, wide []string
			for _, column := range readDefinition(t, tc.file).Spec.Versions[0].AdditionalPrinterColumns {
				if column.Priority == 0 {
					got = append(got, column.Name)
				} else {
					wide = append(wide, column.Name)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("columns (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.wide, wide); diff != "" {
				t.Errorf("wide columns (-want +got):\n%s", diff)
			}
		})
	}
}
