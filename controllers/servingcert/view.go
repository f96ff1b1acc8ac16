package servingcert

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/conflict"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/policy"
)

// The indices of the caches.
const (
	// indexSecretName indexes Services by the name of the Secret that they request, unless that
	// name begins with the name of the Service and a hyphen: those Services are found by their
	// name.
	indexSecretName = "servingcert.asked"
	// indexPassword indexes Services by the name of the Secret that holds the password of their
	// keystore.
	indexPassword = "servingcert.password"
	// indexService indexes Secrets by the name of the Service that they were made for.
	indexService = "servingcert.service"
)

// View reads from the caches what determines the certificate of a Service. It does not wait for the
// operator's own pending writes as the manager's client does, because it reads other objects than
// those being written. Objects in the lists that it returns are shared with the caches and must not
// be modified.
type View struct {
	client.Reader
	Resolver   issuance.Resolver
	PolicySets *policy.SetCache
	// Conflicts tracks conflicting writes to the Secrets of Services, and Clock is the clock that
	// it is queried with.
	Conflicts *conflict.Tracker
	Clock     clock.PassiveClock
}

// Policies returns all ServingCertPolicies.
func (v View) Policies(ctx context.Context) (policy.Set, error) {
	var list v1alpha1.ServingCertPolicyList
	if err := v.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return policy.Set{}, err
	}
	return v.PolicySets.Get(list.Items), nil
}

// Namespace returns the metadata of a namespace.
func (v View) Namespace(ctx context.Context, name string) (*metav1.PartialObjectMetadata, error) {
	namespace := NamespaceMetadata()
	return namespace, v.Get(ctx, client.ObjectKey{Name: name}, namespace, client.UnsafeDisableDeepCopy)
}

// NamespaceMetadata returns an empty metadata object for a namespace; the caches hold only the
// metadata of namespaces.
func NamespaceMetadata() *metav1.PartialObjectMetadata {
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	return namespace
}

// competitors returns the other Services of the namespace that want the same Secret, or request it
// although no policy selects them now.
func (v View) competitors(ctx context.Context, desired issuance.Desired, policies policy.Set, namespace labels.Set) ([]*corev1.Service, error) {
	candidates, err := v.candidates(ctx, policies, desired.Service.Namespace, desired.SecretName)
	return slices.DeleteFunc(candidates, func(other *corev1.Service) bool {
		if other.Name == desired.Service.Name || !other.DeletionTimestamp.IsZero() {
			return true
		}
		if _, requested := v.Resolver.RequestedSecret(other); requested == desired.SecretName {
			return false
		}
		ruling, _ := policies.For(namespace, other.Labels)
		otherRef, wanted := v.Resolver.SecretRef(other, ruling)
		return !wanted || otherRef.SecretName != desired.SecretName
	}), err
}

// candidates returns the Services of a namespace that may want the Secret with this name: they
// request it, or a policy that issues for every Service would use this name. Most Services request
// a Secret whose name begins with their own, so candidates looks these up by name instead of by an
// index.
func (v View) candidates(ctx context.Context, policies policy.Set, namespace, secretName string) ([]*corev1.Service, error) {
	var requesting corev1.ServiceList
	err := v.List(ctx, &requesting, client.InNamespace(namespace), client.MatchingFields{indexSecretName: secretName}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, err
	}
	var candidates []*corev1.Service
	for i := range requesting.Items {
		candidates = append(candidates, &requesting.Items[i])
	}
	for name, bySuffix := range serviceNamesIn(secretName, policies.Suffixes()) {
		service, err := v.service(ctx, namespace, name)
		if err != nil {
			return nil, err
		}
		if service == nil || requestedWithOtherPrefix(v.Resolver, service) == secretName {
			continue
		}
		if _, requested := v.Resolver.RequestedSecret(service); bySuffix || requested == secretName {
			candidates = append(candidates, service)
		}
	}
	return candidates, nil
}

// serviceNamesIn returns the Service names that a Secret's name may begin with, up to a hyphen, and
// whether the suffix of a policy yields that Secret name. The number of names is bounded, because
// the name that a tenant requests may be longer than any valid name and consist of hyphens only.
func serviceNamesIn(secretName string, suffixes []string) map[string]bool {
	names := map[string]bool{}
	for i := 1; i <= min(len(secretName)-1, validation.DNS1123LabelMaxLength); i++ {
		if secretName[i] == '-' {
			names[secretName[:i]] = false
		}
	}
	for _, suffix := range suffixes {
		if name, ok := strings.CutSuffix(secretName, suffix); ok {
			names[name] = true
		}
	}
	return names
}

// service returns the Service with this name, or nil if there is none.
func (v View) service(ctx context.Context, namespace, name string) (*corev1.Service, error) {
	var service corev1.Service
	if err := v.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &service, client.UnsafeDisableDeepCopy); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return &service, nil
}

