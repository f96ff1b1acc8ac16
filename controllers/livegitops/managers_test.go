package livegitops_test

import (
	"regexp"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// row matches a row of the table in docs/gitops.md: the field manager, absent if it is that of the
// row above, and the objects.
var row = regexp.MustCompile("(?m)^\\| (?:`(servingcert-[a-z]+)`)? *\\| ([^|]+) \\|")

// managersAreDocumented checks that docs/gitops.md names the field manager of every object that the
// operator writes, and that no write of the operator's lacks one.
func (r *repository) managersAreDocumented() {
	r.Helper()
	documented, manager := map[string]string{}, ""
	for _, match := range row.FindAllStringSubmatch(string(read(r.T, "docs", "gitops.md")), -1) {
		if match[1] != "" {
			manager = match[1]
		}
		documented[manager] += match[2] + "\n"
	}
	for kind, object := range map[string]client.Object{
		"ServiceCA":              get(r.T, "", r.realm, &v1alpha1.ServiceCA{}),
		"ServingCertPolicy":      r.policies()[1],
		"signing-key Secret":     get(r.T, operatorNamespace, r.realm+"-signing-key", &corev1.Secret{}),
		"trust-bundle ConfigMap": get(r.T, operatorNamespace, r.realm+"-trust-bundle", &corev1.ConfigMap{}),
		"ClusterTrustBundle":     get(r.T, "", "servingcert.dev:"+r.realm+":bundle", &certificatesv1.ClusterTrustBundle{}),
		"Service's Secret":       get(r.T, r.realm, "web-tls", &corev1.Secret{}),
		"Service":                get(r.T, r.realm, "openshift", &corev1.Service{}),
		"Deployment":             get(r.T, r.realm, "web", &appsv1.Deployment{}),
		"ConfigMap that asks":    get(r.T, r.realm, "trust", &corev1.ConfigMap{}),
		"Secret that asks":       get(r.T, r.realm, "java", &corev1.Secret{}),
		"webhook configuration":  get(r.T, "", r.realm, &admissionregistrationv1.ValidatingWebhookConfiguration{}),
	} {
		ours := 0
		for _, entry := range object.GetManagedFields() {
			if entry.Manager == nameless {
				r.Errorf("the operator wrote a %s and did not say who it is", kind)
			}
			if !strings.HasPrefix(entry.Manager, "servingcert-") {
				continue
			}
			ours++
			if !strings.Contains(documented[entry.Manager], kind) {
				r.Errorf("docs/gitops.md does not say that %s writes a %s, but only\n%s", entry.Manager, kind, documented[entry.Manager])
			}
		}
		if ours == 0 {
			r.Errorf("a %s has no manager of ours", kind)
		}
	}
}
