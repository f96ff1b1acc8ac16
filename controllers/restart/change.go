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
	"github.com/servingcert/operator/controllers/internal/inventory"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/servingcert"
	"github.com/servingcert/operator/controllers/trust"
)

// slack is how long after a change a container may have started that does not know of it yet: the node's clock and its view of the API
// are a little behind.
const slack = 5 * time.Second

// change is a change of what a container reads.
type change struct {
	reason v1alpha1.RestartReason
	// at is when it took place, by the clock of the API server.
	at time.Time
	// before: a container that started earlier does not know of it.
	before    time.Time
	container string
	// of is the ServiceCA whose trust or certificate it is.
	of   string
	note string
	// holdings are what was there before, the oldest first.
	holdings []holding
}

// changes reads from the caches what has changed for workloads.
type changes struct {
	servingcert.View
	claim   func(*corev1.Secret) servingcert.Claim
	cas     map[string]*v1alpha1.ServiceCA
	mounted func(context.Context, string, client.ObjectKey) (string, error)
	filled  func(context.Context, string, client.ObjectKey) (trust.Filled, error)
}

// concerning are the last changes of everything that a workload reads and that its policy restarts it for.
func (c changes) concerning(ctx context.Context, w *workload, p *v1alpha1.ServingCertPolicy) ([]change, error) {
	frozenOnly := p.Spec.Restart.Consumers == v1alpha1.RestartFrozenConsumers ||
		w.GetAnnotations()[v1alpha1.AnnotationReload] == v1alpha1.ReloadAutomatic
	var found []change
	for _, use := range inventory.Uses(&w.template.Spec) {
		if frozenOnly && !use.Frozen {
			continue
		}
		of, err := c.of(ctx, w, use, renewBefore(p))
		if err != nil {
			return nil, err
		}
		for _, one := range of {
			if slices.Contains(p.Spec.Restart.Triggers, one.reason) {
				one.container = use.Container
				found = append(found, one)
			}
		}
	}
	return found, nil
}

// of are the last changes of one object.
func (c changes) of(ctx context.Context, w *workload, use inventory.Use, renewBefore time.Duration) ([]change, error) {
	switch use.Kind {
	case inventory.Secret:
		return c.ofSecret(ctx, w, use, renewBefore)
	case inventory.ConfigMap:
		return c.ofMounted(ctx, w, use)
	case inventory.ClusterTrustBundle:
		return c.ofTrust(use.Name), nil
	}
	return nil, nil
}

// ofMounted are those of the bundle that others asked for in an object, and that it was first written there.
func (c changes) ofMounted(ctx context.Context, w *workload, use inventory.Use) ([]change, error) {
	key := client.ObjectKey{Namespace: w.GetNamespace(), Name: use.Name}
	ca, err := c.mounted(ctx, string(use.Kind), key)
	found := c.ofTrust(ca)
	if err != nil || ca == "" || !use.Frozen {
		return found, err
	}
	filled, err := c.filled(ctx, string(use.Kind), key)
	source := inventory.Source{Kind: use.Kind, Name: use.Name, Keys: filled.Keys, Whole: filled.Whole}
	if err != nil || filled.At.IsZero() || !slices.Contains(inventory.StartWithout(&w.template.Spec, source), use.Container) {
		return found, err
	}
	return append(found, change{
		reason: v1alpha1.RestartOnTrustChanged, at: filled.At, before: filled.At.Add(slack), of: ca, holdings: []holding{{expires: filled.At}},
		note: fmt.Sprintf("%s %s got the trust bundle of ServiceCA %s only %s", use.Kind, use.Name, ca, filled.At.UTC().Format(time.RFC3339)),
	}), nil
}

func (c changes) ofSecret(ctx context.Context, w *workload, use inventory.Use, renewBefore time.Duration) ([]change, error) {
	secret, key := &corev1.Secret{}, client.ObjectKey{Namespace: w.GetNamespace(), Name: use.Name}
	if err := c.Get(ctx, key, secret, client.UnsafeDisableDeepCopy); apierrors.IsNotFound(err) {
		return c.ofMounted(ctx, w, use)
	} else if err != nil {
		return nil, err
	}
	claim, at, ca := c.claim(secret), issuance.Issued(secret), secret.Labels[v1alpha1.LabelServiceCA]
	if !claim.Wanted || at.IsZero() {
		return nil, nil
	}
	renewed := change{
		reason: v1alpha1.RestartOnCertificateRenewed, at: at, before: at.Add(slack), of: ca,
		note:     fmt.Sprintf("the certificate in Secret %s was renewed %s", secret.Name, at.UTC().Format(time.RFC3339)),
		holdings: heldCertificates(secret, at, renewBefore),
	}
	if rotates(c.cas[ca], v1alpha1.RotationCompromise) {
		renewed.holdings = []holding{{expires: at}}
	}
	if at.Sub(secret.CreationTimestamp.Time) <= time.Second {
		// The first certificate: who waited for it knows it. Who started before knew another, in a Secret of the same name.
		renewed.before = secret.CreationTimestamp.Add(-slack)
	}
	found := []change{renewed}
	if claim.IncludesBundle {
		found = append(found, c.ofTrust(ca)...)
	}
	return found, nil
}

