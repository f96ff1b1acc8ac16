package metrics

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The reasons for signing a certificate.
const (
	Issued   = "Issued"
	Renewed  = "Renewed"
	Reissued = "Reissued"
)

// Signing counts the certificates that this process signs.
type Signing struct {
	signed *prometheus.CounterVec
	took   *prometheus.HistogramVec
}

// NewSigning registers the metrics and returns a Signing that counts from zero.
func NewSigning(registry prometheus.Registerer) (*Signing, error) {
	s := &Signing{
		signed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "certificates_signed_total", Help: "Certificates that were signed and handed out, by the controller that did it, and why.",
		}, []string{labelController, labelPolicy, labelReason}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "signing_duration_seconds", Help: "How long it took to sign a certificate and, for a Secret, to make its key, if that is no RSA key.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{labelController}),
	}
	return s, errors.Join(registry.Register(s.signed), registry.Register(s.took))
}

// Signed counts a signed certificate that was handed out; took is how long it took to sign it and,
// for a Secret, to generate its private key unless that is an RSA key.
func (s *Signing) Signed(controller, policy, reason string, took time.Duration) {
	s.signed.WithLabelValues(controller, policy, reason).Inc()
	s.took.WithLabelValues(controller).Observe(took.Seconds())
}
