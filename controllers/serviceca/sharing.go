package serviceca

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// A Secret is either the source of CAs, which the operator only reads, or the signing key of one
// ServiceCA, which the operator writes and rotates.

// sourceProblem returns the problem that source.secret names a signing-key Secret, or nil.
func (in observed) sourceProblem() *problem {
	name := in.serviceCA.Spec.Source.Secret.Name
	if name == in.serviceCA.SigningKeySecretName() {
		return &problem{reason: reasonSourceInvalid, message: fmt.Sprintf("spec.source.secret and spec.signingKey are the same Secret %s, and the operator "+
			"only reads the one and rotates the other: bring the CA in a Secret of another name", name)}
	}
	if other := in.otherServiceCA(func(ca *v1alpha1.ServiceCA) bool {
		return ca.SigningKeySecretName() == name || in.sourceSecretIsKeyOf(ca)
	}); other != "" {
		return &problem{reason: reasonSourceInvalid, message: fmt.Sprintf("spec.source.secret: Secret %s is the signing key of ServiceCA %s, which rotates it: "+
			"bring the CA in a Secret of another name", name, other)}
	}
	return nil
}

// sourceSecretIsKeyOf reports whether the Secret of source.secret holds the state of ca: it is its
// signing key under a former name.
func (in observed) sourceSecretIsKeyOf(ca *v1alpha1.ServiceCA) bool {
	return in.sourceSecret != nil && in.sourceSecret.Labels[v1alpha1.LabelServiceCA] == ca.Name && in.sourceSecret.Data[rotation.RecordKey] != nil
}

// signingKeyProblem returns the problem that this ServiceCA must not write a Secret, or nil. The
// label alone does not hand over a Secret that is the source of a CA; the operator must have
// written to that Secret before.
func (in observed) signingKeyProblem(secret *corev1.Secret) *problem {
	ca := in.serviceCA
	labelled := secret.Labels[v1alpha1.LabelServiceCA] == ca.Name
	if _, written := secret.Data[rotation.RecordKey]; labelled && written {
		return nil
	}
	if source := ca.Spec.Source.Secret; source != nil && source.Name == secret.Name {
		return in.sourceProblem()
	}
	if other := in.otherServiceCA(sourceIs(secret.Name)); other != "" {
		return &problem{reason: reasonSigningKeyNotOur, message: fmt.Sprintf("Secret %s is left alone, because ServiceCA %s takes its CA from it: "+
			"set spec.signingKey.secretName to another name", secret.Name, other)}
	}
	if labelled {
		return nil
	}
	return &problem{reason: reasonSigningKeyNotOur, message: in.foreignObjectMessage("Secret", secret, "spec.signingKey.secretName", (*v1alpha1.ServiceCA).SigningKeySecretName)}
}

// bundleNotOurs returns the problem that the trust-bundle ConfigMap does not belong to this
// ServiceCA.
func (in observed) bundleNotOurs(configMap *corev1.ConfigMap) *problem {
	return &problem{reason: reasonBundleNotOurs, message: in.foreignObjectMessage("ConfigMap", configMap, "spec.trustBundle.configMapName", (*v1alpha1.ServiceCA).TrustBundleConfigMapName)}
}

// foreignObjectMessage returns why an object of the name in field is not written, and the remedy.
// nameOf returns that name for any ServiceCA: an object that another ServiceCA uses cannot be
// handed over.
func (in observed) foreignObjectMessage(kind string, object client.Object, field string, nameOf func(*v1alpha1.ServiceCA) string) string {
	label, name := object.GetLabels()[v1alpha1.LabelServiceCA], object.GetName()
	user := in.otherServiceCA(func(ca *v1alpha1.ServiceCA) bool { return ca.Name == label && nameOf(ca) == name })
	switch {
	case user != "":
		return fmt.Sprintf("%s %s is left alone, because it belongs to ServiceCA %s: set %s to another name", kind, name, user, field)
	case label != "":
		label = "it belongs to ServiceCA " + label
	default:
		label = "this ServiceCA did not make it"
	}
	return fmt.Sprintf("%s %s is left alone, because %s: set %s to another name, or label the %s %s=%s to hand it over",
		kind, name, label, field, kind, v1alpha1.LabelServiceCA, in.serviceCA.Name)
}

// otherServiceCA returns the name of another ServiceCA for which matches is true, or an empty
// string.
func (in observed) otherServiceCA(matches func(*v1alpha1.ServiceCA) bool) string {
	for i := range in.serviceCAs {
		if ca := &in.serviceCAs[i]; ca.Name != in.serviceCA.Name && matches(ca) {
			return ca.Name
		}
	}
	return ""
}

func sourceIs(secret string) func(*v1alpha1.ServiceCA) bool {
	return func(ca *v1alpha1.ServiceCA) bool {
		return ca.Spec.Source.Secret != nil && ca.Spec.Source.Secret.Name == secret
	}
}

// casUsingSameObject returns requests for the other ServiceCAs that refer to a Secret or ConfigMap
// to which this one refers.
func (r *Reconciler) casUsingSameObject(ctx context.Context, object client.Object) []reconcile.Request {
	ca, ok := object.(*v1alpha1.ServiceCA)
	if !ok {
		return nil
	}
	return r.casWhere(ctx, func(other *v1alpha1.ServiceCA) bool {
		key := ca.SigningKeySecretName()
		return other.Name != ca.Name && (other.SigningKeySecretName() == key || sourceIs(key)(other) ||
			sourceIs(other.SigningKeySecretName())(ca) || other.TrustBundleConfigMapName() == ca.TrustBundleConfigMapName())
	})
}