func (c changes) ofTrust(name string) []change {
	ca := c.cas[name]
	if ca == nil {
		return nil
	}
	at := changedAt(ca)
	if at.IsZero() {
		return nil
	}
	return []change{{
		reason: v1alpha1.RestartOnTrustChanged, at: at, before: at.Add(slack), of: name,
		note:     fmt.Sprintf("the trust bundle of ServiceCA %s changed %s", name, at.UTC().Format(time.RFC3339)),
		holdings: heldBundles(ca, at),
	}}
}

// changedAt is when the bundle of a ServiceCA last changed in a way that processes must know of; zero when it never did.
func changedAt(ca *v1alpha1.ServiceCA) time.Time {
	if bundle := ca.Status.TrustBundle; bundle != nil && bundle.ChangedAt != nil {
		return bundle.ChangedAt.Time
	}
	return time.Time{}
}

// last is when the last of some changes took place.
func last(all []change) time.Time {
	var at time.Time
	for _, one := range all {
		if one.at.After(at) {
			at = one.at
		}
	}
	return at
}

// starts is what is known of the pods of a workload.
type starts struct {
	// oldest is when the first of the containers of a name started, of all pods; unready, of those that are not ready.
	oldest, unready map[string]time.Time
	// progress is when a pod was last made, or became ready.
	progress time.Time
	// away are pods on nodes that do not answer.
	away []string
	// until is when the first kubelet has to have answered that is asked for something; zero for none.
	until time.Time
}

// over reports whether a kubelet has to have answered.
func (s *starts) over(now time.Time) bool { return !s.until.IsZero() && now.After(s.until) }

// look adds a pod. One on a node that does not answer runs, or does not; nobody can restart it.
func (s *starts) look(now time.Time, pod *corev1.Pod) {
	if isAway(pod, now) {
		s.away = append(s.away, fmt.Sprintf("pod %s on node %s", pod.Name, pod.Spec.NodeName))
		return
	}
	if due := dueAt(pod); !due.IsZero() && (s.until.IsZero() || due.Before(s.until)) {
		s.until = due
	}
	if pod.DeletionTimestamp != nil {
		return
	}
	noteStarts(s.oldest, pod)
	s.progressed(pod.CreationTimestamp)
	if ready := condition(pod, corev1.PodReady); ready.Status == corev1.ConditionTrue {
		s.progressed(ready.LastTransitionTime)
	} else {
		noteStarts(s.unready, pod)
	}
}

// noteStarts adds to oldest when the containers of a pod started.
func noteStarts(oldest map[string]time.Time, pod *corev1.Pod) {
	for _, container := range containers(&pod.Spec) {
		if at, started := inventory.Started(pod, container); started {
			if before, known := oldest[container]; !known || at.Before(before) {
				oldest[container] = at
			}
		}
	}
}

func (s *starts) progressed(at metav1.Time) {
	if at.After(s.progress) {
		s.progress = at.Time
	}
}

// unknown are the changes that some container started before.
func (s *starts) unknown(all []change) []change { return startedBefore(s.oldest, all) }

// unreadyUnknown returns the changes that some container of a pod that is not ready started before.
func (s *starts) unreadyUnknown(all []change) []change { return startedBefore(s.unready, all) }

func startedBefore(oldest map[string]time.Time, all []change) []change {
	return slices.DeleteFunc(slices.Clone(all), func(one change) bool {
		at, runs := oldest[one.container]
		return !runs || !at.Before(one.before)
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

func newStarts(pods ...*corev1.Pod) starts {
	found := starts{oldest: map[string]time.Time{}, unready: map[string]time.Time{}}
	for _, pod := range pods {
		found.look(time.Time{}, pod)
	}
	return found
}
