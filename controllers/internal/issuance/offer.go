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

// The reasons for which a request is refused.
const (
	ReasonInvalidRequest  = "InvalidRequest"
	ReasonNameNotOffered  = "NameNotOffered"
	ReasonUsageNotOffered = "UsageNotOffered"
)

// Terms are what a certificate may say that somebody else brings the key for.
type Terms struct {
	DNSNames []string
	Usages   []v1alpha1.CertificateUsage
	// Duration is its longest lifetime.
	Duration time.Duration
	// Policy is one of those that give the names.
	Policy string
}

// Offer is what a policy gives, for a Service that it rules, to whoever may answer for it and brings a key, whether or not the Service asks for
// a Secret; false where nobody may.
func (r Rules) Offer(service *corev1.Service, policy *v1alpha1.ServingCertPolicy) (Terms, bool) {
	if policy == nil || !service.DeletionTimestamp.IsZero() || !answers(service) {
		return Terms{}, false
	}
	certificate := policy.Spec.Certificate
	return Terms{
		DNSNames: r.dnsNames(service, certificate), Usages: certificate.Usages, Duration: certificate.Duration.Std(), Policy: policy.Name,
	}, true
}

// Offers are what the policies of one ServiceCA give.
type Offers []Terms

// MayCome tells whether each name could be that of a Service of the namespace, or of any where that is empty: one that is applied a moment after
// what asks for its names. patterns are the extraDNSNames that it might get.
func MayCome(namespace string, names, patterns []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool {
		if slices.ContainsFunc(patterns, func(pattern string) bool { return fits(name, pattern, namespace) }) {
			return false
		}
		before, after, found := strings.Cut(name+".", ".svc.")
		labels := strings.Split(before, ".")
		service, within := labels[max(0, len(labels)-2)], labels[len(labels)-1]
		ours := found && len(labels) >= 2 && service != "*" && service != "" && within != "" && (namespace == "" || within == namespace)
		return !ours || (service == "kubernetes" && within == metav1.NamespaceDefault) || strings.Contains(after, ".svc.")
	})
}

// fits reports whether a pattern of extraDNSNames gives a name to some Service of a namespace.
func fits(name, pattern, namespace string) bool {
	labels, wanted := strings.Split(name, "."), strings.Split(pattern, ".")
	if len(labels) != len(wanted) {
		return false
	}
	for i, label := range labels {
		stands := wanted[i] == "$(service)" || (wanted[i] == "$(namespace)" && (namespace == "" || label == namespace))
		if label != wanted[i] && (!stands || len(validation.IsDNS1123Label(label)) > 0) {
			return false
		}
	}
	return true
}

// All is everything that is offered, in one certificate: every name, and of the rest what each of the policies allows. False where nothing is.
func (o Offers) All() (Terms, bool) {
	if len(o) == 0 {
		return Terms{}, false
	}
	all := Terms{Usages: slices.Clone(o[0].Usages), Duration: o[0].Duration, Policy: o[0].Policy}
	named := sets.New[string]()
	for _, offer := range o {
		for _, name := range offer.DNSNames {
			if !named.Has(name) {
				named.Insert(name)
				all.DNSNames = append(all.DNSNames, name)
			}
		}
		all.Usages = slices.DeleteFunc(all.Usages, func(usage v1alpha1.CertificateUsage) bool { return !slices.Contains(offer.Usages, usage) })
		all.Duration = min(all.Duration, offer.Duration)
	}
	return all, true
}

// notOffered says what to do about a name that no policy gives. Of a short name of a Service it says
// which pattern would.
func (o Offers) notOffered(name string) *Obstacle {
	patterns := []string{"$(service)", "$(service).$(namespace)"}
	if dots := strings.Count(name, "."); dots < len(patterns) {
		for _, offer := range o {
			if full := offer.DNSNames[0]; strings.HasPrefix(full, name+".") {
				return NewObstacle(ReasonNameNotOffered, "%.253q is a short name of %s: ask for that, or add %q to "+
					"spec.certificate.extraDNSNames of policy %s", name, full, patterns[dots], offer.Policy)
			}
		}
	}
	return NewObstacle(ReasonNameNotOffered, "%.253q is no name of a Service here that a ServingCertPolicy of this "+
		"ServiceCA rules: ask for <service>.<namespace>.svc", name)
}

// Grant is a certificate with these names and usages, or with the usages of the policies where none is named. The obstacle says which is not
// offered.
func (o Offers) Grant(names []string, usages []v1alpha1.CertificateUsage) (Terms, *Obstacle) {
	var chosen Offers
	for _, name := range names {
		at := slices.IndexFunc(o, func(offer Terms) bool { return slices.Contains(offer.DNSNames, name) })
		if at < 0 {
			return Terms{}, o.notOffered(name)
		}
		chosen = append(chosen, o[at])
	}
	granted, some := chosen.All()
	if !some {
		return Terms{}, NewObstacle(ReasonNameNotOffered, "no name is asked for")
	}
	granted.DNSNames = names
	for _, usage := range usages {
		if !slices.Contains(granted.Usages, usage) {
			return Terms{}, NewObstacle(ReasonUsageNotOffered, "policy %s does not allow the usage %q: add it to its spec.certificate.usages, or leave it out",
				granted.Policy, usage)
		}
	}
	if len(usages) > 0 {
		granted.Usages = usages
	}
	return granted, nil
}
