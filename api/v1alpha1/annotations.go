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

// The annotations and labels of workloads.
const (
	// AnnotationRestart "false" on a Deployment, StatefulSet or DaemonSet: it is never restarted by the operator. People write it.
	AnnotationRestart = GroupName + "/restart"
	// AnnotationReload says how a workload learns of files that the kubelet refreshed; ReloadAutomatic, or by a restart. People write it.
	AnnotationReload = GroupName + "/reload"
	// ReloadAutomatic: by itself, so that it is restarted only for what the kubelet cannot refresh.
	ReloadAutomatic = "automatic"
	// AnnotationRestartedAt on a pod template is when the operator last restarted its pods.
	AnnotationRestartedAt = GroupName + "/restarted-at"
	// LabelRestarting on a workload is since when the operator restarts it, as 20060102T150405Z, followed by ".unavailable" where it was not
	// available before. It goes when every pod has been replaced and is available. An annotation would count as a change of a Deployment.
	LabelRestarting = GroupName + "/restarting-since"
)
