package restart

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/servingcert"
)

// certificate returns a Secret that was created and last written the given times ago.
func certificate(t *testing.T, made, written time.Duration) *corev1.Secret {
	t.Helper()
	root, err := pki.GenerateRoot(now.Add(-1000*time.Hour), pki.RootSpec{CommonName: "ca", Duration: 2000 * time.Hour, Key: pki.KeySpec{Algorithm: v1alpha1.Ed25519}})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.LoadAuthority(root)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(now.Add(-written), pki.LeafSpec{DNSNames: []string{"web.shop.svc"}, Key: pki.KeySpec{Algorithm: v1alpha1.Ed25519}}, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web-tls", CreationTimestamp: metav1.NewTime(now.Add(-made)),
			Labels: map[string]string{v1alpha1.LabelService: "web", v1alpha1.LabelServiceCA: "default"},
		},
		Data: map[string][]byte{corev1.TLSCertKey: pair.Certificate},
	}
}

// digesting reads objects as the cache holds them: Secrets as digests.
func digesting(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	err := c.Get(ctx, key, object, options...)
	if secret, ok := object.(*corev1.Secret); ok && err == nil {
		issuance.Digest(secret)
	}
	return err
}

// world returns a reader with a Secret that holds a certificate, a ConfigMap that requests a
// bundle, and a ServiceCA whose bundle changed two hours ago.
func world(t *testing.T, secret *corev1.Secret, claim servingcert.Claim) changeReader {
	t.Helper()
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "trust"}}
	ca := &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	ca.Status.TrustBundle = &v1alpha1.TrustBundleStatus{ChangedAt: new(metav1.NewTime(now.Add(-2 * time.Hour)))}
	reader := fake.NewClientBuilder().WithObjects(secret, configMap).WithInterceptorFuncs(interceptor.Funcs{Get: digesting}).Build()
	return changeReader{
		View:  servingcert.View{Reader: reader},
		claim: func(*corev1.Secret) servingcert.Claim { return claim },
		cas:   map[string]*v1alpha1.ServiceCA{"default": ca, "first": {}},
		mountedServiceCA: func(_ context.Context, kind string, key client.ObjectKey) (string, error) {
			if kind == "ConfigMap" && key.Name == "trust" {
				return "default", nil
			}
			return "", nil
		},
		filled: func(context.Context, string, client.ObjectKey) (injector.Filled, error) {
			return injector.Filled{}, nil
		},
	}
}

func reading(how ...func(*corev1.PodSpec)) *workload {
	w := deployment("web")
	for _, one := range how {
		one(&w.template.Spec)
	}
	return w
}

func mounts(subPath string, sources ...corev1.VolumeProjection) func(*corev1.PodSpec) {
	return func(pod *corev1.PodSpec) {
		pod.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}}}}
		pod.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", SubPath: subPath}}
	}
}

func secretNamed(name string) corev1.VolumeProjection {
	return corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}
}

func configMapNamed(name string) corev1.VolumeProjection {
	return corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}
}

func bundleOf(signer string) corev1.VolumeProjection {
	return corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{SignerName: &signer}}
}

