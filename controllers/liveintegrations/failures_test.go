package liveintegrations_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// A request whose answer cannot be written, because a webhook cannot be called, has an Event that
// says so, and is answered once it can be.
func TestWebhookForRequestsUnavailable(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("web")
	name := "web." + r.name + ".svc"
	request, key := requestFor(t, x509.CertificateRequest{DNSNames: []string{name}})
	current := r.ask("held", request)
	webhook := create(t, &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: current.Name},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name: "away.example.org", ClientConfig: admissionv1.WebhookClientConfig{URL: new("https://127.0.0.1:1/none")},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Update},
				Rule: admissionv1.Rule{
					APIGroups: []string{certificatesv1.GroupName}, APIVersions: []string{"v1"}, Resources: []string{"certificatesigningrequests/status"},
				},
			}},
			MatchConditions: []admissionv1.MatchCondition{{Name: "one", Expression: fmt.Sprintf("object.metadata.name == %q", current.Name)}},
			SideEffects:     new(admissionv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
		}},
	})
	get(t, current, func(current *certificatesv1.CertificateSigningRequest) string {
		if err := env.kube.Status().Update(t.Context(), current, client.DryRunAll); err == nil {
			return "the webhook is not called yet"
		}
		return ""
	})
	r.approve(current)
	eventually(t, func(ctx context.Context) string {
		var events eventsv1.EventList
		if err := env.kube.List(ctx, &events); err != nil {
			return err.Error()
		}
		for _, e := range events.Items {
			if e.Regarding.UID == current.UID && e.Reason == "RequestFailed" && strings.Contains(e.Note, `failed calling webhook "away.example.org"`) {
				return ""
			}
		}
		return "no Event says that the answer cannot be written"
	})
	if err := env.kube.Delete(t.Context(), webhook); err != nil {
		t.Fatal(err)
	}
	get(t, current, func(current *certificatesv1.CertificateSigningRequest) string {
		if len(current.Status.Certificate) == 0 {
			return "the request is not answered, though it can be"
		}
		return ""
	})
	verify(t, current.Status.Certificate, r.bundle(), key, name)
}
