package apply_test

import (
	"net/http"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/controllers/internal/apply"
)

// TestWebhookDenial covers a webhook that sets no code, as most policy engines do: it denies with
// 400 Bad Request without a reason.
func TestWebhookDenial(t *testing.T) {
	t.Parallel()
	denied := &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusBadRequest, Message: `admission webhook "policy.example.org" denied the request: no`,
	}}
	if !apply.IsRejected(denied) || apply.IsGone(denied) {
		t.Errorf("%v is not taken for a refusal", denied)
	}
}
