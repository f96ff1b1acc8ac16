package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"

	"k8s.io/utils/lru"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Leaf is a parsed serving certificate, with the chain that follows it.
type Leaf struct {
	*x509.Certificate
	chain []*x509.Certificate
}

// ParseLeaf reads a serving certificate and its chain in PEM.
func ParseLeaf(encoded []byte) (*Leaf, error) {
	certificates, err := parseCertificates(encoded)
	if err != nil {
		return nil, fmt.Errorf("tls.crt %w", err)
	}
	if err := checkKeys(certificates); err != nil {
		return nil, err
	}
	return &Leaf{Certificate: certificates[0], chain: certificates[1:]}, nil
}

// Parts are the contents of a leaf in little memory.
type Parts struct {
	// Certificate is in DER, and the Chain after it in PEM, without anything else that was in the
	// input.
	Certificate, Chain string
	// Signer is the KeyID of the signer that the leaf names, IssuedAt is when it was issued, and
	// NotAfter is when it expires. They are kept here so that counting need not parse the leaf.
	Signer             string
	IssuedAt, NotAfter time.Time
	// Encoding is that of the private key of the pair; empty if it is not known.
	Encoding v1alpha1.KeyEncoding
}

// Parts returns the parts of a leaf.
func (l *Leaf) Parts() Parts {
	return Parts{
		Certificate: string(l.Raw), Chain: string(encodeCertificates(l.chain...)),
		Signer: internKeyID(KeyID(l.AuthorityKeyId)), IssuedAt: l.IssuedAt(), NotAfter: clampTime(l.NotAfter),
	}
}

// clampTime limits a time to the latest that a certificate can have (RFC 5280 §4.1.2.5): a tenant
// may write one that no API can represent.
func clampTime(at time.Time) time.Time {
	if maxTime := time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC); at.After(maxTime) {
		return maxTime
	}
	return at
}

// knownKeyIDs caches the most recent KeyIDs: the same few CAs sign all certificates.
var knownKeyIDs = lru.New(64)

// internKeyID returns one shared string for equal KeyIDs.
func internKeyID(signer string) string {
	if cached, ok := knownKeyIDs.Get(signer); ok {
		signer, _ = cached.(string)
		return signer
	}
	knownKeyIDs.Add(signer, signer)
	return signer
}

// MaxChainLength is in bytes, and is longer than any chain in PEM of a CA that the operator
// generates. Tenants may write longer ones.
const MaxChainLength = 16 << 10

// parsedChains caches parsed chains by their PEM: the same few chains follow all certificates.
var parsedChains = lru.New(64)

// ParseParts parses the Certificate and the Chain of Parts.
func ParseParts(certificate, chain string) (*Leaf, error) {
	parsed, err := x509.ParseCertificate([]byte(certificate))
	if err != nil {
		return nil, fmt.Errorf("tls.crt %w", err)
	}
	leaf := &Leaf{Certificate: parsed}
	if chain == "" {
		return leaf, nil
	}
	if cached, ok := parsedChains.Get(chain); ok {
		leaf.chain, _ = cached.([]*x509.Certificate)
		return leaf, nil
	}
	if leaf.chain, err = parseCertificates([]byte(chain)); err != nil {
		return nil, fmt.Errorf("tls.crt %w", err)
	}
	if len(chain) <= MaxChainLength {
		parsedChains.Add(chain, leaf.chain)
	}
	return leaf, nil
}

// Inspect returns the parts of a pair. The error says why the certificate is not readable, or why
// the private key is not that of the certificate; in the latter case the parts are valid. For a
// pair that this package issued recently it returns the cached parts.
func Inspect(pair Pair) (parts Parts, keyErr error) {
	if parts, ok := lookUpRecent(pair); ok {
		return parts, nil
	}
	leaf, err := ParseLeaf(pair.Certificate)
	if err != nil {
		return Parts{}, err
	}
	parts = leaf.Parts()
	parts.Encoding = encodingOf(pair.PrivateKey)
	return parts, leaf.CheckKey(pair.PrivateKey)
}

// recentPairs caches the parts of the pairs issued most recently, by the hash of the pair. It holds
// more than are being written to the API server and read back at any time.
var recentPairs = lru.New(128)

// remember caches what Inspect will return for a pair that this package issued. A pair with a chain
// longer than MaxChainLength is not cached, and Inspect parses it like any other.
func (p Pair) remember() {
	parts := p.leaf.Parts()
	if parts.Encoding = encodingOf(p.PrivateKey); len(parts.Chain) <= MaxChainLength {
		recentPairs.Add(hashOf(p), parts)
	}
}

func lookUpRecent(pair Pair) (parts Parts, ok bool) {
	if recentPairs.Len() == 0 || len(pair.Certificate) > maxCertificatesSize || len(pair.PrivateKey) > maxKeySize {
		return Parts{}, false
	}
	cached, ok := recentPairs.Get(hashOf(pair))
	parts, _ = cached.(Parts)
	return parts, ok
}

