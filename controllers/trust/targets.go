package trust

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/text"
)

// Targets counts what asks for a bundle.
type Targets struct {
	All int32
	// Current targets carry the bundle.
	Current int32
	// Blocked targets do not, because of something that only their owners can put right.
	Blocked int32
	// Behind are the others that carried, or should have carried, another bundle before; BehindNames are some.
	Behind      int32
	BehindNames []string
	// Failing are some of those that requests fail about, with the API server's words.
	Failing []string
}

// Count counts a target.
func (t *Targets) Count(current, blocked bool, name string) {
	t.All++
	switch {
	case current:
		t.Current++
	case blocked:
		t.Blocked++
	default:
		t.Behind++
		t.BehindNames = Some(t.BehindNames, name)
	}
}

// Some are the first few, by the alphabet, of some names and one more: the same ones, in whichever order they come.
func Some(names []string, more string) []string {
	const few = 10
	at, _ := slices.BinarySearch(names, more)
	names = slices.Insert(names, at, more)
	return names[:min(len(names), few)]
}

// list are the objects of the kind that ask for the bundle of a ServiceCA.
func (r *Reconciler) list(ctx context.Context, ca string) ([]metav1.PartialObjectMetadata, error) {
	list := r.kind.metadataList()
	err := r.targets.List(ctx, list, client.MatchingFields{indexCA: ca}, client.UnsafeDisableDeepCopy)
	return list.Items, err
}

// Count counts what asks for the bundle of a ServiceCA; the current one has this hash. What was made since then gets no other bundle: nobody has
// to wait for it. Neither for what is fought over.
func (t *Trust) Count(ctx context.Context, ca, hash string, since time.Time) (Targets, error) {
	var counted Targets
	for _, r := range t.reconcilers {
		list, err := r.list(ctx, ca)
		if err != nil {
			return counted, err
		}
		for i := range list {
			r.count(&list[i], &counted, hash, since)
		}
	}
	return counted, nil
}

func (r *Reconciler) count(target *metav1.PartialObjectMetadata, counted *Targets, hash string, since time.Time) {
	mark, _ := readMark(target)
	current := mark.hash == hash
	problem, told := target.Annotations[v1alpha1.AnnotationError]
	// A CA that was not ready is nothing that an owner can put right.
	reason := issuance.ParseObstacle(problem).Reason
	// Requests that fail are waited for within a bound.
	told = told && reason != issuance.ReasonServiceCANotReady && reason != issuance.ReasonRequestFailed
	key := client.ObjectKeyFromObject(target)
	now := r.clock.Now()
	blocked := told || r.pace.Hopeless(key, now)
	// What somebody keeps overwriting carries the bundle at most for moments, whatever its mark says.
	current = current && r.pace.Fought(key, now) == 0
	name := Explained(r.kind.name(key), r.pace.Failing(key, now))
	if !current && !blocked && target.CreationTimestamp.After(since) {
		counted.All++
		return
	}
	counted.Count(current, blocked, name)
	if !current && name != r.kind.name(key) {
		counted.Failing = Some(counted.Failing, name)
	}
}

// Explained returns the name of an object and, if requests about it fail, why, cut to the length of a part of a sentence.
func Explained(name string, failure *issuance.Obstacle) string {
	const longest = 256
	if failure == nil {
		return name
	}
	return fmt.Sprintf("%s (%s)", name, text.Printable(failure.Message, longest))
}

const (
	// manyTargets are more than have to be looked at where nobody writes marks of our own by hand, and fewTargets more in one namespace.
	manyTargets, fewTargets = 100, 10
	// largeBundle is longer than a bundle gets.
	largeBundle = 256 << 10
)

// Carried is what objects carry that say that they have the bundle of a ServiceCA with this hash, until one has. Those that no tenant can write
// come first: what has no namespace, or stands in the operator's own.
func (t *Trust) Carried(ctx context.Context, ca, hash, ownNamespace string) ([][]byte, error) {
	own, theirs, err := t.carriers(ctx, ca, hash, ownNamespace)
	if err != nil {
		return nil, err
	}
	var carried [][]byte
	for _, carrier := range append(own, theirs...) {
		if len(carried) == manyTargets {
			break
		}
		bundle, err := carrier.bundle(ctx)
		switch {
		case apply.Failed(err):
			// What cannot be read is passed over, whoever keeps it from that.
		case err != nil:
			return nil, err
		case pki.Hash(bundle) == hash:
			return append(carried, bundle), nil
		case len(bundle) <= largeBundle:
			carried = append(carried, bundle)
		}
	}
	return carried, nil
}

