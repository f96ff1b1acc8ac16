package issuance_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// TestReplaced checks that a Secret records its last replaced certificates, that writing the same
// certificate again changes nothing, and that entries that cannot be parsed are left out.
func TestReplaced(t *testing.T) {
	s := newIssuedFixture(t)
	if got := issuance.ReplacedIn(s.digest()); got != nil {
		t.Errorf("the first certificate replaced %v", got)
	}
	var want []issuance.Replaced
	for range 5 {
		want = append(want, issuance.Replaced{Written: s.now.Truncate(time.Second), NotAfter: s.leaf().NotAfter})
		s.now = s.now.Add(time.Hour)
		s.execute(issuance.Plan{Desired: s.desired(), Action: issuance.Issue})
		s.write(s.pair())
	}
	if diff := cmp.Diff(want[2:], issuance.ReplacedIn(s.digest())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s.secret.Annotations[v1alpha1.AnnotationReplaced] += " nonsense 2071-03-14T15:09:26Z 2071-03-14T15:09:26Z/"
	if diff := cmp.Diff(want[2:], issuance.ReplacedIn(s.digest())); diff != "" {
		t.Errorf("with entries that nobody can read (-want +got):\n%s", diff)
	}
	s.secret.Annotations[v1alpha1.AnnotationReplaced] = strings.Repeat("2071-03-14T15:09:26Z/2071-04-14T15:09:26Z ", 6000)
	if got := issuance.ReplacedIn(s.secret); len(got) > 0 {
		t.Errorf("of an annotation that a tenant wrote, %d entries are kept for each container that reads the Secret", len(got))
	}
}
