package issuance

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// maxReplaced is how many replaced certificates are recorded. A process that started before these
// holds a certificate that expired long ago.
const maxReplaced = 3

// Replaced is an earlier certificate of a Secret.
type Replaced struct {
	// Written is when it was written. NotAfter is when it expires.
	Written, NotAfter time.Time
}

// maxReplacedBytes is more than any annotation of ours has. A tenant may write 256 KiB, which are
// read for each container.
const maxReplacedBytes = 256

// ReplacedIn returns the replaced certificates that the annotation of a Secret records, the oldest
// first. Entries that cannot be parsed are left out.
// An annotation that is longer than any of ours is left out as a whole.
func ReplacedIn(secret *corev1.Secret) []Replaced {
	recorded := secret.Annotations[v1alpha1.AnnotationReplaced]
	if len(recorded) > maxReplacedBytes {
		return nil
	}
	var found []Replaced
	for entry := range strings.FieldsSeq(recorded) {
		written, notAfter, _ := strings.Cut(entry, "/")
		from, err := time.Parse(time.RFC3339, written)
		until, unreadable := time.Parse(time.RFC3339, notAfter)
		if err == nil && unreadable == nil {
			found = append(found, Replaced{from, until})
		}
	}
	return found
}

// recordReplaced returns the annotation of a Secret after its certificate is replaced by leaf.
// existing is the Secret's digest. It returns an empty string if the Secret has no certificate or
// has leaf already.
func recordReplaced(existing *corev1.Secret, leaf *pki.Leaf) string {
	before, err := Leaf(existing)
	if err != nil || before.Equal(leaf.Certificate) {
		return ""
	}
	all := append(ReplacedIn(existing), Replaced{IssuedAt(existing), before.NotAfter})
	var entries []string
	for _, one := range all[max(len(all)-maxReplaced, 0):] {
		entries = append(entries, one.Written.UTC().Format(time.RFC3339)+"/"+one.NotAfter.UTC().Format(time.RFC3339))
	}
	return strings.Join(entries, " ")
}
