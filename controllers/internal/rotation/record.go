package rotation

import (
	"crypto/x509"
	"encoding/json"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// The keys of a signing-key Secret besides tls.crt and tls.key, which hold the CA that signs or,
// while no CA may sign, the next one.
const (
	// BundleKey holds the trusted roots.
	BundleKey = "ca-bundle.crt"
	// CrossSignedKey holds the chain from the CA that signs to the roots before it, as on
	// OpenShift.
	CrossSignedKey = "intermediate-ca.crt"
	// NextCertKey, NextPrivateKeyKey and NextCrossSignedKey hold the next CA.
	NextCertKey        = "next.crt"
	NextPrivateKeyKey  = "next.key"
	NextCrossSignedKey = "next-intermediate-ca.crt"
	// RecordKey holds the rest of the state.
	RecordKey = "rotation.json"
)

// record is the part of a state that is not a certificate. Times have a precision of seconds, as in
// a status.
type record struct {
	Phase              v1alpha1.CAPhase        `json:"phase"`
	LastTransitionTime metav1.Time             `json:"lastTransitionTime"`
	StartedAt          metav1.Time             `json:"startedAt,omitzero"`
	Reason             v1alpha1.RotationReason `json:"reason,omitempty"`
	Trigger            string                  `json:"trigger,omitempty"`
	Compromise         bool                    `json:"compromise,omitempty"`
	Restored           bool                    `json:"restored,omitempty"`
	// NoSigner is set while tls.crt and tls.key hold the next CA.
	NoSigner        bool            `json:"noSigner,omitempty"`
	LongestDuration metav1.Duration `json:"longestDuration"`
	ReissueSpread   metav1.Duration `json:"reissueOver,omitzero"`
	TrustChangedAt  metav1.Time     `json:"trustChangedAt,omitzero"`
	TrustChanging   bool            `json:"trustChanging,omitempty"`
	NextSource      string          `json:"nextSource,omitempty"`
	// Certificate is what was written to tls.crt for the active CA. If tls.crt has a different
	// certificate for the same key, an administrator put it there.
	Certificate string              `json:"certificate,omitempty"`
	Previous    []predecessorRecord `json:"previous,omitempty"`
}

type predecessorRecord struct {
	// Fingerprint is the fingerprint of the root.
	Fingerprint string      `json:"fingerprint"`
	KeyID       string      `json:"keyID"`
	SignedUntil metav1.Time `json:"signedUntil"`
	Compromised bool        `json:"compromised,omitempty"`
}

// Read returns the state in a signing-key Secret. A key that cannot be read is lost, and the error
// says why: the state then has no active CA, and without a usable next CA there is no state. If
// only tls.crt is unusable, and tls.key belongs to the certificate in the record, the CA continues
// to sign with that certificate, and the error says what is wrong with tls.crt. Without a record,
// as in the Secrets of other tools and versions, Read assumes the worst.
func Read(now time.Time, secret *corev1.Secret) (*State, error) {
	rec, recorded := readRecord(secret)
	state := rec.state()
	first, loadErr := readSigner(now, secret, corev1.TLSCertKey, corev1.TLSPrivateKeyKey, CrossSignedKey)
	lastWritten, noRecord := loadSigner(now, secret, []byte(rec.Certificate), corev1.TLSPrivateKeyKey, CrossSignedKey)
	if loadErr != nil && noRecord == nil {
		first = lastWritten
	}
	next, nextErr := readSigner(now, secret, NextCertKey, NextPrivateKeyKey, NextCrossSignedKey)
	state.setSigners(first, next, rec.NoSigner)
	if state.Active == nil && state.Next == nil {
		return nil, loadErr
	}
	if noRecord == nil && state.Active != nil {
		state.RestoreActive(lastWritten)
	}
	state.addSources(secret.Annotations[v1alpha1.AnnotationSource], rec, recorded)
	if state.Next == nil && nextErr != nil && state.IsPreparing() {
		// The next CA was lost before it signed: its preparation leads to another CA.
		state.Phase, state.Trigger = v1alpha1.PhaseReissuing, ""
	}
	state.addTrusted(secret.Data[BundleKey], rec)
	return state, loadErr
}

// setSigners sets the active and the next CA to those in the keys of the Secret. With noSigner, the
// key was lost, and the first one is the next CA.
func (s *State) setSigners(first, next *Signer, noSigner bool) {
	switch {
	case !s.IsPreparing():
		s.Active = first
	case noSigner:
		s.Next = first
	default:
		s.Active, s.Next = first, next
	}
}

// addSources adds what is known about the CAs besides their certificates.
func (s *State) addSources(source string, rec record, recorded bool) {
	if s.Next != nil {
		s.Next.Source = rec.NextSource
	}
	if s.Active == nil {
		return
	}
	s.Active.Source = source
	if source == "" && s.Active.Root.Equal(s.Active.Certificate()) {
		// The Secret was restored without the annotation.
		s.Active.Source = SelfSigned
	}
	if s.Renewed != nil && (source != SelfSigned || s.Renewed.Root.Equal(s.Renewed.Certificate())) {
		s.Renewed.Source = source
	}
	if !recorded {
		s.LongestDuration = s.Active.NotAfter().Sub(s.Active.Certificate().NotBefore)
	}
}

// RestoreActive makes before, a CA with the key of the active one, the active CA again. The CA that
// was active has a different certificate for that key: it becomes Renewed, a renewal that signs
// only after a rotation to it. RestoreActive does nothing if the certificates are the same.
func (s *State) RestoreActive(before *Signer) {
	if before.Fingerprint() == s.Active.Fingerprint() {
		return
	}
	renewed := *s.Active
	renewed.Authority = s.Active.WithCrossSigned(nil)
	s.Active, s.Renewed = before, &renewed
	s.Previous = slices.DeleteFunc(s.Previous, func(p Predecessor) bool { return p.Root.Equal(before.Root) })
}

// addTrusted adds the CAs that no longer sign, by their roots in the bundle. They include a CA that
// signed before and is going to sign again.
func (s *State) addTrusted(encoded []byte, rec record) {
	bundle, _ := pki.ParseBundle(encoded)
	for _, root := range bundle {
		if signsAgain := s.Next != nil && s.Next.Root.Equal(root) && rec.hasPredecessor(root); signsAgain || !s.isSignerRoot(root) {
			s.Previous = append(s.Previous, rec.predecessor(root))
		}
	}
	s.sortPrevious()
}

var phases = []v1alpha1.CAPhase{
	v1alpha1.PhaseStable, v1alpha1.PhasePublishing, v1alpha1.PhasePropagating, v1alpha1.PhaseReissuing, v1alpha1.PhaseRetiring,
}

// readRecord returns the record in a Secret. Without a valid record it returns that of a CA about
// which nothing is known, and false.
func readRecord(secret *corev1.Secret) (rec record, recorded bool) {
	if json.Unmarshal(secret.Data[RecordKey], &rec) != nil || !slices.Contains(phases, rec.Phase) {
		return record{Phase: v1alpha1.PhaseStable}, false
	}
	return rec, true
}

func (r record) state() *State {
	return &State{
		Phase: r.Phase, Since: r.LastTransitionTime.Time, StartedAt: r.StartedAt.Time, Reason: r.Reason, Trigger: r.Trigger,
		Compromise: r.Compromise, Restored: r.Restored, LongestDuration: r.LongestDuration.Duration, ReissueSpread: r.ReissueSpread.Duration,
		TrustChangedAt: r.TrustChangedAt.Time, TrustChanging: r.TrustChanging,
	}
}

func (r record) hasPredecessor(root *x509.Certificate) bool {
	fingerprint := pki.Fingerprint(root)
	return slices.ContainsFunc(r.Previous, func(f predecessorRecord) bool { return f.Fingerprint == fingerprint })
}

// predecessor returns what is known about the CA of a root. An unknown CA is assumed to have signed
// until the root's notAfter.
func (r record) predecessor(root *x509.Certificate) Predecessor {
	fingerprint := pki.Fingerprint(root)
	if i := slices.IndexFunc(r.Previous, func(f predecessorRecord) bool { return f.Fingerprint == fingerprint }); i >= 0 {
		rec := r.Previous[i]
		return Predecessor{Root: root, KeyID: rec.KeyID, SignedUntil: rec.SignedUntil.Time, Compromised: rec.Compromised}
	}
	return Predecessor{Root: root, KeyID: pki.KeyID(root.SubjectKeyId), SignedUntil: root.NotAfter}
}

func readSigner(now time.Time, secret *corev1.Secret, certificate, privateKey, crossSignedKey string) (*Signer, error) {
	return loadSigner(now, secret, secret.Data[certificate], privateKey, crossSignedKey)
}

func loadSigner(now time.Time, secret *corev1.Secret, certificate []byte, privateKey, crossSignedKey string) (*Signer, error) {
	authority, err := pki.LoadAuthority(pki.Pair{Certificate: certificate, PrivateKey: secret.Data[privateKey]})
	if err != nil {
		return nil, err
	}
	root, err := authority.Root(now, certificate, secret.Data[BundleKey])
	if err != nil {
		// The CA may have expired; at its notBefore it led to its root.
		root, err = authority.Root(authority.Certificate().NotBefore, certificate, secret.Data[BundleKey])
	}
	if err != nil {
		return nil, err
	}
	return &Signer{Authority: authority.WithCrossSigned(pki.ParseCrossSigned(secret.Data[crossSignedKey])), Root: root}, nil
}

// EncodeKeys changes the encoding in which Write writes the signing keys.
func (s *State) EncodeKeys(encoding v1alpha1.KeyEncoding) error {
	for _, signer := range []**Signer{&s.Active, &s.Next} {
		if *signer == nil {
			continue
		}
		authority, err := (*signer).WithKeyEncoding(encoding)
		if err != nil {
			return err
		}
		encoded := **signer
		encoded.Authority, *signer = authority, &encoded
	}
	return nil
}

// Write writes the state into a signing-key Secret. It keeps other data of the Secret, and destroys
// any key that the state does not have.
func (s *State) Write(secret *corev1.Secret) error {
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	for _, key := range []string{NextCertKey, NextPrivateKeyKey, NextCrossSignedKey, CrossSignedKey} {
		delete(secret.Data, key)
	}
	first, source := s.Active, ""
	if s.Active == nil {
		first = s.Next
	} else if s.Next != nil {
		s.Next.Save(secret.Data, NextCertKey, NextPrivateKeyKey, NextCrossSignedKey)
	}
	first.Save(secret.Data, corev1.TLSCertKey, corev1.TLSPrivateKeyKey, CrossSignedKey)
	if s.Renewed != nil {
		s.Renewed.Save(secret.Data, corev1.TLSCertKey, corev1.TLSPrivateKeyKey, CrossSignedKey)
	}
	if s.Active != nil {
		source = s.Active.Source
	}
	metav1.SetMetaDataAnnotation(&secret.ObjectMeta, v1alpha1.AnnotationSource, source)
	// After a restore with kubectl this annotation contains the whole Secret once more, with its
	// keys.
	delete(secret.Annotations, corev1.LastAppliedConfigAnnotation)
	secret.Data[BundleKey] = s.Bundle().Encode()
	encoded, err := json.Marshal(s.record())
	secret.Data[RecordKey] = encoded
	return err
}

func (s *State) record() record {
	rec := record{
		Phase: s.Phase, LastTransitionTime: metav1.NewTime(s.Since), StartedAt: metav1.NewTime(s.StartedAt), Reason: s.Reason,
		Trigger: s.Trigger, Compromise: s.Compromise, Restored: s.Restored, NoSigner: s.Active == nil,
		LongestDuration: metav1.Duration{Duration: s.LongestDuration}, ReissueSpread: metav1.Duration{Duration: s.ReissueSpread},
		TrustChangedAt: metav1.NewTime(s.TrustChangedAt), TrustChanging: s.TrustChanging,
	}
	if s.Next != nil {
		rec.NextSource = s.Next.Source
	}
	if s.Active != nil {
		chain := s.Active.Chain()
		if len(chain) == 0 {
			chain = []*x509.Certificate{s.Active.Certificate()}
		}
		// The chain begins with the CA. It keeps its duplicates, so that it is read back with the
		// same fingerprint.
		rec.Certificate = string(pki.Bundle(chain).Encode())
	}
	for _, p := range s.Previous {
		rec.Previous = append(rec.Previous, predecessorRecord{
			Fingerprint: pki.Fingerprint(p.Root), KeyID: p.KeyID, SignedUntil: metav1.NewTime(p.SignedUntil), Compromised: p.Compromised,
		})
	}
	return rec
}
