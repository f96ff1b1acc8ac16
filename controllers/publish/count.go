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
	"github.com/servingcert/operator/controllers/trust"
)

// NotPermitted is what a ServiceCA says that publishes, while the operator has not the rights.
const NotPermitted = "spec.trustBundle.publish: the operator may not create and delete ConfigMaps in every namespace: add config/components/publish"

// counter counts the ConfigMaps of one ServiceCA.
type counter struct {
	*Publisher

	ca      *v1alpha1.ServiceCA
	hash    string
	since   time.Time
	counted *trust.Targets
	// problems are some of the ConfigMaps that cannot have the bundle, overruled is in how many namespaces an older ServiceCA publishes, and
	// by is one of these.
	problems  []string
	overruled int
	by        string
}

// Count adds the ConfigMaps that a ServiceCA publishes to what was counted; the current bundle has this hash. In a namespace that was made since
// then nobody has to wait for another. The problem is why some cannot have it, empty where all can.
func (p *Publisher) Count(ctx context.Context, ca *v1alpha1.ServiceCA, hash string, since time.Time, counted *trust.Targets) (problem string, err error) {
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
	all, c := newClaims(cas, p.Namespace), counter{Publisher: p, ca: ca, hash: hash, since: since, counted: counted}
	for i := range namespaces.Items {
		namespace := &namespaces.Items[i]
		if !namespace.DeletionTimestamp.IsZero() {
			continue
		}
		for _, one := range all.all {
			if one.ca.Name != ca.Name || !one.namespaces.Matches(labels.Set(namespace.Labels)) {
				continue
			}
			if err := c.count(ctx, namespace, all.winner(types.NamespacedName{Namespace: namespace.Name, Name: one.bundle.ConfigMapName}, namespace.Labels)); err != nil {
				return "", err
			}
		}
	}
	return c.problem(), nil
}

// count counts the ConfigMap that a claim decides about in a namespace; the claim may be that of another ServiceCA, or none.
func (c *counter) count(ctx context.Context, namespace *metav1.PartialObjectMetadata, won *claim) error {
	if won == nil || won.ca.Name != c.ca.Name {
		c.overrule(won)
		return nil
	}
	key := client.ObjectKey{Namespace: namespace.Name, Name: won.bundle.ConfigMapName}
	configMap := trust.ConfigMaps.Metadata()
	if err := c.Cache.Get(ctx, key, configMap, client.UnsafeDisableDeepCopy); client.IgnoreNotFound(err) != nil {
		return err
	}
	if asked, err := c.Asked(ctx, "ConfigMap", key); err != nil || (trust.Published(configMap) == "" && asked == c.ca.Name) {
		return err // it is counted as what asks
	}
	c.compare(key, won, configMap, namespace)
	return nil
}

func (c *counter) overrule(won *claim) {
	if won != nil {
		c.overruled, c.by = c.overruled+1, won.ca.Name
	}
}

// compare counts a ConfigMap by what its metadata say.
func (c *counter) compare(key types.NamespacedName, won *claim, configMap, namespace *metav1.PartialObjectMetadata) {
	current := trust.Published(configMap) == c.ca.Name && configMap.Annotations[v1alpha1.AnnotationPublishedHash] == mark(c.hash, won.bundle.Key)
	now := c.Clock.Now()
	current = current && c.pace.Fought(key, now) == 0
	// Requests that fail are waited for within a bound.
	problem, failure := c.problemOf(key), c.pace.Failing(key, now)
	blocked := (problem != "" && failure == nil) || !c.permitted.Load() || c.pace.Hopeless(key, now)
	if problem != "" && !current {
		c.problems = append(c.problems, problem)
	}
	if !current && !blocked && namespace.CreationTimestamp.After(c.since) {
		c.counted.All++
		return
	}
	c.counted.Count(current, blocked, trust.Explained("ConfigMap "+key.String(), failure))
}

func (p *Publisher) problemOf(key types.NamespacedName) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problems[key]
}

// problem returns a sentence about what keeps ConfigMaps from the bundle.
func (c *counter) problem() string {
	var problems []string
	if !c.permitted.Load() {
		problems = append(problems, NotPermitted)
	}
	if c.overruled > 0 {
		problems = append(problems, fmt.Sprintf("spec.trustBundle.publish: in %d namespaces ServiceCA %s, which is older, publishes a ConfigMap of the same name",
			c.overruled, c.by))
	}
	const few = 3
	slices.Sort(c.problems)
	problems = append(problems, c.problems[:min(len(c.problems), few)]...)
	if more := len(c.problems) - few; more > 0 {
		problems = append(problems, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(problems, "; ")
}
