package liverotation_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/servingcert/operator/api/v1alpha1"
)

// volume is the name of the one volume of each pod.
const volume = "trust"

// peerLabel is a label on the pods of a Deployment.
const peerLabel = "peer"

// bundleInSecret is the key of the bundle in a Secret, if its policy includes it.
const bundleInSecret = "ca.crt"

// peer is a server or a client. Its process is part of the test, and reads what the kubelet mounts
// into its pod.
type peer struct {
	name, namespace string
	mounts          corev1.VolumeSource
	// file is the name of the file with a client's bundle.
	file string
	// frozen peers read their files once, when they start, and again when their pod is replaced.
	// The operator replaces it, since they are Deployments.
	frozen bool
	// kept peers are frozen, and belong to no workload: the test replaces them where
	// docs/rotation.md requires it.
	kept bool

	// pods counts the pods that the test has created.
	pods int
	// home is the present pod.
	home atomic.Pointer[home]
	// memory is what a frozen peer has read.
	memory atomic.Pointer[files]
	// address is where a server listens.
	address string
}

// home is a pod, and the folder of its volume.
type home struct {
	pod    *corev1.Pod
	folder string
}

// files are the contents of one version of a volume, by name.
type files map[string][]byte

// host returns the name that clients verify.
func (p *peer) host() string { return p.name + "." + p.namespace + ".svc" }

func (p *peer) String() string {
	switch {
	case p.kept:
		return p.name + " (frozen, never replaced without need)"
	case p.frozen:
		return p.name + " (frozen)"
	}
	return p.name + " (reloads)"
}

// deployed reports whether the peer is a Deployment.
func (p *peer) deployed() bool { return p.frozen && !p.kept }

// spec returns the spec of its pods.
func (p *peer) spec() corev1.PodSpec {
	mount := corev1.VolumeMount{Name: volume, MountPath: "/trust"}
	if p.frozen {
		// With subPath the kubelet never updates the file in the container.
		mount.SubPath = p.file
	}
	return corev1.PodSpec{
		ServiceAccountName:            "default",
		AutomountServiceAccountToken:  new(false),
		TerminationGracePeriodSeconds: new(int64(0)),
		Volumes:                       []corev1.Volume{{Name: volume, VolumeSource: p.mounts}},
		Containers: []corev1.Container{{
			Name: "main", Image: "example.com/anything", ImagePullPolicy: corev1.PullIfNotPresent, VolumeMounts: []corev1.VolumeMount{mount},
		}},
	}
}

// nextPod returns the next pod of a peer that is not a Deployment.
func (p *peer) nextPod() *corev1.Pod {
	p.pods++
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: fmt.Sprintf("%s-%d", p.name, p.pods)}, Spec: p.spec()}
}

// deployment returns the Deployment of a peer that is one. A new pod is ready before the old one is
// deleted.
func (p *peer) deployment() *appsv1.Deployment {
	bears := map[string]string{peerLabel: p.name}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: p.name}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: bears},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: bears}, Spec: p.spec()},
		Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{
			MaxUnavailable: new(intstr.FromInt32(0)), MaxSurge: new(intstr.FromInt32(1)),
		}},
	}}
}

// start starts the process in a pod.
func (p *peer) start(pod *corev1.Pod, folder string) error {
	p.home.Store(&home{pod, folder})
	if !p.frozen {
		return nil
	}
	read, err := mounted(folder)
	p.memory.Store(&read)
	return err
}

// files returns what the process has read: what a frozen peer read at its start, or what is mounted
// now.
func (p *peer) files() (files, error) {
	if p.frozen {
		return *p.memory.Load(), nil
	}
	return mounted(p.home.Load().folder)
}

// certificate returns the certificate that a server presents.
func (p *peer) certificate() (*tls.Certificate, error) {
	read, err := p.files()
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(read[corev1.TLSCertKey], read[corev1.TLSPrivateKeyKey])
	return &pair, err
}

// roots returns the roots that a client trusts.
func (p *peer) roots() (*x509.CertPool, error) {
	read, err := p.files()
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(read[p.file]) {
		return nil, fmt.Errorf("%s holds no bundle", p.file)
	}
	return roots, nil
}

// mounted reads a volume. The kubelet writes a new folder, points the link ..data to it and removes
// the previous folder. A reader that resolves the link once gets files that belong together, and
// has to retry if they were removed meanwhile.
func mounted(folder string) (files, error) {
	const attempts = 10
	var err error
	for range attempts {
		var version string
		if version, err = os.Readlink(filepath.Join(folder, "..data")); err != nil {
			return nil, err
		}
		var read files
		if read, err = readAll(filepath.Join(folder, version)); !errors.Is(err, fs.ErrNotExist) {
			return read, err
		}
	}
	return nil, err
}

func readAll(folder string) (files, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%s is being removed: %w", folder, fs.ErrNotExist)
	}
	read := files{}
	for _, entry := range entries {
		if read[entry.Name()], err = os.ReadFile(filepath.Join(folder, entry.Name())); err != nil {
			return nil, err
		}
	}
	return read, nil
}

const serverCount = 20

// newServers returns servers, half of which reload and a quarter of which are kept.
func newServers() []*peer {
	var servers []*peer
	for i := range serverCount {
		server := &peer{name: fmt.Sprintf("server-%02d", i), namespace: shop, frozen: i%2 == 1, kept: i%4 == 1, file: corev1.TLSCertKey}
		server.mounts.Secret = &corev1.SecretVolumeSource{SecretName: server.secretName()}
		servers = append(servers, server)
	}
	return servers
}

func (p *peer) secretName() string { return p.name + "-tls" }

// newClients returns clients for each way in which a bundle reaches a pod.
func newClients(servers []*peer) []*peer {
	configMap := corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: trustConfigMap}}}
	return []*peer{
		{name: "reloading", namespace: shop, mounts: configMap, file: v1alpha1.DefaultCABundleKey},
		{name: "restarting", namespace: shop, mounts: configMap, file: v1alpha1.DefaultCABundleKey, frozen: true},
		{name: "keeping", namespace: elsewhere, mounts: configMap, file: v1alpha1.DefaultCABundleKey, frozen: true, kept: true},
		{name: "openshift", namespace: elsewhere, mounts: configMap, file: v1alpha1.DefaultCABundleKey},
		{name: "secret", namespace: shop, mounts: servers[0].mounts, file: bundleInSecret},
	}
}
