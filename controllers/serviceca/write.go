package serviceca

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
)

// writeSecret writes the planned state to the signing-key Secret in a single call, which fails with
// a conflict if another client has written since.
func (r *Reconciler) writeSecret(ctx context.Context, in observed, plan changePlan) error {
	secret := plan.secret
	if secret == nil {
		return nil
	}
	secret.Namespace = r.Namespace
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

// publish updates the trust-bundle ConfigMap, and reports whether a write was needed. When another
// client created that ConfigMap, the plan becomes a problem, and a new CA must not sign.
func (r *Reconciler) publish(ctx context.Context, in observed, plan *changePlan) (changed bool, err error) {
	if plan.state == nil {
		return false, nil
	}
	ca := in.serviceCA
	name, key, bundle := ca.TrustBundleConfigMapName(), ca.Spec.TrustBundle.Key, string(plan.state.Bundle().Encode())
	published, err := get(ctx, r.Live, r.key(name), &corev1.ConfigMap{})
	switch {
	case err != nil:
		return false, err
	case published != nil && published.Labels[v1alpha1.LabelServiceCA] != ca.Name:
		*plan = changePlan{problem: in.bundleNotOurs(published)}
		return false, nil
	case published != nil && published.Data[key] == bundle:
		return false, nil
	}
	if err := r.checkSecretUnchanged(ctx, in, plan); err != nil {
		return false, err
	}
	configMap := coreac.ConfigMap(name, r.Namespace).
		WithLabels(map[string]string{v1alpha1.LabelServiceCA: ca.Name}).
		WithData(map[string]string{key: bundle})
	options := []client.ApplyOption{apply.ServiceCA}
	if published != nil {
		// Force corrects other writers' changes, but only to the version that was read.
		configMap.WithUID(published.UID).WithResourceVersion(published.ResourceVersion)
		options = append(options, client.ForceOwnership)
	}
	if err := r.Live.Apply(ctx, configMap, options...); err != nil {
		return false, fmt.Errorf("write ConfigMap %s: %w", name, err)
	}
	return true, nil
}

// checkSecretUnchanged returns an error unless the bundle to publish is that of the present
// signing-key Secret: while two managers overlap, the slower one must not publish an older bundle.
func (r *Reconciler) checkSecretUnchanged(ctx context.Context, in observed, plan *changePlan) error {
	read := in.secret
	if plan.secret != nil {
		read = plan.secret
	}
	now, err := get(ctx, r.Live, client.ObjectKeyFromObject(read), &corev1.Secret{})
	if err == nil && (now == nil || now.ResourceVersion != read.ResourceVersion) {
		err = fmt.Errorf("the signing-key Secret %s has changed meanwhile", read.Name)
	}
	return err
}

// cleanUp deletes what this ServiceCA created under a former name, once it exists under the present
// one. It deletes a pending key under a former name at once, because that key will never move.
func (r *Reconciler) cleanUp(ctx context.Context, ca *v1alpha1.ServiceCA, plan changePlan) error {
	waiting := r.deleteRenamed(ctx, ca, "Secret", requestSecretName(ca), client.MatchingLabels{labelRequester: string(ca.UID)})
	if plan.state == nil {
		return waiting
	}
	owned := client.MatchingLabels{v1alpha1.LabelServiceCA: ca.Name}
	return errors.Join(waiting,
		r.deleteRenamed(ctx, ca, "Secret", ca.SigningKeySecretName(), owned),
		r.deleteRenamed(ctx, ca, "ConfigMap", ca.TrustBundleConfigMapName(), owned))
}

// deleteRenamed deletes the operator's objects of a kind that have these labels, except the one
// named keep.
func (r *Reconciler) deleteRenamed(ctx context.Context, ca *v1alpha1.ServiceCA, kind, keep string, labels client.MatchingLabels) error {
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind + "List"))
	if err := r.Live.List(ctx, &list, client.InNamespace(r.Namespace), labels); err != nil {
		return err
	}
	for i := range list.Items {
		object := &list.Items[i]
		if object.Name == keep || !apply.IsManagedBy(object, apply.ServiceCA) {
			continue
		}
		if outdated, err := r.specChanged(ctx, ca); outdated || err != nil {
			return err
		}
		if err := r.Live.Delete(ctx, object, apply.PreconditionsFor(object)); apply.IgnoreGone(err) != nil {
			return err
		}
	}
	return nil
}

// specChanged reports whether the spec has changed since it was read. While two managers overlap,
// each could otherwise delete the Secret to which the other one has just moved the key.
func (r *Reconciler) specChanged(ctx context.Context, ca *v1alpha1.ServiceCA) (bool, error) {
	var live v1alpha1.ServiceCA
	err := r.Live.Get(ctx, client.ObjectKeyFromObject(ca), &live)
	return err != nil || live.UID != ca.UID || live.Generation != ca.Generation, client.IgnoreNotFound(err)
}
