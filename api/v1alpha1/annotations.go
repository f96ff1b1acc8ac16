package v1alpha1

// The annotations that people write.
const (
	// AnnotationSecretName on a Service asks for a certificate in the Secret of that name.
	AnnotationSecretName = GroupName + "/secret-name"
	// AnnotationInjectCABundle asks for the bundle of the ServiceCA of that name: on a ConfigMap or a Secret for a key with it, on a webhook
	// configuration, a CustomResourceDefinition or an APIService for its caBundle.
	AnnotationInjectCABundle = GroupName + "/inject-ca-bundle"
	// AnnotationCABundleKey names the key of the injected bundle; DefaultCABundleKey when absent.
	AnnotationCABundleKey = GroupName + "/ca-bundle-key"
	// DefaultCABundleKey is where an injected bundle lies.
	DefaultCABundleKey = "service-ca.crt"
	// AnnotationTruststore on a ConfigMap or a Secret, beside AnnotationInjectCABundle, asks for the bundle as a truststore, too, under the key
	// TruststoreKey; KeystorePKCS12 is the only format.
	AnnotationTruststore = GroupName + "/truststore"
	// TruststoreKey is where a truststore lies.
	TruststoreKey = "truststore.p12"
	// AnnotationTruststorePassword names the Secret with the truststore's password, in the same namespace, as "<name>" or "<name>/<key>"; the key
	// is "password" by default. The Secret must bear LabelKeystorePassword. Without the annotation there is no password.
	AnnotationTruststorePassword = GroupName + "/truststore-password"
	// AnnotationKeystore on a Service asks for its certificate as a keystore, too, under the key KeystoreKey of its Secret.
	AnnotationKeystore = GroupName + "/keystore"
	// KeystoreKey is where a keystore lies.
	KeystoreKey = "keystore.p12"
	// AnnotationKeystorePassword names the Secret with the keystore's password, as AnnotationTruststorePassword does.
	AnnotationKeystorePassword = GroupName + "/keystore-password"
	// KeystorePKCS12 is the format PKCS #12.
	KeystorePKCS12 = "pkcs12"
	// LabelKeystorePassword on a Secret lets its values be used as passwords of keystores and truststores: so nobody can find out by means of
	// the operator what stands in other Secrets.
	LabelKeystorePassword = GroupName + "/keystore-password"
)

// The annotations and labels that the operator writes.
const (
	// AnnotationError says what stands in the way, as "<Reason>: <message>"; it goes when that is gone.
	AnnotationError = GroupName + "/error"
	// AnnotationCABundleHash on a target is the hash of the bundle that it carries, followed by "/" and the bundle's key where that is
	// not DefaultCABundleKey, by "+pkcs12:" and the hash of the truststore where there is one beside it, and by "+openshift" where an
	// annotation of OpenShift asks.
	AnnotationCABundleHash = GroupName + "/ca-bundle-hash"
	// AnnotationCABundleSince on a ConfigMap or a Secret is when the operator first wrote the bundle under its key: a process that started before
	// and reads it once, has none.
	AnnotationCABundleSince = GroupName + "/ca-bundle-since"
	// AnnotationPublishedHash on a ConfigMap that spec.trustBundle.publish asks for is the hash of the bundle in it, followed by "/" and its key.
	AnnotationPublishedHash = GroupName + "/published-ca-bundle-hash"
	// AnnotationKeystoreHash on a serving certificate's Secret is the hash of the keystore in it, followed by "/" and the version of the Secret
	// with its password.
	AnnotationKeystoreHash = GroupName + "/keystore-hash"
	// AnnotationReplaced on a serving certificate's Secret has the last certificates that were in it before, the oldest first and separated by
	// spaces, each as "<when it was written>/<its notAfter>": a process that read one of them when it started may still hold it.
	AnnotationReplaced = GroupName + "/replaced-certificates"
	// AnnotationSource on a signing-key Secret says where the active CA came from: "selfSigned" or "secret/<name>".
	AnnotationSource = GroupName + "/source"
	// AnnotationInstallation on the CustomResourceDefinition of ServiceCAs names the namespace of the installation that works in this cluster.
	AnnotationInstallation = GroupName + "/installation"
	// LabelServiceCA marks the signing-key Secret, the trust-bundle ConfigMap and the published ConfigMaps of a ServiceCA with its name.
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
