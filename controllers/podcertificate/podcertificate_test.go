package podcertificate

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

// The refresh of a pod whose containers have started waits for the next CA, but not until
// Kubernetes removes the request. The first certificate of a pod does not wait.
func TestDeferUntil(t *testing.T) {
	t.Parallel()
	made := time.Date(2071, time.March, 14, 15, 0, 0, 0, time.UTC)
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	for name, tc := range map[string]struct {
		uid   string
		state corev1.ContainerStatus
		want  time.Time
	}{
		"running":            {"uid", corev1.ContainerStatus{State: running}, made.Add(12 * time.Minute)},
		"crashing":           {"uid", corev1.ContainerStatus{LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}, made.Add(12 * time.Minute)},
		"not started":        {"uid", corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}}, time.Time{}},
		"another, as before": {"other", corev1.ContainerStatus{State: running}, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "uid"},
				Status:     corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{tc.state}},
			}
			live := fake.NewClientBuilder().WithObjects(pod).WithIndex(pod, metav1.ObjectNameField, nameOf).Build()
			request := &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", CreationTimestamp: metav1.NewTime(made)}}
			request.Spec.PodName, request.Spec.PodUID = "web", types.UID(tc.uid)
			until, err := RequestKind{Live: live}.DeferUntil(t.Context(), request)
			if err != nil || !until.Equal(tc.want) {
				t.Errorf("it waits until %s (%v), want %s", until, err, tc.want)
			}
		})
	}
}

func nameOf(object client.Object) []string { return []string{object.GetName()} }
