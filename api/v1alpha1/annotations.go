package v1alpha1

// The annotations that users write.
const (
	// AnnotationSecretName on a Service requests a certificate in the Secret of that name.
	AnnotationSecretName = GroupName + "/secret-name"
	// AnnotationInjectCABundle requests the bundle of the ServiceCA of that name: on a ConfigMap or
	// a Secret under a key, and on a webhook configuration, a CustomResourceDefinition or an
	// APIService in its caBundle.
	AnnotationInjectCABundle = GroupName + "/inject-ca-bundle"
	// AnnotationCABundleKey is the key of the injected bundle; DefaultCABundleKey if absent.
	AnnotationCABundleKey = GroupName + "/ca-bundle-key"
	// DefaultCABundleKey is the default key of an injected bundle.
	DefaultCABundleKey = "service-ca.crt"
	// AnnotationTruststore on a ConfigMap or a Secret, together with AnnotationInjectCABundle, also
	// requests the bundle as a truststore, under the key TruststoreKey. KeystorePKCS12 is the only
	// format.
	AnnotationTruststore = GroupName + "/truststore"
	// TruststoreKey is the key of a truststore.
	TruststoreKey = "truststore.p12"
	// AnnotationTruststorePassword names the Secret with the truststore's password, in the same
	// namespace, as "<name>" or "<name>/<key>"; the key is "password" by default. The Secret must
	// have LabelKeystorePassword. Without the annotation there is no password.
	AnnotationTruststorePassword = GroupName + "/truststore-password"
	// AnnotationKeystore on a Service also requests its certificate as a keystore, under the key
	// KeystoreKey of its Secret.
	AnnotationKeystore = GroupName + "/keystore"
	// KeystoreKey is the key of a keystore.
	KeystoreKey = "keystore.p12"
	// AnnotationKeystorePassword names the Secret with the keystore's password, as
	// AnnotationTruststorePassword does.
	AnnotationKeystorePassword = GroupName + "/keystore-password"
	// KeystorePKCS12 is the format PKCS #12.
	KeystorePKCS12 = "pkcs12"
	// LabelKeystorePassword on a Secret allows its values to be used as passwords of keystores and
	// truststores. It prevents a tenant from using the operator to find out the content of other
	// Secrets.
	LabelKeystorePassword = GroupName + "/keystore-password"
)

// The annotations and labels that the operator writes.
const (
	// AnnotationError reports a problem as "<Reason>: <message>"; it is removed when the problem is
	// solved.
	AnnotationError = GroupName + "/error"
	// AnnotationCABundleHash on a target is the hash of the bundle that it carries. It is followed
	// by "/" and the bundle's key if that is not DefaultCABundleKey, by "+pkcs12:" and the hash of
	// the truststore if the target has one, and by "+openshift" if an OpenShift annotation requests
	// the bundle.
	AnnotationCABundleHash = GroupName + "/ca-bundle-hash"
	// AnnotationCABundleSince on a ConfigMap or a Secret is when the operator first wrote the
	// bundle under its key. A process that started before that and reads the bundle only once has
	// none.
	AnnotationCABundleSince = GroupName + "/ca-bundle-since"
	// AnnotationPublishedHash on a ConfigMap that the operator publishes for
	// spec.trustBundle.publish is the hash of its bundle, followed by "/" and its key.
	AnnotationPublishedHash = GroupName + "/published-ca-bundle-hash"
	// AnnotationKeystoreHash on a serving certificate's Secret is the hash of the keystore in it,
	// followed by "/" and the version of the Secret with its password.
	AnnotationKeystoreHash = GroupName + "/keystore-hash"
	// AnnotationReplaced on a serving certificate's Secret lists the last certificates that it held
	// before the current one, the oldest first and separated by spaces, each as "<when it was
	// written>/<its notAfter>". A process that read one of them at its start may still hold it.
	AnnotationReplaced = GroupName + "/replaced-certificates"
	// AnnotationSource on a signing-key Secret is the source of the active CA: "selfSigned" or
	// "secret/<name>".
	AnnotationSource = GroupName + "/source"
	// AnnotationInstallation on the CustomResourceDefinition of ServiceCAs is the namespace of the
	// installation that manages this cluster.
	AnnotationInstallation = GroupName + "/installation"
	// LabelServiceCA marks the signing-key Secret, the trust-bundle ConfigMap and the published
	// ConfigMaps of a ServiceCA with its name.
	LabelServiceCA = GroupName + "/serviceca"
	// LabelService marks a serving certificate's Secret with the name of its Service.
	LabelService = GroupName + "/service"
)

// The annotations and labels of workloads.
const (
	// AnnotationRestart with the value "false" on a Deployment, StatefulSet or DaemonSet prevents
	// the operator from restarting it. Users write it.
	AnnotationRestart = GroupName + "/restart"
	// AnnotationReload is how a workload loads files that the kubelet has refreshed:
	// ReloadAutomatic, or by a restart if absent. Users write it.
	AnnotationReload = GroupName + "/reload"
	// ReloadAutomatic means that the workload reloads files by itself, so that it is restarted only
	// for what the kubelet cannot refresh.
	ReloadAutomatic = "automatic"
	// AnnotationRestartedAt on a pod template is when the operator last restarted its pods.
	AnnotationRestartedAt = GroupName + "/restarted-at"
	// LabelRestarting on a workload is when the operator started to restart it, as
	// 20060102T150405Z, followed by ".unavailable" if it was not available before. It is removed
	// when every pod has been replaced and is available. It is a label, because an annotation would
	// count as a change of a Deployment.
	LabelRestarting = GroupName + "/restarting-since"
)
