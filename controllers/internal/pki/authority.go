package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"net"
	"slices"
	"time"

	"k8s.io/client-go/util/cert"

	"github.com/servingcert/operator/api/v1alpha1"
)

// RootSpec describes a self-signed CA.
type RootSpec struct {
	CommonName          string
	Duration            time.Duration
	Key                 KeySpec
	PermittedDNSDomains []string
	PermittedUsages     []v1alpha1.CertificateUsage
	Encoding            v1alpha1.KeyEncoding
}

// RootSpecOf returns the RootSpec of a CACertificate of the API.
func RootSpecOf(certificate v1alpha1.CACertificate) RootSpec {
	return RootSpec{
		CommonName:          certificate.CommonName,
		Duration:            certificate.Duration.Std(),
		Key:                 KeySpecOf(certificate.PrivateKey),
		PermittedDNSDomains: certificate.PermittedDNSDomains,
		PermittedUsages:     certificate.PermittedUsages,
		Encoding:            EncodingOf(certificate.PrivateKey),
	}
}

// Matches reports whether ca has the key, the DNS name constraints and the usages of the spec. It
// ignores what ca excludes besides DNS names: older versions of the operator excluded less, and
// their CAs need not be replaced for that.
func (s RootSpec) Matches(ca *x509.Certificate) bool {
	return KeySpecOfPublic(ca.PublicKey) == s.Key && sameSet(ca.PermittedDNSDomains, s.PermittedDNSDomains) &&
		slices.Equal(slices.Sorted(slices.Values(ca.ExtKeyUsage)), extKeyUsagesOf(s.PermittedUsages))
}

// Pair is a certificate with its chain, and its private key, both in PEM.
type Pair struct {
	Certificate []byte
	PrivateKey  []byte
	// leaf is the parsed certificate where this package issued it, and nil otherwise.
	leaf *Leaf
}

// Leaf returns the parsed certificate and its chain. It returns an error where they are not
// readable.
func (p Pair) Leaf() (*Leaf, error) {
	if p.leaf != nil {
		return p.leaf, nil
	}
	return ParseLeaf(p.Certificate)
}

// GenerateRoot generates a key and a self-signed CA for it. The CA has the pathLenConstraint
// MaxCrossSigned, a subject that no CA in before has, critical name constraints if the spec names
// domains, and extended key usages if it names usages (RFC 5280 §4.2.1.9, §4.2.1.10, §4.2.1.12).
func GenerateRoot(now time.Time, spec RootSpec, before ...*x509.Certificate) (Pair, error) {
	key, err := generateKey(spec.Key)
	if err != nil {
		return Pair{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return Pair{}, err
	}
	name, start := uniqueName(now, spec.CommonName, before)
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             start.Add(-ClockSkew),
		NotAfter:              now.Add(spec.Duration),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            MaxCrossSigned,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           extKeyUsagesOf(spec.PermittedUsages),
	}
	constrain(template, spec.PermittedDNSDomains)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return Pair{}, fmt.Errorf("sign the CA: %w", err)
	}
	return encodePair(der, nil, key, spec.Encoding)
}

// constrain sets the name constraints that permit ca to issue for names in domains, and for nothing
// else that name constraints can forbid: no IP address, and no URI and no mail address except those
// of a host that can never exist (RFC 6761 §6.4). Without domains it sets none, which permits
// everything.
func constrain(ca *x509.Certificate, domains []string) {
	if len(domains) == 0 {
		return
	}
	const never = "invalid"
	ca.PermittedDNSDomainsCritical, ca.PermittedDNSDomains = true, domains
	ca.PermittedURIDomains, ca.PermittedEmailAddresses = []string{never}, []string{never}
	ca.ExcludedIPRanges = []*net.IPNet{
		{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 8*net.IPv4len)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 8*net.IPv6len)},
	}
}

// uniqueName returns a common name of the form "name@unix-seconds" that no CA in before has, and
// the time in it: now, or as many seconds later as are necessary. The CA must start at that time,
// because the CA with the latest notBefore counts as the newest generation.
func uniqueName(now time.Time, name string, before []*x509.Certificate) (string, time.Time) {
	for start := now; ; start = start.Add(time.Second) {
		candidate := fmt.Sprintf("%s@%d", name, start.Unix())
		if !slices.ContainsFunc(before, func(c *x509.Certificate) bool { return c.Subject.CommonName == candidate }) {
			return candidate, start
		}
	}
}

