package serviceca

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/servingcert/operator/controllers/internal/pki"
)

// serverName is the DNS name of the servers.
const serverName = "web.shop.svc"

// tlsServer is a TLS server; sent is the certificate and the chain in its tls.crt.
type tlsServer struct {
	sent []*x509.Certificate
	port string
}

// serve starts a server that stops when the test ends.
func serve(t *testing.T, pair pki.Pair) tlsServer {
	t.Helper()
	certificate, err := tls.X509KeyPair(pair.Certificate, pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	sent, err := pki.ParseBundle(pair.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for connection, err := listener.Accept(); err == nil; connection, err = listener.Accept() {
			go func() {
				_, _ = io.Copy(io.Discard, connection)
				_ = connection.Close()
			}()
		}
	}()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return tlsServer{sent, port}
}

// tlsClient connects to a server with the roots in a file, and returns why it rejects the server's
// certificate.
type tlsClient func(server tlsServer, roots string) error

// tlsClients holds a constructor for each kind of client. A constructor skips the test when the
// client's program is not installed.
var tlsClients = map[string]func(*testing.T) tlsClient{
	"Go":           goClient,
	"like OpenSSL": simulated(likeOpenSSL),
	"like GnuTLS":  simulated(likeGnuTLS),
	"OpenSSL": commandClient("openssl", "openssl", "unable to get", func(port, roots string) []string {
		return []string{
			"s_client", "-connect", "127.0.0.1:" + port, "-servername", serverName, "-verify_hostname", serverName,
			"-CAfile", roots, "-no-CApath", "-no-CAstore", "-verify_return_error", "-x509_strict",
		}
	}),
	"GnuTLS": commandClient("gnutls-cli", "gnutls-bin", "certificate is NOT trusted", func(port, roots string) []string {
		return []string{"127.0.0.1", "--port=" + port, "--sni-hostname=" + serverName, "--verify-hostname=" + serverName, "--x509cafile=" + roots}
	}),
	"Java": javaClient,
}

func goClient(t *testing.T) tlsClient {
	t.Helper()
	return func(server tlsServer, roots string) error {
		bundle, err := readRoots(roots)
		if err != nil {
			return err
		}
		dialer := tls.Dialer{Config: &tls.Config{RootCAs: bundle.Pool(), ServerName: serverName, MinVersion: tls.VersionTLS12}}
		connection, err := dialer.DialContext(t.Context(), "tcp", "127.0.0.1:"+server.port)
		if unknown := (x509.UnknownAuthorityError{}); errors.As(err, &unknown) {
			return errRefused
		}
		if err != nil {
			return err
		}
		return connection.Close()
	}
}

// errRefused means that a client found no path from the server's certificate to its roots. Any
// other error is a fault of the test.
var errRefused = errors.New("refused: no path to a root")

// simulated returns a client that verifies as the simulation does.
func simulated(verifies way) func(*testing.T) tlsClient {
	return func(*testing.T) tlsClient {
		return func(server tlsServer, roots string) error {
			bundle, err := readRoots(roots)
			if err == nil && verifies(server.sent, bundle, time.Now()) != nil {
				return errRefused
			}
			return err
		}
	}
}

func readRoots(file string) (pki.Bundle, error) {
	encoded, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return pki.ParseBundle(encoded)
}

// commandClient returns a client that runs a program from a Debian package. The program prints
// refusal when it finds no path.
func commandClient(program, debian, refusal string, arguments func(port, roots string) []string) func(*testing.T) tlsClient {
	return func(t *testing.T) tlsClient {
		t.Helper()
		path := lookUp(t, program, debian)
		return func(server tlsServer, roots string) error {
			output, err := exec.CommandContext(t.Context(), path, arguments(server.port, roots)...).CombinedOutput()
			switch {
			case err == nil:
				return nil
			case bytes.Contains(output, []byte(refusal)):
				return errRefused
			}
			return fmt.Errorf("%w: %s", err, output)
		}
	}
}

// lookUp returns the path of a program, or skips the test when it is not installed.
func lookUp(t *testing.T, program, debian string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("there is no %s here: install the Debian package %s", program, debian)
	}
	return path
}

// javaClient starts a single Java program for all connections, because its start is slow.
func javaClient(t *testing.T) tlsClient {
	t.Helper()
	lookUp(t, "javac", "openjdk-17-jdk-headless")
	java := exec.CommandContext(t.Context(), lookUp(t, "java", "openjdk-17-jdk-headless"), "testdata/Client.java")
	java.Stderr = t.Output()
	in, err := java.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := java.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := java.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = java.Wait() })
	answers := bufio.NewReader(out)
	return func(server tlsServer, roots string) error {
		_, _ = fmt.Fprintln(in, serverName, server.port, roots)
		switch answer, err := answers.ReadString('\n'); {
		case err != nil:
			return err
		case strings.Contains(answer, "unable to find valid certification path"), strings.Contains(answer, "Path does not chain with any of the trust anchors"):
			return errRefused
		case answer != "ok\n":
			return errors.New(answer)
		}
		return nil
	}
}
