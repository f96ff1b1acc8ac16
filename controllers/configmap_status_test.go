package controllers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// counts accepts a ServiceCA with that many targets besides its ClusterTrustBundle, of which
// current carry the bundle, as the ClusterTrustBundle does. Its trust is established when all of
// them do.
func counts(targets, current int32) func(*v1alpha1.ServiceCA) string {
	return func(ca *v1alpha1.ServiceCA) string {
		bundle := ca.Status.TrustBundle
		if bundle == nil || bundle.Targets != targets+1 || bundle.CurrentTargets != current+1 {
			return fmt.Sprintf("the bundle is %+v, want %d of %d targets", bundle, current, targets)
		}
		condition := meta.FindStatusCondition(ca.Status.Conditions, v1alpha1.ConditionTrustEstablished)
		if condition == nil || (condition.Status == metav1.ConditionTrue) != (targets == current) {
			return fmt.Sprintf("TrustEstablished is %+v", condition)
		}
		return ""
	}
}

// blocks accepts a ServiceCA with that many targets that only their owners can fix, and with none
// that waits for the operator.
func blocks(targets, blocked int32) func(*v1alpha1.ServiceCA) string {
	counted := counts(targets, targets-blocked)
	return func(ca *v1alpha1.ServiceCA) string {
		condition := meta.FindStatusCondition(ca.Status.Conditions, v1alpha1.ConditionTrustEstablished)
		if complaint := counted(ca); complaint != "" {
			return complaint
		}
		if ca.Status.TrustBundle.BlockedTargets != blocked || condition.Reason != "TargetsBlocked" {
			return fmt.Sprintf("%d targets are blocked, want %d, and TrustEstablished is %+v", ca.Status.TrustBundle.BlockedTargets, blocked, condition)
		}
		return ""
	}
}

// The status counts the targets that carry the bundle; the trust-bundle ConfigMap is the first of
// them.
func TestConfigMapsAreCounted(t *testing.T) {
	r := newRealm(t)
	r.serviceCA(counts(1, 1))
	configMap := r.configMap("trust", r.injects(), nil)
	renamed := r.configMap("renamed", r.injects(v1alpha1.AnnotationCABundleKey, "corp.pem"), nil)
	r.serviceCA(counts(3, 3))
	foreign := r.configMap("foreign", r.injects(), map[string]string{v1alpha1.DefaultCABundleKey: "somebody else's"})
	ca := r.serviceCA(blocks(4, 1))
	// Objects created from here on are younger than the bundle: creation timestamps count whole
	// seconds.
	eventually(t, func(ctx context.Context) string {
		probe := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "probe"}}
		if err := kube.Create(ctx, probe, client.DryRunAll); err != nil {
			return err.Error()
		}
		if !probe.CreationTimestamp.After(ca.Status.Rotation.LastTransitionTime.Time) {
			return "what is made now is as old as the bundle"
		}
		return ""
	})
	immutable := create(t, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "immutable", Annotations: r.injects()}, Immutable: new(true),
	})
	r.serviceCA(blocks(5, 2))
	remove(t, immutable)
	update(t, foreign, func(c *corev1.ConfigMap) { c.Data = nil })
	r.serviceCA(counts(4, 4))
	r.loseKey()
	r.serviceCA(counts(4, 4))
	for _, c := range []*corev1.ConfigMap{foreign, configMap} {
		eventuallyHolds(t, c, r.exactly)
	}
	eventuallyHolds(t, renamed, r.with("corp.pem", nil))

	update(t, configMap, func(c *corev1.ConfigMap) { c.Annotations = nil })
	if err := kube.Delete(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	r.serviceCA(counts(2, 2))
}

