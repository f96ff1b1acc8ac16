package serviceca

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/trust"
)

// write brings the signing-key Secret to the decided state, by one call that fails where anybody was faster.
func (r *Reconciler) write(ctx context.Context, in observed, decided step) error {
	if !decided.write {
		return nil
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: in.serviceCA.SigningKeySecretName()},
		Type:       corev1.SecretTypeTLS,
	}
	if in.secret != nil {
		secret = in.secret.DeepCopy()
	}
	metav1.SetMetaDataLabel(&secret.ObjectMeta, v1alpha1.LabelServiceCA, in.serviceCA.Name)
	metav1.SetMetaDataAnnotation(&secret.ObjectMeta, v1alpha1.AnnotationSource, decided.state.source)
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	secret.Data[corev1.TLSCertKey] = decided.state.pair.Certificate
	secret.Data[corev1.TLSPrivateKeyKey] = decided.state.pair.PrivateKey
	secret.Data[keyring.BundleKey] = decided.state.bundle.Encode()
	var err error
	if in.secret == nil {
		err = r.Live.Create(ctx, secret, apply.ServiceCA)
	} else {
		guarded := client.MergeFromWithOptions(in.secret, client.MergeFromWithOptimisticLock{})
		err = r.Live.Patch(ctx, secret, guarded, apply.ServiceCA)
	}
	if err != nil {
		return fmt.Errorf("write Secret %s: %w", secret.Name, err)
	}
	r.Keyring.Forget(in.serviceCA.Name)
	return nil
}

// publish brings the trust-bundle ConfigMap up to date. Where somebody else made that ConfigMap, a new CA is not let sign.
func (r *Reconciler) publish(ctx context.Context, ca *v1alpha1.ServiceCA, decided *step) error {
	if decided.state == nil {
		return nil
	}
	name, key, bundle := ca.TrustBundleConfigMapName(), ca.Spec.TrustBundle.Key, string(decided.state.bundle.Encode())
	published, err := get(ctx, r.Live, r.key(name), &corev1.ConfigMap{})
	switch {
	case err != nil:
		return err
	case published != nil && published.Labels[v1alpha1.LabelServiceCA] != ca.Name:
		decided.state = nil
		decided.problem = &problem{reason: reasonBundleNotOurs, message: fmt.Sprintf("ConfigMap %s is left alone, because this ServiceCA did not make it: "+
			"set spec.trustBundle.configMapName to another name, or label the ConfigMap %s=%s to hand it over",
			name, v1alpha1.LabelServiceCA, ca.Name)}
		return nil
	case published != nil && published.Data[key] == bundle:
		return nil
	}
	configMap := coreac.ConfigMap(name, r.Namespace).
		WithLabels(map[string]string{v1alpha1.LabelServiceCA: ca.Name}).
		WithData(map[string]string{key: bundle})
	options := []client.ApplyOption{apply.ServiceCA}
	if published != nil {
		// What was found is put right by force, in the very version that was found.
		configMap.WithUID(published.UID).WithResourceVersion(published.ResourceVersion)
		options = append(options, client.ForceOwnership)
	}
	if err := r.Live.Apply(ctx, configMap, options...); err != nil {
		return fmt.Errorf("write ConfigMap %s: %w", name, err)
	}
	return nil
}

// cleanUp removes what this ServiceCA made under a former name, once it stands under the present one.
func (r *Reconciler) cleanUp(ctx context.Context, ca *v1alpha1.ServiceCA, decided step) error {
	if decided.state == nil {
		return nil
	}
	for kind, keep := range map[string]string{"Secret": ca.SigningKeySecretName(), "ConfigMap": ca.TrustBundleConfigMapName()} {
		var list metav1.PartialObjectMetadataList
		list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind + "List"))
		err := r.Live.List(ctx, &list, client.InNamespace(r.Namespace), client.MatchingLabels{v1alpha1.LabelServiceCA: ca.Name})
		if err != nil {
			return err
		}
		for i := range list.Items {
			object := &list.Items[i]
			if object.Name == keep || !apply.MadeBy(object, apply.ServiceCA) {
				continue
			}
			if outdated, err := r.outdated(ctx, ca); outdated || err != nil {
				return err
			}
			if err := r.Live.Delete(ctx, object, apply.Unchanged(object)); client.IgnoreNotFound(err) != nil {
				return err
			}
		}
	}
	return nil
}

// outdated tells whether the spec has changed since it was read. While two managers overlap, each could otherwise remove the Secret
// that the other one has just moved the key to.
func (r *Reconciler) outdated(ctx context.Context, ca *v1alpha1.ServiceCA) (bool, error) {
	var live v1alpha1.ServiceCA
	err := r.Live.Get(ctx, client.ObjectKeyFromObject(ca), &live)
	return err != nil || live.UID != ca.UID || live.Generation != ca.Generation, client.IgnoreNotFound(err)
}

// evidence counts the targets of the bundle, and the certificates of the CA.
func (r *Reconciler) evidence(ctx context.Context, ca *v1alpha1.ServiceCA, decided step) (evidence, error) {
	seen := evidence{certificates: map[string]int32{}}
	if decided.state == nil {
		return seen, nil
	}
	var err error
	hash := pki.Hash(decided.state.bundle.Encode())
	if seen.targets, err = trust.CountTargets(ctx, r.Cache, ca.Name, hash); err != nil {
		return seen, err
	}
	// The trust-bundle ConfigMap is a target, and was published before this.
	seen.targets.All++
	seen.targets.Current++
	isWanted, err := r.Wanted(ctx)
	if err != nil {
		return seen, err
	}
	var secrets corev1.SecretList
	err = r.Cache.List(ctx, &secrets, client.UnsafeDisableDeepCopy, client.MatchingLabelsSelector{
		Selector: labels.SelectorFromSet(labels.Set{v1alpha1.LabelServiceCA: ca.Name}),
	})
	for i := range secrets.Items {
		secret := &secrets.Items[i]
		leaf, err := pki.ParseLeaf(secret.Data[corev1.TLSCertKey])
		if err == nil && r.Clock.Now().Before(leaf.NotAfter) && isWanted(secret) {
			seen.certificates[pki.KeyID(leaf.AuthorityKeyId)]++
		}
	}
	return seen, err
}
