package metrics

import (
	"crypto/tls"
	"fmt"
	"path/filepath"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// Server serves the metrics at an address: in the clear and to anybody or, where a folder for a certificate is named, by TLS and to whoever may get
// /metrics by the rights that the API server knows.
func Server(address, certDir string) server.Options {
	options := server.Options{BindAddress: address}
	if certDir != "" {
		files := &certificate{folder: certDir}
		options.SecureServing = true
		options.FilterProvider = authorizedOnly
		options.TLSOpts = []func(*tls.Config){func(config *tls.Config) {
			config.MinVersion = tls.VersionTLS12
			config.GetCertificate = files.get
		}}
	}
	return options
}

// certificate is that of the metrics, in files that the kubelet writes. It is our own work: there is none before the operator has run, so
// nobody waits for it, and handshakes fail meanwhile. Few come, so each reads the files, and none has to watch them.
type certificate struct {
	folder string
	last   atomic.Pointer[tls.Certificate]
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	loaded, err := tls.LoadX509KeyPair(filepath.Join(c.folder, corev1.TLSCertKey), filepath.Join(c.folder, corev1.TLSPrivateKeyKey))
	if err == nil {
		c.last.Store(&loaded)
		return &loaded, nil
	}
	// Between the two reads the kubelet may have written both.
	if last := c.last.Load(); last != nil {
		return last, nil
	}
	return nil, fmt.Errorf("there is no certificate for the metrics yet: %w", err)
}
