package publish

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/injector"
)

// NotPermitted is the problem that a publishing ServiceCA reports while the operator lacks the RBAC
// permissions.
const NotPermitted = "spec.trustBundle.publish: the operator may not create and delete ConfigMaps in every namespace: add config/components/publish"

// counter counts the ConfigMaps of one ServiceCA.
type counter struct {
	*Publisher

	ca      *v1alpha1.ServiceCA
	hash    string
	since   time.Time
	counted *injector.Targets
	// problems are the problems of ConfigMaps that cannot have the bundle. overruled is the number
	// of namespaces in which an older ServiceCA publishes the same name, and olderCA is one of
	// those ServiceCAs.
	problems  []string
	overruled int
	olderCA   string
}

// Count adds the ConfigMaps that a ServiceCA publishes to targets; hash is the hash of the current
// bundle. A rotation does not wait for ConfigMaps in namespaces created after since, because they
// get no earlier bundle. The problem says why some ConfigMaps cannot have the bundle; empty if all
// can.
func (p *Publisher) Count(ctx context.Context, ca *v1alpha1.ServiceCA, hash string, since time.Time, targets *injector.Targets) (problem string, err error) {
	if len(ca.Spec.TrustBundle.Publish) == 0 {
		return "", nil
	}
	cas, err := p.serviceCAs(ctx)
	if err != nil {
		return "", err
	}
	var namespaces metav1.PartialObjectMetadataList
	namespaces.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NamespaceList"))
	if err := p.Cache.List(ctx, &namespaces, client.UnsafeDisableDeepCopy); err != nil {
		return "", err
	}
	all, c := newClaims(cas, p.Namespace), counter{Publisher: p, ca: ca, hash: hash, since: since, counted: targets}
	for i := range namespaces.Items {
		namespace := &namespaces.Items[i]
		if !namespace.DeletionTimestamp.IsZero() {
			continue
		}
		for _, entry := range all.all {
			if entry.ca.Name != ca.Name || !entry.namespaces.Matches(labels.Set(namespace.Labels)) {
				continue
			}
			if err := c.count(ctx, namespace, all.effectiveClaim(types.NamespacedName{Namespace: namespace.Name, Name: entry.bundle.ConfigMapName}, namespace.Labels)); err != nil {
				return "", err
			}
		}
	}
	return c.problem(), nil
}

// count counts the ConfigMap in a namespace to which the claim applies. The claim may be nil, or
// that of another ServiceCA.
func (c *counter) count(ctx context.Context, namespace *metav1.PartialObjectMetadata, effective *claim) error {
	if effective == nil || effective.ca.Name != c.ca.Name {
		c.recordOverruled(effective)
		return nil
	}
	key := client.ObjectKey{Namespace: namespace.Name, Name: effective.bundle.ConfigMapName}
	configMap := injector.ConfigMaps.Metadata()
	if err := c.Cache.Get(ctx, key, configMap, client.UnsafeDisableDeepCopy); client.IgnoreNotFound(err) != nil {
		return err
	}
	if requested, err := c.RequestedServiceCA(ctx, "ConfigMap", key); err != nil || (injector.PublishedBy(configMap) == "" && requested == c.ca.Name) {
		return err // the injector counts it as a target that requests the bundle
	}
	c.compare(key, effective, configMap, namespace)
	return nil
}

func (c *counter) recordOverruled(effective *claim) {
	if effective != nil {
		c.overruled, c.olderCA = c.overruled+1, effective.ca.Name
	}
}

// compare counts a ConfigMap by its metadata.
func (c *counter) compare(key types.NamespacedName, effective *claim, configMap, namespace *metav1.PartialObjectMetadata) {
	current := injector.PublishedBy(configMap) == c.ca.Name && configMap.Annotations[v1alpha1.AnnotationPublishedHash] == hashAnnotation(c.hash, effective.bundle.Key)
	now := c.Clock.Now()
	current = current && c.conflicts.ContestedFor(key, now) == 0
	// A rotation waits for a ConfigMap about which requests fail, for a limited time.
	problem, failure := c.problemOf(key), c.conflicts.Failure(key, now)
	blocked := (problem != "" && failure == nil) || !c.permitted.Load() || c.conflicts.Unresolvable(key, now)
	if problem != "" && !current {
		c.problems = append(c.problems, problem)
	}
	if !current && !blocked && namespace.CreationTimestamp.After(c.since) {
		c.counted.All++
		return
	}
	c.counted.Count(current, blocked, injector.WithReason("ConfigMap "+key.String(), failure))
}

func (p *Publisher) problemOf(key types.NamespacedName) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problems[key]
}

// problem returns a sentence about what keeps ConfigMaps from having the bundle; empty if nothing
// does.
func (c *counter) problem() string {
	var problems []string
	if !c.permitted.Load() {
		problems = append(problems, NotPermitted)
	}
	if c.overruled > 0 {
		problems = append(problems, fmt.Sprintf("spec.trustBundle.publish: in %d namespaces ServiceCA %s, which is older, publishes a ConfigMap of the same name",
			c.overruled, c.olderCA))
	}
	const maxNames = 3
	slices.Sort(c.problems)
	problems = append(problems, c.problems[:min(len(c.problems), maxNames)]...)
	if more := len(c.problems) - maxNames; more > 0 {
		problems = append(problems, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(problems, "; ")
}
