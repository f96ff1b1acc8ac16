package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// serverName is the DNS name of the Service that the client connects to.
const serverName = "web." + demoNamespace + ".svc"

// caIsMissing returns why the ServiceCA of the sample is not Ready; empty when it is.
func (d *demo) caIsMissing(ctx context.Context) string {
	var ca v1alpha1.ServiceCA
	if err := d.client.Get(ctx, client.ObjectKey{Name: "default"}, &ca); err != nil {
		return err.Error()
	}
	return isMissing(ca.Status.Conditions, v1alpha1.ConditionReady, "ServiceCA default")
}

// awaitIssued waits for the certificate and the bundle, and for the status of the objects that
// report them.
func (d *demo) awaitIssued(ctx context.Context) error {
	name := "wait for the certificate and the bundle"
	if d.target.embedded != nil {
		name += ", and for the pods"
	}
	return d.steps.do(ctx, name, func(ctx context.Context, report func(string)) error {
		return await(ctx, report, func(ctx context.Context) string {
			if _, err := d.material(ctx); err != nil {
				return d.problem(ctx, err)
			}
			return d.reportIsMissing(ctx)
		})
	})
}

// problem returns the error that the operator reports on the Service, or else what is missing.
func (d *demo) problem(ctx context.Context, missing error) string {
	var service corev1.Service
	if err := d.client.Get(ctx, client.ObjectKey{Namespace: demoNamespace, Name: "web"}, &service); err != nil {
		return err.Error()
	}
	if reported := service.Annotations[v1alpha1.AnnotationError]; reported != "" {
		return "Service web: " + reported
	}
	return missing.Error()
}

func (d *demo) reportIsMissing(ctx context.Context) string {
	var policy v1alpha1.ServingCertPolicy
	if err := d.client.Get(ctx, client.ObjectKey{Name: "default"}, &policy); err != nil {
		return err.Error()
	}
	if policy.Status.Services == nil || policy.Status.Services.Issued == 0 {
		return "ServingCertPolicy default has issued nothing"
	}
	var ca v1alpha1.ServiceCA
	if err := d.client.Get(ctx, client.ObjectKey{Name: "default"}, &ca); err != nil {
		return err.Error()
	}
	if ca.Status.Active == nil || ca.Status.Active.Certificates == nil || *ca.Status.Active.Certificates == 0 {
		return "ServiceCA default has signed nothing"
	}
	return isMissing(ca.Status.Conditions, v1alpha1.ConditionTrustEstablished, "ServiceCA default")
}

func isMissing(conditions []metav1.Condition, kind, name string) string {
	condition := meta.FindStatusCondition(conditions, kind)
	switch {
	case condition == nil:
		return name + " reports nothing yet"
	case condition.Status != metav1.ConditionTrue:
		return name + ": " + condition.Message
	}
	return ""
}

func (d *demo) printTables(ctx context.Context) error {
	table, err := d.kubectl(ctx, "get", "serviceca,servingcertpolicy")
	if err == nil {
		fmt.Fprintf(d.out, "\n%s\n", table)
	}
	return err
}

// prove runs a TLS server with the files of the server's pod and a client with the files of the
// client's pod, and connects them.
func (d *demo) prove(ctx context.Context) error {
	var verified tls.ConnectionState
	err := d.steps.do(ctx, "prove one TLS handshake", func(ctx context.Context, _ func(string)) error {
		m, err := d.material(ctx)
		if err != nil {
			return err
		}
		verified, err = m.handshake(ctx)
		return err
	})
	if err != nil {
		return err
	}
	leaf := verified.PeerCertificates[0]
	where := "What was issued and injected, read from the API server:"
	if d.target.embedded != nil {
		where = "In the files that the kubelet mounted for the two pods:"
	}
	fmt.Fprintf(d.out, "\n%s\n", where)
	for _, row := range [][2]string{
		{"asked for", serverName},
		{"verified", strings.Join(leaf.DNSNames, ", ")},
		{"signed by", leaf.Issuer.CommonName},
		{"valid until", leaf.NotAfter.UTC().Format("2006-01-02 15:04 MST")},
		{"protocol", tls.VersionName(verified.Version)},
	} {
		fmt.Fprintf(d.out, "  %-12s %s\n", row[0], row[1])
	}
	return nil
}

// material is what the pods have, all in PEM.
type material struct {
	certificate, key, bundle []byte
}

// handshake performs one TLS handshake on this machine. It returns the connection state of the
// client.
func (m material) handshake(ctx context.Context) (tls.ConnectionState, error) {
	var verified tls.ConnectionState
	pair, err := tls.X509KeyPair(m.certificate, m.key)
	if err != nil {
		return verified, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(m.bundle) {
		return verified, errors.New("the bundle holds no certificate")
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		return verified, err
	}
	defer listener.Close()
	go greet(ctx, listener)
	dialer := tls.Dialer{Config: &tls.Config{ServerName: serverName, RootCAs: roots, MinVersion: tls.VersionTLS12}}
	connection, err := dialer.DialContext(ctx, "tcp", listener.Addr().String())
	if err != nil {
		return verified, err
	}
	defer connection.Close()
	caller, ok := connection.(*tls.Conn)
	if !ok {
		return verified, errors.New("that was no TLS")
	}
	return caller.ConnectionState(), nil
}

// greet serves one client. It ignores errors, because the client reports them.
func greet(ctx context.Context, listener net.Listener) {
	connection, err := listener.Accept()
	if err != nil {
		return
	}
	defer connection.Close()
	if server, ok := connection.(*tls.Conn); ok {
		_ = server.HandshakeContext(ctx)
	}
}
