package controllers_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// gone waits until the object no longer exists.
func gone(t *testing.T, object client.Object) {
	t.Helper()
	eventually(t, func(ctx context.Context) string {
		switch err := kube.Get(ctx, client.ObjectKeyFromObject(object), object); {
		case err == nil:
			return fmt.Sprintf("%T %s is still there", object, object.GetName())
		case client.IgnoreNotFound(err) != nil:
			return err.Error()
		}
		return ""
	})
}

// Two ServiceCAs use one Secret, or one ConfigMap: the first has it, the second reports the
// conflict, and neither affects the other.
func TestServiceCAsWantOneName(t *testing.T) {
	t.Parallel()
	first := newRealm(t)
	first.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if active := activeOf(ca); active.LongestDurationSeconds == nil || *active.LongestDurationSeconds == 0 {
			return "its policy has not been seen yet"
		}
		return isReady(ca)
	})
	key, root := first.signingKey(), first.signer()
	second := newRealmIn(t, kube, first.name+"-2", func(ca *v1alpha1.ServiceCA, _ *v1alpha1.ServingCertPolicy) {
		ca.Spec.SigningKey.SecretName = key.Name
	})
	second.serviceCA(isStalled("SigningKeyNotOurs", "it belongs to ServiceCA "+first.name, "spec.signingKey.secretName"))
	update(t, second.ca, func(ca *v1alpha1.ServiceCA) {
		ca.Spec.SigningKey.SecretName, ca.Spec.TrustBundle.ConfigMapName = "", first.ca.TrustBundleConfigMapName()
	})
	second.serviceCA(isStalled("TrustBundleNotOurs", first.ca.TrustBundleConfigMapName()))
	update(t, second.ca, func(ca *v1alpha1.ServiceCA) { ca.Spec.TrustBundle.ConfigMapName = "" })
	second.serviceCA(isReady)
	second.service("web", withSecretName("web-tls"))
	second.secret("web-tls", second.issued("web."+second.name+".svc"))
	if bytes.Equal(root.SubjectKeyId, second.signer().SubjectKeyId) {
		t.Error("two ServiceCAs sign with one key")
	}
	first.serviceCA(isReady)
	first.trusts(root)
	unchanged(t, key)
}

// Two that ask for it at the same time reach the same final state.
func TestServiceCAsRaceForOneSecret(t *testing.T) {
	t.Parallel()
	name := realmName(t)
	shared := func(ca *v1alpha1.ServiceCA, _ *v1alpha1.ServingCertPolicy) {
		ca.Spec.SigningKey.SecretName = name + "-shared"
	}
	realms := []realm{newRealmIn(t, kube, name+"-0", shared), newRealmIn(t, kube, name+"-1", shared), newRealmIn(t, kube, name+"-2", shared)}
	ready, stalled := 0, 0
	for _, r := range realms {
		r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
			switch {
			case isReady(ca) == "":
				ready++
			case isStalled("SigningKeyNotOurs", "belongs to ServiceCA")(ca) == "":
				stalled++
			default:
				return "undecided"
			}
			return ""
		})
	}
	if ready != 1 || stalled != 2 {
		t.Errorf("%d are ready and %d stalled, want 1 and 2", ready, stalled)
	}
}

// A signing key moves with its name: the same CA keeps signing, and the Secret that the operator
// created under the former name is deleted; a backup is not.
func TestSigningKeyRenamed(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	served := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.serviceCA(isReady)
	root, former := r.signer(), r.signingKey()
	backup := create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: "a-backup-of-" + r.name, Labels: former.Labels},
		Type:       former.Type, Data: former.Data,
	})
	for _, name := range []string{r.name + "-moved", r.name + "-moved-again", ""} {
		update(t, r.ca, func(ca *v1alpha1.ServiceCA) { ca.Spec.SigningKey.SecretName = name })
		gone(t, former)
		if former = r.signingKey(); !parse(t, former.Data[corev1.TLSCertKey])[0].Equal(root) {
			t.Fatalf("a new CA signs under the name %q", name)
		}
		r.serviceCA(isReady)
	}
	r.service("late", withSecretName("late-tls"))
	r.secret("late-tls", r.signedBy(root))
	r.trusts(root)
	unchanged(t, served, backup)
}

