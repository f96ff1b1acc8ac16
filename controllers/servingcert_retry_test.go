package controllers_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// The operator's own reports on an object do not make it retry: the first retry comes at the
// documented time, and not at once.
func TestReportsCauseNoRetry(t *testing.T) {
	t.Parallel()
	w, through := newTestCluster(t), newTransport()
	w.start(through)
	r := newRealmIn(t, w.kube, "refused")
	r.serviceCA(isReady)
	through.quiet(t, 3*time.Second)
	none := corev1.ResourceList{"count/secrets": resource.MustParse("0")}
	quota := createBy(t, w.kube, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "none"}, Spec: corev1.ResourceQuotaSpec{Hard: none},
	})
	// Kubernetes' quota controller, which would set the status, does not run here.
	quota.Status = corev1.ResourceQuotaStatus{Hard: none, Used: none}
	if err := w.kube.Status().Update(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	r.service("web", withSecretName("web-tls"))
	r.expectError("web", "SecretRefused: ")
	fixed := createBy(t, w.kube, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: r.name, Name: "fixed", Annotations: map[string]string{v1alpha1.AnnotationInjectCABundle: r.name},
		},
		Immutable: new(true),
	})
	eventually(t, func(ctx context.Context) string {
		if err := w.kube.Get(ctx, client.ObjectKeyFromObject(fixed), fixed); err != nil {
			return err.Error()
		}
		if fixed.Annotations[v1alpha1.AnnotationError] == "" {
			return "the ConfigMap has no error annotation"
		}
		return ""
	})
	through.quiet(t, 3*time.Second)
	const secrets, configMap = "POST /api/v1/namespaces/refused/secrets", "PATCH /api/v1/namespaces/refused/configmaps/fixed"
	// On a slow machine a retry may already have been due.
	due := int(time.Since(start) / (30 * time.Second))
	if tries := len(through.written(secrets)); tries < 1 || tries > 1+due {
		t.Errorf("the Secret was tried %d times at once", tries)
	}
	// One write for the bundle, and one for the annotation.
	if writes := len(through.written(configMap)); writes < 2 || writes > 2+due {
		t.Errorf("the ConfigMap was written %d times at once", writes)
	}
	eventually(t, func(context.Context) string {
		if secret, target := len(through.written(secrets)), len(through.written(configMap)); secret < 2 || target < 3 {
			return fmt.Sprintf("the Secret was tried %d times, and the ConfigMap written %d times", secret, target)
		}
		return ""
	})
}
