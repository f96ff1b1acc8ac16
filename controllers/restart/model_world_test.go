package restart

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// behavior is how a workload, or its owner, behaves.
type behavior struct {
	// neverReady: no pod ever becomes ready. breaks: no pod that is created later does. clings: the
	// same, and the workload seems to make progress forever.
	neverReady, breaks, clings bool
	// endless: an update of the owner never completes, and replaces no pod.
	endless bool
	// quota: one pod is missing forever. deadNode: the node of its first pod does not respond.
	quota, deadNode bool
	// undoes: its owner removes what other clients write to its template.
	undoes bool
	// forges: its owner keeps writing a label that says that a restart has just begun.
	forges bool
	paused bool
	// expires: a pod that is outdated is not ready. staged: a partition keeps the first pod of a
	// StatefulSet on the older template.
	expires, staged bool
	// Until these times, a webhook fails, a PodDisruptionBudget refuses evictions, or several of
	// them select each pod.
	webhook, budget, budgets time.Time
}

// modeledWorkload is a workload of the model with its pods, as in a cluster.
type modeledWorkload struct {
	behavior
	model        *model
	kind, tenant string
	name         string
	startup      time.Duration
	pods         []*corev1.Pod
	made         int
	stamp, mark  string
	version      int
	progress     time.Time
	changes      []change
	onDelete     bool
	// restarts is the number of restarts that began; renewals is the number of changes.
	restarts, renewals int
}

// model is a cluster with workloads. It is also the client of a Reconciler.
type model struct {
	client.Client
	now       time.Time
	workloads []*modeledWorkload
	// wrong lists the violations.
	wrong []string
	// mutex guards writes, which are concurrent.
	mutex sync.Mutex
}

func (m *model) fail(format string, arguments ...any) {
	m.wrong = append(m.wrong, m.now.Format(time.TimeOnly)+" "+fmt.Sprintf(format, arguments...))
}

const modelReplicas = 2

func (w *modeledWorkload) addPod() {
	w.made++
	pod := podOf(w.name, w.made, 0)
	pod.Namespace, pod.CreationTimestamp = w.tenant, metav1.NewTime(w.model.now)
	pod.Annotations = map[string]string{"revision": w.stamp, "made": fmt.Sprintf("%05d", w.made)}
	if w.kind != kindDeployment {
		pod.OwnerReferences = []metav1.OwnerReference{{Kind: w.kind, UID: w.uid(), Controller: new(true)}}
		pod.Name = fmt.Sprintf("%s-%d", w.name, w.made)
	}
	if w.kind == kindStatefulSet {
		pod.Name, pod.Labels[appsv1.ControllerRevisionHashLabelKey] = w.nextName(), w.revision()
	}
	pod.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.NewTime(w.model.now.Add(time.Second))
	pod.Status.Conditions = unreadyConditions()
	w.pods, w.progress = append(w.pods, pod), w.model.now
	w.version++
}

func unreadyConditions() []corev1.PodCondition {
	return []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "ContainersNotReady"}, {Type: corev1.ContainersReady}}
}

// nextName returns the first name of a StatefulSet's pod that is free.
func (w *modeledWorkload) nextName() string {
	for ordinal := 0; ; ordinal++ {
		name := fmt.Sprintf("%s-%d", w.name, ordinal)
		if !slices.ContainsFunc(w.pods, func(pod *corev1.Pod) bool { return pod.Name == name }) {
			return name
		}
	}
}

// revision returns the revision of a StatefulSet's template.
func (w *modeledWorkload) revision() string { return "revision-" + w.stamp }

// fill creates the missing pods. Those of a StatefulSet are created in order, each one when all
// before it are ready.
func (w *modeledWorkload) fill() {
	for len(w.pods) < modelReplicas {
		next := w.nextName()
		waits := func(pod *corev1.Pod) bool { return !isReady(pod) && pod.Name < next }
		if w.kind == kindStatefulSet && slices.ContainsFunc(w.pods, waits) {
			return
		}
		w.addPod()
	}
}

func (w *modeledWorkload) holdsOld(pod *corev1.Pod) bool {
	starts := newPodStarts(pod)
	return len(starts.pendingChanges(w.changes)) > 0
}

func (w *modeledWorkload) uid() types.UID { return types.UID(w.tenant + "/" + w.name) }

// remove deletes the pod. On a dead node, only its deletion timestamp is set.
func (w *modeledWorkload) remove(pod *corev1.Pod) {
	w.version++
	if isDead(pod) {
		pod.DeletionTimestamp = new(metav1.NewTime(w.model.now))
		return
	}
	w.pods = slices.DeleteFunc(w.pods, func(other *corev1.Pod) bool { return other == pod })
}

func isDead(pod *corev1.Pod) bool { return pod.Spec.NodeName == "dead" }

