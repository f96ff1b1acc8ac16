package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// material reads the files of the server and the client.
func (d *demo) material(ctx context.Context) (material, error) {
	if d.target.embedded == nil {
		return d.materialFromAPI(ctx)
	}
	return d.materialFromPods(ctx)
}

func (d *demo) materialFromAPI(ctx context.Context) (material, error) {
	var secret corev1.Secret
	if err := d.client.Get(ctx, client.ObjectKey{Namespace: demoNamespace, Name: "web-tls"}, &secret); err != nil {
		return material{}, err
	}
	var trust corev1.ConfigMap
	if err := d.client.Get(ctx, client.ObjectKey{Namespace: demoNamespace, Name: "trust"}, &trust); err != nil {
		return material{}, err
	}
	bundle := trust.Data[v1alpha1.DefaultCABundleKey]
	if bundle == "" {
		return material{}, fmt.Errorf("ConfigMap trust has no bundle yet")
	}
	return material{certificate: secret.Data[corev1.TLSCertKey], key: secret.Data[corev1.TLSPrivateKeyKey], bundle: []byte(bundle)}, nil
}

// materialFromPods reads the files that the kubelet mounted.
func (d *demo) materialFromPods(ctx context.Context) (m material, err error) {
	server, err := d.runningPod(ctx, "web")
	if err != nil {
		return m, err
	}
	caller, err := d.runningPod(ctx, "client")
	if err != nil {
		return m, err
	}
	for _, mounted := range []struct {
		pod          *corev1.Pod
		volume, file string
		into         *[]byte
	}{
		{server, "tls", corev1.TLSCertKey, &m.certificate},
		{server, "tls", corev1.TLSPrivateKeyKey, &m.key},
		{caller, "trust", v1alpha1.DefaultCABundleKey, &m.bundle},
	} {
		folder, err := d.target.embedded.VolumePath(mounted.pod, mounted.volume)
		if err != nil {
			return m, err
		}
		if *mounted.into, err = os.ReadFile(filepath.Join(folder, mounted.file)); err != nil {
			return m, err
		}
	}
	return m, nil
}

func (d *demo) runningPod(ctx context.Context, app string) (*corev1.Pod, error) {
	var pods corev1.PodList
	if err := d.client.List(ctx, &pods, client.InNamespace(demoNamespace), client.MatchingLabels{"app": app}); err != nil {
		return nil, err
	}
	for i := range pods.Items {
		if pods.Items[i].Status.Phase == corev1.PodRunning {
			return &pods.Items[i], nil
		}
	}
	return nil, fmt.Errorf("no pod of Deployment %s runs yet", app)
}
