package injector

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
	// OutOfDate are the others that carried, or should have carried, another bundle before; OutOfDateNames are some.
	OutOfDate      int32
	OutOfDateNames []string
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
		t.OutOfDate++
		t.OutOfDateNames = InsertSorted(t.OutOfDateNames, name)
	}
}

// InsertSorted are the first few, by the alphabet, of some names and one more: the same ones, in whichever order they come.
func InsertSorted(names []string, more string) []string {
	const maxNames = 10
	index, _ := slices.BinarySearch(names, more)
	names = slices.Insert(names, index, more)
	return names[:min(len(names), maxNames)]
}

// list are the objects of the kind that ask for the bundle of a ServiceCA.
func (r *Reconciler) list(ctx context.Context, ca string) ([]metav1.PartialObjectMetadata, error) {
	list := r.kind.metadataList()
	err := r.targets.List(ctx, list, client.MatchingFields{indexCA: ca}, client.UnsafeDisableDeepCopy)
	return list.Items, err
}

// Count counts what asks for the bundle of a ServiceCA; the current one has this hash. What was made since then gets no other bundle: nobody has
// to wait for it. Neither for what is fought over.
func (i *Injector) Count(ctx context.Context, ca, hash string, since time.Time) (Targets, error) {
	var targets Targets
	for _, r := range i.reconcilers {
		list, err := r.list(ctx, ca)
		if err != nil {
			return targets, err
		}
		for i := range list {
			r.count(&list[i], &targets, hash, since)
		}
	}
	return targets, nil
}

func (r *Reconciler) count(target *metav1.PartialObjectMetadata, targets *Targets, hash string, since time.Time) {
	marker, _ := readMarker(target)
	current := marker.hash == hash
	problem, reported := target.Annotations[v1alpha1.AnnotationError]
	// A CA that was not ready is nothing that an owner can put right.
	reason := issuance.ParseProblem(problem).Reason
	// Requests that fail are waited for within a bound.
	reported = reported && reason != issuance.ReasonServiceCANotReady && reason != issuance.ReasonRequestFailed
	key := client.ObjectKeyFromObject(target)
	now := r.clock.Now()
	blocked := reported || r.conflicts.Unresolvable(key, now)
	// What somebody keeps overwriting carries the bundle at most for moments, whatever its mark says.
	current = current && r.conflicts.ContestedFor(key, now) == 0
	name := WithReason(r.kind.name(key), r.conflicts.Failure(key, now))
	if !current && !blocked && target.CreationTimestamp.After(since) {
		targets.All++
		return
	}
	targets.Count(current, blocked, name)
	if !current && name != r.kind.name(key) {
		targets.Failing = InsertSorted(targets.Failing, name)
	}
}

// WithReason returns the name of an object and, if requests about it fail, why, cut to the length of a part of a sentence.
func WithReason(name string, failure *issuance.Problem) string {
	const maxBytes = 256
	if failure == nil {
		return name
	}
	return fmt.Sprintf("%s (%s)", name, text.Printable(failure.Message, maxBytes))
}

const (
	// maxCarriers are more than have to be looked at where nobody writes marks of our own by hand, and maxCarriersPerNamespace more in one namespace.
	maxCarriers, maxCarriersPerNamespace = 100, 10
	// maxBundleSize is longer than a bundle gets.
	maxBundleSize = 256 << 10
)

// FindBundles is what objects carry that say that they have the bundle of a ServiceCA with this hash, until one has. Those that no tenant can write
// come first: what has no namespace, or stands in the operator's own.
func (i *Injector) FindBundles(ctx context.Context, ca, hash, ownNamespace string) ([][]byte, error) {
	own, others, err := i.carriers(ctx, ca, hash, ownNamespace)
	if err != nil {
		return nil, err
	}
	var bundles [][]byte
	for _, carrier := range append(own, others...) {
		if len(bundles) == maxCarriers {
			break
		}
		bundle, err := carrier.bundle(ctx)
		switch {
		case apply.IsServerFailure(err):
			// What cannot be read is passed over, whoever keeps it from that.
		case err != nil:
			return nil, err
		case pki.Hash(bundle) == hash:
			return append(bundles, bundle), nil
		case len(bundle) <= maxBundleSize:
			bundles = append(bundles, bundle)
		}
	}
	return bundles, nil
}