func encodePair(der []byte, chain []*x509.Certificate, key crypto.Signer, encoding v1alpha1.KeyEncoding) (Pair, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return Pair{}, err
	}
	private, err := encodeKey(key, encoding)
	if err != nil {
		return Pair{}, err
	}
	return Pair{
		Certificate: encodeCertificates(append([]*x509.Certificate{leaf}, chain...)...), PrivateKey: private, leaf: &Leaf{leaf, chain},
	}, nil
}

// Authority is a CA that can sign.
type Authority struct {
	certificate *x509.Certificate
	// chain starts with the CA and leads towards its root, which it excludes: the server sends it,
	// and the client has the root. It is empty for a self-signed CA.
	chain []*x509.Certificate
	// crossSigned is the cross-signed chain that leads on to the roots of earlier generations.
	crossSigned []*x509.Certificate
	key         crypto.Signer
	// notAfter is the earliest notAfter of the CA and, once Root has returned the root, of the
	// certificates on the path to it.
	notAfter time.Time
	// encoded is the pair that the CA was read from.
	encoded Pair
}

// LoadAuthority reads a CA: its certificate, followed by its intermediates, and its key. The error
// names the part that is wrong and never quotes the key.
func LoadAuthority(pair Pair) (*Authority, error) {
	certificates, err := parseCertificates(pair.Certificate)
	if err != nil {
		return nil, fmt.Errorf("tls.crt %w", err)
	}
	if err := checkKeys(certificates); err != nil {
		return nil, err
	}
	key, err := parseKey(pair.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("tls.key %w", err)
	}
	if !keyMatches(certificates[0], key) {
		return nil, fmt.Errorf("tls.key is not the private key of the certificate in tls.crt")
	}
	if err := checkCA(certificates[0]); err != nil {
		return nil, err
	}
	authority := &Authority{certificate: certificates[0], key: key, encoded: pair, notAfter: certificates[0].NotAfter}
	if !selfSigned(certificates[0]) {
		authority.chain = withoutRoots(certificates)
	}
	return authority, nil
}

func checkCA(certificate *x509.Certificate) error {
	switch {
	case !certificate.BasicConstraintsValid || !certificate.IsCA:
		return fmt.Errorf("the certificate in tls.crt is no CA: its basic constraints must say CA:TRUE")
	case certificate.KeyUsage != 0 && certificate.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("the CA in tls.crt may not sign certificates: its key usage lacks keyCertSign")
	case len(certificate.Subject.Names) == 0:
		return fmt.Errorf("the CA in tls.crt has no subject (RFC 5280 §4.1.2.4): make it with one")
	case len(certificate.SubjectKeyId) == 0:
		return fmt.Errorf("the CA in tls.crt has no subject key identifier (RFC 5280 §4.2.1.2): make it with one")
	}
	return nil
}

func withoutRoots(certificates []*x509.Certificate) []*x509.Certificate {
	var chain []*x509.Certificate
	for _, certificate := range certificates {
		if !selfSigned(certificate) {
			chain = append(chain, certificate)
		}
	}
	return chain
}

// limitNotAfter limits notAfter to that of parent, without which the CA does not verify.
func (a *Authority) limitNotAfter(parent *x509.Certificate) {
	if parent.NotAfter.Before(a.notAfter) {
		a.notAfter = parent.NotAfter
	}
}

// NotAfter returns when certificates of the CA stop verifying: the notAfter of the CA or, if
// earlier, of a certificate on the path to the root that Root returned. Other certificates in the
// chain may have expired long ago, and do not count.
func (a *Authority) NotAfter() time.Time { return a.notAfter }

// Certificate returns the CA's own certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.certificate }

// HasKey reports whether certificate is for the CA's key.
func (a *Authority) HasKey(certificate *x509.Certificate) bool {
	return keyMatches(certificate, a.key)
}

// WithCertificate returns the CA with another certificate, self-signed, for the same key. It
// returns an error if the certificate is not for this key or is not a CA.
func (a *Authority) WithCertificate(certificate *x509.Certificate) (*Authority, error) {
	other, err := LoadAuthority(Pair{Certificate: encodeCertificates(certificate), PrivateKey: a.encoded.PrivateKey})
	if err != nil {
		return nil, err
	}
	return other.WithCrossSigned(a.crossSigned), nil
}