// tick simulates one step of the controllers of Kubernetes and of the owner.
func (w *modeledWorkload) tick() {
	if w.undoes && w.stamp != "" {
		w.stamp = ""
		w.version++
	}
	if w.forges && w.model.now.Sub(now) > 5*time.Minute {
		w.mark = ongoingRestart{since: w.model.now.Add(-time.Second)}.mark()
		w.version++
	}
	if w.clings || w.forges || w.endless {
		w.progress = w.model.now
	}
	w.fill()
	for _, pod := range w.pods {
		if w.expires && isReady(pod) && w.holdsOld(pod) {
			pod.Status.Conditions = unreadyConditions()
			w.version++
		}
		if !isReady(pod) && w.getsReady(pod) && w.model.now.Sub(pod.CreationTimestamp.Time) >= w.startup {
			for i := range pod.Status.Conditions {
				pod.Status.Conditions[i].Status, pod.Status.Conditions[i].Reason = corev1.ConditionTrue, ""
				pod.Status.Conditions[i].LastTransitionTime = metav1.NewTime(w.model.now)
			}
			w.progress = w.model.now
			w.version++
		}
	}
	w.roll()
}

// getsReady reports whether a pod can become ready.
func (w *modeledWorkload) getsReady(pod *corev1.Pod) bool {
	wasFirst := pod.Annotations["made"] <= fmt.Sprintf("%05d", modelReplicas)
	expired := w.expires && w.holdsOld(pod)
	return !isDead(pod) && !w.neverReady && !expired && (wasFirst || (!w.breaks && !w.clings))
}

// roll replaces the next pod with an older template, if all pods with the current one are ready.
func (w *modeledWorkload) roll() {
	if w.onDelete || w.endless || w.paused {
		return
	}
	if w.kind == kindStatefulSet {
		w.rollInOrder()
		return
	}
	var old *corev1.Pod
	for _, pod := range w.pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case pod.Annotations["revision"] != w.stamp:
			if old == nil || !isReady(pod) {
				old = pod
			}
		case !isReady(pod) && !w.neverReady:
			return
		}
	}
	if old != nil {
		w.remove(old)
		w.fill()
	}
}

// rollInOrder replaces the last pod with an older template, if every pod is ready: the controller
// of a StatefulSet waits for each pod, whatever its template.
func (w *modeledWorkload) rollInOrder() {
	if len(w.pods) < modelReplicas || slices.ContainsFunc(w.pods, func(pod *corev1.Pod) bool { return !isReady(pod) }) {
		return
	}
	var old *corev1.Pod
	for _, pod := range w.pods {
		below := w.staged && pod.Name == w.name+"-0"
		if pod.Annotations["revision"] != w.stamp && !below && (old == nil || pod.Name > old.Name) {
			old = pod
		}
	}
	if old != nil {
		w.remove(old)
		w.fill()
	}
}

// counts returns how many pods have the current template, and how many are available.
func (w *modeledWorkload) counts() (updated, available int32) {
	for _, pod := range w.pods {
		if pod.Annotations["revision"] == w.stamp && !w.endless {
			updated++
		}
		if isReady(pod) {
			available++
		}
	}
	return updated, available
}

// object returns the workload as the API server has it.
func (w *modeledWorkload) object() *workload {
	meta := metav1.ObjectMeta{Namespace: w.tenant, Name: w.name, UID: w.uid(), ResourceVersion: strconv.Itoa(w.version), Generation: 1}
	if w.mark != "" {
		meta.Labels = map[string]string{v1alpha1.LabelRestarting: w.mark}
	}
	var made corev1.PodTemplateSpec
	if w.stamp != "" {
		made.Annotations = map[string]string{v1alpha1.AnnotationRestartedAt: w.stamp}
	}
	selector, replicas, pods := &metav1.LabelSelector{MatchLabels: map[string]string{"app": w.name}}, int32(modelReplicas), int32(len(w.pods))
	if w.quota {
		replicas++
	}
	updated, available := w.counts()
	switch w.kind {
	case kindDeployment:
		d := &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector, Template: made, Paused: w.paused}}
		d.Status = appsv1.DeploymentStatus{ObservedGeneration: 1, Replicas: pods, UpdatedReplicas: updated, AvailableReplicas: available}
		progressing := appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing, LastUpdateTime: metav1.NewTime(w.progress)}
		if (updated < replicas || available < replicas) && w.model.now.Sub(w.progress) > progressTimeout {
			progressing.Reason = "ProgressDeadlineExceeded"
		}
		d.Status.Conditions = []appsv1.DeploymentCondition{progressing}
		return ofDeployment(d)
	case kindStatefulSet:
		s := &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: &replicas, Selector: selector, Template: made}}
		s.Status = appsv1.StatefulSetStatus{ObservedGeneration: 1, Replicas: pods, UpdatedReplicas: updated, AvailableReplicas: available}
		s.Status.CurrentRevision, s.Status.UpdateRevision = w.revision(), w.revision()
		if w.staged {
			s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: new(int32(1))}
		}
		if w.onDelete {
			s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
		}
		return ofStatefulSet(s)
	}
	d := &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: made}}
	d.Status = appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: replicas, UpdatedNumberScheduled: updated, NumberAvailable: available}
	return ofDaemonSet(d, 0)
}

