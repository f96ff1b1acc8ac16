package serviceca

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/rotation"
	"github.com/servingcert/operator/hack/gitops"
)

// TestHealth checks that config/argocd holds every state of the conditions of a ServiceCA, and
// tests Argo CD's health script and kstatus with these states.
func TestHealth(t *testing.T) {
	t.Parallel()
	states := map[string]*v1alpha1.ServiceCA{}
	for name, given := range healthStates() {
		s := newHistory(t)
		evidence, refused := given(s)
		plan := makePlan(s.observed, resolve(s.observed), evidence)
		if refused != nil {
			refused(s, &plan)
		}
		s.serviceCA.Status = buildStatus(s.now, s.serviceCA, plan, evidence)
		states[name] = s.serviceCA
	}
	states["progressing_generationNotSeen"].Generation++
	states["progressing_new"] = newHistory(t).serviceCA
	states["progressing_new"].Status.ObservedGeneration = -1 // the default in the CRD
	gitops.CheckStates(t, "../../config/argocd/resource_customizations/servingcert.dev/ServiceCA/testdata", "ServiceCA", states)
	everyReason(t, states)
}

// scenario brings a ServiceCA into a state. It returns the evidence from its targets and
// certificates, and, if not nil, a change of the plan such as a rejection by the API server.
type scenario func(*history) (clusterEvidence, func(*history, *changePlan))

func healthStates() map[string]scenario {
	return map[string]scenario{
		"healthy_stable":                after(settled),
		"progressing_generationNotSeen": after(settled),
		"healthy_publishing": func(s *history) (clusterEvidence, func(*history, *changePlan)) {
			triggered(s)
			s.act(all)
			return clusterEvidence{targets: injector.Targets{All: 3, Current: 1}, Evidence: rotation.Evidence{OutOfDate: 2, OutOfDateNames: []string{"ConfigMap shop/trust"}}}, nil
		},
		"healthy_propagating": after(triggered, settled),
		"healthy_reissuing": func(s *history) (clusterEvidence, func(*history, *changePlan)) {
			triggered(s)
			settled(s)
			s.now = s.now.Add(timeout)
			s.act(all)
			return clusterEvidence{Evidence: rotation.Evidence{Outstanding: 5, OutstandingNames: []string{"shop/web"}}}, nil
		},
		"healthy_retiring":     after(triggered, func(s *history) { s.pass() }),
		"healthy_heldRotation": after(settled, func(s *history) { s.pause(); s.now = s.now.Add(51 * day) }),
		"healthy_noSuccessor":  after(func(s *history) { s.brings(100 * day) }, settled, func(s *history) { s.now = s.now.Add(51 * day) }),
		"healthy_targetsBlocked": func(s *history) (clusterEvidence, func(*history, *changePlan)) {
			settled(s)
			return clusterEvidence{targets: injector.Targets{All: 3, Current: 2, Blocked: 1}}, nil
		},
		"healthy_requestsToRenew": func(s *history) (clusterEvidence, func(*history, *changePlan)) {
			settled(s)
			return clusterEvidence{targets: injector.Targets{All: 3, Current: 3}, unverified: 1, unverifiedNames: []string{"cmctl renew -n shop web"}}, nil
		},
		"progressing_sourceNotThere": after(func(s *history) { s.brings(day); s.sourceSecret = nil }),
		"progressing_sourceGone":     after(func(s *history) { s.brings(100 * day) }, settled, func(s *history) { s.sourceSecret = nil }),
		"progressing_certManager": after(func(s *history) {
			s.serviceCA.Spec.Source.CertManager = &v1alpha1.CertManagerSource{IssuerRef: v1alpha1.IssuerReference{Kind: "ClusterIssuer", Name: "corp"}}
		}),
		"progressing_notYetValid":       after(settled, func(s *history) { s.now = s.now.Add(-day) }),
		"progressing_signingKeyLost":    after(settled, func(s *history) { keyLost(s); s.settle() }),
		"degraded_signingKeyLostPaused": after(settled, keyLost, (*history).pause),
		"degraded_sourceInvalid":        after(func(s *history) { s.brings(day); s.sourceSecret.Data = nil }),
		"degraded_weakCA":               after(weakInUse, (*history).pause),
		"degraded_signingKeyNotOurs":    after(settled, func(s *history) { delete(s.secret.Labels, v1alpha1.LabelServiceCA) }),
		"degraded_signingKeyElsewhere": after(settled, func(s *history) {
			s.secret, s.keyOutside = nil, &types.NamespacedName{Namespace: "operators", Name: "default-signing-key"}
		}),
		"degraded_signingKeyRefused":  refused(reasonKeyRefused, "secrets", "default-signing-key"),
		"degraded_trustBundleRefused": refused(reasonBundleRefused, "configmaps", "default-trust-bundle"),
		"degraded_trustBundleNotOurs": func(*history) (clusterEvidence, func(*history, *changePlan)) {
			return clusterEvidence{}, func(s *history, plan *changePlan) {
				*plan = changePlan{problem: s.bundleNotOurs(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "default-trust-bundle"}})}
			}
		},
	}
}