// Save writes the CA and, if it has one, its cross-signed chain into the data of a Secret, under
// the named keys.
func (a *Authority) Save(data map[string][]byte, certificate, privateKey, crossSignedKey string) {
	data[certificate], data[privateKey] = a.encoded.Certificate, a.encoded.PrivateKey
	if len(a.crossSigned) > 0 {
		data[crossSignedKey] = encodeCertificates(a.crossSigned...)
	}
}

// WithKeyEncoding returns the same CA, whose private key Save writes in the encoding.
func (a *Authority) WithKeyEncoding(encoding v1alpha1.KeyEncoding) (*Authority, error) {
	key, err := EncodeKey(a.encoded.PrivateKey, encoding)
	encoded := *a
	encoded.encoded.PrivateKey = key
	return &encoded, err
}

// Key returns the algorithm and the size of the CA's key.
func (a *Authority) Key() KeySpec { return KeySpecOfPublic(a.certificate.PublicKey) }

// Chain returns the certificates from the CA itself towards its root, which it excludes. It is
// empty for a self-signed CA.
func (a *Authority) Chain() []*x509.Certificate { return a.chain }

// Fingerprint returns the SHA-256 hash of the CA and its chain, in hexadecimal.
func (a *Authority) Fingerprint() string { return Fingerprint(a.certificate, a.chain...) }

// Root returns the self-signed certificate that the CA chains to, over no certificates but those
// that a server sends: the CA itself, or one of the candidates in PEM. From then on the CA's
// NotAfter is no later than that of any certificate on the path. It returns an error if no path
// leads to a root, or if a path length constraint allows no leaf below the CA.
func (a *Authority) Root(now time.Time, candidates ...[]byte) (*x509.Certificate, error) {
	if len(a.chain) == 0 {
		return a.certificate, nil
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, certificate := range a.chain {
		intermediates.AddCert(certificate)
	}
	for _, encoded := range candidates {
		certificates, err := parseCertificates(encoded)
		if err != nil {
			continue
		}
		for _, certificate := range certificates {
			if selfSigned(certificate) {
				roots.AddCert(certificate)
			}
		}
	}
	chains, err := a.certificate.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("the CA in tls.crt is an intermediate and does not lead to a root: put its root into ca.crt, and "+
			"the intermediates between them into tls.crt after it: %w", err)
	}
	for _, chain := range chains {
		if allowsLeaf(chain) {
			for _, parent := range chain {
				a.limitNotAfter(parent)
			}
			return chain[len(chain)-1], nil
		}
	}
	return nil, fmt.Errorf("the CA in tls.crt is an intermediate, and a CA above it allows none: no client would accept its " +
		"certificates; have it signed by a CA with a greater path length constraint (RFC 5280 §4.2.1.9)")
}

// allowsLeaf reports whether a leaf may precede this chain. A chain that verifies by itself does
// not imply that: the path length constraint of each CA limits how many other CAs stand between it
// and the leaf.
func allowsLeaf(chain []*x509.Certificate) bool {
	for below, ca := range chain {
		if ca.BasicConstraintsValid && ca.MaxPathLen >= 0 && below > ca.MaxPathLen {
			return false
		}
	}
	return true
}

// GenerateKey returns a new private key in PEM, for a CA that another CA issues.
func GenerateKey(spec KeySpec) ([]byte, error) {
	key, err := generateKey(spec)
	if err != nil {
		return nil, err
	}
	return encodeKey(key, v1alpha1.PKCS8)
}

// RequestCA returns a certificate request (PKCS #10) for a CA with this key and with a subject that
// no CA in before has.
func RequestCA(now time.Time, privateKey []byte, commonName string, before ...*x509.Certificate) ([]byte, error) {
	key, err := parseKey(privateKey)
	if err != nil {
		return nil, fmt.Errorf("tls.key %w", err)
	}
	constraints, err := asn1.Marshal(struct {
		IsCA bool
	}{true})
	if err != nil {
		return nil, err
	}
	usage, err := asn1.Marshal(asn1.BitString{Bytes: []byte{0b10000110}, BitLength: 7}) // digitalSignature, keyCertSign, cRLSign
	if err != nil {
		return nil, err
	}
	name, _ := uniqueName(now, commonName, before)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: name},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: constraints},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: usage},
		},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("ask for a CA: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: cert.CertificateRequestBlockType, Bytes: der}), nil
}
