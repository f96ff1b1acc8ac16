package v1alpha1

// SigningKeySecretName is the name of the Secret that holds the CA, in the operator's namespace.
func (ca *ServiceCA) SigningKeySecretName() string {
	if name := ca.Spec.SigningKey.SecretName; name != "" {
		return name
	}
	return ca.Name + "-signing-key"
}

// TrustBundleConfigMapName is the name of the ConfigMap that publishes the bundle, in the operator's namespace.
func (ca *ServiceCA) TrustBundleConfigMapName() string {
	if name := ca.Spec.TrustBundle.ConfigMapName; name != "" {
		return name
	}
	return ca.Name + "-trust-bundle"
}

// SignerName is that of the CA among the signers of Kubernetes: of CertificateSigningRequests, PodCertificateRequests, ClusterTrustBundles.
func (ca *ServiceCA) SignerName() string { return GroupName + "/" + ca.Name }

// ClusterTrustBundleName is the name of the ClusterTrustBundle that publishes the bundle; its prefix is that of the signer (KEP-3257).
func (ca *ServiceCA) ClusterTrustBundleName() string { return GroupName + ":" + ca.Name + ":bundle" }