// hashOf returns a separate hash of each half of a pair, so that no byte can move from one half to
// the other without a change of the result.
func hashOf(pair Pair) [2][sha256.Size]byte {
	return [2][sha256.Size]byte{sha256.Sum256(pair.Certificate), sha256.Sum256(pair.PrivateKey)}
}

// CheckPair returns an error if a private key is not readable or is not that of the certificate of
// the pair. It returns nil if they match.
func CheckPair(pair Pair) error {
	leaf, err := pair.Leaf()
	if err != nil {
		return err
	}
	return leaf.CheckKey(pair.PrivateKey)
}

// CheckKey returns an error if a private key in PEM is not readable or is not the certificate's.
func (l *Leaf) CheckKey(encoded []byte) error {
	key, err := parseKey(encoded)
	if err != nil {
		return fmt.Errorf("tls.key %w", err)
	}
	if !keyMatches(l.Certificate, key) {
		return fmt.Errorf("tls.key is not the private key of tls.crt")
	}
	return nil
}

// CheckIssuer returns an error if ca did not issue the leaf, whatever chain follows it. It does not
// verify a signature again that is in signatures.
func (l *Leaf) CheckIssuer(ca *x509.Certificate, signatures *Signatures) error {
	if !bytes.Equal(l.AuthorityKeyId, ca.SubjectKeyId) || !bytes.Equal(l.RawIssuer, ca.RawSubject) {
		return fmt.Errorf("it was signed by %q, and the CA is %q", l.Issuer.CommonName, ca.Subject.CommonName)
	}
	if err := signatures.check(l.Certificate, ca); err != nil {
		return fmt.Errorf("the signature of the CA does not verify: %w", err)
	}
	return nil
}

// CheckIssuerAndChain returns an error if ca did not issue the leaf, or if the leaf is not followed
// by ca's chain and by the cross-signed certificates that do not expire before the leaf. It accepts
// a cross-signed chain that was longer when the leaf was issued.
func (l *Leaf) CheckIssuerAndChain(ca *x509.Certificate, chain, crossSigned []*x509.Certificate, signatures *Signatures) error {
	if err := l.CheckIssuer(ca, signatures); err != nil {
		return err
	}
	path := slices.Concat(chain, validUntil(crossSigned, l.NotAfter))
	sent := min(len(l.chain), len(path))
	if !slices.EqualFunc(l.chain[:sent], path, (*x509.Certificate).Equal) || !chainsFrom(ca, path, l.chain[sent:]) {
		return fmt.Errorf("the certificates after it in tls.crt are not the CA's chain")
	}
	return nil
}

// VerifyWithRoots returns the error with which a client with these roots would reject the leaf. It
// checks the name constraints, but no host name.
func (l *Leaf) VerifyWithRoots(roots *x509.CertPool, now time.Time) error {
	_, err := l.paths(roots, now)
	return err
}

// paths returns the paths from the leaf to one of the roots, over the chain that the server sends.
func (l *Leaf) paths(roots *x509.CertPool, now time.Time) ([][]*x509.Certificate, error) {
	intermediates := x509.NewCertPool()
	for _, certificate := range l.chain {
		intermediates.AddCert(certificate)
	}
	return l.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now})
}

// CheckSpec returns an error that says how the leaf differs from its spec, except in its validity.
// It returns nil if it does not differ.
func (l *Leaf) CheckSpec(spec LeafSpec) error {
	usages := slices.Sorted(slices.Values(l.ExtKeyUsage))
	switch {
	case l.IsCA:
		return fmt.Errorf("it is a CA")
	case !sameSet(l.DNSNames, spec.DNSNames) || len(l.IPAddresses)+len(l.URIs)+len(l.EmailAddresses) > 0:
		return fmt.Errorf("its names are %v, and the policy wants %v", l.DNSNames, spec.DNSNames)
	case l.Subject.CommonName != spec.commonName():
		return fmt.Errorf("its common name is %q, and the policy wants %q", l.Subject.CommonName, spec.commonName())
	case KeySpecOfPublic(l.PublicKey) != spec.Key:
		return fmt.Errorf("its key is %s, and the policy wants %s", KeySpecOfPublic(l.PublicKey), spec.Key)
	case l.KeyUsage != spec.keyUsage() || !slices.Equal(usages, extKeyUsagesOf(spec.Usages)) || len(l.UnknownExtKeyUsage) > 0:
		return fmt.Errorf("its key usages are not those of the policy")
	case l.serviceUID() != spec.ServiceUID:
		return fmt.Errorf("it carries the Service UID %q instead of %q", l.serviceUID(), spec.ServiceUID)
	}
	return nil
}

func (l *Leaf) serviceUID() string {
	for _, extension := range l.Extensions {
		var uid string
		if extension.Id.Equal(oidServiceUID) {
			if _, err := asn1.Unmarshal(extension.Value, &uid); err == nil {
				return uid
			}
		}
	}
	return ""
}

// IssuedAt returns when the leaf was issued.
func (l *Leaf) IssuedAt() time.Time { return l.NotBefore.Add(ClockSkew) }

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Compact(slices.Sorted(slices.Values(a))), slices.Compact(slices.Sorted(slices.Values(b))))
}
