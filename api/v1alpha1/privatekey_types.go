package v1alpha1

// KeyAlgorithm is the algorithm of a private key.
//
// +kubebuilder:validation:Enum=RSA;ECDSA;Ed25519
type KeyAlgorithm string

// The key algorithms.
const (
	// RSA is for clients that support no other algorithm.
	RSA KeyAlgorithm = "RSA"
	// ECDSA is small and fast, and all current clients support it.
	ECDSA KeyAlgorithm = "ECDSA"
	// Ed25519 is smaller and faster still, but many browsers and FIPS modules from before 2023 do
	// not support it.
	Ed25519 KeyAlgorithm = "Ed25519"
)

// RotationPolicy is whether a renewed certificate gets a new private key.
//
// +kubebuilder:validation:Enum=Always;Never
type RotationPolicy string

// The rotation policies, under the names that cert-manager uses.
const (
	// RotateAlways generates a new private key for every certificate.
	RotateAlways RotationPolicy = "Always"
	// RotateNever keeps the private key as long as it matches the policy.
	RotateNever RotationPolicy = "Never"
)

// KeyEncoding is the PEM encoding of a private key, under the name that cert-manager uses.
//
// +kubebuilder:validation:Enum=PKCS8;PKCS1
type KeyEncoding string

// The encodings.
const (
	// PKCS8 is the encoding for keys of every algorithm: "BEGIN PRIVATE KEY" (RFC 5958).
	PKCS8 KeyEncoding = "PKCS8"
	// PKCS1 is the older encoding of each algorithm: PKCS #1 (RFC 8017), "BEGIN RSA PRIVATE KEY",
	// for RSA, and SEC 1 (RFC 5915), "BEGIN EC PRIVATE KEY", for ECDSA. Ed25519 has none.
	PKCS1 KeyEncoding = "PKCS1"
)

// PrivateKey defines the private key of a CA or of a serving certificate.
//
// +kubebuilder:validation:XValidation:rule="self.algorithm != 'RSA' || !has(self.size) || self.size in [2048, 3072, 4096]",message="an RSA key has 2048, 3072 or 4096 bits: set size to one of these, or leave it out for 2048"
// +kubebuilder:validation:XValidation:rule="self.algorithm != 'ECDSA' || !has(self.size) || self.size in [256, 384, 521]",message="an ECDSA key is on the curve P-256, P-384 or P-521: set size to 256, 384 or 521, or leave it out for 256"
// +kubebuilder:validation:XValidation:rule="self.algorithm != 'Ed25519' || !has(self.size)",message="an Ed25519 key has only one size: leave size out"
// +kubebuilder:validation:XValidation:rule="self.algorithm != 'Ed25519' || !has(self.encoding) || self.encoding == 'PKCS8'",message="an Ed25519 key is always PKCS #8: leave encoding out, or set it to PKCS8"
type PrivateKey struct {
	// algorithm is the algorithm of the key.
	// +optional
	// +default="ECDSA"
	Algorithm KeyAlgorithm `json:"algorithm,omitempty"`

	// size is the size of the key in bits: 2048 (the default), 3072 or 4096 for RSA; 256 (the
	// default), 384 or 521 for ECDSA; none for Ed25519.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Size int32 `json:"size,omitempty"`

	// encoding is the encoding of the key in tls.key: PKCS8 for every algorithm, or PKCS1, which
	// stands for PKCS #1 for an RSA key and for SEC 1 for an ECDSA key. A change re-encodes the
	// existing keys; no certificate is reissued.
	// +optional
	// +default="PKCS8"
	Encoding KeyEncoding `json:"encoding,omitempty"`
}
