package serviceca

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/servingcert/operator/controllers/internal/pki"
)

// verifiesBy returns why a client with these roots does not verify what the server sends, by any of
// these ways; nil when the client verifies it by each way. It always includes the way of Go, which
// tries every path. TestChains compares the other ways with OpenSSL and GnuTLS themselves.
func (l leaf) verifiesBy(roots pki.Bundle, now time.Time, ways ...way) error {
	if err := l.VerifyWithRoots(roots.Pool(), now); err != nil {
		return err
	}
	for _, verifies := range ways {
		if err := verifies(l.sent, roots, now); err != nil {
			return err
		}
	}
	return nil
}

// meeting is the key of a cached handshake: the leaf of a server, the roots of a client, and the
// number of ways by which the client verifies.
type meeting struct {
	server *pki.Leaf
	roots  string
	ways   int
}

// verifies is verifiesBy with a cache. A success is cached until the next notBefore or notAfter of
// one of the certificates, because before that time cannot change the result.
func (sim *simulation) verifies(server leaf, roots pki.Bundle, ways ...way) error {
	met := meeting{server.Leaf, pki.Fingerprint(roots[0], roots[1:]...), len(ways)}
	if sim.now.Before(sim.verified[met]) {
		return nil
	}
	err := server.verifiesBy(roots, sim.now, ways...)
	if err == nil {
		sim.verified[met] = nextChange(sim.now, slices.Concat(server.sent, roots))
	}
	return err
}

// nextChange returns the first notBefore or notAfter of these certificates that is not before now.
func nextChange(now time.Time, certificates []*x509.Certificate) time.Time {
	next := now.AddDate(1000, 0, 0)
	for _, certificate := range certificates {
		for _, at := range []time.Time{certificate.NotBefore, certificate.NotAfter} {
			if !at.Before(now) && at.Before(next) {
				next = at
			}
		}
	}
	return next
}

// way is how a client finds a path from what a server sends to its roots.
type way func(sent []*x509.Certificate, roots pki.Bundle, now time.Time) error

// likeOpenSSL uses the first issuer that matches each certificate, prefers a trusted one to one
// that was sent, and never tries another.
func likeOpenSSL(sent []*x509.Certificate, roots pki.Bundle, now time.Time) error {
	path := sent[:1:1]
	for {
		last := path[len(path)-1]
		if root := firstIssuer(last, roots, now); root != nil {
			return verifyBy(root, path, now)
		}
		issuer := firstIssuer(last, without(sent, path), now)
		if issuer == nil {
			return fmt.Errorf("OpenSSL is unable to get the issuer certificate of %s", last.Subject.CommonName)
		}
		path = append(path, issuer)
	}
}

// likeGnuTLS follows the issuers that were sent as far as possible, and looks for a root only for
// the last of them: by its issuer name, and by its subject name.
func likeGnuTLS(sent []*x509.Certificate, roots pki.Bundle, now time.Time) error {
	path := sent[:1:1]
	for {
		left := without(sent, path)
		next := slices.IndexFunc(left, func(c *x509.Certificate) bool { return issued(path[len(path)-1], c) })
		if next < 0 {
			break
		}
		path = append(path, left[next])
	}
	below, last := path[:len(path)-1], path[len(path)-1]
	for _, root := range roots {
		byIssuer := bytes.Equal(root.RawSubject, last.RawIssuer) && verifyBy(root, path, now) == nil
		bySubject := len(below) > 0 && bytes.Equal(root.RawSubject, last.RawSubject) && verifyBy(root, below, now) == nil
		if byIssuer || bySubject {
			return nil
		}
	}
	return errors.New("GnuTLS does not trust the issuer, nor the last certificate that was sent")
}

func without(all, some []*x509.Certificate) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(all), func(c *x509.Certificate) bool { return slices.ContainsFunc(some, c.Equal) })
}

// issued reports whether issuer matches certificate by name and by key identifier.
func issued(certificate, issuer *x509.Certificate) bool {
	named, identified := certificate.AuthorityKeyId, issuer.SubjectKeyId
	return bytes.Equal(issuer.RawSubject, certificate.RawIssuer) && (len(named) == 0 || len(identified) == 0 || bytes.Equal(named, identified))
}

// firstIssuer returns the first candidate that matches and is valid. When no match is valid, it
// returns the one with the latest notAfter; when none matches, nil.
func firstIssuer(certificate *x509.Certificate, candidates []*x509.Certificate, now time.Time) *x509.Certificate {
	var best *x509.Certificate
	for _, candidate := range candidates {
		switch {
		case !issued(certificate, candidate):
		case !now.Before(candidate.NotBefore) && now.Before(candidate.NotAfter):
			return candidate
		case best == nil || candidate.NotAfter.After(best.NotAfter):
			best = candidate
		}
	}
	return best
}

// verifyBy verifies the first certificate of path with root. The rest of path are the only
// intermediates.
func verifyBy(root *x509.Certificate, path []*x509.Certificate, now time.Time) error {
	intermediates := x509.NewCertPool()
	for _, certificate := range path[1:] {
		intermediates.AddCert(certificate)
	}
	_, err := path[0].Verify(x509.VerifyOptions{Roots: pki.Bundle{root}.Pool(), Intermediates: intermediates, CurrentTime: now})
	return err
}
