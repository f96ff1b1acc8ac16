package liveinstall_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Applying an installation again, as a GitOps tool does every few minutes, changes nothing. The
// test first waits until the controllers have written the status of the new objects.
func TestApplyAgain(t *testing.T) {
	for _, overlay := range overlays {
		t.Run(overlay, func(t *testing.T) {
			objects, err := build(t.Context(), "config/"+overlay)
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, func(ctx context.Context) error {
				before, err := versions(ctx, objects)
				if err != nil {
					return err
				}
				if _, err := apply(ctx, "config/"+overlay); err != nil {
					return err
				}
				after, err := versions(ctx, objects)
				if err != nil {
					return err
				}
				for object, version := range after {
					if version != before[object] {
						return fmt.Errorf("%s is changed by being applied again", object)
					}
				}
				return nil
			})
		})
	}
}

// versions returns the resourceVersions of objects by their kinds and names.
func versions(ctx context.Context, objects []*unstructured.Unstructured) (map[string]string, error) {
	values := map[string]string{}
	for _, object := range objects {
		there := object.DeepCopy()
		if err := env.kube.Get(ctx, client.ObjectKeyFromObject(object), there); err != nil {
			return nil, err
		}
		values[object.GetKind()+" "+object.GetName()] = there.GetResourceVersion()
	}
	return values, nil
}

// No client may connect to a pod of the operator's namespace, and the pods may connect to the API
// server and DNS.
func TestNetworkPolicy(t *testing.T) {
	objects, err := build(t.Context(), "config/default")
	if err != nil {
		t.Fatal(err)
	}
	var policies []networkingv1.NetworkPolicy
	for _, object := range objects {
		if object.GetKind() == "NetworkPolicy" {
			var policy networkingv1.NetworkPolicy
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &policy); err != nil {
				t.Fatal(err)
			}
			policies = append(policies, policy)
		}
	}
	port := func(protocol corev1.Protocol, number int) networkingv1.NetworkPolicyPort {
		return networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: new(intstr.FromInt(number))}
	}
	want := []networkingv1.NetworkPolicy{{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: "servingcert-default"},
		Spec: networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			Egress: []networkingv1.NetworkPolicyEgressRule{
				{Ports: []networkingv1.NetworkPolicyPort{port("TCP", 443), port("TCP", 6443)}},
				{Ports: []networkingv1.NetworkPolicyPort{port("UDP", 53), port("TCP", 53)}},
			},
		},
	}}
	if diff := cmp.Diff(want, policies); diff != "" {
		t.Error(diff)
	}
}

// The pods of the Deployment meet the Pod Security Standard of their namespace, and a pod that runs
// as root does not.
func TestPodSecurity(t *testing.T) {
	var deployment appsv1.Deployment
	if err := env.kube.Get(t.Context(), client.ObjectKey{Namespace: operatorNamespace, Name: "servingcert-manager"}, &deployment); err != nil {
		t.Fatal(err)
	}
	create := func(adjust func(*corev1.Pod)) error {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, GenerateName: "try-", Labels: deployment.Spec.Template.Labels},
			Spec:       deployment.Spec.Template.Spec,
		}
		adjust(pod)
		return env.kube.Create(t.Context(), pod, client.DryRunAll)
	}
	if err := create(func(*corev1.Pod) {}); err != nil {
		t.Error(err)
	}
	err := create(func(pod *corev1.Pod) { pod.Spec.SecurityContext = nil })
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "restricted") {
		t.Errorf("a pod that may run as root is not refused: %v", err)
	}
	// Both replicas exist, so the ServiceAccount and everything else that the pods name exists too.
	eventually(t, func(ctx context.Context) error {
		var pods corev1.PodList
		err := env.kube.List(ctx, &pods, client.InNamespace(operatorNamespace), client.MatchingLabels(deployment.Spec.Selector.MatchLabels))
		if err == nil && len(pods.Items) != 2 {
			err = fmt.Errorf("%d pods", len(pods.Items))
		}
		return err
	})
}
