package livegitops_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// targets counts the trust-bundle ConfigMap, the ClusterTrustBundle, and the objects of a
// repository that ask for the bundle: a ConfigMap, a Secret and a webhook configuration.
const targets = 5

// What is committed is applied over and over, by each tool in its way, while the CA rotates twice
// through all phases, certificates are reissued and workloads are restarted. An apply changes only
// what a commit changes, at any moment, and nothing that the operator wrote is lost.
func TestRepeatedApply(t *testing.T) {
	t.Parallel()
	for _, by := range []applier{flux, argoCD, argoServerSide} {
		t.Run(by.name, func(t *testing.T) {
			t.Parallel()
			r := newRepository(t, by, by.name, []string{"controllers", "livegitops", "testdata", "app"},
				[]string{"config", "samples", "rotation"}, []string{"config", "samples", "restarts", "servingcertpolicy_frozen.yaml"})
			r.reported()
			r.until(r.served(v1alpha1.PhaseStable, 1, 0))
			r.commit(map[string]string{"trigger": "quarterly"})
			r.until(r.served(v1alpha1.PhaseRetiring, 2, 1))
			r.commit(map[string]string{"trigger": "stolen", "triggerReason": string(v1alpha1.TriggerCompromise)})
			r.until(r.served(v1alpha1.PhaseStable, 1, 2))
			r.atRest()
			if ca := get(t, "", r.realm, &v1alpha1.ServiceCA{}); ca.Generation != 3 {
				t.Errorf("after two commits the ServiceCA is of generation %d", ca.Generation)
			}
			for _, policy := range r.policies() {
				if policy.Generation != 1 {
					t.Errorf("policy %s, which nobody changed, is of generation %d", policy.Name, policy.Generation)
				}
			}
			r.nothingIsLost()
			r.restartedOnly()
			r.nothingIsClaimed()
			r.managersAreDocumented()
		})
	}
}

// OpenShift's manifests are applied over and over in Argo CD's default way: the data of a ConfigMap
// that is committed without data become the bundle.
func TestOpenShift(t *testing.T) {
	t.Parallel()
	r := newRepository(t, argoCD, "default", []string{"controllers", "livegitops", "testdata", "openshift"}, []string{"config", "samples", "openshift"})
	r.reported()
	filled := func(roots int) func(context.Context) string {
		return func(context.Context) string {
			data := get(t, r.realm, "trust", &corev1.ConfigMap{}).Data
			bundle := get(t, operatorNamespace, "signing-cabundle", &corev1.ConfigMap{}).Data["ca-bundle.crt"]
			signed := get(t, r.realm, "openshift", &corev1.Service{}).Annotations["service.beta.openshift.io/serving-cert-signed-by"]
			if len(data) != 1 || data["service-ca.crt"] != bundle || strings.Count(bundle, "BEGIN CERTIFICATE") != roots || signed == "" {
				return fmt.Sprintf("the ConfigMap holds %v, and %q signs", data, signed)
			}
			return ""
		}
	}
	r.until(func(ctx context.Context) string {
		if err := env.kube.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: "signing-cabundle"}, &corev1.ConfigMap{}); err != nil {
			return err.Error()
		}
		return filled(1)(ctx)
	})
	r.commit(map[string]string{"trigger": "now"})
	r.until(filled(2))
	r.atRest()
	for _, by := range []applier{flux, argoCD, argoServerSide} {
		r.otherDataDrifts(by)
	}
}

// otherDataDrifts checks that data committed beside the bundle, in a ConfigMap that asks by
// OpenShift's annotation, drift: the operator replaces all data by the bundle, as OpenShift does,
// and each sync restores them.
func (r *repository) otherDataDrifts(by applier) {
	r.Helper()
	manifest := decode(r.T, fmt.Sprintf(`
apiVersion: v1
kind: ConfigMap
metadata: {namespace: %s, name: other-data-%s, annotations: {service.beta.openshift.io/inject-cabundle: "true"}}
data: {mode: fast}
`, r.realm, by.name))
	remove(r.T, manifest)
	for range 2 {
		if changed := by.apply(r.T, []*unstructured.Unstructured{manifest}); len(changed) != 1 {
			r.Errorf("%s: to apply the data again changed %v", by.name, changed)
		}
		eventually(r.T, func(context.Context) string {
			data := get(r.T, manifest.GetNamespace(), manifest.GetName(), &corev1.ConfigMap{}).Data
			if _, kept := data["mode"]; kept || len(data) != 1 {
				return fmt.Sprintf("%s: the ConfigMap holds %d keys", by.name, len(data))
			}
			return ""
		})
	}
}

// reported waits for the first status. Before that, the default status of the CRD is not yet
// persisted, and the next write of any client persists it.
func (r *repository) reported() {
	r.Helper()
	eventually(r.T, func(context.Context) string {
		for _, object := range r.objects {
			live := get(r.T, object.GetNamespace(), object.GetName(), object.DeepCopy())
			if observed, has, _ := unstructured.NestedInt64(live.Object, "status", "observedGeneration"); has && observed < live.GetGeneration() {
				return "nothing is reported yet of " + object.GetKind() + " " + object.GetName()
			}
		}
		return ""
	})
}

