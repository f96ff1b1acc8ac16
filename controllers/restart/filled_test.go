package restart

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/servingcert"
)

// A workload that reads the bundle only once, and started before the bundle was written, is
// outdated. One that started after that is not, and neither is one whose files the kubelet
// refreshes.
func TestFilledAfterTheStart(t *testing.T) {
	t.Parallel()
	const hour = time.Hour
	for name, tc := range map[string]struct {
		pod     func(*corev1.PodSpec)
		filled  time.Duration
		started time.Duration
		note    string
	}{
		"it started before":          {mounts("service-ca.crt", configMapNamed("trust")), hour, 90 * time.Minute, "ConfigMap trust got the trust bundle of ServiceCA default only "},
		"it started after":           {mounts("service-ca.crt", configMapNamed("trust")), hour, 30 * time.Minute, ""},
		"it started a moment after":  {mounts("service-ca.crt", configMapNamed("trust")), hour, hour - 3*time.Second, "got the trust bundle"},
		"it reads what is refreshed": {mounts("", configMapNamed("trust")), hour, 90 * time.Minute, ""},
		"it reads something else":    {mounts("app.conf", configMapNamed("trust")), hour, 90 * time.Minute, ""},
		"since when is not known":    {mounts("service-ca.crt", configMapNamed("trust")), 0, 90 * time.Minute, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			read := world(t, certificate(t, 9*hour, hour), servingcert.Claim{})
			read.filled = func(context.Context, string, client.ObjectKey) (injector.Filled, error) {
				if tc.filled == 0 {
					return injector.Filled{}, nil
				}
				return injector.Filled{At: now.Add(-tc.filled), Keys: []string{"service-ca.crt"}}, nil
			}
			changes, err := read.affecting(t.Context(), reading(tc.pod), rollingPolicy())
			if err != nil {
				t.Fatal(err)
			}
			starts := newPodStarts(podOf("web", 1, tc.started))
			unknown := starts.pendingChanges(changes)
			if got := joinMessages(unknown); (got == "") != (tc.note == "") || !strings.Contains(got, tc.note) {
				t.Errorf("it does not know that %q, want %q", got, tc.note)
			}
			if expires, _ := starts.firstExpiry(unknown); tc.note != "" && expires.After(now) {
				t.Errorf("what it holds, which is nothing, expires %s", expires)
			}
		})
	}
}
