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

// SecretRef identifies the Secret that a Service should have.
type SecretRef struct {
	Service    *corev1.Service
	Policy     *v1alpha1.ServingCertPolicy
	Family     Family
	SecretName string
}

// Desired is the certificate that a Service should have, and its Secret.
type Desired struct {
	SecretRef

	Leaf        pki.LeafSpec
	Duration    time.Duration
	RenewBefore time.Duration
	// Keystore is the keystore beside the certificate; nil for none.
	Keystore *Keystore
}

// Desired returns the certificate that a policy grants to a Service that it selects; false when the
// Service gets none.
func (r Resolver) Desired(service *corev1.Service, policy *v1alpha1.ServingCertPolicy) (Desired, bool) {
	target, wanted := r.SecretRef(service, policy)
	if !wanted {
		return Desired{}, false
	}
	certificate := policy.Spec.Certificate
	desired := Desired{
		SecretRef: target,
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
		desired.RenewBefore = certificate.RenewBefore.Std()
	}
	if desired.Family.IsOpenShift() {
		desired.Leaf.ServiceUID = string(service.UID)
	}
	return desired, true
}

// SecretRef returns only the SecretRef of Desired. It is for callers that ask about every Service:
// computing the content of the certificate is most of the work.
func (r Resolver) SecretRef(service *corev1.Service, policy *v1alpha1.ServingCertPolicy) (SecretRef, bool) {
	family, secretName := r.RequestedSecret(service)
	if policy == nil || (family == NotAsked && !selectedByIssueAll(service, policy)) {
		return SecretRef{}, false
	}
	if family == NotAsked {
		secretName = service.Name + policy.Spec.SecretNameSuffix
	}
	return SecretRef{service, policy, family, secretName}, true
}

// selectedByIssueAll reports whether issuance All includes this Service.
func selectedByIssueAll(service *corev1.Service, policy *v1alpha1.ServingCertPolicy) bool {
	return policy.Spec.Issuance == v1alpha1.IssueAll && canServe(service)
}

// canServe reports whether pods may serve under the name of a Service. They may not for an
// ExternalName Service, which points outside the cluster, nor for the API server's own Service,
// whose name only the API server may serve.
func canServe(service *corev1.Service) bool {
	return service.Spec.Type != corev1.ServiceTypeExternalName && !isAPIServer(service)
}

func isAPIServer(service *corev1.Service) bool {
	return service.Namespace == corev1.NamespaceDefault && service.Name == "kubernetes"
}

func (r Resolver) dnsNames(service *corev1.Service, certificate v1alpha1.ServingCertificate) []string {
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

// IncludesBundle reports whether the policy puts the bundle into the Secret. It never does for
// OpenShift's annotations, which promise exactly two keys.
func (r SecretRef) IncludesBundle() bool {
	return r.Policy.Spec.Certificate.CABundle == v1alpha1.CABundleInclude && !r.Family.IsOpenShift()
}

// validate returns why the desired certificate is impossible, whatever is in the Secret; nil when
// it is possible.
func (d Desired) validate(ca *CA) *Problem {
	if problems := validation.IsDNS1123Subdomain(d.SecretName); len(problems) > 0 {
		return NewProblem(ReasonInvalidSecretName, "%.64q is no name for a Secret: %s", d.SecretName, problems[0])
	}
	if isAPIServer(d.Service) {
		return NewProblem(ReasonNameNotPermitted, "nobody else may answer to the name of the API server's own Service")
	}
	if problem := ca.ValidateRequest(d.Leaf.DNSNames, d.Leaf.Usages, d.Policy.Name); problem != nil {
		return problem
	}
	return d.Keystore.Check()
}

// ValidateRequest returns why the CA cannot certify the names or usages of a policy; nil when it
// can.
func (ca *CA) ValidateRequest(names []string, usages []v1alpha1.CertificateUsage, policy string) *Problem {
	for _, name := range names {
		if !isDNSName(strings.TrimPrefix(name, "*.")) {
			return NewProblem(ReasonInvalidDNSName,
				"%q is no DNS name: a label has at most 63 characters and a name 253; shorten spec.certificate.extraDNSNames of policy %s",
				name, policy)
		}
		if err := ca.checkNameConstraints(name); err != nil {
			return NewProblem(ReasonNameNotPermitted, "%v", err)
		}
	}
	for _, certificate := range ca.certificates() {
		for _, usage := range usages {
			if !pki.PermitsUsage(certificate, usage) {
				return NewProblem(ReasonUsageNotPermitted, "the CA %q does not permit the usage %s: take it out of spec.certificate.usages of "+
					"policy %s, or add it to spec.certificate.permittedUsages of the ServiceCA", pki.NameOf(certificate), usage, policy)
			}
		}
	}
	return nil
}

// certificates returns the certificates of the CA and of the CAs above it; nil while no CA signs.
func (ca *CA) certificates() []*x509.Certificate {
	if ca.Certificate == nil {
		return nil
	}
	return append([]*x509.Certificate{ca.Certificate}, ca.Chain...)
}

// checkNameConstraints returns an error if the name constraints of the CA, or of a CA above it,
// forbid the name.
func (ca *CA) checkNameConstraints(name string) error {
	for _, certificate := range ca.certificates() {
		if err := pki.CheckNameConstraints(certificate, name); err != nil {
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
