package serviceca

import (
	"context"
	"errors"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servingcert/operator/api/v1alpha1"
)

// bundlesIn is a reconciler in a cluster with this ClusterTrustBundle, which may not be read where forbidden; nothing may be written.
func bundlesIn(t *testing.T, forbidden bool, bundle *certificatesv1.ClusterTrustBundle) *Reconciler {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := certificatesv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	r := &Reconciler{Live: fake.NewClientBuilder().WithScheme(scheme).WithObjects(bundle).WithInterceptorFuncs(interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
			if forbidden {
				return apierrors.NewForbidden(certificatesv1.Resource("clustertrustbundles"), key.Name, errors.New("no right"))
			}
			return c.Get(ctx, key, object, options...)
		},
		Apply: func(context.Context, client.WithWatch, runtime.ApplyConfiguration, ...client.ApplyOption) error {
			return errors.New("it is written")
		},
	}).Build()}
	r.clusterBundles.Store(true)
	return r
}

// Nobody is told that a ClusterTrustBundle is somebody else's because it cannot be read, and what nobody has seen is not written.
func TestClusterBundleUnread(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	state := s.sound()
	r := bundlesIn(t, true, &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: s.serviceCA.ClusterTrustBundleName()}})
	var err error
	if s.clusterBundle, err = r.observeClusterBundle(t.Context(), s.serviceCA); err != nil {
		t.Fatal(err)
	}
	if got := s.clusterBundle; got.theirs || got.found != nil || !strings.Contains(got.refused, "cannot be read") {
		t.Errorf("it is %+v", got)
	}
	if changed, err := r.publishClusterBundle(t.Context(), &s.observed, state); changed || err != nil {
		t.Errorf("it is said to have changed (%t): %v", changed, err)
	}
	decided := step{state: state}
	decided.lookAgain(evidence{clusterBundle: s.clusterBundle})
	if decided.retry != retryClusterBundle {
		t.Errorf("it looks again after %s", decided.retry)
	}
}

// What was refused is forgotten once the ClusterTrustBundle holds what it should, whoever did that.
func TestClusterBundlePutRight(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	state := s.sound()
	r := bundlesIn(t, false, &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: s.serviceCA.ClusterTrustBundleName(), Labels: map[string]string{v1alpha1.LabelServiceCA: "default"}},
		Spec:       certificatesv1.ClusterTrustBundleSpec{TrustBundle: string(state.Bundle().Encode())},
	})
	r.bundleRefused.Store(s.serviceCA.UID, "cannot be written")
	for _, want := range []bool{true, false} {
		var err error
		if s.clusterBundle, err = r.observeClusterBundle(t.Context(), s.serviceCA); err != nil {
			t.Fatal(err)
		}
		if changed, err := r.publishClusterBundle(t.Context(), &s.observed, state); changed != want || err != nil {
			t.Errorf("it is said to have changed: %t (%v), want %t", changed, err, want)
		}
		if s.clusterBundle.refused != "" {
			t.Errorf("it still says %q", s.clusterBundle.refused)
		}
	}
}
