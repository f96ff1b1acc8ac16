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

// Leaf is a serving certificate as found, with the chain that follows it.
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

// Parts are what there is to know of a leaf, in as little as it takes.
type Parts struct {
	// Certificate is in DER, and the Chain after it in PEM; nothing else was there.
	Certificate, Chain string
	// Signer is the KeyID of whom it names as its signer, IssuedAt is when it was made, and NotAfter its end: to count does not take to read it.
	Signer             string
	IssuedAt, NotAfter time.Time
	// Encoding is that of the private key beside it; empty where none is known.
	Encoding v1alpha1.KeyEncoding
}

// Parts take a leaf apart.
func (l *Leaf) Parts() Parts {
	return Parts{
		Certificate: string(l.Raw), Chain: string(encodeCertificates(l.chain...)),
		Signer: internKeyID(KeyID(l.AuthorityKeyId)), IssuedAt: l.IssuedAt(), NotAfter: clampTime(l.NotAfter),
	}
}

// clampTime is a time, or the last one that there is (RFC 5280 §4.1.2.5): a tenant may write one that no API has.
func clampTime(at time.Time) time.Time {
	if maxTime := time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC); at.After(maxTime) {
		return maxTime
	}
	return at
}

// knownKeyIDs are the KeyIDs of the last few: the same few sign all certificates.
var knownKeyIDs = lru.New(64)

// internKeyID is the one of those that are alike.
func internKeyID(signer string) string {
	if cached, ok := knownKeyIDs.Get(signer); ok {
		signer, _ = cached.(string)
		return signer
	}
	knownKeyIDs.Add(signer, signer)
	return signer
}

// MaxChainLength is longer than those get in PEM that a CA of ours makes; tenants may write any.
const MaxChainLength = 16 << 10

// parsedChains are those that were read: the same few follow all certificates.
var parsedChains = lru.New(64)

// ParseParts reads the certificate and the chain that Parts gave.
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

// Inspect takes the certificate of a pair apart, with the chain after it, or tells why it cannot be read or is not the private key's. Of a pair that
// was made here a moment ago all of that is known.
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

// recentPairs are the pairs that were made last, by their hash: more than are on their way to the API server, and back, at a time.
var recentPairs = lru.New(128)

// remember keeps in mind what Inspect will say of a pair that was made here. What is too long for that is read, like everybody's.
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

// hashOf is one hash of each half of a pair: nobody can move a byte from one to the other.
func hashOf(pair Pair) [2][sha256.Size]byte {
	return [2][sha256.Size]byte{sha256.Sum256(pair.Certificate), sha256.Sum256(pair.PrivateKey)}
}

// CheckPair tells what is wrong with a private key beside a certificate, both in PEM; nil when they belong together.
func CheckPair(pair Pair) error {
	leaf, err := pair.Leaf()
	if err != nil {
		return err
	}
	return leaf.CheckKey(pair.PrivateKey)
}

// CheckKey tells what is wrong with a private key in PEM; nil when it is the certificate's.
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

// CheckIssuer returns why a CA did not issue the leaf, whatever chain follows it; nil when it did. Signatures that are known are not
// verified again.
func (l *Leaf) CheckIssuer(ca *x509.Certificate, signatures *Signatures) error {
	if !bytes.Equal(l.AuthorityKeyId, ca.SubjectKeyId) || !bytes.Equal(l.RawIssuer, ca.RawSubject) {
		return fmt.Errorf("it was signed by %q, and the CA is %q", l.Issuer.CommonName, ca.Subject.CommonName)
	}
	if err := signatures.check(l.Certificate, ca); err != nil {
		return fmt.Errorf("the signature of the CA does not verify: %w", err)
	}
	return nil
}

// CheckIssuerAndChain returns why a leaf is not this CA's, with this CA's chain and, as far as it lasts, its bridge after it; nil when it is. A bridge
// that was longer when the leaf was made does no harm.
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

// VerifyWithRoots tells why a client with these roots would not verify the leaf, for one of its names; nil when it would.
func (l *Leaf) VerifyWithRoots(roots *x509.CertPool, now time.Time) error {
	_, err := l.paths(roots, now)
	return err
}

// paths are those from the leaf to one of the roots, over what the server sends.
func (l *Leaf) paths(roots *x509.CertPool, now time.Time) ([][]*x509.Certificate, error) {
	intermediates := x509.NewCertPool()
	for _, certificate := range l.chain {
		intermediates.AddCert(certificate)
	}
	return l.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now})
}

// CheckSpec tells in what a leaf differs from its spec, its validity aside; nil when it does not.
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

// IssuedAt is when the leaf was made.
func (l *Leaf) IssuedAt() time.Time { return l.NotBefore.Add(ClockSkew) }

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Compact(slices.Sorted(slices.Values(a))), slices.Compact(slices.Sorted(slices.Values(b))))
}
