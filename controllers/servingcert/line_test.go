package servingcert

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// quick is a kind of key that is made in no time.
var quick = pki.KeySpec{Algorithm: v1alpha1.Ed25519}

// looks notes who is looked at.
type looks struct {
	workqueue.TypedRateLimitingInterface[reconcile.Request]

	at []string
}

func (l *looks) Add(request reconcile.Request) { l.at = append(l.at, request.Name) }

// testLine is a line for two cores: open, and with looks.
func testLine(t *testing.T) (*Line, *looks, *[]int) {
	t.Helper()
	percents, seen := []int{40}, &looks{}
	l := newLine(2, pki.NewKey, func(percent int) int {
		percents = append(percents, percent)
		return percents[len(percents)-2]
	})
	queue := priorityqueue.New[reconcile.Request]("line")
	t.Cleanup(queue.ShutDown)
	if err := l.wakes(t.Context(), seen); err != nil {
		t.Fatal(err)
	}
	if err := l.opens(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	return l, seen, &percents
}

func named(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "shop", Name: name}
}

func (l *Line) makeFor(t *testing.T, name string) {
	t.Helper()
	if _, err := l.Reconcile(t.Context(), reconcile.Request{NamespacedName: named(name)}); err != nil {
		t.Error(err)
	}
}

// Who is urgent comes before who is not, also when he becomes so while he waits; and who came before the line opened comes, too.
func TestLineOrder(t *testing.T) {
	t.Parallel()
	l, _, _ := testLine(t)
	open := l.queue
	l.queue = nil
	l.add(named("early, and reissued"), quick, false)
	l.add(named("early"), quick, true)
	if err := l.opens(t.Context(), open); err != nil {
		t.Fatal(err)
	}
	next := func() string {
		request, _ := open.Get()
		return request.Name
	}
	if early := []string{next(), next()}; early[0] != "early" {
		t.Errorf("the first are %q", early)
	}
	l.add(named("reissued"), quick, false)
	l.add(named("reissued, too"), quick, false)
	l.add(named("ending"), quick, false)
	l.add(named("new"), quick, true)
	l.add(named("ending"), quick, true)
	order := []string{next(), next()}
	slices.Sort(order)
	order = append(order, next(), next())
	if want := []string{"ending", "new", "reissued", "reissued, too"}; !slices.Equal(order, want) {
		t.Errorf("the order is %q, want %q", order, want)
	}
}

func TestLineNeedsPriorities(t *testing.T) {
	t.Parallel()
	plain := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	t.Cleanup(plain.ShutDown)
	if newLine(2, pki.NewKey, nil).opens(t.Context(), plain) == nil {
		t.Error("it opened with a queue that has no priorities")
	}
}

// A key is made once, of the kind that is wanted in the end, and taken once; none is made for who wants none any more.
func TestLineMakes(t *testing.T) {
	t.Parallel()
	other := pki.KeySpec{Algorithm: v1alpha1.ECDSA, Size: 256}
	l, seen, _ := testLine(t)
	l.add(named("web"), quick, true)
	l.makeFor(t, "web")
	l.makeFor(t, "web")
	if !slices.Equal(seen.at, []string{"web"}) {
		t.Errorf("looked at: %q", seen.at)
	}
	if key := l.take(named("web")); !key.Is(quick) {
		t.Error("the key is not there, or of another kind")
	}
	if l.take(named("web")) != nil {
		t.Error("the key was there twice")
	}
	l.add(named("web"), quick, true)
	l.take(named("web"))
	l.makeFor(t, "web")
	if len(l.made) != 0 || len(seen.at) != 1 {
		t.Errorf("a key was made that nobody wants; looked at: %q", seen.at)
	}
	// Somebody is looked at while his key is made, and wants the same.
	l.newKey = func(spec pki.KeySpec) (*pki.Key, error) {
		l.take(named("web"))
		l.add(named("web"), quick, true)
		return pki.NewKey(spec)
	}
	l.add(named("web"), quick, true)
	l.makeFor(t, "web")
	if !l.take(named("web")).Is(quick) || !slices.Equal(seen.at, []string{"web", "web"}) {
		t.Errorf("his key is not there; looked at: %q", seen.at)
	}
	seen.at = seen.at[:1]
	// Somebody changes his mind.
	l.newKey = func(spec pki.KeySpec) (*pki.Key, error) {
		if spec == quick {
			l.take(named("web"))
			l.add(named("web"), other, true)
		}
		return pki.NewKey(spec)
	}
	l.add(named("web"), quick, true)
	l.makeFor(t, "web")
	if len(l.made) != 0 || len(seen.at) != 1 {
		t.Errorf("the key of the first wish is handed out; looked at: %q", seen.at)
	}
	l.makeFor(t, "web")
	if !l.take(named("web")).Is(other) || len(seen.at) != 2 || len(l.wanted) != 0 {
		t.Errorf("the key of the last wish is not there; looked at: %q; wanted: %v", seen.at, l.wanted)
	}
}

