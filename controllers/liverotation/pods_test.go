package liverotation_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// start makes pods and, when all run, begins the processes in them.
func (w *world) start(peers []*peer) {
	w.Helper()
	pods := make([]*corev1.Pod, len(peers))
	for i, p := range peers {
		pods[i] = p.nextPod()
		w.create(pods[i])
	}
	for i, p := range peers {
		folder := w.runs(pods[i])
		if err := p.start(pods[i], folder); err != nil {
			w.Fatalf("%s starts: %v", p, err)
		}
	}
}

// runs waits until a pod is Ready, and returns the folder of its volume.
func (w *world) runs(pod *corev1.Pod) (folder string) {
	w.Helper()
	w.eventually(func(ctx context.Context) error {
		if err := w.kube.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
		if !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}) {
			return fmt.Errorf("pod %s is %s and not ready", pod.Name, pod.Status.Phase)
		}
		var err error
		folder, err = w.cluster.VolumePath(pod, volume)
		return err
	})
	return folder
}

// replace is a rolling update of frozen peers: a new process in a new pod takes over, and then the old pod goes.
func (w *world) replace(peers ...*peer) {
	w.Helper()
	var old []*corev1.Pod
	for _, p := range peers {
		old = append(old, p.pod)
	}
	w.start(peers)
	for _, pod := range old {
		if err := w.kube.Delete(w.Context(), pod); err != nil {
			w.Fatal(err)
		}
	}
	w.meet()
}

func (w *world) frozen() []*peer {
	return slices.DeleteFunc(slices.Concat(w.clients, w.servers), func(p *peer) bool { return !p.frozen })
}

// restarting are the frozen peers that are replaced after each rotation.
func (w *world) restarting() []*peer {
	return slices.DeleteFunc(w.frozen(), func(p *peer) bool { return p.kept })
}

func (w *world) frozenClients() []*peer {
	return slices.DeleteFunc(w.frozen(), func(p *peer) bool { return !slices.Contains(w.clients, p) })
}

// reissued waits until every Secret holds a certificate of the CA that signs, and the kubelet has brought it to every server.
func (w *world) reissued() {
	w.Helper()
	w.eventually(func(ctx context.Context) error {
		var secrets corev1.SecretList
		err := errors.Join(w.look(ctx), w.kube.List(ctx, &secrets, client.InNamespace(shop), client.HasLabels{v1alpha1.LabelService}))
		if err != nil || len(secrets.Items) != len(w.servers) || w.ca.Status.Active == nil {
			return fmt.Errorf("%d Secrets, and %v signs: %w", len(secrets.Items), w.ca.Status.Active, err)
		}
		for i := range secrets.Items {
			if err := signedBy(secrets.Items[i].Data, w.ca.Status.Active); err != nil {
				return fmt.Errorf("Secret %s: %w", secrets.Items[i].Name, err)
			}
		}
		for _, server := range w.servers {
			read, err := mounted(server.folder)
			if err := errors.Join(err, signedBy(read, w.ca.Status.Active)); err != nil {
				return fmt.Errorf("pod %s: %w", server.pod.Name, err)
			}
		}
		return nil
	})
}

func signedBy(data files, ca *v1alpha1.CAGeneration) error {
	leaf, err := pki.ParseLeaf(data[corev1.TLSCertKey])
	if err != nil {
		return err
	}
	if signer := pki.KeyID(leaf.AuthorityKeyId); signer != ca.SubjectKeyID {
		return fmt.Errorf("its certificate is signed by %s (%s) instead of %s", leaf.Issuer.CommonName, signer, ca.SubjectKeyID)
	}
	return nil
}

// bundleIsMounted waits until the kubelet has brought the published bundle to every client's pod, whether its process looks or not.
func (w *world) bundleIsMounted() {
	w.Helper()
	w.eventually(func(ctx context.Context) error {
		var published corev1.ConfigMap
		if err := w.kube.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: w.ca.TrustBundleConfigMapName()}, &published); err != nil {
			return err
		}
		for _, c := range w.clients {
			read, err := mounted(c.folder)
			if bundle := published.Data[w.ca.Spec.TrustBundle.Key]; err != nil || !bytes.Equal(read[c.file], []byte(bundle)) {
				return fmt.Errorf("pod %s finds another bundle, with %d roots instead of %d (%w)", c.pod.Name,
					bytes.Count(read[c.file], []byte("BEGIN")), strings.Count(bundle, "BEGIN"), err)
			}
		}
		return nil
	})
}
