// Package issuance decides which certificate a Service should have and what to do about the one
// that it has. It is pure: callers pass in everything it needs, including the time.
package issuance

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Family is the prefix of the annotation by which a Service requests a certificate; empty when it
// requests none.
type Family string

// The families, by precedence. OpenShift's beta annotations win over its alpha annotations.
const (
	NotAsked  Family = ""
	Own       Family = v1alpha1.GroupName
	OpenShift Family = "service.beta.openshift.io"
	// OpenShiftAlpha is the older form of the OpenShift family.
	OpenShiftAlpha Family = "service.alpha.openshift.io"
)

// openShiftFamilies are the two OpenShift families. A Service requests by one of them; the
// annotations that report to users are written in both.
var openShiftFamilies = []Family{OpenShift, OpenShiftAlpha}

// IsOpenShift reports whether annotations of the family have their OpenShift meaning.
func (f Family) IsOpenShift() bool { return f == OpenShift || f == OpenShiftAlpha }

// key returns an annotation key of the family.
func (f Family) key(suffix string) string { return string(f) + "/" + suffix }

const (
	suffixSecretName = "serving-cert-secret-name"
	suffixSignedBy   = "serving-cert-signed-by"
	suffixError      = "serving-cert-generation-error"
	suffixErrorNum   = "serving-cert-generation-error-num"
	suffixUID        = "originating-service-uid"
	suffixName       = "originating-service-name"
	suffixExpiry     = "expiry"
)

// The annotations by which OpenShift states an object's component and purpose, and the component
// that its service CA names.
const (
	AnnotationOwningComponent = "openshift.io/owning-component"
	annotationDescription     = "openshift.io/description"
	OwningComponent           = "service-ca"
)

// Resolver determines what Services request and get. Its settings apply to the whole cluster.
type Resolver struct {
	// ClusterDomain is the DNS domain of the cluster, for policies that name none.
	ClusterDomain string
	// OpenShiftAnnotations enables OpenShift's annotations. It is off on clusters where OpenShift's
	// own service CA runs.
	OpenShiftAnnotations bool
}

// RequestedSecret returns the family by which a Service requests a certificate, and the name of the
// requested Secret. It returns NotAsked and an empty name without a request.
func (r Resolver) RequestedSecret(service *corev1.Service) (Family, string) {
	if name := service.Annotations[v1alpha1.AnnotationSecretName]; name != "" {
		return Own, name
	}
	if !r.OpenShiftAnnotations {
		return NotAsked, ""
	}
	for _, family := range openShiftFamilies {
		if name := service.Annotations[family.key(suffixSecretName)]; name != "" {
			return family, name
		}
	}
	return NotAsked, ""
}