// old returns the number of outdated pods, without those on a dead node, which cannot be restarted.
func (w *modeledWorkload) old() (count int) {
	for _, pod := range w.pods {
		if !isDead(pod) && w.holdsOld(pod) {
			count++
		}
	}
	return count
}

func (m *model) find(tenant, name string) *modeledWorkload {
	for _, w := range m.workloads {
		if w.tenant == tenant && w.name == name {
			return w
		}
	}
	return nil
}

// List lists pods, and PodDisruptionBudgets.
func (m *model) List(_ context.Context, list client.ObjectList, options ...client.ListOption) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	listOptions := client.ListOptions{}
	listOptions.ApplyOptions(options)
	if budgets, ok := list.(*policyv1.PodDisruptionBudgetList); ok {
		budgets.Items = make([]policyv1.PodDisruptionBudget, 2)
		for i := range budgets.Items {
			budgets.Items[i].Name, budgets.Items[i].Spec.Selector = fmt.Sprintf("budget-%d", i), &metav1.LabelSelector{}
		}
		return nil
	}
	pods, ok := list.(*corev1.PodList)
	if !ok {
		return errors.New("the model has pods alone")
	}
	for _, w := range m.workloads {
		for _, pod := range w.pods {
			if w.tenant == listOptions.Namespace {
				pods.Items = append(pods.Items, *pod.DeepCopy())
			}
		}
	}
	return nil
}

// Apply applies what the operator writes to a workload.
func (m *model) Apply(_ context.Context, configuration runtime.ApplyConfiguration, _ ...client.ApplyOption) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	var meta *metaac.ObjectMetaApplyConfiguration
	var made *coreac.PodTemplateSpecApplyConfiguration
	switch c := configuration.(type) {
	case *appsac.DeploymentApplyConfiguration:
		meta, made = c.ObjectMetaApplyConfiguration, c.Spec.Template
	case *appsac.StatefulSetApplyConfiguration:
		meta, made = c.ObjectMetaApplyConfiguration, c.Spec.Template
	case *appsac.DaemonSetApplyConfiguration:
		meta, made = c.ObjectMetaApplyConfiguration, c.Spec.Template
	}
	w := m.find(*meta.Namespace, *meta.Name)
	if m.now.Before(w.webhook) {
		return apierrors.NewInternalError(errors.New("failed calling webhook"))
	}
	stamp := ""
	if made.ObjectMetaApplyConfiguration != nil {
		stamp = made.Annotations[v1alpha1.AnnotationRestartedAt]
	}
	if mark := meta.Labels[v1alpha1.LabelRestarting]; mark != "" && w.mark != mark {
		w.restarts++
		if w.old() == 0 {
			m.fail("%s is restarted for nothing: %q after %q", w.name, mark, w.mark)
		}
	}
	if w.stamp != stamp {
		w.progress = m.now // a new template is progress
	}
	w.stamp, w.mark = stamp, meta.Labels[v1alpha1.LabelRestarting]
	w.version++
	return nil
}

// SubResource returns a client that evicts pods.
func (m *model) SubResource(string) client.SubResourceClient { return evictions{m: m} }

type evictions struct {
	client.SubResourceClient
	m *model
}

// Create evicts a pod, if the PodDisruptionBudgets allow it.
func (e evictions) Create(_ context.Context, object, _ client.Object, _ ...client.SubResourceCreateOption) error {
	e.m.mutex.Lock()
	defer e.m.mutex.Unlock()
	for _, w := range e.m.workloads {
		for _, pod := range w.pods {
			if w.tenant != object.GetNamespace() || pod.Name != object.GetName() {
				continue
			}
			if e.m.now.Before(w.budget) {
				return apierrors.NewTooManyRequests("the disruption budget needs 2 healthy pods and has 2 currently", 10)
			}
			if e.m.now.Before(w.budgets) {
				return apierrors.FromObject(&metav1.Status{
					Code: http.StatusInternalServerError, Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
				})
			}
			byItself := !w.onDelete && !w.staged && !w.undoes && w.kind == kindStatefulSet
			if !w.holdsOld(pod) || byItself && (isReady(pod) || pod.Annotations["revision"] == w.stamp || w.mark == "") {
				e.m.fail("pod %s is evicted for nothing", pod.Name)
			}
			w.remove(pod)
			return nil
		}
	}
	return apierrors.NewNotFound(corev1.Resource("pods"), object.GetName())
}
