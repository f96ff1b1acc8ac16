package servingcertpolicy

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/restart"
	"github.com/servingcert/operator/hack/gitops"
)

// The files in config/argocd hold every state that the conditions of a policy can be in. Argo CD's
// health script and kstatus are tested with them.
func TestHealth(t *testing.T) {
	t.Parallel()
	served, sound := &tally{}, readyCA(metav1.ConditionTrue)
	served.add(now, service("shop", "web", ""), issuance.Plan{NotAfter: now.Add(time.Hour)})
	pending, failed, conflicted := &tally{}, &tally{}, &tally{}
	pending.add(now, service("shop", "web", ""), issuance.Plan{})
	failed.add(now, service("shop", "web", ""), issuance.Plan{Problem: newProblem()})
	conflicted.conflict(&v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
	halted := &tally{restarts: &restart.Report{
		Halted: true, Reason: "RolloutFailed", Message: "Deployment shop/web does not get ready",
		Late: restart.Late{Reason: "NoWindows", Message: "no restart waits for a window"},
	}}
	tooLate := &tally{restarts: &restart.Report{Reason: "Restarting", Message: "1 wait for their turn: Deployment shop/web", Late: restart.Late{
		Is: true, Reason: "ExpiresBeforeWindow", Message: "the next window opens later than the certificate that Deployment shop/web holds ends",
	}}}
	states := map[string]*v1alpha1.ServingCertPolicy{}
	for name, tc := range map[string]struct {
		counted *tally
		ca      *v1alpha1.ServiceCA
		adjust  func(*v1alpha1.ServingCertPolicy)
	}{
		"healthy_served":                {served, sound, nil},
		"healthy_noServices":            {&tally{}, sound, nil},
		"healthy_pending":               {pending, sound, nil},
		"healthy_failures":              {failed, sound, nil},
		"healthy_conflicted":            {conflicted, sound, nil},
		"healthy_restartHalted":         {halted, sound, nil},
		"healthy_restartTooLate":        {tooLate, sound, nil},
		"progressing_serviceCANotFound": {&tally{}, nil, nil},
		"progressing_serviceCANew":      {&tally{}, readyCA(""), nil},
		"progressing_serviceCANotReady": {failed, readyCA(metav1.ConditionFalse), nil},
		"degraded_invalidSelector": {&tally{}, sound, func(p *v1alpha1.ServingCertPolicy) {
			p.Spec.ServiceSelector.MatchLabels = map[string]string{"no label": ""}
		}},
		"degraded_invalidWindow":        {&tally{}, sound, invalidWindow},
		"degraded_invalidWindowAndNoCA": {&tally{}, nil, invalidWindow},
		"progressing_generationNotSeen": {served, sound, nil},
	} {
		p := newPolicy()
		if tc.adjust != nil {
			tc.adjust(p)
		}
		p.Status = tc.counted.status(now, p, tc.ca)
		states[name] = p
	}
	states["progressing_generationNotSeen"].Generation++
	states["progressing_new"] = newPolicy()
	states["progressing_new"].Status.ObservedGeneration = -1 // the CRD's default
	gitops.CheckStates(t, "../../config/argocd/resource_customizations/servingcert.dev/ServingCertPolicy/testdata", "ServingCertPolicy", states)
}

func invalidWindow(p *v1alpha1.ServingCertPolicy) {
	p.Spec.Restart.Windows = []v1alpha1.RestartWindow{{Schedule: "0 2 * * *", Duration: "1h", TimeZone: "Europe/Atlantis"}}
}
