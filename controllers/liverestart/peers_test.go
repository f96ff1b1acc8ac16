package liverestart_test

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var (
	rollouts          = schema.GroupVersionKind{Group: "argoproj.io", Version: "v1alpha1", Kind: "Rollout"}
	deploymentConfigs = schema.GroupVersionKind{Group: "apps.openshift.io", Version: "v1", Kind: "DeploymentConfig"}
	cloneSets         = schema.GroupVersionKind{Group: "apps.kruise.io", Version: "v1alpha1", Kind: "CloneSet"}
)

// peer simulates the controllers of kinds that are not built into Kubernetes, as far as a restart
// by evictions needs them: it creates the owners of the pods with the names, labels and owner
// references of the real ones, and writes the number of available pods to the status.
type peer struct {
	namespace string
	mutex     sync.Mutex
	// lowest is, for each object, the lowest number of available pods since all were available.
	lowest map[string]int64
}

// peer starts a peer that runs until the test ends.
func (r *realm) peer() *peer {
	p := &peer{namespace: r.name, lowest: map[string]int64{}}
	ctx, cancel := context.WithCancel(r.Context())
	ended := make(chan struct{})
	r.Cleanup(func() { cancel(); <-ended })
	go func() {
		defer close(ended)
		for tick := time.Tick(200 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick:
			}
			for _, kind := range []schema.GroupVersionKind{rollouts, deploymentConfigs, cloneSets} {
				if err := p.reconcile(ctx, kind); err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
					r.Errorf("the controller of %ss: %v", kind.Kind, err)
				}
			}
		}
	}()
	return p
}

func (p *peer) reconcile(ctx context.Context, kind schema.GroupVersionKind) error {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	if err := env.kube.List(ctx, list, client.InNamespace(p.namespace)); err != nil {
		return err
	}
	for i := range list.Items {
		o := &list.Items[i]
		replicas, available, err := p.run(ctx, o)
		if err != nil {
			return err
		}
		p.note(o.GetName(), available, numberOf(o, "spec", "replicas"))
		before := o.DeepCopy()
		var observed any = o.GetGeneration()
		if kind == rollouts {
			observed = fmt.Sprint(o.GetGeneration())
		}
		o.Object["status"] = map[string]any{
			"observedGeneration": observed, "replicas": replicas, "updatedReplicas": replicas, "availableReplicas": available,
		}
		if err := env.kube.Status().Patch(ctx, o, client.MergeFrom(before)); err != nil {
			return err
		}
	}
	return nil
}

// note records the lowest number of available pods.
func (p *peer) note(name string, available, wanted int64) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if lowest, ok := p.lowest[name]; (ok && available < lowest) || (!ok && available == wanted) {
		p.lowest[name] = available
	}
}

// low returns the lowest number of available pods of an object since all were available; -1 if they
// never were.
func (p *peer) low(name string) int64 {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if lowest, ok := p.lowest[name]; ok {
		return lowest
	}
	return -1
}

func numberOf(o *unstructured.Unstructured, fields ...string) int64 {
	n, _, _ := unstructured.NestedInt64(o.Object, fields...)
	return n
}

// run creates what an object lacks, and returns how many pods it has and how many are available.
func (p *peer) run(ctx context.Context, o *unstructured.Unstructured) (replicas, available int64, err error) {
	template, err := p.template(ctx, o)
	if err != nil {
		return 0, 0, err
	}
	wanted := int32(numberOf(o, "spec", "replicas"))
	owned := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: p.namespace, Name: name, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(o, o.GroupVersionKind())}}
	}
	switch o.GroupVersionKind() {
	case rollouts:
		template.Labels["rollouts-pod-template-hash"] = "7d9f5c"
		set := &appsv1.ReplicaSet{ObjectMeta: owned(o.GetName() + "-7d9f5c"), Spec: appsv1.ReplicaSetSpec{
			Replicas: &wanted, Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: template,
		}}
		err = p.ensure(ctx, set)
		return int64(set.Status.Replicas), int64(set.Status.AvailableReplicas), err
	case deploymentConfigs:
		maps.Copy(template.Labels, map[string]string{"deploymentconfig": o.GetName(), "deployment": o.GetName() + "-1"})
		set := &corev1.ReplicationController{ObjectMeta: owned(o.GetName() + "-1"), Spec: corev1.ReplicationControllerSpec{
			Replicas: &wanted, Selector: template.Labels, Template: &template,
		}}
		err = p.ensure(ctx, set)
		return int64(set.Status.Replicas), int64(set.Status.AvailableReplicas), err
	}
	pod := &corev1.Pod{ObjectMeta: owned(""), Spec: template.Spec}
	pod.GenerateName, pod.Labels = o.GetName()+"-", template.Labels
	return p.pods(ctx, pod, int64(wanted))
}

// template returns the pod template of an object, or of the Deployment that it references.
func (p *peer) template(ctx context.Context, o *unstructured.Unstructured) (corev1.PodTemplateSpec, error) {
	var template corev1.PodTemplateSpec
	if name, found, _ := unstructured.NestedString(o.Object, "spec", "workloadRef", "name"); found {
		var d appsv1.Deployment
		err := env.kube.Get(ctx, client.ObjectKey{Namespace: p.namespace, Name: name}, &d)
		return d.Spec.Template, err
	}
	fields, _, err := unstructured.NestedMap(o.Object, "spec", "template")
	if err != nil {
		return template, err
	}
	err = runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &template)
	return template, err
}

// ensure creates an object, or reads the existing one.
func (p *peer) ensure(ctx context.Context, object client.Object) error {
	err := env.kube.Get(ctx, client.ObjectKeyFromObject(object), object)
	if apierrors.IsNotFound(err) {
		return env.kube.Create(ctx, object)
	}
	return err
}

// pods creates the missing pods.
func (p *peer) pods(ctx context.Context, like *corev1.Pod, wanted int64) (replicas, available int64, err error) {
	var pods corev1.PodList
	if err := env.kube.List(ctx, &pods, client.InNamespace(p.namespace), client.MatchingLabels(like.Labels)); err != nil {
		return 0, 0, err
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.DeletionTimestamp != nil {
			continue
		}
		replicas++
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				available++
			}
		}
	}
	for range wanted - replicas {
		if err := env.kube.Create(ctx, like.DeepCopy()); err != nil {
			return 0, 0, err
		}
	}
	return replicas, available, nil
}
