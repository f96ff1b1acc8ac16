package liveopenshiftstack_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// shakeHands performs TLS handshakes with the files that the kubelet wrote: between a client with a
// mounted bundle, and every pod with its mounted Secret.
func (s *stack) shakeHands(pods []corev1.Pod) {
	s.Helper()
	roots, hands := s.mountedRoots(pods), 0
	for i := range pods {
		for _, volume := range s.ourSecrets(&pods[i]) {
			pair, err := tls.X509KeyPair(s.file(&pods[i], volume.Name, corev1.TLSCertKey), s.file(&pods[i], volume.Name, corev1.TLSPrivateKeyKey))
			if err != nil {
				s.Fatal(err)
			}
			if err := handshake(s.Context(), pair, &tls.Config{RootCAs: roots, ServerName: pair.Leaf.DNSNames[0]}); err != nil {
				s.Errorf("pod %s: %v", pods[i].Name, err)
			}
			hands++
		}
	}
	s.Logf("%d handshakes", hands)
}

// mountedRoots returns the roots in the volume of the first pod with a bundle. If the pod started
// before the bundle existed, it waits until the kubelet refreshes the volume.
func (s *stack) mountedRoots(pods []corev1.Pod) *x509.CertPool {
	s.Helper()
	for i := range pods {
		for _, volume := range pods[i].Spec.Volumes {
			if volume.ConfigMap == nil || !s.configMaps[pods[i].Namespace+"/"+volume.ConfigMap.Name] {
				continue
			}
			folder, err := s.cluster.VolumePath(&pods[i], volume.Name)
			if err != nil {
				s.Fatal(err)
			}
			roots := x509.NewCertPool()
			eventually(s.T, func(context.Context) error {
				bundle, err := os.ReadFile(filepath.Join(folder, "service-ca.crt"))
				if err == nil && !roots.AppendCertsFromPEM(bundle) {
					err = fmt.Errorf("pod %s finds no bundle", pods[i].Name)
				}
				return err
			})
			return roots
		}
	}
	s.Fatal("no pod mounts the bundle")
	return nil
}

func handshake(ctx context.Context, server tls.Certificate, config *tls.Config) error {
	here, there := net.Pipe()
	deadline := time.Now().Add(10 * time.Second)
	if err := errors.Join(here.SetDeadline(deadline), there.SetDeadline(deadline)); err != nil {
		return err
	}
	defer here.Close()
	served := make(chan error, 1)
	go func() {
		defer there.Close()
		served <- tls.Server(there, &tls.Config{Certificates: []tls.Certificate{server}}).HandshakeContext(ctx)
	}()
	err := tls.Client(here, config).HandshakeContext(ctx)
	here.Close()
	return errors.Join(err, <-served)
}
