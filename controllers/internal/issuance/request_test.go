package issuance_test

import (
	"fmt"
	"testing"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// TestRequestedSecret checks every combination of the families: absent, empty, and naming a Secret.
func TestRequestedSecret(t *testing.T) {
	const absent = "absent"
	states := func(named string) []string { return []string{absent, "", named} }
	for _, openShift := range []bool{true, false} {
		for _, own := range states("by-own") {
			for _, b := range states("by-beta") {
				for _, a := range states("by-alpha") {
					service := newService()
					for key, value := range map[string]string{
						v1alpha1.AnnotationSecretName: own, beta + "serving-cert-secret-name": b, alpha + "serving-cert-secret-name": a,
					} {
						if value != absent {
							service.Annotations[key] = value
						}
					}
					family, name := issuance.NotAsked, ""
					switch {
					case own == "by-own":
						family, name = issuance.Own, own
					case openShift && b == "by-beta":
						family, name = issuance.OpenShift, b
					case openShift && a == "by-alpha":
						family, name = issuance.OpenShiftAlpha, a
					}
					t.Run(fmt.Sprintf("OpenShift %v, own %q, beta %q, alpha %q", openShift, own, b, a), func(t *testing.T) {
						gotFamily, gotName := issuance.Resolver{OpenShiftAnnotations: openShift}.RequestedSecret(service)
						if gotFamily != family || gotName != name {
							t.Errorf("Request = %q, %q; want %q, %q", gotFamily, gotName, family, name)
						}
					})
				}
			}
		}
	}
}

func TestRequestedSecretWithoutAnnotations(t *testing.T) {
	service := newService()
	service.Annotations = nil
	if family, name := resolver.RequestedSecret(service); family != issuance.NotAsked || name != "" {
		t.Errorf("Request = %q, %q; want nothing", family, name)
	}
}

func TestIsOpenShift(t *testing.T) {
	for family, want := range map[issuance.Family]bool{
		issuance.NotAsked: false, issuance.Own: false, issuance.OpenShift: true, issuance.OpenShiftAlpha: true,
	} {
		if got := family.IsOpenShift(); got != want {
			t.Errorf("%q: IsOpenShift = %v, want %v", family, got, want)
		}
	}
}
