package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/controllers/internal/testoperator"
	"github.com/servingcert/operator/hack/cluster"
)

// testCluster is a separate cluster, for tests that would disturb others or be disturbed by them.
// No operator runs in it until the test starts one, and no controllers of Kubernetes do.
type testCluster struct {
	*testing.T
	cluster *cluster.Cluster
	kube    client.Client
}

func newTestCluster(t *testing.T) testCluster {
	t.Helper()
	started, err := cluster.Start(t.Context(), cluster.Options{CRDs: []string{filepath.Join("..", "config", "crd", "bases")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := started.Stop(); err != nil {
			t.Error(err)
		}
	})
	admin, err := testoperator.Client(started)
	if err != nil {
		t.Fatal(err)
	}
	if err := testoperator.Install(t.Context(), admin, operatorNamespace); err != nil {
		t.Fatal(err)
	}
	return testCluster{T: t, cluster: started, kube: admin}
}

// start runs an operator whose requests go through a transport.
func (c testCluster) start(through *transport, adjust ...func(*ctrl.Options)) (stop func()) {
	c.Helper()
	end, err := testoperator.Start(c.Context(), c.cluster, operatorNamespace, func(config *rest.Config, options *ctrl.Options) {
		config.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(request *http.Request) (*http.Response, error) { return through.send(next, request) })
		})
		options.GracefulShutdownTimeout = ptr.To(30 * time.Second)
		for _, a := range adjust {
			a(options)
		}
	})
	if err != nil {
		c.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		if err := end(); err != nil && !through.isDead() {
			c.Errorf("the operator ended: %v", err)
		}
	})
	c.Cleanup(stop)
	return stop
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip sends a request.
func (t roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return t(request) }

// failurePoint is the write at which a transport breaks.
type failurePoint struct {
	// about selects the writes that it counts: those whose path contains this name, and the
	// creation of Secrets, whose name is not in the path.
	about string
	// at is the number of the write, from 1.
	at int
	// answered lets that write reach the API server, and drops the response.
	answered bool
}

// transport records what an operator writes, and breaks at its failurePoint: from then on no
// request succeeds, as after the death of a process.
type transport struct {
	mu     sync.Mutex
	writes []string
	// gets counts the read requests by path.
	gets         map[string]int
	failurePoint *failurePoint
	dead         chan struct{}
	last         time.Time
}

func newTransport() *transport {
	return &transport{dead: make(chan struct{}), last: time.Now(), gets: map[string]int{}}
}

var errDisconnected = errors.New("the wire is cut")

func (tr *transport) isDead() bool {
	select {
	case <-tr.dead:
		return true
	default:
		return false
	}
}

// arm makes the transport break at a later write, or at none if at is the zero value.
func (tr *transport) arm(at failurePoint) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.failurePoint, tr.last = &at, time.Now()
}

func (tr *transport) send(next http.RoundTripper, request *http.Request) (*http.Response, error) {
	if tr.isDead() {
		return nil, errDisconnected
	}
	if request.Method == http.MethodGet || request.URL.Query().Has("dryRun") {
		tr.mu.Lock()
		tr.gets[request.URL.Path]++
		tr.mu.Unlock()
		return next.RoundTrip(request)
	}
	if !tr.note(request) {
		return next.RoundTrip(request)
	}
	if tr.failurePoint.answered {
		if response, err := next.RoundTrip(request); err == nil {
			response.Body.Close()
		}
	}
	close(tr.dead)
	return nil, errDisconnected
}

// note records a write, and reports whether it is the one at which the transport breaks.
func (tr *transport) note(request *http.Request) bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.writes, tr.last = append(tr.writes, request.Method+" "+request.URL.Path), time.Now()
	path := request.URL.Path
	if tr.failurePoint == nil || strings.HasSuffix(path, "/events") ||
		(!strings.Contains(path, tr.failurePoint.about) && (request.Method != http.MethodPost || !strings.HasSuffix(path, "/secrets"))) {
		return false
	}
	tr.failurePoint.at--
	return tr.failurePoint.at == 0
}

// written returns the writes so far that contain all of these parts.
func (tr *transport) written(parts ...string) []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	var names []string
	for _, write := range tr.writes {
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(write, part) }) {
			names = append(names, write)
		}
	}
	return names
}

// asked returns how many requests named an object of that name.
func (tr *transport) asked(name string) (number int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for path, times := range tr.gets {
		if strings.HasSuffix(path, "/"+name) {
			number += times
		}
	}
	return number
}

// forget clears the list of writes.
func (tr *transport) forget() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.writes = nil
}

// quiet waits until nothing was written for that long.
func (tr *transport) quiet(t *testing.T, duration time.Duration) {
	t.Helper()
	eventually(t, func(context.Context) string {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		if time.Since(tr.last) < duration {
			return fmt.Sprintf("it never rests; its last writes were %v", tr.writes[max(0, len(tr.writes)-5):])
		}
		return ""
	})
}
