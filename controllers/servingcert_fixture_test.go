package controllers_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// handshake serves TLS with a Secret, and checks that a client that trusts only the published
// bundle accepts it by that name.
func (r realm) handshake(secret *corev1.Secret, name string) {
	r.Helper()
	if err := r.shakeHands(secret, name); err != nil {
		r.Errorf("handshake with %s: %v", name, err)
	}
}

func (r realm) shakeHands(secret *corev1.Secret, name string) error {
	pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return err
	}
	roots, problem := r.roots()
	if problem != "" {
		return errors.New(problem)
	}
	here, there := net.Pipe()
	deadline := time.Now().Add(10 * time.Second)
	if err := errors.Join(here.SetDeadline(deadline), there.SetDeadline(deadline)); err != nil {
		return err
	}
	defer here.Close()
	served := make(chan error, 1)
	go func() {
		defer there.Close()
		server := tls.Server(there, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
		served <- server.HandshakeContext(r.Context())
	}()
	err = tls.Client(here, &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12}).HandshakeContext(r.Context())
	here.Close()
	return errors.Join(err, <-served)
}

// expectError waits until the error annotation of a Service contains each of these texts; without
// texts, until there is no such annotation.
func (r realm) expectError(name string, says ...string) *corev1.Service {
	r.Helper()
	var service corev1.Service
	eventually(r.T, func(ctx context.Context) string {
		if err := r.admin().Get(ctx, client.ObjectKey{Namespace: r.name, Name: name}, &service); err != nil {
			return err.Error()
		}
		annotation, ok := service.Annotations[v1alpha1.AnnotationError]
		if ok != (len(says) > 0) {
			return fmt.Sprintf("Service %s is told %q", name, annotation)
		}
		for _, part := range says {
			if !strings.Contains(annotation, part) {
				return fmt.Sprintf("Service %s is told %q, without %q", name, annotation, part)
			}
		}
		return ""
	})
	return &service
}

// report waits until check accepts the realm's policy by returning an empty string.
func (r realm) report(check func(*v1alpha1.ServingCertPolicy) string) *v1alpha1.ServingCertPolicy {
	r.Helper()
	var policy v1alpha1.ServingCertPolicy
	eventually(r.T, func(ctx context.Context) string {
		if err := r.admin().Get(ctx, client.ObjectKey{Name: r.policy.Name}, &policy); err != nil {
			return err.Error()
		}
		if policy.Status.ObservedGeneration != policy.Generation {
			return "the policy was not looked at"
		}
		if problem := check(&policy); problem != "" {
			return fmt.Sprintf("%s; the status is %+v", problem, policy.Status)
		}
		return ""
	})
	return &policy
}

// policyReports waits until the policy's failures are exactly these Services, all with that reason.
func (r realm) policyReports(reason string, services ...string) *v1alpha1.ServingCertPolicy {
	r.Helper()
	return r.report(func(p *v1alpha1.ServingCertPolicy) string {
		if len(p.Status.Failures) != len(services) {
			return fmt.Sprintf("%d failures, want %d", len(p.Status.Failures), len(services))
		}
		for i, failure := range p.Status.Failures {
			if failure.Reason != reason || failure.Namespace != r.name || failure.Service != services[i] || failure.Message == "" {
				return fmt.Sprintf("failure %d is %+v, want %s of %s", i, failure, reason, services[i])
			}
		}
		return ""
	})
}
