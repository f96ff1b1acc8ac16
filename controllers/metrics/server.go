package metrics

import (
	"crypto/tls"
	"fmt"
	"path/filepath"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// Server returns the options of the metrics server. If certDir is empty, it serves plain HTTP to
// everyone. Otherwise it serves TLS with the certificate in that directory, to clients that the API
// server authorizes to get /metrics.
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

// certificate is the serving certificate of the metrics, in files that the kubelet writes. The
// operator issues it itself, so it does not exist before the operator has run: the server does not
// wait for it, and handshakes fail until then. There are few handshakes, so each one reads the
// files, and no file watch is needed.
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
	// The kubelet may have replaced both files between the two reads.
	if last := c.last.Load(); last != nil {
		return last, nil
	}
	return nil, fmt.Errorf("there is no certificate for the metrics yet: %w", err)
}
