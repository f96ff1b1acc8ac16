// Package trust brings the trust bundle of a ServiceCA to what asks for it.
package trust

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// defaultCA is the ServiceCA that OpenShift's annotations mean, which name none.
const defaultCA = "default"

// rootCAName is the ConfigMap in which every namespace has the root CA of the API server.
const rootCAName = "kube-root-ca.crt"

// legacyName is the one ConfigMap that may ask for the bundle with the cluster's root CA added, on OpenShift.
const legacyName = "openshift-service-ca.crt"

// form is how a bundle is put into a ConfigMap.
type form string

const (
	// formOwn adds one key and touches nothing else.
	formOwn form = "Own"
	// formOpenShift makes data exactly the bundle.
	formOpenShift form = "OpenShift"
	// formLegacy is formOpenShift with the root CA of the cluster's API server added.
	formLegacy form = "Legacy"
)

// request is what a ConfigMap asks for.
type request struct {
	form form
	ca   string
	key  string
}

// requestOf reads the annotations of a ConfigMap; false when it does not ask.
func requestOf(object metav1.Object, openShift bool) (request, bool) {
	annotations := object.GetAnnotations()
	if object.GetName() == rootCAName || object.GetLabels()[v1alpha1.LabelServiceCA] != "" {
		// Others publish there, the API server's root CA or a ServiceCA's own bundle, and would never let us have it.
		return request{}, false
	}
	if ca := annotations[v1alpha1.AnnotationInjectCABundle]; ca != "" {
		key := annotations[v1alpha1.AnnotationCABundleKey]
		if key == "" {
			key = v1alpha1.DefaultCABundleKey
		}
		return request{form: formOwn, ca: ca, key: key}, true
	}
	asks := func(keys ...string) bool {
		return openShift && slices.ContainsFunc(keys, func(key string) bool { return strings.EqualFold(annotations[key], "true") })
	}
	switch {
	case asks("service.beta.openshift.io/inject-cabundle", "service.alpha.openshift.io/inject-cabundle"):
		return request{form: formOpenShift, ca: defaultCA, key: v1alpha1.DefaultCABundleKey}, true
	case asks("service.alpha.openshift.io/inject-vulnerable-legacy-cabundle") && object.GetName() == legacyName:
		return request{form: formLegacy, ca: defaultCA, key: v1alpha1.DefaultCABundleKey}, true
	}
	return request{}, false
}
