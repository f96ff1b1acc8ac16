package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
)

// maxCommonName is the upper bound ub-common-name of RFC 5280 appendix A.
const maxCommonName = 64

// oidServiceUID is OpenShift's extension that carries the UID of the Service.
var oidServiceUID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 2312, 17, 100, 2, 1}

// LeafSpec describes a serving certificate, except for its validity.
type LeafSpec struct {
	// DNSNames are the subject alternative names. The first is also the common name, unless it is
	// longer than maxCommonName.
	DNSNames []string
	Usages   []v1alpha1.CertificateUsage
	Key      KeySpec
	// Encoding is that of the private key in PEM. CheckSpec ignores it.
	Encoding v1alpha1.KeyEncoding
	// ServiceUID is the value of OpenShift's extension; empty for no extension.
	ServiceUID string
}

// commonName returns the first DNS name, or "" if there is none or it is longer than a common name
// may be.
func (s LeafSpec) commonName() string {
	if len(s.DNSNames) == 0 || len(s.DNSNames[0]) > maxCommonName {
		return ""
	}
	return s.DNSNames[0]
}

func (s LeafSpec) keyUsage() x509.KeyUsage {
	if s.Key.Algorithm == v1alpha1.RSA {
		return x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	}
	return x509.KeyUsageDigitalSignature
}

var extKeyUsages = map[v1alpha1.CertificateUsage]x509.ExtKeyUsage{
	v1alpha1.UsageServerAuth: x509.ExtKeyUsageServerAuth,
	v1alpha1.UsageClientAuth: x509.ExtKeyUsageClientAuth,
}

// extKeyUsagesOf returns usages as X.509 extended key usages, sorted. It returns nil if there are
// none.
func extKeyUsagesOf(usages []v1alpha1.CertificateUsage) []x509.ExtKeyUsage {
	var found []x509.ExtKeyUsage
	for _, usage := range usages {
		found = append(found, extKeyUsages[usage])
	}
	slices.Sort(found)
	return found
}

func (s LeafSpec) extensions() ([]pkix.Extension, error) {
	if s.ServiceUID == "" {
		return nil, nil
	}
	value, err := asn1.MarshalWithParams(s.ServiceUID, "printable")
	if err != nil {
		return nil, fmt.Errorf("encode the Service's UID: %w", err)
	}
	return []pkix.Extension{{Id: oidServiceUID, Value: value}}, nil
}

// NotAfter returns the notAfter of a certificate issued now: after its duration, and never after
// ca, which is the notAfter of its CA.
func NotAfter(now time.Time, duration time.Duration, ca time.Time) time.Time {
	if notAfter := now.Add(duration).Truncate(time.Second); notAfter.Before(ca) {
		return notAfter
	}
	return ca
}

// Issue issues a certificate that is valid for duration, but no longer than the CA. It uses key if
// that has the spec's algorithm and size, and generates a key otherwise. It returns an error if the
// CA has expired.
func (a *Authority) Issue(now time.Time, spec LeafSpec, duration time.Duration, key *Key) (Pair, error) {
	notAfter := NotAfter(now, duration, a.notAfter)
	if !notAfter.After(now) {
		return Pair{}, fmt.Errorf("the CA %s has expired", a.certificate.Subject.CommonName)
	}
	if !key.HasSpec(spec.Key) {
		var err error
		if key, err = NewKey(spec.Key); err != nil {
			return Pair{}, err
		}
	}
	der, err := a.sign(spec, key.signer.Public(), now.Add(-ClockSkew), notAfter)
	if err != nil {
		return Pair{}, err
	}
	pair, err := encodePair(der, a.sentChain(notAfter), key.signer, spec.Encoding)
	if err == nil {
		pair.remember()
	}
	return pair, err
}

