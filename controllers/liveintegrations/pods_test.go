package liveintegrations_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// pod runs a pod of the app that mounts a pod certificate, and the bundle by its
// ClusterTrustBundle.
func (r realm) pod(app string, adjust ...func(*corev1.PodCertificateProjection)) *corev1.Pod {
	r.Helper()
	signer := "servingcert.dev/" + r.name
	certificate := &corev1.PodCertificateProjection{SignerName: signer, KeyType: "ECDSAP256", CredentialBundlePath: "tls.pem"}
	for _, a := range adjust {
		a(certificate)
	}
	return create(r.T, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: app, Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{
				Name: "server", Image: "server", ImagePullPolicy: corev1.PullIfNotPresent,
				VolumeMounts: []corev1.VolumeMount{{Name: "tls", MountPath: "/tls"}},
			}},
			Volumes: []corev1.Volume{{Name: "tls", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{
					{PodCertificate: certificate},
					{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{SignerName: &signer, LabelSelector: &metav1.LabelSelector{}, Path: "ca.crt"}},
				},
			}}}},
		},
	})
}

// file returns a file that the kubelet wrote into a pod's volume, and nothing while there is none.
func file(pod *corev1.Pod, name string) []byte {
	on := pod.DeepCopy()
	on.Spec.NodeName = "node-0"
	content, _ := env.cluster.VolumeFile(on, "tls", name)
	return content
}

// credentials returns the certificate that the kubelet wrote last.
func credentials(pod *corev1.Pod) (*tls.Certificate, error) {
	bundle := file(pod, "tls.pem")
	pair, err := tls.X509KeyPair(bundle, bundle)
	if err != nil {
		return nil, err
	}
	pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0])
	return &pair, err
}

// A pod gets a certificate for the Services that select it, renews it in time, and keeps working
// through a rotation, with nothing but the files that its kubelet writes.
func TestPodCertificate(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("web")
	second := r.service("second")
	update(t, second, func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "web"} })
	pod := r.pod("web")
	name := "web." + r.name + ".svc"
	var first *tls.Certificate
	eventually(t, func(context.Context) string {
		var err error
		if first, err = credentials(pod); err != nil {
			return err.Error()
		}
		if len(file(pod, "ca.crt")) == 0 {
			return "no bundle yet"
		}
		return ""
	})
	want := []string{name, name + ".cluster.local", "second." + r.name + ".svc", "second." + r.name + ".svc.cluster.local"}
	if got := first.Leaf.DNSNames; len(got) != 4 || !bytes.Equal([]byte(strings.Join(sorted(got), " ")), []byte(strings.Join(sorted(want), " "))) {
		t.Errorf("the names are %v, not %v", got, want)
	}
	if lifetime := first.Leaf.NotAfter.Sub(first.Leaf.NotBefore); lifetime != 24*time.Hour {
		t.Errorf("it lives for %s", lifetime)
	}
	stop, failures := handshakes(t, pod, name)
	defer stop()
	r.rotate("now")
	before := r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if ca.Status.Rotation.Trigger != "now" || len(ca.Status.Previous) == 0 {
			return "the signer has not switched"
		}
		return ""
	}).Status.Active
	eventually(t, func(context.Context) string {
		if now, err := credentials(pod); err != nil {
			return err.Error()
		} else if now.Leaf.Issuer.CommonName != before.Subject {
			return fmt.Sprintf("the certificate is by %s, and not refreshed by %s", now.Leaf.Issuer.CommonName, before.Subject)
		}
		return ""
	})
	if done, failed := failures(); failed != nil || done == 0 {
		t.Errorf("after %d handshakes: %v", done, failed)
	}
}

func sorted(names []string) []string {
	names = append([]string(nil), names...)
	for i := range names {
		for j := range i {
			if names[i] < names[j] {
				names[i], names[j] = names[j], names[i]
			}
		}
	}
	return names
}

// handshakes runs a server and a client, each of which reads its files at every handshake, until
// stop is called. failures returns how many handshakes succeeded, and the first error.
func handshakes(t *testing.T, pod *corev1.Pod, name string) (stop func(), failures func() (int64, error)) {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return credentials(pod) },
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = connection.(*tls.Conn).HandshakeContext(t.Context())
				_ = connection.Close()
			}()
		}
	}()
	var done atomic.Int64
	var failed atomic.Pointer[error]
	ended, end := context.WithCancel(t.Context())
	go func() {
		for ended.Err() == nil {
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(file(pod, "ca.crt"))
			dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: time.Minute}, Config: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: name}}
			connection, err := dialer.DialContext(ended, "tcp", listener.Addr().String())
			if ended.Err() != nil {
				return
			}
			if err != nil {
				failed.CompareAndSwap(nil, &err)
				return
			}
			_ = connection.Close()
			done.Add(1)
		}
	}()
	return func() { end(); _ = listener.Close() }, func() (int64, error) {
		if err := failed.Load(); err != nil {
			return done.Load(), *err
		}
		return done.Load(), nil
	}
}

// A pod that no Service selects waits, has an Event that says so, and gets its certificate once a
// Service selects it. A pod with an unknown option is denied.
func TestPodCertificateWaits(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	pod := r.pod("late")
	eventually(t, func(ctx context.Context) string { return event(ctx, r.name, "late", "NoService") })
	r.service("late")
	eventually(t, func(context.Context) string {
		_, err := credentials(pod)
		if err != nil {
			return err.Error()
		}
		return ""
	})

	r.service("odd")
	r.pod("odd", func(p *corev1.PodCertificateProjection) {
		p.UserAnnotations = map[string]string{"example.org/name": "kubernetes.default.svc"}
	})
	eventually(t, func(ctx context.Context) string {
		var requests certificatesv1.PodCertificateRequestList
		if err := env.kube.List(ctx, &requests, client.InNamespace(r.name)); err != nil {
			return err.Error()
		}
		for _, request := range requests.Items {
			for _, condition := range request.Status.Conditions {
				if request.Spec.PodName == "odd" && condition.Type == certificatesv1.PodCertificateRequestConditionTypeDenied &&
					condition.Reason == certificatesv1.PodCertificateRequestConditionInvalidUserConfig {
					return ""
				}
			}
		}
		return "the request with an unknown option is not denied"
	})
}

// event looks for an Event about a pod.
func event(ctx context.Context, namespace, pod, reason string) string {
	var events eventsv1.EventList
	if err := env.kube.List(ctx, &events, client.InNamespace(namespace)); err != nil {
		return err.Error()
	}
	for _, e := range events.Items {
		if e.Regarding.Kind == "Pod" && e.Regarding.Name == pod && e.Reason == reason {
			return ""
		}
	}
	return errors.New("pod " + pod + " has no Event " + reason).Error()
}
