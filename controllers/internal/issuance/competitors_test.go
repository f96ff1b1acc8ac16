package issuance_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// newCompetitor returns another Service of the namespace that requests the same Secret; age is how
// much older than web it is.
func newCompetitor(name string, age time.Duration) *corev1.Service {
	return newService(ownAnnotation, func(s *corev1.Service) {
		s.Name, s.UID = name, types.UID("uid-of-"+name)
		s.CreationTimestamp = metav1.NewTime(s.CreationTimestamp.Add(-age))
	})
}

// holds makes the fixture's Secret the competitor's by executing the competitor's own plan.
func holds(competitor *corev1.Service) func(*fixture) {
	return func(s *fixture) {
		theirs := &fixture{t: s.t, now: s.now, service: competitor, policy: s.policy, ca: s.ca}
		theirs.execute(theirs.plan())
		s.secret = theirs.secret
	}
}

func TestPlanWithCompetitors(t *testing.T) {
	older, younger := newCompetitor("zzz", time.Hour), newCompetitor("aaa", -time.Hour)
	twinBefore, twinAfter := newCompetitor("api", 0), newCompetitor("www", 0)
	served := func(s *fixture) { s.execute(s.plan()) }
	for _, tc := range []struct {
		name        string
		competitors []*corev1.Service
		given       func(*fixture)
		action      issuance.Action
		problem     string
	}{
		{"no rival", nil, none, issuance.Issue, ""},
		{"the older gets it", []*corev1.Service{younger}, none, issuance.Issue, "also wanted by Service aaa"},
		{"the younger does not", []*corev1.Service{older}, none, issuance.Refuse, "also wanted by Service zzz"},
		{"of one age, the name decides for it", []*corev1.Service{twinAfter}, none, issuance.Issue, "also wanted by Service www"},
		{"of one age, the name decides against it", []*corev1.Service{twinBefore}, none, issuance.Refuse, "also wanted by Service api"},
		{"one older of several", []*corev1.Service{younger, twinAfter, older}, none, issuance.Refuse, "also wanted by Service zzz and by others"},
		{"the holder keeps it beside an older one", []*corev1.Service{older}, served, issuance.Keep, "also wanted by Service zzz"},
		{"the holder keeps it beside a younger one", []*corev1.Service{younger}, served, issuance.Keep, "also wanted by Service aaa"},
		{"the holder repairs it", []*corev1.Service{older}, func(s *fixture) { served(s); delete(s.secret.Labels, v1alpha1.LabelServiceCA) }, issuance.Repair, "also wanted by Service zzz"},
		{"the holder makes it anew", []*corev1.Service{older}, func(s *fixture) { served(s); s.secret.Data = nil }, issuance.Issue, "also wanted by Service zzz"},
		{"a younger one holds it", []*corev1.Service{younger}, holds(younger), issuance.Refuse, "also wanted by Service aaa"},
		{"an older one holds it", []*corev1.Service{younger, older}, holds(older), issuance.Refuse, "also wanted by Service zzz and by others"},
		{"a younger one holds it beside an older one", []*corev1.Service{younger, older}, holds(younger), issuance.Refuse, "also wanted by Service aaa and by others"},
		{"one holds it, of the wrong type", []*corev1.Service{younger}, func(s *fixture) {
			holds(younger)(s)
			s.secret.Type = corev1.SecretTypeOpaque
		}, issuance.Refuse, "also wanted by Service aaa"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newFixture(t, tc.given, func(s *fixture) { s.competitors = tc.competitors })
			plan := s.plan()
			if plan.Action != tc.action {
				t.Errorf("action = %s because %q, want %s", plan.Action, plan.IssueReason, tc.action)
			}
			switch {
			case tc.problem == "" && plan.Problem != nil:
				t.Errorf("obstacle = %s, want none", plan.Problem)
			case tc.problem != "" && (plan.Problem == nil || plan.Problem.Reason != issuance.ReasonSecretConflict || !strings.Contains(plan.Problem.Message, tc.problem+":")):
				t.Errorf("obstacle = %v, want a conflict: %s", plan.Problem, tc.problem)
			}
		})
	}
}

// TestForeignSecretWithCompetitors checks that a Secret that belongs to none of the competing
// Services is left alone.
func TestForeignSecretWithCompetitors(t *testing.T) {
	s := newFixture(t, func(s *fixture) {
		s.secret, s.competitors = secretOf(), []*corev1.Service{newCompetitor("aaa", -time.Hour)}
	})
	if plan := s.plan(); plan.Action != issuance.Refuse || plan.Problem == nil || plan.Problem.Reason != issuance.ReasonSecretNotOurs {
		t.Errorf("the plan is %s, obstacle %v; want that the Secret is foreign", plan.Action, plan.Problem)
	}
}

// TestOneCompetitorWins checks that, in whatever order the Services are reconciled, exactly one of
// them gets the Secret, and all of them report the conflict.
func TestOneCompetitorWins(t *testing.T) {
	ca := newSigner(t, now)
	rapid.Check(t, func(t *rapid.T) {
		var all []*corev1.Service
		for i := range rapid.IntRange(2, 6).Draw(t, "services") {
			all = append(all, newCompetitor(fmt.Sprintf("s%d", i), time.Duration(rapid.IntRange(0, 2).Draw(t, "age"))*time.Hour))
		}
		secret := (*corev1.Secret)(nil)
		owner := ""
		for round := range 2 {
			winners := 0
			for _, i := range rapid.Permutation(indices(len(all))).Draw(t, "order") {
				var competitors []*corev1.Service
				for j, other := range all {
					if j != i {
						competitors = append(competitors, other)
					}
				}
				s := &fixture{t: t, now: now, service: all[i], policy: newPolicy(), ca: ca, secret: secret, competitors: competitors}
				plan := s.plan()
				if plan.Problem == nil || plan.Problem.Reason != issuance.ReasonSecretConflict {
					t.Fatalf("%s is told %v, want a conflict", s.service.Name, plan.Problem)
				}
				if plan.Action == issuance.Refuse {
					continue
				}
				winners++
				if round == 0 {
					owner = s.service.Name
					s.execute(plan)
					secret = s.secret
				} else if plan.Action != issuance.Keep || s.service.Name != owner {
					t.Errorf("in round %d the plan of %s is %s, and %s holds the Secret", round, s.service.Name, plan.Action, owner)
				}
			}
			if winners != 1 {
				t.Errorf("in round %d %d Services have a certificate, want 1", round, winners)
			}
		}
	})
}

func indices(count int) []int {
	var all []int
	for i := range count {
		all = append(all, i)
	}
	return all
}