// carrier is an object that says that it has a bundle.
type carrier struct {
	*Reconciler
	target *metav1.PartialObjectMetadata
}

// carriers are those that no tenant can write, and a few of each namespace of theirs.
func (i *Injector) carriers(ctx context.Context, ca, hash, ownNamespace string) (own, others []carrier, err error) {
	perNamespace := map[string]int{}
	for _, r := range i.reconcilers {
		list, err := r.list(ctx, ca)
		if err != nil {
			return nil, nil, err
		}
		for i := range list {
			candidate := carrier{r, &list[i]}
			namespace := candidate.target.Namespace
			switch {
			case !claimsBundle(candidate.target, hash):
			case namespace == "" || namespace == ownNamespace:
				own = append(own, candidate)
			case perNamespace[namespace] < maxCarriersPerNamespace:
				perNamespace[namespace]++
				others = append(others, candidate)
			}
		}
	}
	return own, others, nil
}

// claimsBundle reports whether an object says that it has the bundle with this hash, and nothing that speaks against it.
func claimsBundle(target *metav1.PartialObjectMetadata, hash string) bool {
	marker, _ := readMarker(target)
	_, reported := target.Annotations[v1alpha1.AnnotationError]
	return marker.hash == hash && !reported
}

// bundle is the bundle that an object carries.
func (c carrier) bundle(ctx context.Context) ([]byte, error) {
	marker, _ := readMarker(c.target)
	writer := c.kind.newWriter(c.Reconciler)
	object := writer.object()
	if err := c.live.Get(ctx, client.ObjectKeyFromObject(c.target), object); client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	return writer.bundle(object, marker.key), nil
}

// MountedServiceCA is the ServiceCA whose bundle a pod reads from a ConfigMap or a Secret; empty where there is none in it.
func (i *Injector) MountedServiceCA(ctx context.Context, kind string, key client.ObjectKey) (string, error) {
	for _, r := range i.reconcilers {
		if r.kind.GroupVersion() != corev1.SchemeGroupVersion || r.kind.Kind != kind {
			continue
		}
		object := r.kind.Metadata()
		if err := r.targets.Get(ctx, key, object, client.UnsafeDisableDeepCopy); err != nil {
			return "", client.IgnoreNotFound(err)
		}
		request, _ := r.kind.requestOf(object, r.openShift)
		return cmp.Or(request.ca, PublishedBy(object)), nil
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
func (i *Injector) Filled(ctx context.Context, kind string, key client.ObjectKey) (Filled, error) {
	for _, r := range i.reconcilers {
		if r.kind.GroupVersion() != corev1.SchemeGroupVersion || r.kind.Kind != kind {
			continue
		}
		object := r.kind.Metadata()
		if err := r.targets.Get(ctx, key, object, client.UnsafeDisableDeepCopy); err != nil {
			return Filled{}, client.IgnoreNotFound(err)
		}
		if PublishedBy(object) != "" {
			return Filled{At: object.CreationTimestamp.Time, Whole: true}, nil
		}
		at, err := time.Parse(time.RFC3339, object.Annotations[v1alpha1.AnnotationCABundleSince])
		if err != nil || at.After(r.clock.Now()) {
			return Filled{}, nil //nolint:nilerr // when it was first written is not known
		}
		marker, _ := readMarker(object)
		return Filled{At: at, Keys: []string{marker.key, v1alpha1.TruststoreKey}}, nil
	}
	return Filled{}, nil
}
