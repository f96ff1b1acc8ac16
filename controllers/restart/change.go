package restart

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/podrefs"
	"github.com/servingcert/operator/controllers/servingcert"
)

// clockSlack is how long after a change a container may have started and still not know of it: the
// clock of its node and the kubelet's view of the API lag a little behind the API server.
const clockSlack = 5 * time.Second

// change is a change of an object that a container reads.
type change struct {
	reason v1alpha1.RestartReason
	// at is the time of the change by the clock of the API server.
	at time.Time
	// startedBefore bounds who is affected: a container that started earlier does not know of the
	// change.
	startedBefore time.Time
	container     string
	// filled: an object got its bundle for the first time, or anew.
	filled bool
	// serviceCA is the ServiceCA whose bundle or certificate changed.
	serviceCA string
	message   string
	// heldObjects are the versions before the change, the oldest first.
	heldObjects []heldObject
}

// changeReader reads the changes that concern workloads from the caches.
type changeReader struct {
	servingcert.View
	claim            func(*corev1.Secret) servingcert.Claim
	cas              map[string]*v1alpha1.ServiceCA
	mountedServiceCA func(context.Context, string, client.ObjectKey) (string, error)
	filled           func(context.Context, string, client.ObjectKey) (injector.Filled, error)
}

// affecting returns the latest change of every object that the workload reads and that its policy
// restarts it for.
func (c changeReader) affecting(ctx context.Context, w *workload, p *v1alpha1.ServingCertPolicy) ([]change, error) {
	frozenOnly := p.Spec.Restart.Consumers == v1alpha1.RestartFrozenConsumers ||
		w.GetAnnotations()[v1alpha1.AnnotationReload] == v1alpha1.ReloadAutomatic
	var affecting []change
	for _, ref := range podrefs.References(&w.template.Spec) {
		if frozenOnly && !ref.Frozen {
			continue
		}
		changes, err := c.ofReference(ctx, w, ref, renewBefore(p))
		if err != nil {
			return nil, err
		}
		for _, change := range changes {
			if slices.Contains(p.Spec.Restart.Triggers, change.reason) {
				change.container = ref.Container
				affecting = append(affecting, change)
			}
		}
	}
	return affecting, nil
}

// ofReference returns the latest changes of one referenced object.
func (c changeReader) ofReference(ctx context.Context, w *workload, ref podrefs.Reference, renewBefore time.Duration) ([]change, error) {
	switch ref.Kind {
	case podrefs.Secret:
		return c.ofSecret(ctx, w, ref, renewBefore)
	case podrefs.ConfigMap:
		return c.ofInjectedBundle(ctx, w, ref)
	case podrefs.ClusterTrustBundle:
		return c.ofTrustBundle(ref.Name), nil
	}
	return nil, nil
}

// ofInjectedBundle returns the changes of the bundle that the operator injects into an object on
// request, and, for a container that reads the bundle only once and can start without it, the first
// time the bundle was written there.
func (c changeReader) ofInjectedBundle(ctx context.Context, w *workload, ref podrefs.Reference) ([]change, error) {
	key := client.ObjectKey{Namespace: w.GetNamespace(), Name: ref.Name}
	ca, err := c.mountedServiceCA(ctx, string(ref.Kind), key)
	changes := c.ofTrustBundle(ca)
	if err != nil || ca == "" || !ref.Frozen {
		return changes, err
	}
	filled, err := c.filled(ctx, string(ref.Kind), key)
	source := podrefs.Source{Kind: ref.Kind, Name: ref.Name, Keys: filled.Keys, Whole: filled.Whole}
	if err != nil || filled.At.IsZero() || !slices.Contains(podrefs.StartWithout(&w.template.Spec, source), ref.Container) {
		return changes, err
	}
	return append(changes, change{
		reason: v1alpha1.RestartOnTrustChanged, at: filled.At, startedBefore: filled.At.Add(clockSlack), serviceCA: ca, filled: true, heldObjects: []heldObject{{expires: filled.At}},
		message: fmt.Sprintf("%s %s got the trust bundle of ServiceCA %s only %s", ref.Kind, ref.Name, ca, filled.At.UTC().Format(time.RFC3339)),
	}), nil
}

func (c changeReader) ofSecret(ctx context.Context, w *workload, ref podrefs.Reference, renewBefore time.Duration) ([]change, error) {
	secret, key := &corev1.Secret{}, client.ObjectKey{Namespace: w.GetNamespace(), Name: ref.Name}
	if err := c.Get(ctx, key, secret, client.UnsafeDisableDeepCopy); apierrors.IsNotFound(err) {
		return c.ofInjectedBundle(ctx, w, ref)
	} else if err != nil {
		return nil, err
	}
	claim, at, ca := c.claim(secret), issuance.IssuedAt(secret), secret.Labels[v1alpha1.LabelServiceCA]
	if !claim.Wanted || at.IsZero() {
		return nil, nil
	}
	renewed := change{
		reason: v1alpha1.RestartOnCertificateRenewed, at: at, startedBefore: at.Add(clockSlack), serviceCA: ca,
		message:     fmt.Sprintf("the certificate in Secret %s was renewed %s", secret.Name, at.UTC().Format(time.RFC3339)),
		heldObjects: heldCertificates(secret, at, renewBefore),
	}
	if rotates(c.cas[ca], v1alpha1.RotationCompromise) {
		renewed.heldObjects = []heldObject{{expires: at}}
	}
	if at.Sub(secret.CreationTimestamp.Time) <= time.Second {
		// A container that waited for the first certificate knows it. One that started earlier read
		// another Secret of the same name.
		renewed.startedBefore = secret.CreationTimestamp.Add(-clockSlack)
	}
	changes := []change{renewed}
	if claim.IncludesBundle {
		changes = append(changes, c.ofTrustBundle(ca)...)
	}
	return changes, nil
}