// ConfigMaps that ask by OpenShift's annotations count for the ServiceCA that these annotations
// stand for.
func TestConfigMapsOfOpenShiftAreCounted(t *testing.T) {
	r := newOpenShift(t)
	for i, annotation := range []string{beta + "inject-cabundle", alpha + "inject-cabundle", alpha + "inject-vulnerable-legacy-cabundle"} {
		name := fmt.Sprintf("trust-%d", i)
		if i == 2 {
			name = "openshift-service-ca.crt"
		}
		r.configMap(name, map[string]string{annotation: "true"}, nil)
	}
	eventually(t, func(ctx context.Context) string {
		asking, err := askingForDefault(ctx)
		if err != nil {
			return err.Error()
		}
		var ca v1alpha1.ServiceCA
		if err := kube.Get(ctx, client.ObjectKey{Name: "default"}, &ca); err != nil {
			return err.Error()
		}
		if asking < 3 {
			return "not even the ConfigMaps of this test ask"
		}
		return counts(asking+1, asking+1)(&ca)
	})
}

// askingForDefault returns how many ConfigMaps of the cluster ask for the bundle of the ServiceCA
// default, including those of other tests.
func askingForDefault(ctx context.Context) (asking int32, err error) {
	var list corev1.ConfigMapList
	err = kube.List(ctx, &list)
	for _, configMap := range list.Items {
		own, ok := configMap.Annotations[v1alpha1.AnnotationInjectCABundle]
		theirs := configMap.Annotations[beta+"inject-cabundle"] + configMap.Annotations[alpha+"inject-cabundle"]
		legacy := configMap.Name == "openshift-service-ca.crt" && configMap.Annotations[alpha+"inject-vulnerable-legacy-cabundle"] == "true"
		if own == "default" || (!ok && (strings.EqualFold(theirs, "true") || legacy)) {
			asking++
		}
	}
	return asking, err
}

// An injection that the API server rejects for a while, for example by an admission policy, is
// reported, and succeeds once it is allowed.
func TestInjectionRefusedForAWhile(t *testing.T) {
	t.Parallel()
	allow := forbid(t, fmt.Sprintf("object.metadata.namespace == '%s' && has(object.data) && object.metadata.name == 'trust'", realmName(t)))
	r := newRealm(t)
	configMap := r.configMap("trust", r.injects(), nil)
	errorOn(t, configMap, "InjectionRefused: ", "ValidatingAdmissionPolicy")
	r.serviceCA(counts(2, 1))
	allow()
	errorOn(t, configMap)
	eventuallyHolds(t, configMap, r.exactly)
	r.serviceCA(counts(2, 2))
}

// At rest the operator writes nothing: neither when other clients change their own fields of the
// same objects, nor when nothing happens.
func TestNothingIsWrittenAtRest(t *testing.T) {
	r := newOpenShift(t)
	service, secret := r.served("web")
	r.eventuallySigned(service)
	objects := []client.Object{
		service, secret,
		r.configMap("own", r.injects(), map[string]string{"mine": "stays"}),
		r.configMap("renamed", r.injects(v1alpha1.AnnotationCABundleKey, "corp.pem"), nil),
		r.configMap("openshift", map[string]string{beta + "inject-cabundle": "true"}, nil),
		r.configMap("openshift-service-ca.crt", map[string]string{alpha + "inject-vulnerable-legacy-cabundle": "true"}, nil),
		r.configMap("invalid", r.injects(v1alpha1.AnnotationCABundleKey, "a/b"), nil),
		r.configMap("unknown", map[string]string{v1alpha1.AnnotationInjectCABundle: "unknown"}, nil),
		r.configMap("foreign", r.injects(), map[string]string{v1alpha1.DefaultCABundleKey: "somebody else's"}),
	}
	for _, object := range objects[2:] {
		eventually(t, func(ctx context.Context) string {
			if err := kube.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
				return err.Error()
			}
			annotations := object.GetAnnotations()
			if annotations[v1alpha1.AnnotationCABundleHash] == "" && annotations[v1alpha1.AnnotationError] == "" {
				return object.GetName() + " was not looked at"
			}
			return ""
		})
	}
	objects = append(objects, r.signingKey(), &corev1.ConfigMap{ObjectMeta: inOperatorNamespace("signing-cabundle")})
	for _, object := range objects {
		update(t, object, func(o client.Object) {
			annotations := o.GetAnnotations()
			if annotations == nil {
				annotations = map[string]string{}
			}
			annotations["example.org/touched"] = "by another"
			o.SetAnnotations(annotations)
		})
	}
	for range 2 {
		r.settle()
		r.barrier()
		for _, object := range objects {
			same(t, object)
		}
	}
}
