// Package injector injects the trust bundle of a ServiceCA into the objects that request it.
package injector

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// defaultCA is the ServiceCA for OpenShift's annotations, which do not name one.
const defaultCA = "default"

// rootCAName is the name of the ConfigMap that holds the root CA of the API server in every
// namespace.
const rootCAName = "kube-root-ca.crt"

// legacyName is the name of the only ConfigMap that can request the bundle together with the root
// CA of the API server, as on OpenShift.
const legacyName = "openshift-service-ca.crt"

const legacy = "service.alpha.openshift.io/inject-vulnerable-legacy-cabundle"

// form is the way a bundle is written to an object.
type form string

const (
	// formOwn adds the operator's keys and changes nothing else.
	formOwn form = "Own"
	// formOpenShift makes the bundle the only content of data.
	formOpenShift form = "OpenShift"
	// formLegacy is formOpenShift with the root CA of the API server appended.
	formLegacy form = "Legacy"
)

// bundleRequest is what an object requests by its annotations.
type bundleRequest struct {
	form form
	ca   string
	key  string
	// truststore is the format of the truststore beside the bundle, empty for none. password refers
	// to the Secret with its password.
	truststore string
	password   string
}

// PublishedBy returns the name of the ServiceCA that publishes the object by
// spec.trustBundle.publish; empty if none does.
func PublishedBy(object metav1.Object) string {
	if object.GetAnnotations()[v1alpha1.AnnotationPublishedHash] == "" {
		return ""
	}
	return object.GetLabels()[v1alpha1.LabelServiceCA]
}

// requestOf returns the request in the annotations of an object; false if there is none.
func (k Kind) requestOf(object metav1.Object, openShift bool) (bundleRequest, bool) {
	annotations, labels := object.GetAnnotations(), object.GetLabels()
	if (k.is(ConfigMaps) && object.GetName() == rootCAName) || labels[v1alpha1.LabelServiceCA] != "" {
		// Another controller publishes the root CA of the API server or a ServiceCA's own bundle
		// there, and would overwrite ours.
		return bundleRequest{}, false
	}
	if ca := annotations[v1alpha1.AnnotationInjectCABundle]; ca != "" {
		return k.nativeRequest(ca, annotations), true
	}
	isTrue := func(key string) bool { return strings.EqualFold(annotations[key], "true") }
	switch {
	case !openShift:
	case slices.ContainsFunc(k.openShift, isTrue):
		return bundleRequest{form: formOpenShift, ca: defaultCA, key: v1alpha1.DefaultCABundleKey}, true
	case k.is(ConfigMaps) && isTrue(legacy) && object.GetName() == legacyName:
		return bundleRequest{form: formLegacy, ca: defaultCA, key: v1alpha1.DefaultCABundleKey}, true
	}
	return bundleRequest{}, false
}

func (k Kind) nativeRequest(ca string, annotations map[string]string) bundleRequest {
	request := bundleRequest{form: formOwn, ca: ca, key: annotations[v1alpha1.AnnotationCABundleKey]}
	if request.key == "" || !k.holdsData() {
		request.key = v1alpha1.DefaultCABundleKey
	}
	if k.holdsData() {
		request.truststore = annotations[v1alpha1.AnnotationTruststore]
		request.password = annotations[v1alpha1.AnnotationTruststorePassword]
	}
	return request
}

// holdsData reports whether objects of the kind hold the bundle under a key.
func (k Kind) holdsData() bool { return k.is(ConfigMaps) || k.is(Secrets) }

// check returns the problem that makes the request invalid by itself; nil if it is valid.
func (r bundleRequest) check() *issuance.Problem {
	switch problems := validation.IsConfigMapKey(r.key); {
	case len(problems) > 0:
		return issuance.NewProblem(reasonInvalidKey, "annotation %s: %.64q is no key: %s", v1alpha1.AnnotationCABundleKey, r.key, problems[0])
	case r.truststore != "" && r.truststore != v1alpha1.KeystorePKCS12:
		return issuance.NewProblem(reasonInvalidTruststore, "annotation %s: there is no format %.64q: write %s",
			v1alpha1.AnnotationTruststore, r.truststore, v1alpha1.KeystorePKCS12)
	case r.truststore != "" && r.key == v1alpha1.TruststoreKey:
		return issuance.NewProblem(reasonInvalidKey, "annotation %s: %s is the truststore's key: name another", v1alpha1.AnnotationCABundleKey, r.key)
	case r.truststore != "":
		return issuance.CheckPassword(v1alpha1.AnnotationTruststorePassword, r.password)
	}
	return nil
}
