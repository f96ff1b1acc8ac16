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

// world is a cluster of its own, for what would disturb other tests, or be disturbed by them. No operator runs in it yet, and no
// controllers of Kubernetes.
type world struct {
	*testing.T
	cluster *cluster.Cluster
	kube    client.Client
}

func newWorld(t *testing.T) world {
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
	return world{T: t, cluster: started, kube: admin}
}

// start runs an operator, whose requests go through a wire.
func (w world) start(through *wire, adjust ...func(*ctrl.Options)) (stop func()) {
	w.Helper()
	end, err := testoperator.Start(w.Context(), w.cluster, operatorNamespace, func(config *rest.Config, options *ctrl.Options) {
		config.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return tapped(func(request *http.Request) (*http.Response, error) { return through.send(next, request) })
		})
		options.GracefulShutdownTimeout = ptr.To(30 * time.Second)
		for _, a := range adjust {
			a(options)
		}
	})
	if err != nil {
		w.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		if err := end(); err != nil && !through.isDead() {
			w.Errorf("the operator ended: %v", err)
		}
	})
	w.Cleanup(stop)
	return stop
}

type tapped func(*http.Request) (*http.Response, error)

// RoundTrip sends a request.
func (t tapped) RoundTrip(request *http.Request) (*http.Response, error) { return t(request) }

// cut says at which write a wire breaks.
type cut struct {
	// about counts the writes that concern something of this name, and the creation of Secrets, whose name is not in the path.
	about string
	// at is the number of the write, from 1.
	at int
	// answered lets that write reach the API server, and loses the answer.
	answered bool
}

// wire remembers what an operator writes, and breaks where it is told to: from then on nothing gets through any more, as after
// the death of a process.
type wire struct {
	mu     sync.Mutex
	writes []string
	// gets counts the requests that read, by the path.
	gets map[string]int
	cut  *cut
	dead chan struct{}
	last time.Time
}

func newWire() *wire {
	return &wire{dead: make(chan struct{}), last: time.Now(), gets: map[string]int{}}
}

var errCut = errors.New("the wire is cut")

func (w *wire) isDead() bool {
	select {
	case <-w.dead:
		return true
	default:
		return false
	}
}

// arm makes the wire break at a write that is still to come; at none by an empty cut.
func (w *wire) arm(at cut) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut, w.last = &at, time.Now()
}

func (w *wire) send(next http.RoundTripper, request *http.Request) (*http.Response, error) {
	if w.isDead() {
		return nil, errCut
	}
	if request.Method == http.MethodGet || request.URL.Query().Has("dryRun") {
		w.mu.Lock()
		w.gets[request.URL.Path]++
		w.mu.Unlock()
		return next.RoundTrip(request)
	}
	if !w.note(request) {
		return next.RoundTrip(request)
	}
	if w.cut.answered {
		if response, err := next.RoundTrip(request); err == nil {
			response.Body.Close()
		}
	}
	close(w.dead)
	return nil, errCut
}

// note remembers a write, and tells whether it is the one at which the wire breaks.
func (w *wire) note(request *http.Request) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes, w.last = append(w.writes, request.Method+" "+request.URL.Path), time.Now()
	path := request.URL.Path
	if w.cut == nil || strings.HasSuffix(path, "/events") ||
		(!strings.Contains(path, w.cut.about) && (request.Method != http.MethodPost || !strings.HasSuffix(path, "/secrets"))) {
		return false
	}
	w.cut.at--
	return w.cut.at == 0
}

// written are the writes so far that hold each of these, and forgets nothing.
func (w *wire) written(parts ...string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []string
	for _, write := range w.writes {
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(write, part) }) {
			found = append(found, write)
		}
	}
	return found
}

// asked returns how often objects of a name were asked for.
func (w *wire) asked(name string) (number int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for path, times := range w.gets {
		if strings.HasSuffix(path, "/"+name) {
			number += times
		}
	}
	return number
}

// forget begins a new list of writes.
func (w *wire) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = nil
}

// quiet waits until nothing was written for that long.
func (w *wire) quiet(t *testing.T, lasts time.Duration) {
	t.Helper()
	eventually(t, func(context.Context) string {
		w.mu.Lock()
		defer w.mu.Unlock()
		if time.Since(w.last) < lasts {
			return fmt.Sprintf("it never rests; its last writes were %v", w.writes[max(0, len(w.writes)-5):])
		}
		return ""
	})
}
