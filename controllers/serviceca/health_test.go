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
	"github.com/servingcert/operator/controllers/internal/rotation"
	"github.com/servingcert/operator/controllers/trust"
	"github.com/servingcert/operator/hack/gitops"
)

// The states that the conditions of a ServiceCA can be in lie in config/argocd, where Argo CD's health script and kstatus are tried on them.
func TestHealth(t *testing.T) {
	t.Parallel()
	states := map[string]*v1alpha1.ServiceCA{}
	for name, given := range healthStates() {
		s := newHistory(t)
		seen, refused := given(s)
		decided := plan(s.observed, resolve(s.observed), seen)
		if refused != nil {
			refused(s, &decided)
		}
		s.serviceCA.Status = buildStatus(s.now, s.serviceCA, decided, seen)
		states[name] = s.serviceCA
	}
	states["progressing_generationNotSeen"].Generation++
	states["progressing_new"] = newHistory(t).serviceCA
	states["progressing_new"].Status.ObservedGeneration = -1 // as the CRD has it
	gitops.Keep(t, "../../config/argocd/resource_customizations/servingcert.dev/ServiceCA/testdata", "ServiceCA", states)
	everyReason(t, states)
}

// happens is what a ServiceCA has come to: what is seen of its targets and certificates, and what the API server refuses.
type happens func(*history) (evidence, func(*history, *step))

func healthStates() map[string]happens {
	return map[string]happens{
		"healthy_stable":                after(settled),
		"progressing_generationNotSeen": after(settled),
		"healthy_publishing": func(s *history) (evidence, func(*history, *step)) {
			triggered(s)
			s.act(all)
			return evidence{targets: trust.Targets{All: 3, Current: 1}, Evidence: rotation.Evidence{Behind: 2, BehindNames: []string{"ConfigMap shop/trust"}}}, nil
		},
		"healthy_propagating": after(triggered, settled),
		"healthy_reissuing": func(s *history) (evidence, func(*history, *step)) {
			triggered(s)
			settled(s)
			s.now = s.now.Add(patience)
			s.act(all)
			return evidence{Evidence: rotation.Evidence{Outstanding: 5, OutstandingNames: []string{"shop/web"}}}, nil
		},
		"healthy_retiring":     after(triggered, func(s *history) { s.pass() }),
		"healthy_heldRotation": after(settled, func(s *history) { s.pause(); s.now = s.now.Add(51 * day) }),
		"healthy_noSuccessor":  after(func(s *history) { s.brings(100 * day) }, settled, func(s *history) { s.now = s.now.Add(51 * day) }),
		"healthy_targetsBlocked": func(s *history) (evidence, func(*history, *step)) {
			settled(s)
			return evidence{targets: trust.Targets{All: 3, Current: 2, Blocked: 1}}, nil
		},
		"healthy_requestsToRenew": func(s *history) (evidence, func(*history, *step)) {
			settled(s)
			return evidence{targets: trust.Targets{All: 3, Current: 3}, unverified: 1, unverifiedNames: []string{"cmctl renew -n shop web"}}, nil
		},
		"progressing_sourceNotThere": after(func(s *history) { s.brings(day); s.brought = nil }),
		"progressing_sourceGone":     after(func(s *history) { s.brings(100 * day) }, settled, func(s *history) { s.brought = nil }),
		"progressing_certManager": after(func(s *history) {
			s.serviceCA.Spec.Source.CertManager = &v1alpha1.CertManagerSource{IssuerRef: v1alpha1.IssuerReference{Kind: "ClusterIssuer", Name: "corp"}}
		}),
		"progressing_notYetValid":       after(settled, func(s *history) { s.now = s.now.Add(-day) }),
		"progressing_signingKeyLost":    after(settled, func(s *history) { keyLost(s); s.settle() }),
		"degraded_signingKeyLostPaused": after(settled, keyLost, (*history).pause),
		"degraded_sourceInvalid":        after(func(s *history) { s.brings(day); s.brought.Data = nil }),
		"degraded_weakCA":               after(weakInUse, (*history).pause),
		"degraded_signingKeyNotOurs":    after(settled, func(s *history) { delete(s.secret.Labels, v1alpha1.LabelServiceCA) }),
		"degraded_signingKeyElsewhere": after(settled, func(s *history) {
			s.secret, s.elsewhere = nil, &types.NamespacedName{Namespace: "operators", Name: "default-signing-key"}
		}),
		"degraded_signingKeyRefused":  refused(reasonKeyRefused, "secrets", "default-signing-key"),
		"degraded_trustBundleRefused": refused(reasonBundleRefused, "configmaps", "default-trust-bundle"),
		"degraded_trustBundleNotOurs": func(*history) (evidence, func(*history, *step)) {
			return evidence{}, func(s *history, decided *step) {
				*decided = step{problem: s.bundleNotOurs(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "default-trust-bundle"}})}
			}
		},
	}
}

// after is what comes of one thing after the other.
func after(things ...func(*history)) happens {
	return func(s *history) (evidence, func(*history, *step)) {
		for _, thing := range things {
			thing(s)
		}
		return evidence{}, nil
	}
}

func settled(s *history) { s.settle() }

func triggered(s *history) { s.settle(); s.rotation().Trigger = "now" }

func weakInUse(s *history) {
	t, _ := s.t.(*testing.T)
	given := scene{t, s.observed}
	given.inUse(weakRoot(t))
	s.secret = given.secret
}

func keyLost(s *history) { s.spoil(corev1.TLSCertKey, nil); s.spoil(corev1.TLSPrivateKeyKey, nil) }

func refused(reason, resource, name string) happens {
	return func(*history) (evidence, func(*history, *step)) {
		return evidence{}, func(s *history, decided *step) {
			err := apierrors.NewForbidden(corev1.Resource(resource), name, errors.New("exceeded quota"))
			if decided.refused(reason, err) != nil {
				s.t.Fatal("a refusal is not taken for one")
			}
		}
	}
}

// everyReason fails unless each reason for which a ServiceCA is not Ready is among the states, and docs/serviceca.md tells of these and no other.
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
	told := map[string]bool{}
	ast.Inspect(file, func(node ast.Node) bool {
		declared, is := node.(*ast.ValueSpec)
		if !is || !strings.HasPrefix(declared.Names[0].Name, "reason") {
			return true
		}
		literal, _ := declared.Values[0].(*ast.BasicLit)
		reason, _ := strconv.Unquote(literal.Value)
		told[reason] = reason != reasonReady
		return true
	})
	told[eventSigningKeyLost] = true
	for reason := range told {
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
	if diff := cmp.Diff(told, documented); diff != "" {
		t.Errorf("docs/serviceca.md tells of other reasons than there are: %s", diff)
	}
}
