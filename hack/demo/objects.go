package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// demoManifest is a server, a client, and a Service that does not request a certificate yet.
//
//go:embed demo.yaml
var demoManifest []byte

// checkCurrent returns an error if the demo would touch existing objects in the user's cluster.
func (d *demo) checkCurrent(ctx context.Context) error {
	err := d.client.Get(ctx, client.ObjectKey{Name: demoNamespace}, &corev1.Namespace{})
	if err == nil {
		return fmt.Errorf("there is a namespace %s already, and the demo wants one of its own: delete it, or use another cluster", demoNamespace)
	}
	return client.IgnoreNotFound(err)
}

// install installs the objects of config/default except the Deployment, because the manager runs on
// this machine.
func (d *demo) install(ctx context.Context) error {
	return d.steps.do(ctx, "install the CRDs, the namespace and the rights", func(ctx context.Context, report func(string)) error {
		objects, err := d.kustomize(ctx, "config/default")
		if err != nil {
			return err
		}
		for _, object := range objects {
			switch object.GetKind() {
			case "Deployment":
			case "CustomResourceDefinition":
				err = d.applyCRD(ctx, report, object)
			default:
				err = d.create(ctx, object)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *demo) applySample(ctx context.Context) error {
	return d.steps.do(ctx, "apply config/samples/basic, and wait for its ServiceCA", func(ctx context.Context, report func(string)) error {
		objects, err := d.kustomize(ctx, "config/samples/basic")
		if err != nil {
			return err
		}
		if err := d.expectOfManager(ctx); err != nil {
			return err
		}
		for _, object := range objects {
			if err := d.create(ctx, object); err != nil {
				return err
			}
		}
		return await(ctx, report, d.caIsMissing)
	})
}

func (d *demo) deploy(ctx context.Context) error {
	return d.steps.do(ctx, "apply hack/demo/demo.yaml: a server and a client", func(ctx context.Context, _ func(string)) error {
		objects, err := decode(demoManifest)
		if err != nil {
			return err
		}
		for _, object := range objects {
			if err := d.create(ctx, object); err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *demo) kustomize(ctx context.Context, folder string) ([]*unstructured.Unstructured, error) {
	manifest, err := d.kubectl(ctx, "kustomize", folder)
	if err != nil {
		return nil, err
	}
	return decode(manifest)
}

func decode(manifest []byte) ([]*unstructured.Unstructured, error) {
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifest), 4096)
	var objects []*unstructured.Unstructured
	for {
		object := &unstructured.Unstructured{}
		switch err := decoder.Decode(object); {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, err
		}
		objects = append(objects, object)
	}
}

// create applies an object as `kubectl apply --server-side` would, so that the user can continue
// from there. It leaves an existing object unchanged, and the demo does not remove that.
func (d *demo) create(ctx context.Context, object *unstructured.Unstructured) error {
	existing, err := d.isThere(ctx, object)
	if existing || err != nil {
		return err
	}
	return d.apply(ctx, object)
}

func (d *demo) apply(ctx context.Context, object *unstructured.Unstructured) error {
	configuration := client.ApplyConfigurationFromUnstructured(object)
	if err := d.client.Apply(ctx, configuration, client.FieldOwner("kubectl"), client.ForceOwnership); err != nil {
		return fmt.Errorf("apply %s %s: %w", object.GetKind(), object.GetName(), err)
	}
	return nil
}

// isThere reports whether an object exists already. If not, it registers the object for removal at
// the end.
func (d *demo) isThere(ctx context.Context, object *unstructured.Unstructured) (bool, error) {
	existing := object.DeepCopy()
	err := d.client.Get(ctx, client.ObjectKeyFromObject(object), existing)
	if apierrors.IsNotFound(err) {
		d.created = append(d.created, existing)
		return false, nil
	}
	return true, err
}

// applyCRD applies a CRD, and waits until it is served.
func (d *demo) applyCRD(ctx context.Context, report func(string), crd *unstructured.Unstructured) error {
	if _, err := d.isThere(ctx, crd); err != nil {
		return err
	}
	if err := d.apply(ctx, crd); err != nil {
		return err
	}
	return await(ctx, report, func(ctx context.Context) string {
		if err := d.client.Get(ctx, client.ObjectKeyFromObject(crd), crd); err != nil {
			return err.Error()
		}
		conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
		established := slices.ContainsFunc(conditions, func(condition any) bool {
			c, _ := condition.(map[string]any)
			return c["type"] == "Established" && c["status"] == "True"
		})
		if !established {
			return crd.GetName() + " is not established"
		}
		return ""
	})
}

// madeByManager are the objects that the manager creates in its own namespace.
var madeByManager = []struct{ version, kind, name string }{
	{"v1", "Secret", "default-signing-key"},
	{"v1", "ConfigMap", "default-trust-bundle"},
	{"coordination.k8s.io/v1", "Lease", "servingcert-operator"},
}

// expectOfManager registers the objects that the manager is about to create, so that they are
// removed at the end.
func (d *demo) expectOfManager(ctx context.Context) error {
	for _, expected := range madeByManager {
		object := &unstructured.Unstructured{}
		object.SetAPIVersion(expected.version)
		object.SetKind(expected.kind)
		object.SetNamespace(operatorNamespace)
		object.SetName(expected.name)
		if _, err := d.isThere(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// deleteCreated deletes, in a cluster that is kept, what the demo created, in reverse order, and
// waits until it is gone.
func (d *demo) deleteCreated(ctx context.Context, report func(string)) error {
	slices.Reverse(d.created)
	var errs []error
	for _, object := range d.created {
		errs = append(errs, client.IgnoreNotFound(d.client.Delete(ctx, object, client.PropagationPolicy(metav1.DeletePropagationBackground))))
	}
	for _, object := range d.created {
		errs = append(errs, await(ctx, report, func(ctx context.Context) string {
			switch err := d.client.Get(ctx, client.ObjectKeyFromObject(object), object); {
			case apierrors.IsNotFound(err):
				return ""
			case err != nil:
				return err.Error()
			}
			return fmt.Sprintf("%s %s is still there", object.GetKind(), object.GetName())
		}))
	}
	return errors.Join(errs...)
}