// served checks for the final state: the phase, that many roots, every Service with a certificate
// of the current CA, and that many rollouts.
func (r *repository) served(phase v1alpha1.CAPhase, roots int32, rollouts int) func(context.Context) string {
	return func(context.Context) string {
		r.Helper()
		ca, policy := get(r.T, "", r.realm, &v1alpha1.ServiceCA{}), r.policies()[1]
		status, bundle, counts, restarts := ca.Status, ca.Status.TrustBundle, policy.Status.Services, policy.Status.Restarts
		switch {
		case status.Active == nil || status.Rotation.Phase != phase || bundle.Certificates != roots || status.Rotation.Trigger != ca.Spec.Rotation.Trigger:
			return fmt.Sprintf("the ServiceCA is not in phase %s: %+v %+v", phase, status.Rotation, status.Conditions)
		case bundle.Targets != targets || bundle.CurrentTargets != targets || !meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionTrustEstablished):
			return fmt.Sprintf("the targets are %+v", bundle)
		case counts == nil || counts.Issued != 2 || *status.Active.Certificates != 2:
			return fmt.Sprintf("the Services are %+v", policy.Status)
		case restarts == nil || restarts.Pending+restarts.InProgress+restarts.Failed > 0:
			return fmt.Sprintf("the restarts are %+v", restarts)
		}
		web := get(r.T, r.realm, "web", &appsv1.Deployment{})
		if web.Status.ObservedGeneration != web.Generation || web.Status.AvailableReplicas != 1 || web.Status.UpdatedReplicas != 1 || web.Status.Replicas != 1 {
			return fmt.Sprintf("the Deployment is at %+v", web.Status)
		}
		if revision := web.Annotations["deployment.kubernetes.io/revision"]; revision != fmt.Sprint(rollouts+1) {
			return fmt.Sprintf("the Deployment is at revision %s after %d rollouts", revision, rollouts)
		}
		return ""
	}
}

// atRest waits until neither the tool nor the operator writes anything, while what is committed is
// applied five times.
func (r *repository) atRest() {
	r.Helper()
	eventually(r.T, func(context.Context) string {
		before := r.versions()
		for range 5 {
			r.changesNothing()
		}
		if after := r.versions(); !slices.Equal(before, after) {
			return fmt.Sprintf("to apply five times made %v of %v", after, before)
		}
		return ""
	})
}

// versions returns the versions of all committed objects.
func (r *repository) versions() (versions []string) {
	r.Helper()
	for _, object := range r.objects {
		live := get(r.T, object.GetNamespace(), object.GetName(), object.DeepCopy())
		versions = append(versions, fmt.Sprintf("%s/%s %s", object.GetKind(), object.GetName(), live.GetResourceVersion()))
	}
	return versions
}

// policies returns the policy that selects no Service, because the other one has a higher priority,
// and that other one.
func (r *repository) policies() (policies []*v1alpha1.ServingCertPolicy) {
	r.Helper()
	for _, name := range []string{"-default", "-restarts-frozen"} {
		policies = append(policies, get(r.T, "", r.realm+name, &v1alpha1.ServingCertPolicy{}))
	}
	return policies
}

// nothingIsLost checks that each object still has what the operator wrote to it, and what is
// committed.
func (r *repository) nothingIsLost() {
	r.Helper()
	bundle := get(r.T, operatorNamespace, r.realm+"-trust-bundle", &corev1.ConfigMap{}).Data["ca-bundle.crt"]
	configMap, secret := get(r.T, r.realm, "trust", &corev1.ConfigMap{}), get(r.T, r.realm, "java", &corev1.Secret{})
	if configMap.Data["mode"] != "fast" || configMap.Data["service-ca.crt"] != bundle || bundle == "" {
		r.Errorf("the ConfigMap holds %v", configMap.Data)
	}
	if len(secret.Data) != 3 || string(secret.Data["mode"]) != "fast" || string(secret.Data["service-ca.crt"]) != bundle {
		r.Errorf("the Secret holds %d keys", len(secret.Data))
	}
	webhooks := get(r.T, "", r.realm, &admissionregistrationv1.ValidatingWebhookConfiguration{}).Webhooks
	for _, webhook := range webhooks {
		if string(webhook.ClientConfig.CABundle) != bundle {
			r.Errorf("the caBundle of %s is %q", webhook.Name, webhook.ClientConfig.CABundle)
		}
	}
	if service := get(r.T, r.realm, "openshift", &corev1.Service{}); service.Annotations["service.beta.openshift.io/serving-cert-signed-by"] == "" {
		r.Errorf("the Service has the annotations %v", service.Annotations)
	}
}

// restartedOnly checks that each change of the template is a restart by the operator, and that none
// was reverted.
func (r *repository) restartedOnly() {
	r.Helper()
	var sets appsv1.ReplicaSetList
	if err := env.kube.List(r.Context(), &sets, client.InNamespace(r.realm)); err != nil {
		r.Fatal(err)
	}
	stamps := map[string]bool{}
	for i := range sets.Items {
		stamps[sets.Items[i].Spec.Template.Annotations[v1alpha1.AnnotationRestartedAt]] = true
	}
	if len(sets.Items) != 3 || len(stamps) != 3 || !stamps[""] {
		r.Errorf("after two restarts there are %d ReplicaSets with the stamps %v", len(sets.Items), stamps)
	}
}

// nothingIsClaimed checks that no object that the operator created has a mark by which the tool
// would take it for its own, and prune it.
func (r *repository) nothingIsClaimed() {
	r.Helper()
	for _, name := range []string{"web-tls", "openshift-tls"} {
		secret := get(r.T, r.realm, name, &corev1.Secret{})
		for key := range secret.Labels {
			if !strings.HasPrefix(key, "servingcert.dev/") {
				r.Errorf("Secret %s bears the label %s", name, key)
			}
		}
		if _, tracked := secret.Annotations[trackingID]; tracked {
			r.Errorf("Secret %s is tracked", name)
		}
	}
}
