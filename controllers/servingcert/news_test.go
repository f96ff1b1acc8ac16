package servingcert

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Each of a few certificates is told of on its Service; of a thousand, the rest by one Event on the policy, once.
func TestNews(t *testing.T) {
	t.Parallel()
	const number = 1000
	recorder := events.NewFakeRecorder(2 * number)
	n := NewNews(recorder, clocktesting.NewFakePassiveClock(time.Unix(1_700_000_000, 0)))
	policies := []v1alpha1.ServingCertPolicy{{ObjectMeta: metav1.ObjectMeta{Name: "default", UID: "uid"}}, {ObjectMeta: metav1.ObjectMeta{Name: "other"}}}
	for i := range number {
		meta := metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("web-%d", i)}
		n.tell("Issued", certificate{
			policy: &policies[0], service: &corev1.Service{ObjectMeta: meta}, secret: &corev1.Secret{ObjectMeta: meta}, why: "there was none",
		})
	}
	for range few {
		if told := <-recorder.Events; !strings.Contains(told, "because there was none") {
			t.Errorf("of one: %s", told)
		}
	}
	if len(recorder.Events) != 0 {
		t.Errorf("there are %d more Events at once", len(recorder.Events))
	}
	n.Flush(policies)
	n.Flush(policies)
	if len(recorder.Events) != 1 {
		t.Fatalf("there are %d Events for the rest", len(recorder.Events))
	}
	told := <-recorder.Events
	want := "900 more Secrets have a new certificate, of Services shop/web-100, shop/web-101, shop/web-102, shop/web-103, shop/web-104 and others"
	if !strings.Contains(told, want) {
		t.Errorf("%q does not say %q", told, want)
	}
}