// after returns the scenario in which these changes happen in order.
func after(things ...func(*history)) scenario {
	return func(s *history) (clusterEvidence, func(*history, *changePlan)) {
		for _, thing := range things {
			thing(s)
		}
		return clusterEvidence{}, nil
	}
}

func settled(s *history) { s.settle() }

func triggered(s *history) { s.settle(); s.rotation().Trigger = "now" }

func weakInUse(s *history) {
	t, _ := s.t.(*testing.T)
	given := fixture{t, s.observed}
	given.inUse(weakRoot(t))
	s.secret = given.secret
}

func keyLost(s *history) { s.corrupt(corev1.TLSCertKey, nil); s.corrupt(corev1.TLSPrivateKeyKey, nil) }

func refused(reason, resource, name string) scenario {
	return func(*history) (clusterEvidence, func(*history, *changePlan)) {
		return clusterEvidence{}, func(s *history, plan *changePlan) {
			err := apierrors.NewForbidden(corev1.Resource(resource), name, errors.New("exceeded quota"))
			if plan.asProblem(reason, err) != nil {
				s.t.Fatal("a refusal is not taken for one")
			}
		}
	}
}

// everyReason fails the test unless the states contain each reason for which a ServiceCA is not
// Ready, and docs/serviceca.md documents exactly these reasons.
func everyReason(t *testing.T, states map[string]*v1alpha1.ServiceCA) {
	t.Helper()
	has := map[string]bool{}
	for _, state := range states {
		if ready := meta.FindStatusCondition(state.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
			has[ready.Reason] = true
		}
	}
	file, err := parser.ParseFile(token.NewFileSet(), "plan.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	reported := map[string]bool{}
	ast.Inspect(file, func(node ast.Node) bool {
		declared, ok := node.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(declared.Names[0].Name, "reason") {
			return true
		}
		literal, _ := declared.Values[0].(*ast.BasicLit)
		reason, _ := strconv.Unquote(literal.Value)
		reported[reason] = reason != reasonReady
		return true
	})
	reported[eventSigningKeyLost] = true
	for reason := range reported {
		if !has[reason] {
			t.Errorf("no state has the reason %q", reason)
		}
	}
	page, err := os.ReadFile("../../docs/serviceca.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "| Reason of `Ready=False` | |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	documented := map[string]bool{reasonReady: false}
	for row := range strings.Lines(table) {
		for _, reason := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(strings.Split(row, "|")[1], -1) {
			documented[reason[1]] = true
		}
	}
	if diff := cmp.Diff(reported, documented); diff != "" {
		t.Errorf("docs/serviceca.md tells of other reasons than there are: %s", diff)
	}
}
