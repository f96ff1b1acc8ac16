package controllers_test

import (
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// lines returns the PEM lines of the private keys in data, by which the test detects a key wherever
// it is shown.
func lines(data map[string][]byte) []string {
	var names []string
	for _, value := range data {
		for block, rest := pem.Decode(value); block != nil; block, rest = pem.Decode(rest) {
			if strings.Contains(block.Type, "PRIVATE KEY") {
				for line := range strings.SplitSeq(string(pem.EncodeToMemory(block)), "\n") {
					if len(line) > 20 && !strings.HasPrefix(line, "-----") {
						names = append(names, line)
					}
				}
			}
		}
	}
	return names
}

// No private key, and no part of one, appears in an Event, a status, an annotation or a ConfigMap,
// whatever goes wrong.
func TestNothingPrivateIsShown(t *testing.T) {
	t.Parallel()
	r := newRealm(t, withSourceSecret("corp-"+realmName(t)))
	own, other := generateCA(t, "Corp Root", nil), generateCA(t, "Other Root", nil)
	var private []string
	keep := func(data map[string][]byte) map[string][]byte {
		private = append(private, lines(data)...)
		return data
	}
	// Typical mistakes of administrators: keys that do not match, and a key where the certificate
	// should be, or beside it.
	for _, wrong := range []map[string][]byte{
		with(own.data(t), corev1.TLSPrivateKeyKey, other.keyPEM(t)),
		with(own.data(t), corev1.TLSCertKey, own.keyPEM(t)),
		with(own.data(t), corev1.TLSPrivateKeyKey, append([]byte("no key: "), own.keyPEM(t)[30:]...)),
	} {
		createSourceSecret(t, "corp-"+r.name, keep(wrong))
		r.serviceCA(isStalled("SourceInvalid"))
	}
	createSourceSecret(t, "corp-"+r.name, keep(with(own.data(t), corev1.TLSCertKey, append(own.keyPEM(t), own.pem()...))))
	r.serviceCA(isReady)
	r.injected("trust")
	service := r.service("web", withSecretName("web-tls"))
	served := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	keep(served.Data)
	update(t, served, func(s *corev1.Secret) { s.Data = with(s.Data, corev1.TLSCertKey, s.Data[corev1.TLSPrivateKeyKey]) })
	event(t, service, corev1.EventTypeNormal, "Reissued")
	keep(r.secret("web-tls", r.issued("web."+r.name+".svc")).Data)
	keep(r.signingKey().Data)
	update(t, r.signingKey(), func(s *corev1.Secret) { s.Data[corev1.TLSPrivateKeyKey] = served.Data[corev1.TLSCertKey] })
	event(t, r.serviceCA(isReady), corev1.EventTypeWarning, "SigningKeyRestored", "tls.key is not the private key")
	if len(private) < 12 {
		t.Fatalf("only %d lines of keys are looked for", len(private))
	}
	for _, shown := range []client.ObjectList{
		&corev1.EventList{}, &corev1.ServiceList{}, &corev1.ConfigMapList{}, &v1alpha1.ServiceCAList{}, &v1alpha1.ServingCertPolicyList{},
		secretMetadata(),
	} {
		if err := kube.List(t.Context(), shown); err != nil {
			t.Fatal(err)
		}
		encoded, err := json.Marshal(shown)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range private {
			if strings.Contains(string(encoded), line) {
				t.Errorf("%T shows a private key", shown)
			}
		}
	}
}

func secretMetadata() *metav1.PartialObjectMetadataList {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	return list
}

// However many Services ask for one Secret, the error is reported on each at most a few times, one
// of them has it, and then the operator writes nothing more.
func TestManyServicesConflictOverOneSecret(t *testing.T) {
	t.Parallel()
	const many = 200
	r := newRealm(t)
	watching, err := client.NewWithWatch(running.Config, client.Options{Scheme: kube.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	changes, err := watching.Watch(t.Context(), &corev1.ServiceList{}, client.InNamespace(r.name))
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Stop()
	first := r.service("aaa", withSecretName("shared"))
	served := r.secret("shared", r.issued("aaa."+r.name+".svc"))
	for i := range many - 1 {
		service := first.DeepCopy()
		service.ObjectMeta = metav1.ObjectMeta{Namespace: r.name, Name: "web-" + string(rune('a'+i/26)) + string(rune('a'+i%26)), Annotations: withSecretName("shared")}
		service.Spec.ClusterIP, service.Spec.ClusterIPs = "", nil
		if err := kube.Create(t.Context(), service); err != nil {
			t.Fatal(err)
		}
	}
	r.report(func(p *v1alpha1.ServingCertPolicy) string {
		if counts := *p.Status.Services; counts.Matched != many || counts.Issued != 1 || counts.Failed != many-1 {
			return "not all are told"
		}
		return ""
	})
	r.passes()
	unchanged(t, served)
	writes := map[string]int{}
	for over := false; !over; { // when the barrier that was created last has gone
		change := <-changes.ResultChan()
		service, ok := change.Object.(*corev1.Service)
		if !ok {
			t.Fatalf("the watch ended: %+v", change)
		}
		if change.Type == watch.Modified {
			writes[service.Name]++
		}
		over = service.Name == "barrier" && change.Type == watch.Deleted
	}
	if len(writes) < many {
		t.Fatalf("%d Services were told, want %d", len(writes), many)
	}
	total := 0
	for name, count := range writes {
		if total += count; count > 4 {
			t.Errorf("Service %s was written %d times", name, count)
		}
	}
	if total > 2*many {
		t.Errorf("%d Services were written %d times", many, total)
	}
}