// carrier is an object that says that it has a bundle.
type carrier struct {
	*Reconciler
	target *metav1.PartialObjectMetadata
}

// carriers are those that no tenant can write, and a few of each namespace of theirs.
func (t *Trust) carriers(ctx context.Context, ca, hash, ownNamespace string) (own, theirs []carrier, err error) {
	looked := map[string]int{}
	for _, r := range t.reconcilers {
		list, err := r.list(ctx, ca)
		if err != nil {
			return nil, nil, err
		}
		for i := range list {
			found := carrier{r, &list[i]}
			namespace := found.target.Namespace
			switch {
			case !saysToCarry(found.target, hash):
			case namespace == "" || namespace == ownNamespace:
				own = append(own, found)
			case looked[namespace] < fewTargets:
				looked[namespace]++
				theirs = append(theirs, found)
			}
		}
	}
	return own, theirs, nil
}

// saysToCarry tells whether an object says that it has the bundle with this hash, and nothing that speaks against it.
func saysToCarry(target *metav1.PartialObjectMetadata, hash string) bool {
	mark, _ := readMark(target)
	_, told := target.Annotations[v1alpha1.AnnotationError]
	return mark.hash == hash && !told
}

// bundle is the bundle that an object carries.
func (c carrier) bundle(ctx context.Context) ([]byte, error) {
	mark, _ := readMark(c.target)
	door := c.kind.door(c.Reconciler)
	object := door.object()
	if err := c.live.Get(ctx, client.ObjectKeyFromObject(c.target), object); client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	return door.bundle(object, mark.key), nil
}

// Mounted is the ServiceCA whose bundle a pod reads from a ConfigMap or a Secret; empty where there is none in it.
func (t *Trust) Mounted(ctx context.Context, kind string, key client.ObjectKey) (string, error) {
	for _, r := range t.reconcilers {
		if r.kind.GroupVersion() != corev1.SchemeGroupVersion || r.kind.Kind != kind {
			continue
		}
		object := r.kind.Metadata()
		if err := r.targets.Get(ctx, key, object, client.UnsafeDisableDeepCopy); err != nil {
			return "", client.IgnoreNotFound(err)
		}
		asked, _ := r.kind.requestOf(object, r.openShift)
		return cmp.Or(asked.ca, Published(object)), nil
	}
	return "", nil
}

// Filled is since when a bundle has been in a ConfigMap or a Secret.
type Filled struct {
	// At is when it was first written; zero where that is not known.
	At time.Time
	// Keys are where it lies.
	Keys []string
	// Whole reports whether the object was created with it.
	Whole bool
}

// Filled returns since when the bundle has been in an object that Mounted names a ServiceCA for. A tenant may write the annotation: a time in the
// future is not believed.
func (t *Trust) Filled(ctx context.Context, kind string, key client.ObjectKey) (Filled, error) {
	for _, r := range t.reconcilers {
		if r.kind.GroupVersion() != corev1.SchemeGroupVersion || r.kind.Kind != kind {
			continue
		}
		object := r.kind.Metadata()
		if err := r.targets.Get(ctx, key, object, client.UnsafeDisableDeepCopy); err != nil {
			return Filled{}, client.IgnoreNotFound(err)
		}
		if Published(object) != "" {
			return Filled{At: object.CreationTimestamp.Time, Whole: true}, nil
		}
		at, err := time.Parse(time.RFC3339, object.Annotations[v1alpha1.AnnotationCABundleSince])
		if err != nil || at.After(r.clock.Now()) {
			return Filled{}, nil //nolint:nilerr // when it was first written is not known
		}
		mark, _ := readMark(object)
		return Filled{At: at, Keys: []string{mark.key, v1alpha1.TruststoreKey}}, nil
	}
	return Filled{}, nil
}