// While many keys are wanted those that are made are handed out together, and garbage may grow more; in the end at once, and as before.
func TestLineInBulk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, seen, percents := testLine(t)
		for i := range 10 {
			l.add(named(fmt.Sprint(i)), quick, true)
		}
		check := func(when string, looked int, wantPercents ...int) {
			t.Helper()
			synctest.Wait()
			l.mu.Lock()
			defer l.mu.Unlock()
			if len(seen.at) != looked || !slices.Equal(*percents, wantPercents) {
				t.Errorf("%s: %d are looked at, want %d; garbage may grow by %v, want %v", when, len(seen.at), looked, *percents, wantPercents)
			}
		}
		for i := range 3 {
			l.makeFor(t, fmt.Sprint(i))
		}
		check("at first", 0, 40, roomForGarbage)
		time.Sleep(together)
		check("together", 3, 40, roomForGarbage)
		for i := range 4 {
			l.makeFor(t, fmt.Sprint(i+3))
		}
		check("three are left", 7, 40, roomForGarbage)
		l.makeFor(t, "7")
		l.makeFor(t, "8")
		check("one is left", 9, 40, roomForGarbage, 40)
		l.makeFor(t, "9")
		time.Sleep(2 * together)
		check("none is left", 10, 40, roomForGarbage, 40)
	})
}

// However many are urgent, now and then one is served who is not.
func TestLineGivesTurns(t *testing.T) {
	t.Parallel()
	l, seen, _ := testLine(t)
	for i := range 2 {
		l.add(named("reissued"+fmt.Sprint(i)), quick, false)
	}
	for i := range 10 * share {
		l.add(named("urgent"+fmt.Sprint(i)), quick, true)
	}
	var turns []int
	for i := range 3 * share {
		request, _ := l.queue.Get()
		l.makeFor(t, request.Name)
		l.queue.Done(request)
		if strings.HasPrefix(request.Name, "reissued") {
			turns = append(turns, i)
		}
	}
	if want := []int{share, 2 * share}; !slices.Equal(turns, want) {
		t.Errorf("their turns were %d, want %d; looked at: %q", turns, want, seen.at)
	}
}

// No more keys are made than some that nobody takes, and then only urgent ones; those that wait for the API server do not count.
func TestLineWaitsForLooks(t *testing.T) {
	t.Parallel()
	l, _, _ := testLine(t)
	l.newKey = func(pki.KeySpec) (*pki.Key, error) { return &pki.Key{}, nil }
	for i := range 3 * ahead {
		l.giveBack(named("back"+fmt.Sprint(i)), &pki.Key{})
	}
	makes := func(name string, urgent bool) bool {
		l.add(named(name), quick, urgent)
		result, err := l.Reconcile(t.Context(), reconcile.Request{NamespacedName: named(name)})
		if err != nil {
			t.Error(err)
		}
		return result.RequeueAfter == 0
	}
	for i := range 2 * ahead {
		name := fmt.Sprint(i)
		if made := makes("reissued"+name, false); made != (i < ahead) {
			t.Fatalf("while %d wait, one that is not urgent is made: %t", i, made)
		}
		if i >= ahead && !makes("urgent"+name, true) {
			t.Fatalf("while %d wait, one that is urgent is not made", i)
		}
	}
	if makes("urgent", true) {
		t.Error("there is no end")
	}
	l.take(named("reissued0"))
	if !makes("urgent", true) {
		t.Error("one was taken, and no other is made")
	}
}
