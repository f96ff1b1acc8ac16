// Package issuance decides what certificate a Service wants and what to do about the one that it has. It is pure: everything
// it needs is handed to it, the time included.
package issuance

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Family is the prefix of the annotation by which a Service asks; empty when it does not ask.
type Family string

// The families, in the order in which they count. OpenShift's beta wins over its alpha.
const (
	NotAsked  Family = ""
	Own       Family = v1alpha1.GroupName
	OpenShift Family = "service.beta.openshift.io"
	// OpenShiftAlpha is the older form of the OpenShift family.
	OpenShiftAlpha Family = "service.alpha.openshift.io"
)

// openShiftFamilies both carry what is written for people; only one of them is asked by.
var openShiftFamilies = []Family{OpenShift, OpenShiftAlpha}

// IsOpenShift reports whether the family means what it means on OpenShift.
func (f Family) IsOpenShift() bool { return f == OpenShift || f == OpenShiftAlpha }

// key is an annotation of the family.
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

// The annotations by which OpenShift says which component an object is of, and what for; the owner that its service CA names.
const (
	AnnotationOwningComponent = "openshift.io/owning-component"
	annotationDescription     = "openshift.io/description"
	OwningComponent           = "service-ca"
)

// Resolver hold for the whole cluster.
type Resolver struct {
	// ClusterDomain is the DNS domain of the cluster, for the policies that name none.
	ClusterDomain string
	// OpenShiftAnnotations are honoured, except where OpenShift's own service CA runs.
	OpenShiftAnnotations bool
}

// RequestedSecret tells by which family a Service asks, and the Secret that it names.
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
