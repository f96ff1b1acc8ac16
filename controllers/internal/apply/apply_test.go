package apply_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servingcert/operator/controllers/internal/apply"
)

var secrets = corev1.Resource("secrets")

// terminating returns the API server's error for a creation in a namespace that is being deleted.
func terminating() error {
	err := apierrors.NewForbidden(secrets, "web-tls", errors.New("because it is being terminated"))
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	return err
}

// unpermitted returns the API server's error for a client without the permission.
func unpermitted() error {
	return apierrors.NewForbidden(secrets, "web-tls", errors.New(`User "system:serviceaccount:a:manager" cannot patch resource "secrets" in API group "" in the namespace "b"`))
}

// denied returns the API server's error if a webhook denies with a code.
func denied(code int32) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: code, Message: `admission webhook "w" denied the request: no`,
	}}
}

// TestErrorClassification checks that errors that a person has to correct, transient errors, and
// errors that need no action are distinguished.
func TestErrorClassification(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err                           error
		rejected, gone, serverFailure bool
	}{
		"none":                     {nil, false, false, false},
		"a quota":                  {apierrors.NewForbidden(secrets, "web-tls", errors.New("exceeded quota")), true, false, false},
		"invalid":                  {apierrors.NewInvalid(schema.GroupKind{Kind: "Secret"}, "web-tls", nil), true, false, false},
		"too large":                {apierrors.NewRequestEntityTooLargeError("3 MiB"), true, false, false},
		"too large for etcd":       {&apierrors.StatusError{ErrStatus: metav1.Status{Code: 500, Message: "etcdserver: request is too large"}}, true, false, false},
		"a right that is lacking":  {unpermitted(), false, false, true},
		"a webhook that says so":   {apierrors.NewForbidden(secrets, "web-tls", errors.New(`admission webhook "w" denied the request: is forbidden: User "x"`)), true, false, false},
		"a conflict":               {apierrors.NewConflict(secrets, "web-tls", errors.New("changed")), false, false, false},
		"a webhook that is away":   {apierrors.NewInternalError(errors.New("failed calling webhook")), false, false, true},
		"a webhook that hangs":     {fmt.Errorf("write it: %w", apierrors.NewTimeoutError("request did not complete", 0)), false, false, true},
		"a webhook, any code":      {denied(http.StatusConflict), true, false, false},
		"a webhook, as if gone":    {denied(http.StatusNotFound), true, false, false},
		"a webhook, as if a fault": {denied(http.StatusInternalServerError), true, false, false},
		"away":                     {apierrors.NewServiceUnavailable("away"), false, false, false},
		"another's fault":          {errors.New("no route to host"), false, false, false},
		"gone":                     {apierrors.NewNotFound(secrets, "web-tls"), false, true, false},
		"a dying namespace":        {terminating(), false, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := apply.IsRejected(tc.err); got != tc.rejected {
				t.Errorf("refused: %t, want %t", got, tc.rejected)
			}
			if got := apply.IsGone(tc.err); got != tc.gone {
				t.Errorf("going: %t, want %t", got, tc.gone)
			}
			if got := apply.IsServerFailure(tc.err); got != tc.serverFailure {
				t.Errorf("failed: %t, want %t", got, tc.serverFailure)
			}
			if got := apply.IsConflict(tc.err); got != (name == "a conflict") {
				t.Errorf("a conflict: %t", got)
			}
			if ignored := apply.IgnoreGone(tc.err) == nil; ignored != (name == "gone" || name == "none") {
				t.Errorf("ignored as gone: %t", ignored)
			}
		})
	}
}

// TestIsManagedBy checks that a copy of an object is not taken for the operator's: a copy has the
// labels and owners of the original, but not its field managers.
func TestIsManagedBy(t *testing.T) {
	t.Parallel()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{
		{Manager: "kubectl-edit"}, {Manager: string(apply.ServingCert), Operation: metav1.ManagedFieldsOperationApply},
	}}}
	copied := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl-create"}}}}
	if !apply.IsManagedBy(secret, apply.ServingCert) {
		t.Error("what we made is not known")
	}
	if apply.IsManagedBy(secret, apply.ServiceCA) || apply.IsManagedBy(copied, apply.ServingCert) || apply.IsManagedBy(&corev1.Secret{}, apply.ServingCert) {
		t.Error("what others made is taken for ours")
	}
}

