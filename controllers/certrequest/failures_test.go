package certrequest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// badRequests is a kind whose requests are all refused, unless their status has a certificate.
type badRequests struct {
	RequestKind[*certificatesv1.CertificateSigningRequest]
	live client.Client
}

func (badRequests) New() *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{}
}
func (badRequests) MaxWait() time.Duration { return 0 }

func (badRequests) ServiceCAName(request *certificatesv1.CertificateSigningRequest) string {
	if len(request.Status.Certificate) > 0 {
		return ""
	}
	return "default"
}

func (badRequests) Evaluate(context.Context, *certificatesv1.CertificateSigningRequest) (*Grant, *Refusal, error) {
	return nil, Invalid(errors.New("it is empty")), nil
}

func (d badRequests) Refuse(ctx context.Context, request *certificatesv1.CertificateSigningRequest, _ *Refusal) error {
	if err := d.live.Status().Update(ctx, request); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

func (badRequests) EventObject(request *certificatesv1.CertificateSigningRequest) runtime.Object {
	return request
}

// readBy is a cache that reads through a client.
type readBy struct {
	cache.Cache
	client client.Client
}

func (c readBy) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	return c.client.Get(ctx, key, object, options...)
}

// An answer that the API server fails to write is recorded once the failure persists, and one that
// it rejects is recorded at once. Each is recorded once while it lasts, and no state remains
// afterwards.
func TestAnswerThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	resource := schema.GroupResource{Group: "certificates.k8s.io", Resource: "certificatesigningrequests"}
	away := func(port int) error {
		return apierrors.NewInternalError(fmt.Errorf(`failed calling webhook "w.example.org": from port %d`, port))
	}
	forbidden := apierrors.NewForbidden(resource, "web", errors.New("a policy says no"))
	denied := apierrors.NewConflict(resource, "web", errors.New(`admission webhook "w.example.org" denied the request`))
	for _, ending := range []string{"answered", "gone"} {
		t.Run(ending, func(t *testing.T) {
			t.Parallel()
			var fault error
			request := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
			c := fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(request).WithInterceptorFuncs(interceptor.Funcs{
				SubResourceUpdate: func(
					ctx context.Context, c client.Client, resource string, object client.Object, options ...client.SubResourceUpdateOption,
				) error {
					if fault != nil {
						return fault
					}
					return c.SubResource(resource).Update(ctx, object, options...)
				},
			}).Build()
			clock, recorder := clocktesting.NewFakePassiveClock(now), events.NewFakeRecorder(8)
			r := &Reconciler[*certificatesv1.CertificateSigningRequest]{
				Kind: badRequests{live: c}, Signer: Signer{Clock: clock}, Recorder: recorder, requests: readBy{client: c},
			}
			key := client.ObjectKeyFromObject(request)
			for _, step := range []struct {
				name    string
				after   time.Duration
				fault   error
				message string
			}{
				{"it fails", 0, away(1), ""},
				{"it fails for a moment", 4 * time.Second, away(2), ""},
				{"it lasts", 5 * time.Second, away(3), `RequestFailed answer: Internal error occurred: failed calling webhook "w.example.org"`},
				{"it lasts, in other words", time.Minute, away(4), ""},
				{"it is answered", 2 * time.Minute, nil, "InvalidRequest it is empty"},
				{"it fails anew", 3 * time.Minute, away(5), ""},
				{"it is refused", 3 * time.Minute, forbidden, "AnswerRefused answer: "},
				{"it is refused again", 4 * time.Minute, forbidden, ""},
				{"it is answered again", 5 * time.Minute, nil, ""},
				{"it is denied with the code of a conflict", 6 * time.Minute, denied, "AnswerRefused answer: "},
				{"somebody was faster", 7 * time.Minute, apierrors.NewConflict(resource, "web", errors.New("it has changed")), ""},
			} {
				clock.SetTime(now.Add(step.after))
				fault = step.fault
				_, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: key})
				if faster := strings.HasPrefix(step.name, "somebody"); (err != nil) != (step.fault != nil && !faster) {
					t.Errorf("%s: it returns %v", step.name, err)
				}
				message := ""
				select {
				case message = <-recorder.Events:
				default:
				}
				if (message == "") != (step.message == "") || !strings.Contains(message, step.message) {
					t.Errorf("%s: the Event is %q, want %q", step.name, message, step.message)
				}
			}
			fault = nil
			var end error
			if ending == "gone" {
				end = c.Delete(t.Context(), request)
			} else {
				current := &certificatesv1.CertificateSigningRequest{}
				if err := c.Get(t.Context(), key, current); err != nil {
					t.Fatal(err)
				}
				current.Status.Certificate = []byte("x")
				end = c.Status().Update(t.Context(), current)
			}
			if end != nil {
				t.Fatal(end)
			}
			if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: key}); err != nil {
				t.Fatal(err)
			}
			_, reported := r.reported.Load(key)
			// If no state remains, the same error is recorded again, and its duration counts from
			// now.
			_, anew := r.failures.RecordFailure(key, clock.Now(), reasonAnswerRefused, forbidden)
			lasting, _ := r.failures.RecordFailure(key, clock.Now(), reasonAnswerRefused, away(6))
			if reported || !anew || lasting != nil {
				t.Errorf("it is remembered: told %t, refused %t, failed %v", reported, !anew, lasting)
			}
		})
	}
}
