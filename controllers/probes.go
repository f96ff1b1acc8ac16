package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/healthz"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/installation"
)

// syncTimeout is how long a probe waits for the caches. A cache that is not synced by then is not
// ready; the next probe checks again.
const syncTimeout = time.Second

// addProbes adds the probes. /healthz succeeds while the process responds. /readyz succeeds if the
// API server serves our kinds now, not only when the manager started, if the caches are synced, and
// if no other installation has claimed the ServiceCAs. A replica that waits for leader election has
// synced caches too, because the indexes start their informers on every replica.
func addProbes(mgr ctrl.Manager, claim *installation.Claim, caches ...cache.Cache) error {
	api, err := discovery.NewDiscoveryClientForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return err
	}
	return errors.Join(
		mgr.AddHealthzCheck("ping", healthz.Ping),
		mgr.AddReadyzCheck("crds", func(*http.Request) error {
			served, err := api.ServerResourcesForGroupVersion(v1alpha1.SchemeGroupVersion.String())
			if err != nil {
				return err
			}
			return serves(served, "servicecas", "servingcertpolicies")
		}),
		mgr.AddReadyzCheck("installation", func(*http.Request) error { return claim.Ready() }),
		mgr.AddReadyzCheck("caches", func(request *http.Request) error {
			ctx, cancel := context.WithTimeout(request.Context(), syncTimeout)
			defer cancel()
			for _, c := range caches {
				if !c.WaitForCacheSync(ctx) {
					return errors.New("a cache is not synced: the manager's log says which kind it can't list or watch")
				}
			}
			return nil
		}),
	)
}

func serves(served *metav1.APIResourceList, resources ...string) error {
	for _, resource := range resources {
		if !slices.ContainsFunc(served.APIResources, func(r metav1.APIResource) bool { return r.Name == resource }) {
			return fmt.Errorf("the API server does not serve %s.%s: install config/crd", resource, v1alpha1.GroupName)
		}
	}
	return nil
}
