package v1alpha1

// The annotations that people write.
const (
	// AnnotationSecretName on a Service asks for a certificate in the Secret of that name.
	AnnotationSecretName = GroupName + "/secret-name"
	// AnnotationInjectCABundle on a ConfigMap asks for the bundle of the ServiceCA of that name.
	AnnotationInjectCABundle = GroupName + "/inject-ca-bundle"
	// AnnotationCABundleKey names the key of the injected bundle; DefaultCABundleKey when absent.
	AnnotationCABundleKey = GroupName + "/ca-bundle-key"
	// DefaultCABundleKey is where an injected bundle lies.
	DefaultCABundleKey = "service-ca.crt"
)

// The annotations and labels that the operator writes.
const (
	// AnnotationError says what stands in the way, as "<Reason>: <message>"; it goes when that is gone.
	AnnotationError = GroupName + "/error"
	// AnnotationCABundleHash on a target is the hash of the bundle that it carries, followed by "/" and the bundle's key where that is
	// not DefaultCABundleKey.
	AnnotationCABundleHash = GroupName + "/ca-bundle-hash"
	// AnnotationSource on a signing-key Secret says where the active CA came from: "selfSigned" or "secret/<name>".
	AnnotationSource = GroupName + "/source"
	// LabelServiceCA marks the signing-key Secret and the trust-bundle ConfigMap of a ServiceCA with its name.
	LabelServiceCA = GroupName + "/serviceca"
	// LabelService marks a serving certificate's Secret with the name of its Service.
	LabelService = GroupName + "/service"
)
