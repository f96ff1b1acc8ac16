// Package availability starts controllers for kinds that a cluster may start to serve, or for
// actions that it may start to permit, only later. They start then, without a restart of the
// operator.
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

// interval is the time between two checks of what is not available yet.
const interval = 15 * time.Second

// StartWhenAvailable polls available and calls start once it returns true. Until then it writes
// nothing. An error of available is logged and counts as false.
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

// IsServed reports whether the cluster serves a kind and permits the operator to list it.
func IsServed(ctx context.Context, live client.Reader, list client.ObjectList) (bool, error) {
	err := live.List(ctx, list, client.Limit(1))
	if IsNotServed(err) || apierrors.IsForbidden(err) {
		return false, nil
	}
	return err == nil, err
}

// IsNotServed reports whether err, from a list or a create, means that the cluster does not serve a
// kind.
func IsNotServed(err error) bool {
	return meta.IsNoMatchError(err) || apierrors.IsNotFound(err)
}