// A key that an administrator restored from a backup, or handed over by the label, moves too; the
// administrator's Secret stays where it is.
func TestRestoredSigningKeyRenamed(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	served := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.serviceCA(isReady)
	root, theirs := r.signer(), r.signingKey()
	update(t, theirs, func(s *corev1.Secret) { s.ManagedFields = []metav1.ManagedFieldsEntry{{}} })
	unlike := create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: "a-key-of-" + r.name, Labels: theirs.Labels},
		Type:       theirs.Type, Data: generateCA(t, "another", nil).data(t),
	})
	update(t, r.ca, func(ca *v1alpha1.ServiceCA) { ca.Spec.SigningKey.SecretName = r.name + "-moved" })
	eventually(t, func(ctx context.Context) string {
		var moved corev1.Secret
		if err := kube.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: r.name + "-moved"}, &moved); err != nil {
			return err.Error()
		}
		if !parse(t, moved.Data[corev1.TLSCertKey])[0].Equal(root) {
			t.Fatal("a new CA signs")
		}
		return ""
	})
	r.serviceCA(isReady)
	r.trusts(root)
	unchanged(t, served, theirs, unlike)
}

func TestTrustBundleRenamed(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.serviceCA(isReady)
	root := r.signer()
	published := reload(t, &corev1.ConfigMap{ObjectMeta: inOperatorNamespace(r.ca.TrustBundleConfigMapName())})
	backup := create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: operatorNamespace, Name: "a-backup-of-" + r.name, Labels: published.Labels}, Data: published.Data})
	update(t, published, func(c *corev1.ConfigMap) { c.Data["notes"] = "theirs" })

	update(t, r.ca, func(ca *v1alpha1.ServiceCA) { ca.Spec.TrustBundle.Key = "roots.pem" })
	r.trusts(root)
	reload(t, published)
	if _, still := published.Data["ca-bundle.crt"]; still || published.Data["notes"] != "theirs" {
		t.Errorf("the ConfigMap holds %d keys", len(published.Data))
	}
	update(t, r.ca, func(ca *v1alpha1.ServiceCA) { ca.Spec.TrustBundle.ConfigMapName = r.name + "-roots" })
	gone(t, published)
	r.trusts(root)
	ca := r.serviceCA(isReady)
	if activeOf(ca).SerialNumber != root.SerialNumber.Text(16) {
		t.Error("a new CA signs")
	}
	unchanged(t, backup)
}

// A name that another client's Secret has stalls the move, and nothing is lost meanwhile.
func TestSigningKeyRenamedToATakenName(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	served := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.serviceCA(isReady)
	former := r.signingKey()
	root := parse(t, former.Data[corev1.TLSCertKey])[0]
	taken := create(t, &corev1.Secret{ObjectMeta: inOperatorNamespace(r.name + "-taken")})
	update(t, r.ca, func(ca *v1alpha1.ServiceCA) { ca.Spec.SigningKey.SecretName = taken.Name })
	r.serviceCA(isStalled("SigningKeyNotOurs", taken.Name))
	unchanged(t, former, taken, served)
	remove(t, taken)
	gone(t, former)
	r.serviceCA(isReady)
	if !r.signer().Equal(root) {
		t.Error("a new CA signs")
	}
	unchanged(t, served)
}

// The source of a CA and its signing key cannot be one Secret, nor can the signing key of another
// ServiceCA be a source.
func TestSourceIsASigningKey(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.serviceCA(isReady)
	key := r.ca.SigningKeySecretName()
	same := &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: r.name + "-same"}}
	same.Spec.Source.Secret = &v1alpha1.SecretSource{Name: same.Name + "-signing-key"}
	if err := kube.Create(t.Context(), same); err == nil || !strings.Contains(err.Error(), "spec.source.secret must name another Secret") {
		t.Errorf("create a ServiceCA whose source is its own signing key: %v", err)
	}
	attacker := newRealmIn(t, kube, r.name+"-2", withSourceSecret(key))
	attacker.serviceCA(isStalled("SourceInvalid", "Secret "+key+" is the signing key of ServiceCA "+r.ca.Name, "another name"))
	signs := r.signingKey()
	update(t, r.ca, func(ca *v1alpha1.ServiceCA) { ca.Spec.SigningKey.SecretName = r.name + "-moved" })
	attacker.serviceCA(isStalled("SourceNotThere", key))
	if moved := r.signingKey(); !bytes.Equal(moved.Data[corev1.TLSPrivateKeyKey], signs.Data[corev1.TLSPrivateKeyKey]) {
		t.Error("another key signs")
	}
}
