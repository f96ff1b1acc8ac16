package issuance

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/servingcert/operator/api/v1alpha1"
)

// The reasons why a request is refused.
const (
	ReasonInvalidRequest  = "InvalidRequest"
	ReasonNameNotOffered  = "NameNotOffered"
	ReasonUsageNotOffered = "UsageNotOffered"
)

// Terms are the names, usages and lifetime that a certificate for a client's own key may have.
type Terms struct {
	DNSNames []string
	Usages   []v1alpha1.CertificateUsage
	// Duration is the longest allowed lifetime.
	Duration time.Duration
	// Policy is one of the policies that grant the names.
	Policy string
}

// Offer returns what a policy offers, for a Service that it selects, to a client that may act for
// the Service and brings its own key. The Service need not request a Secret. It returns false when
// no client may have a certificate for the Service.
func (r Resolver) Offer(service *corev1.Service, policy *v1alpha1.ServingCertPolicy) (Terms, bool) {
	if policy == nil || !service.DeletionTimestamp.IsZero() || !canServe(service) {
		return Terms{}, false
	}
	certificate := policy.Spec.Certificate
	return Terms{
		DNSNames: r.dnsNames(service, certificate), Usages: certificate.Usages, Duration: certificate.Duration.Std(), Policy: policy.Name,
	}, true
}

// Offers are the terms that the policies of one ServiceCA offer.
type Offers []Terms

// CouldExist reports whether every name could belong to a Service of the namespace, or of any
// namespace if it is empty: the Service may be created just after the request for its names.
// patterns are the extraDNSNames that the Service might get.
func CouldExist(namespace string, names, patterns []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool {
		if slices.ContainsFunc(patterns, func(pattern string) bool { return matchesPattern(name, pattern, namespace) }) {
			return false
		}
		before, after, found := strings.Cut(name+".", ".svc.")
		labels := strings.Split(before, ".")
		service, serviceNamespace := labels[max(0, len(labels)-2)], labels[len(labels)-1]
		matches := found && len(labels) >= 2 && service != "*" && service != "" && serviceNamespace != "" && (namespace == "" || serviceNamespace == namespace)
		return !matches || (service == "kubernetes" && serviceNamespace == metav1.NamespaceDefault) || strings.Contains(after, ".svc.")
	})
}

// matchesPattern reports whether a pattern of extraDNSNames could give the name to some Service of
// a namespace (of any if it is empty).
func matchesPattern(name, pattern, namespace string) bool {
	labels, wanted := strings.Split(name, "."), strings.Split(pattern, ".")
	if len(labels) != len(wanted) {
		return false
	}
	for i, label := range labels {
		isPlaceholder := wanted[i] == "$(service)" || (wanted[i] == "$(namespace)" && (namespace == "" || label == namespace))
		if label != wanted[i] && (!isPlaceholder || len(validation.IsDNS1123Label(label)) > 0) {
			return false
		}
	}
	return true
}

// Combine returns the terms of one certificate for all offers: every name, the usages that all
// policies allow, and the shortest lifetime. It returns false when there are no offers.
func (o Offers) Combine() (Terms, bool) {
	if len(o) == 0 {
		return Terms{}, false
	}
	combined := Terms{Usages: slices.Clone(o[0].Usages), Duration: o[0].Duration, Policy: o[0].Policy}
	seen := sets.New[string]()
	for _, offer := range o {
		for _, name := range offer.DNSNames {
			if !seen.Has(name) {
				seen.Insert(name)
				combined.DNSNames = append(combined.DNSNames, name)
			}
		}
		combined.Usages = slices.DeleteFunc(combined.Usages, func(usage v1alpha1.CertificateUsage) bool { return !slices.Contains(offer.Usages, usage) })
		combined.Duration = min(combined.Duration, offer.Duration)
	}
	return combined, true
}

// nameNotOffered returns the problem of a name that no policy offers, with its remedy. For a short
// name of a Service it names the pattern that would offer it.
func (o Offers) nameNotOffered(name string) *Problem {
	patterns := []string{"$(service)", "$(service).$(namespace)"}
	if dots := strings.Count(name, "."); dots < len(patterns) {
		for _, offer := range o {
			if full := offer.DNSNames[0]; strings.HasPrefix(full, name+".") {
				return NewProblem(ReasonNameNotOffered, "%.253q is a short name of %s: ask for that, or add %q to "+
					"spec.certificate.extraDNSNames of policy %s", name, full, patterns[dots], offer.Policy)
			}
		}
	}
	return NewProblem(ReasonNameNotOffered, "%.253q is no name of a Service here that a ServingCertPolicy of this "+
		"ServiceCA rules: ask for <service>.<namespace>.svc", name)
}

// Grant returns the terms of a certificate with these names and usages. Without usages it gets
// those that the policies of its names allow. The problem says which name or usage is not offered.
func (o Offers) Grant(names []string, usages []v1alpha1.CertificateUsage) (Terms, *Problem) {
	var selected Offers
	for _, name := range names {
		index := slices.IndexFunc(o, func(offer Terms) bool { return slices.Contains(offer.DNSNames, name) })
		if index < 0 {
			return Terms{}, o.nameNotOffered(name)
		}
		selected = append(selected, o[index])
	}
	granted, ok := selected.Combine()
	if !ok {
		return Terms{}, NewProblem(ReasonNameNotOffered, "no name is asked for")
	}
	granted.DNSNames = names
	for _, usage := range usages {
		if !slices.Contains(granted.Usages, usage) {
			return Terms{}, NewProblem(ReasonUsageNotOffered, "policy %s does not allow the usage %q: add it to its spec.certificate.usages, or leave it out",
				granted.Policy, usage)
		}
	}
	if len(usages) > 0 {
		granted.Usages = usages
	}
	return granted, nil
}