func TestPreconditionsFor(t *testing.T) {
	t.Parallel()
	options := &client.DeleteOptions{}
	apply.PreconditionsFor(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{UID: "u", ResourceVersion: "7"}}).ApplyToDelete(options)
	if p := options.Preconditions; p == nil || *p.UID != "u" || *p.ResourceVersion != "7" {
		t.Errorf("the preconditions are %+v", options.Preconditions)
	}
}

// TestAnnotations checks that annotations of other clients stay, that a nil value removes one, and
// that there is no write without changes.
func TestAnnotations(t *testing.T) {
	t.Parallel()
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: "web", UID: "uid-of-web", Annotations: map[string]string{"theirs": "stays", "ours": "old", "former": "goes"},
	}}
	writes := 0
	c := fake.NewClientBuilder().WithObjects(service).WithInterceptorFuncs(interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, object client.Object, patch client.Patch, options ...client.PatchOption) error {
			writes++
			return c.Patch(ctx, object, patch, options...)
		},
	}).Build()
	if err := apply.Annotations(t.Context(), c, apply.ServingCert, service.DeepCopy(), nil); err != nil || writes != 0 {
		t.Errorf("no change made %d writes: %v", writes, err)
	}
	changes := map[string]*string{"ours": new("new"), "former": nil}
	if err := apply.Annotations(t.Context(), c, apply.ServingCert, service.DeepCopy(), changes); err != nil || writes != 1 {
		t.Fatalf("two changes made %d writes: %v", writes, err)
	}
	var got corev1.Service
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(service), &got); err != nil {
		t.Fatal(err)
	}
	if a := got.Annotations; len(a) != 2 || a["theirs"] != "stays" || a["ours"] != "new" {
		t.Errorf("the annotations are %v", a)
	}
}

// TestOtherWriter checks that it is the client that wrote the operator's fields, or else the one
// that wrote last, and never the operator itself.
func TestOtherWriter(t *testing.T) {
	t.Parallel()
	early, late := metav1.NewTime(time.Unix(1, 0)), metav1.NewTime(time.Unix(2, 0))
	entry := func(manager string, at *metav1.Time, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Time: at, FieldsV1: metav1.NewFieldsV1(fields)}
	}
	const ours, others = `{"f:data":{"f:ca.crt":{}}}`, `{"f:data":{"f:mine":{}}}`
	status := entry("status", &late, ours)
	status.Subresource = "status"
	for name, tc := range map[string]struct {
		entries []metav1.ManagedFieldsEntry
		want    string
	}{
		"nobody":              {nil, ""},
		"nobody else":         {[]metav1.ManagedFieldsEntry{entry(string(apply.Trust), &late, ours), status}, ""},
		"who has the field":   {[]metav1.ManagedFieldsEntry{entry("later", &late, others), entry("rival", &early, ours), entry("latest", &late, others)}, `field manager "rival"`},
		"who had it last":     {[]metav1.ManagedFieldsEntry{entry("before", &early, ours), entry("rival", &late, ours), entry("before", &early, ours)}, `field manager "rival"`},
		"who wrote last":      {[]metav1.ManagedFieldsEntry{entry("before", &early, others), entry("rival", &late, others)}, `a client, perhaps field manager "rival",`},
		"known without times": {[]metav1.ManagedFieldsEntry{entry("rival", nil, others)}, `a client, perhaps field manager "rival",`},
	} {
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ManagedFields: tc.entries}}
		if got := apply.OtherWriter(object, apply.Trust, "ca.crt"); got != tc.want {
			t.Errorf("%s: it is %q, want %q", name, got, tc.want)
		}
	}
}