// SignPublicKey issues a certificate for a public key whose private key the operator does not have.
// It returns the certificate and the CA's chain after it, in PEM. spec.Key must describe key. The
// certificate does not outlive the CA; it returns an error if it would never be valid.
func (a *Authority) SignPublicKey(spec LeafSpec, key crypto.PublicKey, notBefore, notAfter time.Time) ([]byte, error) {
	if notAfter.After(a.notAfter) {
		notAfter = a.notAfter
	}
	if !notAfter.After(notBefore) {
		return nil, fmt.Errorf("the CA %s has expired", a.certificate.Subject.CommonName)
	}
	der, err := a.sign(spec, key, notBefore, notAfter)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return encodeCertificates(append([]*x509.Certificate{leaf}, a.sentChain(notAfter)...)...), nil
}

// sign returns a certificate in DER.
func (a *Authority) sign(spec LeafSpec, key crypto.PublicKey, notBefore, notAfter time.Time) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	extensions, err := spec.extensions()
	if err != nil {
		return nil, err
	}
	keyID, err := subjectKeyID(key)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		SubjectKeyId:          keyID,
		Subject:               pkix.Name{CommonName: spec.commonName()},
		DNSNames:              spec.DNSNames,
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		BasicConstraintsValid: true,
		KeyUsage:              spec.keyUsage(),
		ExtKeyUsage:           extKeyUsagesOf(spec.Usages),
		ExtraExtensions:       extensions,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate: %w", err)
	}
	return der, nil
}

// subjectKeyID returns the subject key identifier of a public key by method 1 of RFC 7093 §2, which
// crypto/x509 uses for CAs: the leftmost 160 bits of the SHA-256 hash of the key.
func subjectKeyID(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the public key: %w", err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, fmt.Errorf("encode the public key: %w", err)
	}
	hash := sha256.Sum256(info.Key.Bytes)
	return hash[:20], nil
}

// PermitsUsage reports whether a CA may sign for a usage: it has no extended key usages, or has
// this one or any.
func PermitsUsage(ca *x509.Certificate, usage v1alpha1.CertificateUsage) bool {
	return len(ca.ExtKeyUsage)+len(ca.UnknownExtKeyUsage) == 0 ||
		slices.Contains(ca.ExtKeyUsage, x509.ExtKeyUsageAny) || slices.Contains(ca.ExtKeyUsage, extKeyUsages[usage])
}

// CheckNameConstraints returns an error if the name constraints of a CA forbid a name, which may be
// a wildcard (RFC 5280 §4.2.1.10, as crypto/x509 and OpenSSL read it).
func CheckNameConstraints(ca *x509.Certificate, name string) error {
	within := func(domain string) bool { return isWithin(name, domain) }
	excluded := func(domain string) bool { return isWithin(name, domain) || wildcardCovers(name, domain) }
	switch {
	case slices.ContainsFunc(ca.ExcludedDNSDomains, excluded):
		return fmt.Errorf("the CA %q excludes %s by its name constraints", ca.Subject.CommonName, name)
	case len(ca.PermittedDNSDomains) > 0 && !slices.ContainsFunc(ca.PermittedDNSDomains, within):
		return fmt.Errorf("the CA %q permits only names in %s, and not %s",
			ca.Subject.CommonName, strings.Join(ca.PermittedDNSDomains, ", "), name)
	}
	return nil
}

// isWithin reports whether a name is in a domain. An empty domain contains every name; one with a
// leading dot contains only subdomains.
func isWithin(name, domain string) bool {
	name, domain = strings.ToLower(name), strings.ToLower(domain)
	if domain == "" || strings.HasPrefix(domain, ".") {
		return strings.HasSuffix(name, domain)
	}
	return name == domain || strings.HasSuffix(name, "."+domain)
}

// wildcardCovers reports whether a name is a wildcard that matches a domain.
func wildcardCovers(name, domain string) bool {
	_, parent, _ := strings.Cut(domain, ".")
	return strings.EqualFold(name, "*."+parent)
}
