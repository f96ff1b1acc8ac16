package controllers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// overwrite keeps patching an object under the field manager "rival", until end is called.
func overwrite(t *testing.T, object client.Object, patch string) (end func()) {
	t.Helper()
	fighting, cancel := context.WithCancel(t.Context())
	ended, turns := make(chan struct{}), time.NewTicker(50*time.Millisecond)
	fought := object.DeepCopyObject().(client.Object)
	go func() {
		defer close(ended)
		defer turns.Stop()
		for fighting.Err() == nil {
			// The operator may be writing it at that moment.
			_ = kube.Patch(fighting, fought, client.RawPatch(types.MergePatchType, []byte(patch)), client.FieldOwner("rival"))
			select {
			case <-turns.C:
			case <-fighting.Done():
			}
		}
	}()
	return func() { cancel(); <-ended }
}

// A field manager that keeps overwriting a ConfigMap is named on it, by one write, and the
// ConfigMap is counted, until the overwriting stops.
func TestOverwrittenConfigMapIsReported(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	configMap := r.configMap("fought", r.injects(), nil)
	eventuallyHolds(t, configMap, r.exactly)
	stop := follow(t, configMap)
	end := overwrite(t, configMap, `{"data":{"service-ca.crt":"theirs"}}`)
	t.Cleanup(end)
	errorOn(t, configMap, "Overwritten: ", `field manager "rival"`)
	event(t, configMap, corev1.EventTypeWarning, "Overwritten", `field manager "rival"`)
	r.serviceCA(blocks(2, 1))
	end()
	errorOn(t, configMap)
	eventuallyHolds(t, configMap, r.exactly)
	r.serviceCA(counts(2, 2))
	told, before := 0, ""
	for _, state := range stop() {
		if now := state.Annotations[v1alpha1.AnnotationError]; now != before {
			told, before = told+1, now
		}
	}
	if told != 2 {
		t.Errorf("the error annotation changed %d times, want twice: when it began, and when it was over", told)
	}
}

// A field manager that keeps overwriting the Secret of a Service is named on the Service and in the
// status of its policy, until the overwriting stops.
func TestOverwrittenSecretIsReported(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	service := r.service("web", withSecretName("web-tls"))
	secret := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	end := overwrite(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: secret.Name}}, `{"stringData":{"tls.crt":"theirs"}}`)
	t.Cleanup(end)
	told := func(want string) {
		t.Helper()
		eventually(t, func(ctx context.Context) string {
			var policy v1alpha1.ServingCertPolicy
			if err := kube.Get(ctx, client.ObjectKeyFromObject(r.policy), &policy); err != nil {
				return err.Error()
			}
			if err := kube.Get(ctx, client.ObjectKeyFromObject(service), service); err != nil {
				return err.Error()
			}
			failures := fmt.Sprint(policy.Status.Failures)
			served := meta.IsStatusConditionTrue(policy.Status.Conditions, v1alpha1.ConditionAllServed)
			says := service.Annotations[v1alpha1.AnnotationError]
			if !strings.HasPrefix(says, want) || !strings.Contains(failures, want) || served != (want == "") || (says == "") != (want == "") {
				return fmt.Sprintf("the Service says %q, the policy %s, AllServed %t", says, failures, served)
			}
			return ""
		})
	}
	told("SecretOverwritten")
	event(t, service, corev1.EventTypeWarning, "SecretOverwritten", `field manager "rival"`, "web-tls")
	end()
	told("")
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
}
