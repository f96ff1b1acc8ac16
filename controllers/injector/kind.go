package injector

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Kind is a kind of object that can request a bundle.
type Kind struct {
	schema.GroupVersionKind
	// openShift are the OpenShift annotations that request a bundle on this kind.
	openShift []string
	// newWriter returns the writer that injects the bundle.
	newWriter func(*Reconciler) bundleWriter
}

const (
	beta  = "service.beta.openshift.io/inject-cabundle"
	alpha = "service.alpha.openshift.io/inject-cabundle"
)

// The kinds, each with the annotations that OpenShift honours on it.
var (
	ConfigMaps                = Kind{corev1.SchemeGroupVersion.WithKind("ConfigMap"), []string{beta, alpha}, newConfigMapWriter}
	Secrets                   = Kind{corev1.SchemeGroupVersion.WithKind("Secret"), nil, newSecretWriter}
	mutatingConfigurations    = Kind{admission.WithKind("MutatingWebhookConfiguration"), []string{beta}, newCABundleWriter}
	validatingConfigurations  = Kind{admission.WithKind("ValidatingWebhookConfiguration"), []string{beta}, newCABundleWriter}
	customResourceDefinitions = Kind{extensions.WithKind("CustomResourceDefinition"), []string{beta}, newCABundleWriter}
	apiServices               = Kind{aggregation.WithKind("APIService"), []string{beta, alpha}, newCABundleWriter}
)

var (
	admission   = schema.GroupVersion{Group: "admissionregistration.k8s.io", Version: "v1"}
	extensions  = schema.GroupVersion{Group: "apiextensions.k8s.io", Version: "v1"}
	aggregation = schema.GroupVersion{Group: "apiregistration.k8s.io", Version: "v1"}
)

// Kinds returns all kinds that can request a bundle.
func Kinds() []Kind {
	return []Kind{ConfigMaps, Secrets, mutatingConfigurations, validatingConfigurations, customResourceDefinitions, apiServices}
}

// Metadata returns an empty metadata object of the kind. The caches hold the metadata of these
// objects.
func (k Kind) Metadata() *metav1.PartialObjectMetadata {
	object := &metav1.PartialObjectMetadata{}
	object.SetGroupVersionKind(k.GroupVersionKind)
	return object
}

func (k Kind) metadataList() *metav1.PartialObjectMetadataList {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(k.GroupVersion().WithKind(k.Kind + "List"))
	return list
}

func (k Kind) is(other Kind) bool { return k.GroupVersionKind == other.GroupVersionKind }

// name returns the name of an object for messages.
func (k Kind) name(key client.ObjectKey) string {
	if key.Namespace == "" {
		return k.Kind + " " + key.Name
	}
	return k.Kind + " " + key.String()
}
