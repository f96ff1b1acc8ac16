package controllers_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/servingcert/operator/api/v1alpha1"
)

// allKinds creates a realm with an object of every kind that the operator handles: Services with
// and without a certificate, for every reason, and everything that receives a bundle.
func allKinds(w testCluster) realm {
	w.Helper()
	r := newRealmIn(w.T, w.kube, "everything", issueAll, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		p.Spec.Certificate.CABundle = v1alpha1.CABundleInclude
	})
	unserved := r
	unserved.name = "unserved"
	createBy(w.T, w.kube, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: unserved.name}})
	createBy(w.T, w.kube, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "broken"}, Spec: v1alpha1.ServiceCASpec{
		Source: v1alpha1.CASource{Secret: &v1alpha1.SecretSource{Name: "nowhere"}}}})
	createBy(w.T, w.kube, &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: "broken"}, Spec: v1alpha1.ServingCertPolicySpec{
		ServiceCAName: "broken", NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{"is": "broken"}}}})
	createBy(w.T, w.kube, &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: "tied"}, Spec: *r.policy.Spec.DeepCopy()})
	createBy(w.T, w.kube, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "broken", Labels: map[string]string{"is": "broken"}}})
	broken := r
	broken.name = "broken"
	createBy(w.T, w.kube, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "foreign"}})
	r.service("silent", nil)
	r.service("asking", withSecretName("asking-tls"))
	r.service("openshift", map[string]string{beta + "serving-cert-secret-name": "openshift-tls"})
	r.service("alpha", map[string]string{alpha + "serving-cert-secret-name": "alpha-tls"})
	r.service("headless", nil, func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })
	r.service("foreign", withSecretName("foreign"))
	r.service("openshift-foreign", map[string]string{beta + "serving-cert-secret-name": "foreign"})
	r.service("impossible", withSecretName("No Name"))
	r.service("first", withSecretName("shared"))
	r.service("second", withSecretName("shared"))
	unserved.service("alone", withSecretName("alone-tls"))
	broken.service("waiting", withSecretName("waiting-tls"))
	r.injected("trust")
	createBy(w.T, w.kube, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "no-such-ca", Annotations: map[string]string{
		v1alpha1.AnnotationInjectCABundle: "nobody"}}})
	unserved.expectError("alone", "NoPolicy")
	broken.expectError("waiting", "ServiceCANotReady")
	for _, name := range []string{"foreign", "openshift-foreign", "impossible", "first", "second"} {
		r.expectError(name, ": ")
	}
	r.report(func(p *v1alpha1.ServingCertPolicy) string {
		if counts := *p.Status.Services; counts.Matched != 10 || counts.Issued != 6 {
			return "not all are served"
		}
		return ""
	})
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if *activeOf(ca).Certificates != 6 || ca.Status.TrustBundle.CurrentTargets != 7 {
			return "not all is counted"
		}
		return isReady(ca)
	})
	return r
}

// Once everything is settled, the operator writes nothing more: neither over several resyncs of the
// caches nor over a restart.
func TestAtRest(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	first := newTransport()
	stop := w.start(first, func(options *ctrl.Options) { options.Cache.SyncPeriod = ptr.To(1500 * time.Millisecond) })
	r := allKinds(w)
	// The wait covers several resyncs of every object, and is longer than a status may be out of
	// date, because every resync is a change that debounce counts.
	first.quiet(t, 13*time.Second)
	stop()
	second := newTransport()
	w.start(second, func(options *ctrl.Options) { options.Cache.SyncPeriod = ptr.To(1500 * time.Millisecond) })
	// Whatever the restarted operator would write, it writes before it serves a Service that is
	// created now, or before it settles.
	r.service("late", withSecretName("late-tls"))
	r.secret("late-tls", r.issued("late."+r.name+".svc"))
	r.report(func(p *v1alpha1.ServingCertPolicy) string {
		if p.Status.Services.Issued != 7 {
			return "the late Service is not counted"
		}
		return ""
	})
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if *activeOf(ca).Certificates != 7 {
			return "the late Service is not counted"
		}
		return ""
	})
	second.quiet(t, 13*time.Second)
	if made := second.written("POST /api/v1/namespaces/" + r.name + "/secrets"); len(made) != 1 {
		t.Errorf("one Service is late, and %d Secrets are made", len(made))
	}
	for _, write := range second.written() {
		switch {
		case write == "POST /api/v1/namespaces/"+r.name+"/secrets", strings.HasSuffix(write, "/servingcertpolicies/everything/status"),
			strings.HasSuffix(write, "/servicecas/everything/status"), strings.HasSuffix(write, "/events"):
		default:
			t.Errorf("after a restart: %s", write)
		}
	}
	if statuses := second.written("/status"); len(statuses) > 4 {
		t.Errorf("one Service costs %d writes of statuses: %v", len(statuses), statuses)
	}
}

// A certificate costs one write, and one more where OpenShift's annotations require an answer on
// the Service.
func TestOneWritePerCertificate(t *testing.T) {
	t.Parallel()
	const plain, openShift = 30, 10
	w := newTestCluster(t)
	r := newRealmIn(t, w.kube, "economy")
	for i := range plain {
		r.service(fmt.Sprintf("plain-%d", i), withSecretName(fmt.Sprintf("plain-%d-tls", i)))
	}
	for i := range openShift {
		r.service(fmt.Sprintf("openshift-%d", i), map[string]string{beta + "serving-cert-secret-name": fmt.Sprintf("openshift-%d-tls", i)})
	}
	counted := func(through *transport) {
		t.Helper()
		r.serves(plain + openShift)
		through.quiet(t, 2*time.Second)
	}
	through := newTransport()
	w.start(through)
	counted(through)
	namespace := "/namespaces/" + r.name
	for what, count := range map[string]int{
		"POST /api/v1" + namespace + "/secrets": plain + openShift, namespace + "/secrets": plain + openShift,
		namespace + "/services/plain-": 0, namespace + "/services/openshift-": openShift, namespace + "/configmaps": 0,
		"/namespaces/" + operatorNamespace + "/": 2, "/servingcertpolicies/": len(through.written("/servingcertpolicies/economy/status")),
	} {
		if writes := through.written(what); len(writes) != count {
			t.Errorf("%d writes of %s, want %d", len(writes), what, count)
		}
	}
	if statuses := through.written("/status"); len(statuses) > 12 {
		t.Errorf("%d writes of statuses: %v", len(statuses), statuses)
	}
	// A renewal by another CA costs one write each again; the annotation on the Service changes
	// with the CA.
	through.forget()
	if err := w.kube.Delete(t.Context(), r.signingKey()); err != nil {
		t.Fatal(err)
	}
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if len(ca.Status.Previous) != 1 || *activeOf(ca).Certificates != plain+openShift {
			return "not all are signed anew"
		}
		return ""
	})
	counted(through)
	if writes := through.written(namespace + "/secrets/"); len(writes) != plain+openShift {
		t.Errorf("a lost key costs %d writes of Secrets, want %d", len(writes), plain+openShift)
	}
	if writes := through.written(namespace + "/services/"); len(writes) != openShift {
		t.Errorf("a lost key costs %d writes of Services, want %d", len(writes), openShift)
	}
}
