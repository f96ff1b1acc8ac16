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
	// indexSecretName indexes Services by the Secret that they ask for, where its name does not begin with theirs: those are found by that.
	indexSecretName = "servingcert.asked"
	// indexPassword indexes Services by the Secret with the password of their keystore.
	indexPassword = "servingcert.password"
	// indexService indexes Secrets by the Service that they were made for.
	indexService = "servingcert.service"
)

// View reads from the caches what decides about a Service. It does not wait for writes that are on their way, as the manager's
// client does: what it reads is about others. What it returns of lists is the caches' own, and not to be changed.
type View struct {
	client.Reader
	Resolver   issuance.Resolver
	PolicySets *policy.SetCache
	// Conflicts is that of the Services; Clock tells the time by it.
	Conflicts *conflict.Tracker
	Clock     clock.PassiveClock
}

// Policies are all ServingCertPolicies.
func (v View) Policies(ctx context.Context) (policy.Set, error) {
	var list v1alpha1.ServingCertPolicyList
	if err := v.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return policy.Set{}, err
	}
	return v.PolicySets.Get(list.Items), nil
}

// Namespace is the metadata of a namespace.
func (v View) Namespace(ctx context.Context, name string) (*metav1.PartialObjectMetadata, error) {
	namespace := NamespaceMetadata()
	return namespace, v.Get(ctx, client.ObjectKey{Name: name}, namespace, client.UnsafeDisableDeepCopy)
}

// NamespaceMetadata is an empty namespace, of which the caches hold the metadata.
func NamespaceMetadata() *metav1.PartialObjectMetadata {
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	return namespace
}

// competitors are the other Services of the namespace that want the same Secret, or ask for it although no policy serves them now.
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

// candidates are the Services of a namespace that may want the Secret of this name: they ask for it, or a policy that serves
// every Service would call theirs so. Most ask for a Secret that begins with their name.
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

// serviceNamesIn are those of Services that a Secret's name begins with, up to a hyphen, and whether a policy with such a suffix calls theirs so. What a
// tenant asks for may be longer than any name, and all hyphens.
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

// service is the Service of that name; nil where there is none.
func (v View) service(ctx context.Context, namespace, name string) (*corev1.Service, error) {
	var service corev1.Service
	if err := v.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &service, client.UnsafeDisableDeepCopy); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return &service, nil
}

// requestedWithOtherPrefix is the Secret that a Service asks for; empty where its name is that of the Service, a hyphen, and more.
func requestedWithOtherPrefix(resolver issuance.Resolver, service *corev1.Service) string {
	_, name := resolver.RequestedSecret(service)
	if strings.HasPrefix(name, service.Name+"-") {
		return ""
	}
	return name
}

// Claim is what a Secret is to the Service that it was made for.
type Claim struct {
	// Wanted: a policy wants it.
	Wanted bool
	// Unresolvable: nothing new will come into it, for the Service is told of a problem or would not be, somebody keeps undoing our writes, or it
	// goes away, or moves to another CA. Nobody waits for it.
	Unresolvable bool
	// Failure is why the requests about the Service fail; nil while they do not.
	Failure *issuance.Problem
	// IncludesBundle: it carries the trust bundle, too.
	IncludesBundle bool
}

// Claims answers what a Secret is to the Service that owns it.
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
		// Requests that fail are waited for within a bound.
		reported = reported && issuance.ParseProblem(problem).Reason != issuance.ReasonRequestFailed
		deleting := !service.DeletionTimestamp.IsZero() || !namespace.DeletionTimestamp.IsZero()
		changesCA := ruling.Spec.ServiceCAName != secret.Labels[v1alpha1.LabelServiceCA]
		return Claim{
			Wanted: true, Unresolvable: reported || deleting || changesCA || v.Conflicts.Unresolvable(key, now), Failure: v.Conflicts.Failure(key, now),
			IncludesBundle: target.CarriesBundle(secret),
		}
	}, nil
}

// secretsOf are the digests of the Secrets that were made for a Service.
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

// indexInNamespace indexes a field, empty for none, for lists in one namespace. controller-runtime's own way keeps each value once more, for
// lists over all namespaces, which nobody makes; the names of index and key are those by which its cache reads.
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