// The changes that concern a workload are those of the objects that it reads, as its policy and its
// own annotation select them.
func TestAffecting(t *testing.T) {
	t.Parallel()
	wanted, withBundle := servingcert.Claim{Wanted: true}, servingcert.Claim{Wanted: true, IncludesBundle: true}
	const renewed, trust = "CertificateRenewed 1h0m0s", "TrustChanged 2h0m0s"
	reloads := reading(mounts("", secretNamed("web-tls")))
	reloads.SetAnnotations(map[string]string{v1alpha1.AnnotationReload: v1alpha1.ReloadAutomatic})
	reloadsNot := reading(mounts("tls.crt", secretNamed("web-tls")))
	reloadsNot.SetAnnotations(reloads.GetAnnotations())
	frozen := func(r *v1alpha1.Restart) { r.Consumers = v1alpha1.RestartFrozenConsumers }
	trustOnly := func(r *v1alpha1.Restart) { r.Triggers = []v1alpha1.RestartReason{v1alpha1.RestartOnTrustChanged} }
	for name, tc := range map[string]struct {
		workload *workload
		claim    servingcert.Claim
		policy   func(*v1alpha1.Restart)
		want     []string
	}{
		"nothing":                     {reading(), wanted, nil, nil},
		"a certificate":               {reading(mounts("", secretNamed("web-tls"))), wanted, nil, []string{renewed}},
		"with the bundle":             {reading(mounts("", secretNamed("web-tls"))), withBundle, nil, []string{renewed, trust}},
		"a Secret nobody wants":       {reading(mounts("", secretNamed("web-tls"))), servingcert.Claim{}, nil, nil},
		"a Secret of others":          {reading(mounts("", secretNamed("theirs"))), wanted, nil, nil},
		"a bundle":                    {reading(mounts("", configMapNamed("trust"))), wanted, nil, []string{trust}},
		"a ConfigMap of others":       {reading(mounts("", configMapNamed("theirs"))), wanted, nil, nil},
		"a ClusterTrustBundle":        {reading(mounts("", bundleOf("servingcert.dev/default"))), wanted, nil, []string{trust}},
		"a bundle that never changed": {reading(mounts("", bundleOf("servingcert.dev/first"))), wanted, nil, nil},
		"no such ServiceCA":           {reading(mounts("", bundleOf("servingcert.dev/nobody"))), wanted, nil, nil},
		"only for trust":              {reading(mounts("", secretNamed("web-tls"), configMapNamed("trust"))), wanted, trustOnly, []string{trust}},
		"only the frozen":             {reading(mounts("", secretNamed("web-tls"))), wanted, frozen, nil},
		"a frozen one":                {reading(mounts("tls.crt", secretNamed("web-tls"))), wanted, frozen, []string{renewed}},
		"it reloads":                  {reloads, wanted, nil, nil},
		"it reloads what it can":      {reloadsNot, wanted, nil, []string{renewed}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			policy := rollingPolicy()
			if tc.policy != nil {
				tc.policy(&policy.Spec.Restart)
			}
			changes, err := world(t, certificate(t, 9*time.Hour, time.Hour), tc.claim).affecting(t.Context(), tc.workload, policy)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, change := range changes {
				got = append(got, fmt.Sprintf("%s %s", change.reason, now.Sub(change.at).Truncate(time.Minute)))
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("it is concerned by %q, want %q", got, tc.want)
			}
		})
	}
}

// A container that started before the certificate was renewed does not know of it. A container that
// waited for the first certificate does; one that started before, with another Secret of that name,
// does not.
func TestPendingChanges(t *testing.T) {
	t.Parallel()
	const hour = time.Hour
	for name, tc := range map[string]struct {
		made, written time.Duration
		// started is how long ago the containers of the pods started; 0 for one that is still
		// waiting.
		started []time.Duration
		pending bool
	}{
		"all started later":             {9 * hour, hour, []time.Duration{30 * time.Minute, time.Minute}, false},
		"one started earlier":           {9 * hour, hour, []time.Duration{2 * hour, time.Minute}, true},
		"one started a moment later":    {9 * hour, hour, []time.Duration{hour - 3*time.Second}, true},
		"one started a little later":    {9 * hour, hour, []time.Duration{hour - 6*time.Second}, false},
		"one is going to start":         {9 * hour, hour, []time.Duration{0}, false},
		"none":                          {9 * hour, hour, nil, false},
		"it waited for the first":       {hour, hour, []time.Duration{hour - time.Second}, false},
		"as far as clocks can tell":     {hour, hour, []time.Duration{hour + 4*time.Second}, false},
		"it was there before the first": {hour, hour, []time.Duration{hour + 6*time.Second}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changes, err := world(t, certificate(t, tc.made, tc.written), servingcert.Claim{Wanted: true}).
				affecting(t.Context(), reading(mounts("", secretNamed("web-tls"))), rollingPolicy())
			if err != nil || len(changes) != 1 {
				t.Fatal(changes, err)
			}
			var pods []*corev1.Pod
			for _, ago := range tc.started {
				pod := corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}}}
				pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main"}}
				if ago > 0 {
					pod.Status.ContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.Add(-ago))}
				}
				pods = append(pods, &pod)
			}
			starts := newPodStarts(pods...)
			if got := len(starts.pendingChanges(changes)) > 0; got != tc.pending {
				t.Errorf("some pod holds an older certificate: %t, want %t", got, tc.pending)
			}
		})
	}
}

// The creation of a pod is progress of a rollout, and so is its becoming ready.
func TestProgress(t *testing.T) {
	t.Parallel()
	pod := func(made, changed time.Duration, ready corev1.ConditionStatus) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-made))}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready, LastTransitionTime: metav1.NewTime(now.Add(-changed))}}
		return p
	}
	for want, pods := range map[time.Duration][]*corev1.Pod{
		3 * time.Minute: {pod(9*time.Minute, 3*time.Minute, corev1.ConditionTrue), pod(5*time.Minute, 4*time.Minute, corev1.ConditionTrue)},
		5 * time.Minute: {pod(9*time.Minute, time.Minute, corev1.ConditionFalse), pod(5*time.Minute, 4*time.Minute, corev1.ConditionFalse)},
	} {
		if got := now.Sub(newPodStarts(pods...).lastProgress); got != want {
			t.Errorf("the last progress was %s ago, want %s", got, want)
		}
	}
}
