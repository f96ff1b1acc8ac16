package controllers_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/servingcert/operator/api/v1alpha1"
)

// panics returns how often a reconciliation of the operator in this process has panicked.
func panics(t *testing.T) float64 {
	t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum, found := 0.0, false
	for _, family := range families {
		if family.GetName() != "controller_runtime_reconcile_panics_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			found = true
			sum += metric.GetCounter().GetValue()
		}
	}
	if !found {
		t.Fatal("panics are not counted")
	}
	return sum
}

// Fault 1: removing an object's annotations and data in one update can crash the process.
func TestFault1AnnotationsAndDataRemovedAtOnce(t *testing.T) {
	r := newOpenShift(t)
	service, secret := r.served("web")
	openShift := r.configMap("theirs", map[string]string{beta + "inject-cabundle": "true"}, nil)
	own := r.configMap("ours", map[string]string{v1alpha1.AnnotationInjectCABundle: r.ca.Name}, nil)
	for _, configMap := range []*corev1.ConfigMap{openShift, own} {
		eventuallyHolds(t, configMap, r.exactly)
		update(t, configMap, func(c *corev1.ConfigMap) { c.Annotations, c.Data = nil, nil })
	}
	update(t, secret, func(s *corev1.Secret) { s.Annotations, s.OwnerReferences = nil, nil })
	update(t, service, func(s *corev1.Service) { s.Annotations = nil })
	r.settle()
	r.barrier()
	for _, configMap := range []*corev1.ConfigMap{openShift, own} {
		eventuallyHolds(t, configMap, func() map[string]string { return nil })
	}
	if got := panics(t); got != 0 {
		t.Errorf("the operator has panicked %v times", got)
	}
	update(t, openShift, func(c *corev1.ConfigMap) { c.Annotations = map[string]string{beta + "inject-cabundle": "true"} })
	eventuallyHolds(t, openShift, r.exactly)
}

// Fault 2: OpenShift overwrites an object once more after it has opted out.
func TestFault2OptingOutIsRespectedAtOnce(t *testing.T) {
	r := newOpenShift(t)
	for i := range 20 {
		configMap := r.configMap(fmt.Sprintf("trust-%d", i), map[string]string{alpha + "inject-cabundle": "true"}, nil)
		// Every other one opts out while the operator is still writing them.
		if i%2 == 0 {
			eventuallyHolds(t, configMap, r.exactly)
			update(t, configMap, func(c *corev1.ConfigMap) { c.Data["service-ca.crt"] = "drift" })
		}
		update(t, configMap, func(c *corev1.ConfigMap) {
			delete(c.Annotations, alpha+"inject-cabundle")
			c.Data = map[string]string{"mine": "alone"}
		})
		stop := follow(t, configMap)
		r.settle()
		for _, state := range stop() {
			if len(state.Data) != 1 || state.Data["mine"] != "alone" {
				t.Fatalf("the ConfigMap has opted out, and its data became %v", state.Data)
			}
		}
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(configMap), configMap); err != nil {
			t.Fatal(err)
		}
		hasNot(t, configMap.Annotations, v1alpha1.AnnotationCABundleHash, v1alpha1.AnnotationCABundleSince, v1alpha1.AnnotationError)
	}
}

// A ConfigMap that opts out keeps its data, as on OpenShift, and is no longer a target.
func TestOpenShiftConfigMapOptsOut(t *testing.T) {
	r := newOpenShift(t)
	configMap := r.configMap("trust", map[string]string{beta + "inject-cabundle": "true"}, nil)
	eventuallyHolds(t, configMap, r.exactly)
	update(t, configMap, func(c *corev1.ConfigMap) { c.Annotations[beta+"inject-cabundle"] = "false" })
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(configMap), configMap); err != nil {
			return err.Error()
		}
		if _, ok := configMap.Annotations[v1alpha1.AnnotationCABundleHash]; ok {
			return "the mark of the operator is still there"
		}
		return ""
	})
	eventuallyHolds(t, configMap, r.exactly)
	settled := configMap.DeepCopy()
	update(t, configMap, func(c *corev1.ConfigMap) { c.Data["mine"] = "too" })
	settled.ResourceVersion = configMap.ResourceVersion
	r.settle()
	same(t, settled)
}

// A Service that opts out loses its signed-by annotations, and its Secret is deleted.
func TestOpenShiftServiceOptsOut(t *testing.T) {
	for _, value := range []string{"removed", ""} {
		t.Run("annotation "+value, func(t *testing.T) {
			r := newOpenShift(t)
			service, secret := r.served("web")
			r.eventuallySigned(service)
			update(t, service, func(s *corev1.Service) {
				s.Annotations[beta+"serving-cert-secret-name"] = value
				if value == "removed" {
					delete(s.Annotations, beta+"serving-cert-secret-name")
				}
			})
			eventually(t, func(ctx context.Context) string {
				if err := kube.Get(ctx, client.ObjectKeyFromObject(secret), &corev1.Secret{}); !apierrors.IsNotFound(err) {
					return "the Secret is still there"
				}
				if err := kube.Get(ctx, client.ObjectKeyFromObject(service), service); err != nil {
					return err.Error()
				}
				for _, family := range []string{beta, alpha} {
					if signer, ok := service.Annotations[family+"serving-cert-signed-by"]; ok {
						return "the Service is said to be signed for by " + signer
					}
				}
				return ""
			})
		})
	}
}
