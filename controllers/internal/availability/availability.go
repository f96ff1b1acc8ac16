// Package availability starts controllers for what a cluster may come to serve, or to allow, only later: they begin then, without a restart.
package availability

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// interval is how often what is not there is asked for.
const interval = 15 * time.Second

// StartWhenAvailable calls start once available says so. It writes nothing meanwhile.
func StartWhenAvailable(mgr ctrl.Manager, available func(context.Context) (bool, error), start func(context.Context) error) error {
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		err := wait.PollUntilContextCancel(ctx, interval, true, func(ctx context.Context) (bool, error) {
			ok, err := available(ctx)
			if err != nil {
				ctrl.LoggerFrom(ctx).Error(err, "find out what the cluster serves and allows")
			}
			return ok && err == nil, nil
		})
		if err != nil {
			return nil //nolint:nilerr // the manager stops
		}
		return start(ctx)
	}))
}

// IsServed reports whether the cluster serves a kind, and lets us list it.
func IsServed(ctx context.Context, live client.Reader, list client.ObjectList) (bool, error) {
	err := live.List(ctx, list, client.Limit(1))
	if IsNotServed(err) || apierrors.IsForbidden(err) {
		return false, nil
	}
	return err == nil, err
}

// IsNotServed reports whether an error means that the cluster does not serve a kind: of a list, or of a write that makes an object.
func IsNotServed(err error) bool {
	return meta.IsNoMatchError(err) || apierrors.IsNotFound(err)
}
