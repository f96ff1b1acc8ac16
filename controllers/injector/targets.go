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

// Targets is a count of the objects that request a bundle.
type Targets struct {
	All int32
	// Current is the number of targets that carry the bundle.
	Current int32
	// Blocked is the number of targets that do not, because of a problem that only their owners can
	// fix.
	Blocked int32
	// OutOfDate is the number of other targets that carry an earlier bundle, or should have carried
	// one. OutOfDateNames are some of them.
	OutOfDate      int32
	OutOfDateNames []string
	// Failing are some of the targets about which requests fail, each with the API server's error.
	Failing []string
}

// Count adds a target.
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

// InsertSorted inserts a name into sorted names and returns the first 10. The result does not
// depend on the order of the calls.
func InsertSorted(names []string, more string) []string {
	const maxNames = 10
	index, _ := slices.BinarySearch(names, more)
	names = slices.Insert(names, index, more)
	return names[:min(len(names), maxNames)]
}

// list returns the objects of the kind that request the bundle of a ServiceCA.
func (r *Reconciler) list(ctx context.Context, ca string) ([]metav1.PartialObjectMetadata, error) {
	list := r.kind.metadataList()
	err := r.targets.List(ctx, list, client.MatchingFields{indexCA: ca}, client.UnsafeDisableDeepCopy)
	return list.Items, err
}

// Count counts the objects that request the bundle of a ServiceCA; hash is the hash of its current
// bundle. Objects created after since get no earlier bundle, so a rotation does not wait for them.
// Nor does it wait for objects that another client keeps overwriting.
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
	// The owner of the target cannot fix a CA that was not ready.
	reason := issuance.ParseProblem(problem).Reason
	// A rotation waits for a target about which requests fail, for a limited time.
	reported = reported && reason != issuance.ReasonServiceCANotReady && reason != issuance.ReasonRequestFailed
	key := client.ObjectKeyFromObject(target)
	now := r.clock.Now()
	blocked := reported || r.conflicts.Unresolvable(key, now)
	// A target that another client keeps overwriting carries the bundle only for moments, whatever
	// its marker says.
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

// WithReason returns the name of an object and, if requests about it fail, the reason, truncated to
// fit into a sentence.
func WithReason(name string, failure *issuance.Problem) string {
	const maxBytes = 256
	if failure == nil {
		return name
	}
	return fmt.Sprintf("%s (%s)", name, text.Printable(failure.Message, maxBytes))
}

const (
	// maxCarriers limits how many objects FindBundles reads, and maxCarriersPerNamespace how many
	// of one namespace. Both are more than necessary unless a tenant writes the operator's marker
	// by hand.
	maxCarriers, maxCarriersPerNamespace = 100, 10
	// maxBundleSize is larger than any bundle, in bytes.
	maxBundleSize = 256 << 10
)

// FindBundles returns the bundles of objects whose marker claims the bundle of a ServiceCA with
// this hash. It stops at the first bundle that has the hash, which is then the last of the result.
// Objects that no tenant can write come first: those without a namespace and those in the
// operator's namespace.
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
			// An object that cannot be read is skipped, whatever the cause.
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

// carrier is an object whose marker claims that it has a bundle.
type carrier struct {
	*Reconciler
	target *metav1.PartialObjectMetadata
}

// carriers returns the objects that no tenant can write, and up to maxCarriersPerNamespace objects
// of each other namespace.
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

// claimsBundle reports whether the object's marker has this hash and no error annotation
// contradicts it.
func claimsBundle(target *metav1.PartialObjectMetadata, hash string) bool {
	marker, _ := readMarker(target)
	_, reported := target.Annotations[v1alpha1.AnnotationError]
	return marker.hash == hash && !reported
}

// bundle returns the bundle that the object carries.
func (c carrier) bundle(ctx context.Context) ([]byte, error) {
	marker, _ := readMarker(c.target)
	writer := c.kind.newWriter(c.Reconciler)
	object := writer.object()
	if err := c.live.Get(ctx, client.ObjectKeyFromObject(c.target), object); client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	return writer.bundle(object, marker.key), nil
}

// MountedServiceCA returns the name of the ServiceCA whose bundle is in a ConfigMap or Secret that
// a pod reads; empty if the object has none.
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

// Filled describes since when a ConfigMap or Secret has had a bundle.
type Filled struct {
	// At is when the bundle was first written; zero if that is not known.
	At time.Time
	// Keys are the keys that hold it.
	Keys []string
	// Whole reports whether the object was created with the bundle.
	Whole bool
}

// Filled returns since when the bundle has been in an object for which MountedServiceCA returns a
// name. A tenant can write the annotation, so a time in the future is ignored.
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