func (c changeReader) ofTrustBundle(name string) []change {
	ca := c.cas[name]
	if ca == nil {
		return nil
	}
	at := changedAt(ca)
	if at.IsZero() {
		return nil
	}
	return []change{{
		reason: v1alpha1.RestartOnTrustChanged, at: at, startedBefore: at.Add(clockSlack), serviceCA: name,
		message:     fmt.Sprintf("the trust bundle of ServiceCA %s changed %s", name, at.UTC().Format(time.RFC3339)),
		heldObjects: heldBundles(ca, at),
	}}
}

// changedAt returns when the bundle of a ServiceCA last changed in a way that processes must know
// of; zero if it never did.
func changedAt(ca *v1alpha1.ServiceCA) time.Time {
	if bundle := ca.Status.TrustBundle; bundle != nil && bundle.ChangedAt != nil {
		return bundle.ChangedAt.Time
	}
	return time.Time{}
}

// latestChange returns the time of the latest of the changes; zero if there are none.
func latestChange(all []change) time.Time {
	var at time.Time
	for _, change := range all {
		if change.at.After(at) {
			at = change.at
		}
	}
	return at
}

// podStarts describes the pods of a workload.
type podStarts struct {
	// oldest is the earliest start of a container, by its name, over all pods; unready is the same
	// over the pods that are not ready.
	oldest, unready map[string]time.Time
	// lastProgress is when a pod was last created or became ready.
	lastProgress time.Time
	// unreachable lists the pods on nodes that do not respond.
	unreachable []string
	// kubeletDeadline is the earliest time by which a kubelet must have acted on one of the pods;
	// zero if no kubelet has to.
	kubeletDeadline time.Time
}

// kubeletOverdue reports whether a kubelet must have acted by now.
func (s *podStarts) kubeletOverdue(now time.Time) bool {
	return !s.kubeletDeadline.IsZero() && now.After(s.kubeletDeadline)
}

// add adds a pod. A pod on a node that does not respond is only listed as unreachable: it may or
// may not run, and the operator cannot restart it.
func (s *podStarts) add(now time.Time, pod *corev1.Pod) {
	if isUnreachable(pod, now) {
		s.unreachable = append(s.unreachable, fmt.Sprintf("pod %s on node %s", pod.Name, pod.Spec.NodeName))
		return
	}
	if deadline := kubeletDeadline(pod); !deadline.IsZero() && (s.kubeletDeadline.IsZero() || deadline.Before(s.kubeletDeadline)) {
		s.kubeletDeadline = deadline
	}
	if pod.DeletionTimestamp != nil {
		return
	}
	noteStarts(s.oldest, pod)
	s.recordProgress(pod.CreationTimestamp)
	if ready := condition(pod, corev1.PodReady); ready.Status == corev1.ConditionTrue {
		s.recordProgress(ready.LastTransitionTime)
	} else {
		noteStarts(s.unready, pod)
	}
}

// noteStarts lowers the times in oldest to the starts of the pod's containers.
func noteStarts(oldest map[string]time.Time, pod *corev1.Pod) {
	for _, container := range containers(&pod.Spec) {
		if at, started := podrefs.StartedAt(pod, container); started {
			if before, ok := oldest[container]; !ok || at.Before(before) {
				oldest[container] = at
			}
		}
	}
}

func (s *podStarts) recordProgress(at metav1.Time) {
	if at.After(s.lastProgress) {
		s.lastProgress = at.Time
	}
}

// pendingChanges returns the changes that happened after some affected container started.
func (s *podStarts) pendingChanges(all []change) []change { return startedBefore(s.oldest, all) }

// unreadyUnknown returns the changes that happened after some affected container of a pod that is
// not ready started.
func (s *podStarts) unreadyUnknown(all []change) []change { return startedBefore(s.unready, all) }

func startedBefore(oldest map[string]time.Time, all []change) []change {
	return slices.DeleteFunc(slices.Clone(all), func(change change) bool {
		at, runs := oldest[change.container]
		return !runs || !at.Before(change.startedBefore)
	})
}

func containers(pod *corev1.PodSpec) []string {
	var names []string
	for _, container := range pod.InitContainers {
		names = append(names, container.Name)
	}
	for _, container := range pod.Containers {
		names = append(names, container.Name)
	}
	return names
}

func newPodStarts(pods ...*corev1.Pod) podStarts {
	starts := podStarts{oldest: map[string]time.Time{}, unready: map[string]time.Time{}}
	for _, pod := range pods {
		starts.add(time.Time{}, pod)
	}
	return starts
}
