// Package csr reads certificate signing requests (PKCS #10, RFC 2986) of untrusted clients. A
// request for something that the operator never issues is rejected with an error that names it, and
// not issued without it, so that the client learns of it.
package csr

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

const (
	// MaxSize limits the size of a request, in bytes.
	MaxSize = 64 << 10
	// MaxNames limits the number of subject alternative names. No Service has that many.
	MaxNames = 100
)

// Request is the content of a certificate signing request.
type Request struct {
	PublicKey crypto.PublicKey
	Key       pki.KeySpec
	// DNSNames are the common name, if there is one, and the subject alternative names, each once.
	DNSNames []string
	// Usages are the extended key usages; nil if the request names none.
	Usages []v1alpha1.CertificateUsage
}

// Parse reads a request in PEM, which must be a single block. Its signature proves that the client
// has the private key. The error says what is wrong with the request.
func Parse(encoded []byte) (*Request, error) {
	if len(encoded) > MaxSize {
		return nil, fmt.Errorf("the request is longer than %d bytes", MaxSize)
	}
	block, rest := pem.Decode(encoded)
	if block == nil || (block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST") || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("the request must be one PEM block of type CERTIFICATE REQUEST")
	}
	request, parsed, err := read(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := request.readNames(parsed); err != nil {
		return nil, err
	}
	if err := request.readExtensions(parsed.Extensions); err != nil {
		return nil, err
	}
	return request, nil
}

// ParseKey reads the key of a request in DER and verifies its signature. It ignores everything else
// in the request.
func ParseKey(der []byte) (*Request, error) {
	request, _, err := read(der)
	return request, err
}

func read(der []byte) (*Request, *x509.CertificateRequest, error) {
	parsed, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, nil, fmt.Errorf("the request cannot be read: %w", err)
	}
	request := &Request{PublicKey: parsed.PublicKey, Key: pki.KeySpecOfPublic(parsed.PublicKey)}
	if err := pki.CheckKey(parsed.PublicKey); err != nil {
		return nil, nil, fmt.Errorf("the key of the request: %w", err)
	}
	if err := parsed.CheckSignature(); err != nil {
		return nil, nil, fmt.Errorf("the signature of the request does not verify: %w", err)
	}
	return request, parsed, nil
}

func (r *Request) readNames(parsed *x509.CertificateRequest) error {
	for _, attribute := range parsed.Subject.Names {
		if !attribute.Type.Equal(oidCommonName) {
			return fmt.Errorf("the subject may hold a common name and nothing else, and it holds attribute %s: leave it out", attribute.Type)
		}
	}
	switch {
	case len(parsed.Subject.Names) > 1:
		return errors.New("the subject may hold one common name")
	case len(parsed.IPAddresses) > 0:
		return fmt.Errorf("IP address %s: only DNS names of Services are signed for", parsed.IPAddresses[0])
	case len(parsed.URIs) > 0:
		return fmt.Errorf("URI %.64q: only DNS names of Services are signed for", parsed.URIs[0])
	case len(parsed.EmailAddresses) > 0:
		return fmt.Errorf("e-mail address %.64q: only DNS names of Services are signed for", parsed.EmailAddresses[0])
	case len(parsed.DNSNames) > MaxNames:
		return fmt.Errorf("%d names: at most %d are signed for at once", len(parsed.DNSNames), MaxNames)
	}
	if name := parsed.Subject.CommonName; name != "" {
		r.DNSNames = append(r.DNSNames, name)
	}
	for _, name := range parsed.DNSNames {
		if !slices.Contains(r.DNSNames, name) {
			r.DNSNames = append(r.DNSNames, name)
		}
	}
	if len(r.DNSNames) == 0 {
		return errors.New("the request names nothing: give it the DNS names of a Service")
	}
	return nil
}

