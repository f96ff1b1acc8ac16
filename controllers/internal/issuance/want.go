package issuance

import (
	"crypto/x509"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// Target is the Secret that a Service should have.
type Target struct {
	Service    *corev1.Service
	Policy     *v1alpha1.ServingCertPolicy
	Family     Family
	SecretName string
}

// Want is the certificate that a Service should have, and the Secret for it.
type Want struct {
	Target

	Leaf        pki.LeafSpec
	Duration    time.Duration
	RenewBefore time.Duration
	// Keystore is the keystore beside it; nil for none.
	Keystore *Keystore
}

// Want is what a policy gives to a Service that it rules; false when it gives nothing.
func (r Rules) Want(service *corev1.Service, policy *v1alpha1.ServingCertPolicy) (Want, bool) {
	target, wanted := r.Target(service, policy)
	if !wanted {
		return Want{}, false
	}
	certificate := policy.Spec.Certificate
	want := Want{
		Target: target,
		Leaf: pki.LeafSpec{
			DNSNames: r.dnsNames(service, certificate),
			Usages:   certificate.Usages,
			Key:      pki.KeySpecOf(certificate.PrivateKey.PrivateKey),
			Encoding: pki.EncodingOf(certificate.PrivateKey.PrivateKey),
		},
		Duration: certificate.Duration.Std(),
		Keystore: keystoreOf(service, target.Family),
	}
	if certificate.RenewBefore != nil {
		want.RenewBefore = certificate.RenewBefore.Std()
	}
	if want.Family.IsOpenShift() {
		want.Leaf.ServiceUID = string(service.UID)
	}
	return want, true
}

// Target is the Secret of what Want is, for those who ask about each Service: whatever is to stand in the certificate is most of the work.
func (r Rules) Target(service *corev1.Service, policy *v1alpha1.ServingCertPolicy) (Target, bool) {
	family, secretName := r.Request(service)
	if policy == nil || (family == NotAsked && !servedUnasked(service, policy)) {
		return Target{}, false
	}
	if family == NotAsked {
		secretName = service.Name + policy.Spec.SecretNameSuffix
	}
	return Target{service, policy, family, secretName}, true
}

// servedUnasked tells whether issuance All means this Service too.
func servedUnasked(service *corev1.Service, policy *v1alpha1.ServingCertPolicy) bool {
	return policy.Spec.Issuance == v1alpha1.IssueAll && answers(service)
}

// answers tells whether pods may answer to the name of a Service: not to that of one which points outside the cluster, and never to the API
// server's own, whose name nobody else may answer to.
func answers(service *corev1.Service) bool {
	return service.Spec.Type != corev1.ServiceTypeExternalName && !isAPIServer(service)
}

func isAPIServer(service *corev1.Service) bool {
	return service.Namespace == corev1.NamespaceDefault && service.Name == "kubernetes"
}

func (r Rules) dnsNames(service *corev1.Service, certificate v1alpha1.ServingCertificate) []string {
	domains := certificate.ClusterDomains
	if len(domains) == 0 {
		domains = []string{r.ClusterDomain}
	}
	hosts := []string{service.Name + "." + service.Namespace + ".svc"}
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		hosts = append(hosts, "*."+hosts[0])
	}
	var names []string
	for _, host := range hosts {
		names = append(names, host)
		for _, domain := range domains {
			names = append(names, host+"."+domain)
		}
	}
	replacer := strings.NewReplacer("$(service)", service.Name, "$(namespace)", service.Namespace)
	for _, pattern := range certificate.ExtraDNSNames {
		names = append(names, replacer.Replace(pattern))
	}
	return names
}

// IncludesBundle tells whether the Secret carries the bundle: never where OpenShift's annotation promises two keys and no more.
func (t Target) IncludesBundle() bool {
	return t.Policy.Spec.Certificate.CABundle == v1alpha1.CABundleInclude && !t.Family.IsOpenShift()
}

// check tells what makes the wish impossible by itself.
func (w Want) check(ca *CA) *Obstacle {
	if problems := validation.IsDNS1123Subdomain(w.SecretName); len(problems) > 0 {
		return NewObstacle(ReasonInvalidSecretName, "%.64q is no name for a Secret: %s", w.SecretName, problems[0])
	}
	if isAPIServer(w.Service) {
		return NewObstacle(ReasonNameNotPermitted, "nobody else may answer to the name of the API server's own Service")
	}
	if obstacle := ca.Check(w.Leaf.DNSNames, w.Leaf.Usages, w.Policy.Name); obstacle != nil {
		return obstacle
	}
	return w.Keystore.Check()
}

// Check returns why names or usages that a policy gives cannot stand in a certificate of the CA; nil when they can.
func (ca *CA) Check(names []string, usages []v1alpha1.CertificateUsage, policy string) *Obstacle {
	for _, name := range names {
		if !isDNSName(strings.TrimPrefix(name, "*.")) {
			return NewObstacle(ReasonInvalidDNSName,
				"%q is no DNS name: a label has at most 63 characters and a name 253; shorten spec.certificate.extraDNSNames of policy %s",
				name, policy)
		}
		if err := ca.permits(name); err != nil {
			return NewObstacle(ReasonNameNotPermitted, "%v", err)
		}
	}
	for _, certificate := range ca.certificates() {
		for _, usage := range usages {
			if !pki.PermitsUsage(certificate, usage) {
				return NewObstacle(ReasonUsageNotPermitted, "the CA %q does not permit the usage %s: take it out of spec.certificate.usages of "+
					"policy %s, or add it to spec.certificate.permittedUsages of the ServiceCA", pki.NameOf(certificate), usage, policy)
			}
		}
	}
	return nil
}

// certificates returns those of the CA and of the CAs above it; none while no CA signs.
func (ca *CA) certificates() []*x509.Certificate {
	if ca.Certificate == nil {
		return nil
	}
	return append([]*x509.Certificate{ca.Certificate}, ca.Chain...)
}

// permits tells why the name constraints of the CA, or of one above it, forbid a name; nil when none does.
func (ca *CA) permits(name string) error {
	for _, certificate := range ca.certificates() {
		if err := pki.Permits(certificate, name); err != nil {
			return err
		}
	}
	return nil
}

func isDNSName(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if len(label) > validation.DNS1123LabelMaxLength {
			return false
		}
	}
	return len(validation.IsDNS1123Subdomain(name)) == 0
}
