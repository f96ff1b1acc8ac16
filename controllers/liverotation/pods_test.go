package liverotation_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// start creates pods and, when all of them run, starts the processes in them.
func (e *testEnv) start(peers []*peer) {
	e.Helper()
	pods := map[*peer]*corev1.Pod{}
	for _, p := range peers {
		if p.deployed() {
			e.create(p.deployment())
			continue
		}
		pods[p] = p.nextPod()
		e.create(pods[p])
	}
	for p, pod := range pods {
		folder := e.runs(pod)
		if err := p.start(pod, folder); err != nil {
			e.Fatalf("%s starts: %v", p, err)
		}
	}
	e.eventually(func(ctx context.Context) error {
		if err := e.follow(ctx); err != nil {
			return err
		}
		for _, p := range peers {
			if p.home.Load() == nil {
				return fmt.Errorf("%s has no pod", p)
			}
		}
		return nil
	})
}

// follow starts the process of a Deployment again in each new pod that is ready.
func (e *testEnv) follow(ctx context.Context) error {
	var pods corev1.PodList
	if err := e.kube.List(ctx, &pods, client.HasLabels{peerLabel}); err != nil {
		return err
	}
	for _, p := range slices.Concat(e.clients, e.servers) {
		for i := range pods.Items {
			pod := &pods.Items[i]
			if !p.deployed() || pod.Labels[peerLabel] != p.name || pod.DeletionTimestamp != nil || !isReady(pod) {
				continue
			}
			if now := p.home.Load(); now != nil && !now.pod.CreationTimestamp.Before(&pod.CreationTimestamp) {
				continue
			}
			folder, err := e.cluster.VolumePath(pod, volume)
			if err := errors.Join(err, p.start(pod, folder)); err != nil {
				return err
			}
		}
	}
	return nil
}

// followAlways does so until the test ends.
func (e *testEnv) followAlways() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ticker := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-e.Context().Done():
				return
			case <-ticker.C:
			}
			if err := e.follow(e.Context()); err != nil && e.Context().Err() == nil {
				e.traffic.fail("follow the pods: %v", err)
			}
		}
	}()
	e.Cleanup(func() { <-ended })
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// runs waits until a pod is Ready, and returns the folder of its volume.
func (e *testEnv) runs(pod *corev1.Pod) (folder string) {
	e.Helper()
	e.eventually(func(ctx context.Context) error {
		if err := e.kube.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
		if !isReady(pod) {
			return fmt.Errorf("pod %s is %s and not ready", pod.Name, pod.Status.Phase)
		}
		var err error
		folder, err = e.cluster.VolumePath(pod, volume)
		return err
	})
	return folder
}

// replace performs a rolling update of peers that are not Deployments: a new process in a new pod
// takes over, and then the old pod is deleted.
func (e *testEnv) replace(peers ...*peer) {
	e.Helper()
	var old []*corev1.Pod
	for _, p := range peers {
		old = append(old, p.home.Load().pod)
	}
	e.start(peers)
	for _, pod := range old {
		if err := e.kube.Delete(e.Context(), pod); err != nil {
			e.Fatal(err)
		}
	}
	e.meet()
}

// kept returns the peers that only the test replaces.
func (e *testEnv) kept() []*peer {
	return slices.DeleteFunc(slices.Concat(e.clients, e.servers), func(p *peer) bool { return !p.kept })
}

func (e *testEnv) keptClients() []*peer {
	return slices.DeleteFunc(e.kept(), func(p *peer) bool { return !slices.Contains(e.clients, p) })
}

// broughtOver waits until the operator has restarted every Deployment with an old certificate or
// bundle: its servers present certificates of the current CA.
func (e *testEnv) broughtOver() {
	e.Helper()
	var policy v1alpha1.ServingCertPolicy
	e.eventually(func(ctx context.Context) error {
		err := errors.Join(e.observe(ctx), e.kube.Get(ctx, client.ObjectKey{Name: "default"}, &policy))
		if counts := policy.Status.Restarts; err != nil || counts == nil || counts.Pending+counts.InProgress+counts.Failed > 0 {
			return fmt.Errorf("not every Deployment is restarted: %+v %w", counts, err)
		}
		for _, server := range e.servers {
			if shown := e.traffic.shownBy(server); server.deployed() && shown != e.ca.Status.Active.SubjectKeyID {
				return fmt.Errorf("%s still shows a certificate of %s", server, shown)
			}
		}
		return nil
	})
	e.meet()
}

// reissued waits until every Secret holds a certificate of the current CA, and the kubelet has
// brought it to every server.
func (e *testEnv) reissued() {
	e.Helper()
	e.eventually(func(ctx context.Context) error {
		var secrets corev1.SecretList
		err := errors.Join(e.observe(ctx), e.kube.List(ctx, &secrets, client.InNamespace(shop), client.HasLabels{v1alpha1.LabelService}))
		if err != nil || len(secrets.Items) != len(e.servers) || e.ca.Status.Active == nil {
			return fmt.Errorf("%d Secrets, and %v signs: %w", len(secrets.Items), e.ca.Status.Active, err)
		}
		for i := range secrets.Items {
			if err := signedBy(secrets.Items[i].Data, e.ca.Status.Active); err != nil {
				return fmt.Errorf("Secret %s: %w", secrets.Items[i].Name, err)
			}
		}
		for _, server := range e.servers {
			read, err := mounted(server.home.Load().folder)
			if err := errors.Join(err, signedBy(read, e.ca.Status.Active)); err != nil {
				return fmt.Errorf("%s: %w", server, err)
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

// bundleIsMounted waits until the kubelet has brought the published bundle to every client's pod,
// whether or not its process reloads it.
func (e *testEnv) bundleIsMounted() {
	e.Helper()
	e.eventually(func(ctx context.Context) error {
		var published corev1.ConfigMap
		if err := e.kube.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: e.ca.TrustBundleConfigMapName()}, &published); err != nil {
			return err
		}
		for _, c := range e.clients {
			read, err := mounted(c.home.Load().folder)
			if bundle := published.Data[e.ca.Spec.TrustBundle.Key]; err != nil || !bytes.Equal(read[c.file], []byte(bundle)) {
				return fmt.Errorf("%s finds another bundle, with %d roots instead of %d (%w)", c,
					bytes.Count(read[c.file], []byte("BEGIN")), strings.Count(bundle, "BEGIN"), err)
			}
		}
		return nil
	})
}