// requestedWithOtherPrefix returns the name of the Secret that a Service requests, or "" if the
// name begins with the name of the Service and a hyphen.
func requestedWithOtherPrefix(resolver issuance.Resolver, service *corev1.Service) string {
	_, name := resolver.RequestedSecret(service)
	if strings.HasPrefix(name, service.Name+"-") {
		return ""
	}
	return name
}

// Claim describes the claim that a Service has on the Secret that was made for it. The zero value
// means that the Secret is not wanted.
type Claim struct {
	// Wanted is true if a policy still wants the Secret.
	Wanted bool
	// Unresolvable is true if the Secret will not be updated: the Service reports a problem, or the
	// report could not be written; another client keeps undoing the operator's writes; requests
	// have failed for too long; the Service or its namespace is being deleted; or the Service moves
	// to another CA. Rotations do not wait for such a Secret.
	Unresolvable bool
	// Failure is why the requests for the Service fail; nil while they do not.
	Failure *issuance.Problem
	// IncludesBundle is true if the Secret also carries the trust bundle.
	IncludesBundle bool
}

// Claims returns a function that returns the Claim on a Secret by the Service that owns it.
func (v View) Claims(ctx context.Context) (func(*corev1.Secret) Claim, error) {
	policies, err := v.Policies(ctx)
	if err != nil {
		return nil, err
	}
	now := v.Clock.Now()
	return func(secret *corev1.Secret) Claim {
		var service corev1.Service
		key := client.ObjectKey{Namespace: secret.Namespace, Name: secret.Labels[v1alpha1.LabelService]}
		if v.Get(ctx, key, &service, client.UnsafeDisableDeepCopy) != nil || !issuance.IsOwnedBy(secret, &service) {
			return Claim{}
		}
		namespace, err := v.Namespace(ctx, secret.Namespace)
		if err != nil {
			return Claim{}
		}
		ruling, _ := policies.For(namespace.Labels, service.Labels)
		target, wanted := v.Resolver.SecretRef(&service, ruling)
		if !wanted || target.SecretName != secret.Name {
			return Claim{}
		}
		problem, reported := service.Annotations[v1alpha1.AnnotationError]
		// Failing requests are waited for within a bound, which Conflicts.Unresolvable applies.
		reported = reported && issuance.ParseProblem(problem).Reason != issuance.ReasonRequestFailed
		deleting := !service.DeletionTimestamp.IsZero() || !namespace.DeletionTimestamp.IsZero()
		changesCA := ruling.Spec.ServiceCAName != secret.Labels[v1alpha1.LabelServiceCA]
		return Claim{
			Wanted: true, Unresolvable: reported || deleting || changesCA || v.Conflicts.Unresolvable(key, now), Failure: v.Conflicts.Failure(key, now),
			IncludesBundle: target.CarriesBundle(secret),
		}
	}, nil
}

// secretsOf returns the digests of the Secrets that were made for a Service.
func (v View) secretsOf(ctx context.Context, service *corev1.Service) ([]corev1.Secret, error) {
	var list corev1.SecretList
	err := v.List(ctx, &list, client.InNamespace(service.Namespace), client.MatchingFields{indexService: service.Name}, client.UnsafeDisableDeepCopy)
	return list.Items, err
}

func setupIndices(ctx context.Context, mgr ctrl.Manager, resolver issuance.Resolver) error {
	return errors.Join(
		indexInNamespace(ctx, mgr.GetCache(), &corev1.Service{}, indexSecretName, func(object client.Object) string {
			service, _ := object.(*corev1.Service)
			return requestedWithOtherPrefix(resolver, service)
		}),
		indexInNamespace(ctx, mgr.GetCache(), &corev1.Service{}, indexPassword, func(object client.Object) string {
			secret, _ := issuance.SplitPassword(object.GetAnnotations()[v1alpha1.AnnotationKeystorePassword])
			return secret
		}),
		indexInNamespace(ctx, mgr.GetCache(), &corev1.Secret{}, indexService, func(object client.Object) string {
			return object.GetLabels()[v1alpha1.LabelService]
		}),
	)
}

// indexInNamespace adds an index of a field, for lists within one namespace; objects with an empty
// value are not indexed. controller-runtime's own IndexField stores each value a second time for
// lists over all namespaces, which are not needed here. The names of the index and of its keys are
// those that controller-runtime's cache reads.
func indexInNamespace(ctx context.Context, c cache.Cache, object client.Object, field string, value func(client.Object) string) error {
	informer, err := c.GetInformer(ctx, object, cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	return informer.AddIndexers(toolscache.Indexers{"field:" + field: func(object any) ([]string, error) {
		indexed, ok := object.(client.Object)
		if !ok {
			return nil, fmt.Errorf("%T is no object", object)
		}
		if indexValue := value(indexed); indexValue != "" {
			return []string{indexed.GetNamespace() + "/" + indexValue}, nil
		}
		return nil, nil
	}})
}
