package servingcert

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"

	"github.com/servingcert/operator/api/v1alpha1"
)

const (
	// few are how many Events on the Services of a policy come at once, and fewPerSecond in the long run: an Event costs as much as a certificate.
	few, fewPerSecond = 100, 1
	// examples is how many Services an Event for many names.
	examples = 5
)

// News tells of new certificates: as long as there are few, by an Event on each Service; of more, by one on their policy now and then. What has
// gathered is lost with the process: the Secrets and the status of the policy tell the same.
type News struct {
	recorder events.EventRecorder
	clock    clock.PassiveClock

	mu sync.Mutex
	of map[types.UID]*news
}

// news are those of one policy.
type news struct {
	few *rate.Limiter
	// many are certificates that are new for a reason.
	many map[string]*many
}

// many are certificates of one policy that are new for a reason.
type many struct {
	number   int
	services []string
	secret   *corev1.Secret
}

// NewNews makes the room.
func NewNews(recorder events.EventRecorder, passive clock.PassiveClock) *News {
	return &News{recorder: recorder, clock: passive, of: map[types.UID]*news{}}
}

// certificate is what there is to tell of one.
type certificate struct {
	policy   *v1alpha1.ServingCertPolicy
	service  *corev1.Service
	secret   *corev1.Secret
	signedBy string
	notAfter time.Time
	why      string
}

func (n *News) tell(reason string, c certificate) {
	if n.gathers(reason, c) {
		return
	}
	n.recorder.Eventf(c.service, c.secret, corev1.EventTypeNormal, reason, "Issue",
		"Secret %s has a new certificate, signed by %s and valid until %s, because %s",
		c.secret.Name, c.signedBy, c.notAfter.UTC().Format(time.RFC3339), c.why)
}

// gathers tells whether a certificate is one of many.
func (n *News) gathers(reason string, c certificate) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := n.of[c.policy.UID]
	if all == nil {
		all = &news{few: rate.NewLimiter(fewPerSecond, few), many: map[string]*many{}}
		n.of[c.policy.UID] = all
	}
	if all.few.AllowN(n.clock.Now(), 1) {
		return false
	}
	gathered := all.many[reason]
	if gathered == nil {
		gathered = &many{secret: c.secret}
		all.many[reason] = gathered
	}
	gathered.number++
	if len(gathered.services) < examples {
		gathered.services = append(gathered.services, c.service.Namespace+"/"+c.service.Name)
	}
	return true
}

// Flush tells of what has gathered, and forgets the policies that are gone.
func (n *News) Flush(policies []v1alpha1.ServingCertPolicy) {
	n.mu.Lock()
	before := n.of
	n.of = map[types.UID]*news{}
	for i := range policies {
		if all := before[policies[i].UID]; all != nil {
			n.of[policies[i].UID] = &news{few: all.few, many: map[string]*many{}}
		}
	}
	n.mu.Unlock()
	for i := range policies {
		all := before[policies[i].UID]
		if all == nil {
			continue
		}
		for reason, found := range all.many {
			n.recorder.Eventf(&policies[i], found.secret, corev1.EventTypeNormal, reason, "Issue", "%s", found.note())
		}
	}
}

func (m *many) note() string {
	note := fmt.Sprintf("%d more Secrets have a new certificate, of Services %s", m.number, strings.Join(m.services, ", "))
	if m.number > len(m.services) {
		note += " and others"
	}
	return note
}
