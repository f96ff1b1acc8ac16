package liverotation_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/servingcert/operator/controllers/internal/pki"
)

const (
	// requestInterval is how often each client connects: often enough to meet every server within
	// each phase, and seldom enough for two busy cores.
	requestInterval = 30 * time.Millisecond
	// slowest is how long a handshake may take, on a busy machine.
	slowest = time.Minute
	// maxReported is how many failures are printed.
	maxReported = 20
)

// traffic is every client connecting to every server, over and over.
type traffic struct {
	clients, servers []*peer
	// pairs are indexed by client and server.
	pairs [][]pair
	// phase returns the phase of the CA.
	phase func() string

	mu       sync.Mutex
	failures []string
	failed   int

	stop func()
}

// pair is a client and a server.
type pair struct {
	hands, bridged atomic.Int64
	// crossed is how many cross-signed certificates the last handshake needed.
	crossed atomic.Int64
	// signer is the CA that signed the certificate that the server presented last.
	signer atomic.Pointer[string]
}

func newTraffic(clients, servers []*peer, phase func() string) *traffic {
	traffic := &traffic{clients: clients, servers: servers, phase: phase}
	for range clients {
		traffic.pairs = append(traffic.pairs, make([]pair, len(servers)))
	}
	return traffic
}

// start starts the servers and the clients; the test's cleanup stops them, and completes handshakes
// in progress.
func (r *traffic) start(t *testing.T) {
	t.Helper()
	var serving, calling sync.WaitGroup
	var listeners []net.Listener
	ended := make(chan struct{})
	r.stop = sync.OnceFunc(func() {
		close(ended)
		calling.Wait()
		for _, listener := range listeners {
			listener.Close()
		}
		serving.Wait()
	})
	t.Cleanup(r.stop)
	for _, server := range r.servers {
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners, server.address = append(listeners, listener), listener.Addr().String()
		serving.Go(func() { r.serve(server, listener) })
	}
	for i := range r.clients {
		calling.Go(func() { r.call(i, ended) })
	}
}

// serve presents the server's certificate to every client, until the listener is closed.
func (r *traffic) serve(server *peer, listener net.Listener) {
	config := &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return server.certificate() },
		// Each handshake is a full one.
		SessionTicketsDisabled: true,
	}
	var visitors sync.WaitGroup
	defer visitors.Wait()
	for {
		connection, err := listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				r.fail("%s accepts nobody any more: %v", server, err)
			}
			return
		}
		visitors.Go(func() {
			if err := greet(tls.Server(connection, config)); err != nil {
				r.fail("%s: %v", server, err)
			}
		})
	}
}

// greet is the server's part: a handshake, and one byte that confirms to the client that both have
// completed it.
func greet(connection *tls.Conn) error {
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(slowest)); err != nil {
		return err
	}
	_, err := connection.Write([]byte{1})
	return err
}

// call runs a client, which connects to one server after another.
func (r *traffic) call(client int, ended <-chan struct{}) {
	ticker := time.NewTicker(requestInterval)
	defer ticker.Stop()
	// The clients begin at different servers.
	for server := client * len(r.servers) / len(r.clients); ; server = (server + 1) % len(r.servers) {
		select {
		case <-ended:
			return
		case <-ticker.C:
		}
		if err := r.shakeHands(client, server); err != nil {
			r.fail("%s to %s: %v", r.clients[client], r.servers[server], err)
		}
	}
}

// shakeHands performs one handshake, in which the client verifies the server by the roots that it
// has.
func (r *traffic) shakeHands(client, server int) error {
	roots, err := r.clients[client].roots()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), slowest)
	defer cancel()
	dialer := &tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: r.servers[server].host()}}
	connection, err := dialer.DialContext(ctx, "tcp", r.servers[server].address)
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(slowest)); err != nil {
		return err
	}
	if _, err := io.ReadFull(connection, make([]byte, 1)); err != nil {
		return err
	}
	r.pairs[client][server].count(connection.(*tls.Conn).ConnectionState())
	return nil
}

func (p *pair) count(state tls.ConnectionState) {
	shortest := slices.MinFunc(state.VerifiedChains, func(a, b []*x509.Certificate) int { return cmp.Compare(len(a), len(b)) })
	// The leaf and the root do not count.
	crossed := int64(len(shortest) - 2)
	if crossed > 0 {
		p.bridged.Add(1)
	}
	p.crossed.Store(crossed)
	p.signer.Store(new(pki.KeyID(state.PeerCertificates[0].AuthorityKeyId)))
	p.hands.Add(1)
}

// fail records what failed, when, and in which phase.
func (r *traffic) fail(format string, arguments ...any) {
	what, when := fmt.Sprintf(format, arguments...), time.Now().UTC().Format("15:04:05.000")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed++
	if r.failed <= maxReported {
		r.failures = append(r.failures, fmt.Sprintf("%s, %s: %s", when, r.phase(), what))
	}
}

// reported returns how many failures there were, and some of them.
func (r *traffic) reported() (int, []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed, slices.Clone(r.failures)
}

// counts returns the number of handshakes of each pair.
func (r *traffic) counts() [][]int64 {
	counts := make([][]int64, len(r.pairs))
	for client := range r.pairs {
		for server := range r.pairs[client] {
			counts[client] = append(counts[client], r.pairs[client][server].hands.Load())
		}
	}
	return counts
}

// metSince returns an error that names a pair without a handshake since before; the one that was in
// progress then does not count.
func (r *traffic) metSince(before [][]int64) error {
	for client, counts := range r.counts() {
		for server, count := range counts {
			if count < before[client][server]+2 {
				return fmt.Errorf("%s has not met %s", r.clients[client], r.servers[server])
			}
		}
	}
	return nil
}

// shownBy returns the CA that signed the certificate that a server presented last.
func (r *traffic) shownBy(server *peer) string {
	i := slices.Index(r.servers, server)
	return *r.pairs[0][i].signer.Load()
}

// crossedBy returns the largest number of cross-signed certificates that a client needed when it
// last met each server.
func (r *traffic) crossedBy(client *peer) int64 {
	longest := int64(0)
	pairs := r.pairs[slices.Index(r.clients, client)]
	for i := range pairs {
		longest = max(longest, pairs[i].crossed.Load())
	}
	return longest
}

// hands returns the number of all handshakes.
func (r *traffic) hands() (sum int64) {
	for _, counts := range r.counts() {
		for _, count := range counts {
			sum += count
		}
	}
	return sum
}

func (r *traffic) String() string {
	bridged := int64(0)
	for client := range r.pairs {
		for server := range r.pairs[client] {
			bridged += r.pairs[client][server].bridged.Load()
		}
	}
	failed, _ := r.reported()
	return fmt.Sprintf("%d handshakes of %d clients with %d servers, %d of them by a cross-signed certificate, %d failed",
		r.hands(), len(r.clients), len(r.servers), bridged, failed)
}
