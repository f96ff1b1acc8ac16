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