var (
	oidCommonName       = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// usages are the extended key usages that a request may have (RFC 5280 §4.2.1.12).
var usages = map[string]v1alpha1.CertificateUsage{
	"1.3.6.1.5.5.7.3.1": v1alpha1.UsageServerAuth,
	"1.3.6.1.5.5.7.3.2": v1alpha1.UsageClientAuth,
}

func (r *Request) readExtensions(extensions []pkix.Extension) error {
	for _, extension := range extensions {
		var err error
		switch id := extension.Id; {
		case id.Equal(oidSubjectAltName):
			err = checkAltNames(extension.Value)
		case id.Equal(oidKeyUsage):
			err = checkKeyUsage(extension.Value)
		case id.Equal(oidBasicConstraints):
			err = checkNoCA(extension.Value)
		case id.Equal(oidExtKeyUsage):
			err = r.readUsages(extension.Value)
		case id.Equal(oidSubjectKeyID):
			// Ignored: the certificate gets a subject key identifier from its key.
		default:
			err = fmt.Errorf("extension %s is none that a serving certificate has: leave it out", id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkAltNames rejects the kinds of names that crypto/x509 ignores: otherName, directoryName and
// the like (RFC 5280 §4.2.1.6).
func checkAltNames(der []byte) error {
	input, names := cryptobyte.String(der), cryptobyte.String{}
	if !input.ReadASN1(&names, cryptobyteasn1.SEQUENCE) || !input.Empty() {
		return errors.New("the subject alternative names cannot be read")
	}
	for !names.Empty() {
		var name cryptobyte.String
		var tag cryptobyteasn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return errors.New("the subject alternative names cannot be read")
		}
		if tag != cryptobyteasn1.Tag(2).ContextSpecific() {
			return fmt.Errorf("a subject alternative name of kind %d: only DNS names of Services are signed for", tag&0x1f)
		}
	}
	return nil
}

// checkKeyUsage rejects key usages that a serving certificate does not have. It accepts
// digitalSignature, which is bit 0, and keyEncipherment, bit 2.
func checkKeyUsage(der []byte) error {
	var bits asn1.BitString
	if rest, err := asn1.Unmarshal(der, &bits); err != nil || len(rest) > 0 {
		return errors.New("the key usage cannot be read")
	}
	for i := range bits.BitLength {
		if i != 0 && i != 2 && bits.At(i) != 0 {
			return errors.New("the key usage of a serving certificate is digital signature and key encipherment: leave out the others")
		}
	}
	return nil
}

func checkNoCA(der []byte) error {
	var constraints struct {
		IsCA       bool `asn1:"optional"`
		MaxPathLen int  `asn1:"optional,default:-1"`
	}
	if rest, err := asn1.Unmarshal(der, &constraints); err != nil || len(rest) > 0 {
		return errors.New("the basic constraints cannot be read")
	}
	if constraints.IsCA {
		return errors.New("the request is for a CA: only serving certificates are signed")
	}
	return nil
}

func (r *Request) readUsages(der []byte) error {
	var usageOIDs []asn1.ObjectIdentifier
	if rest, err := asn1.Unmarshal(der, &usageOIDs); err != nil || len(rest) > 0 {
		return errors.New("the extended key usages cannot be read")
	}
	for _, oid := range usageOIDs {
		usage, ok := usages[oid.String()]
		if !ok {
			return fmt.Errorf("extended key usage %s: only server auth and client auth are signed for", oid)
		}
		r.Usages = append(r.Usages, usage)
	}
	return nil
}

// AddUsage adds an extended key usage by its name in the APIs of Kubernetes and cert-manager. It
// accepts and ignores the key usages of a serving certificate, which follow from its key.
func (r *Request) AddUsage(name string) error {
	switch usage := v1alpha1.CertificateUsage(name); {
	case name == "digital signature" || name == "signing" || name == "key encipherment":
	case usage != v1alpha1.UsageServerAuth && usage != v1alpha1.UsageClientAuth:
		return fmt.Errorf("%.64q: a serving certificate is for server auth and client auth", name)
	case !slices.Contains(r.Usages, usage):
		r.Usages = append(r.Usages, usage)
	}
	return nil
}

// Truncate returns a request for a cache: cut to MaxSize+1 bytes if it is longer, so that Parse
// still rejects it for its size.
func Truncate(request []byte) []byte {
	if len(request) <= MaxSize {
		return request
	}
	return slices.Clone(request[:MaxSize+1])
}
