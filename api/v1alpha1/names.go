package v1alpha1

// SigningKeySecretName returns the name of the Secret that holds the CA, in the operator's
// namespace.
func (ca *ServiceCA) SigningKeySecretName() string {
	if name := ca.Spec.SigningKey.SecretName; name != "" {
		return name
	}
	return ca.Name + "-signing-key"
}

// TrustBundleConfigMapName returns the name of the ConfigMap that publishes the bundle, in the
// operator's namespace.
func (ca *ServiceCA) TrustBundleConfigMapName() string {
	if name := ca.Spec.TrustBundle.ConfigMapName; name != "" {
		return name
	}
	return ca.Name + "-trust-bundle"
}

// SignerName returns the Kubernetes signer name of the CA, for CertificateSigningRequests,
// PodCertificateRequests and ClusterTrustBundles.
func (ca *ServiceCA) SignerName() string { return GroupName + "/" + ca.Name }

// ClusterTrustBundleName returns the name of the ClusterTrustBundle that publishes the bundle. Its
// prefix is the signer name with ":" for "/" (KEP-3257).
func (ca *ServiceCA) ClusterTrustBundleName() string { return GroupName + ":" + ca.Name + ":bundle" }
