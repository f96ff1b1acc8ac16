package main

import (
	"fmt"
	"strings"

	"github.com/operator-framework/api/pkg/operators/v1alpha1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// field is a field that consoles show, and its display name. Its description and its input follow
// from the CRD.
type field struct{ path, name string }

// shown is how consoles show a kind.
type shown struct {
	name, description string
	resources         []v1alpha1.APIResourceReference
	spec, status      []field
}

var kinds = map[string]shown{
	"ServiceCA": {
		name:        "Service CA",
		description: "A certificate authority for the Services of the cluster, with its trust bundle and its rotation.",
		resources:   []v1alpha1.APIResourceReference{{Kind: "Secret", Version: "v1"}, {Kind: "ConfigMap", Version: "v1"}},
		spec: []field{
			{"source.secret.name", "Secret with your own CA"},
			{"source.certManager.issuerRef.name", "Issuer of cert-manager"},
			{"certificate.commonName", "Common name"},
			{"certificate.duration", "Lifetime"},
			{"certificate.privateKey.algorithm", "Key algorithm"},
			{"certificate.privateKey.encoding", "Key encoding"},
			{"rotation.rotateBefore", "Rotate before"},
			{"rotation.mode", "Rotation mode"},
			{"rotation.trigger", "Rotation trigger"},
			{"rotation.triggerReason", "Reason of the trigger"},
			{"rotation.propagation.minimum", "Shortest propagation"},
			{"rotation.previousTrust", "Trust in replaced CAs"},
			{"signingKey.secretName", "Signing-key Secret"},
			{"trustBundle.configMapName", "Trust-bundle ConfigMap"},
		},
		status: []field{
			{"conditions", "Conditions"},
			{"rotation.phase", "Phase of the rotation"},
			{"rotation.blockedBy", "Rotation waits for"},
			{"nextRotationTime", "Next rotation"},
			{"active.subject", "Active CA"},
			{"active.notAfter", "Active CA expires"},
			{"active.certificates", "Certificates of the active CA"},
			{"trustBundle.targets", "Targets of the bundle"},
			{"trustBundle.currentTargets", "Targets with the current bundle"},
		},
	},
	"ServingCertPolicy": {
		name:        "Serving certificate policy",
		description: "Which Services get certificates, by which CA, of what kind, and what is restarted for a new one.",
		resources:   []v1alpha1.APIResourceReference{{Kind: "Service", Version: "v1"}, {Kind: "Secret", Version: "v1"}},
		spec: []field{
			{"serviceCAName", "Service CA"},
			{"priority", "Priority"},
			{"namespaceSelector", "Namespaces"},
			{"serviceSelector", "Services"},
			{"issuance", "Issuance"},
			{"secretNameSuffix", "Suffix of Secret names"},
			{"certificate.duration", "Lifetime"},
			{"certificate.renewBefore", "Renew before"},
			{"certificate.privateKey.algorithm", "Key algorithm"},
			{"certificate.privateKey.encoding", "Key encoding"},
			{"certificate.privateKey.rotationPolicy", "New key for each certificate"},
			{"certificate.usages", "Usages"},
			{"certificate.extraDNSNames", "Further DNS names"},
			{"certificate.caBundle", "Bundle beside the certificate"},
			{"restart.strategy", "Restarts"},
			{"restart.consumers", "What is restarted"},
			{"restart.maxConcurrent", "Restarts at once"},
			{"restart.outsideWindows", "Restarts outside the windows"},
			{"restart.onFailure", "After a failed restart"},
		},
		status: []field{
			{"conditions", "Conditions"},
			{"services.matched", "Services"},
			{"services.issued", "Services with a certificate"},
			{"services.failed", "Services that need somebody's doing"},
			{"failures", "Failures"},
			{"nextRenewalTime", "Next renewal"},
			{"earliestExpiry", "Earliest expiry"},
			{"restarts.pending", "Workloads to restart"},
			{"restarts.failed", "Failed restarts"},
		},
	},
}

func describeAll(crds []apiextensionsv1.CustomResourceDefinition) ([]v1alpha1.CRDDescription, error) {
	var all []v1alpha1.CRDDescription
	for i := range crds {
		described, err := describe(&crds[i])
		if err != nil {
			return nil, err
		}
		all = append(all, described)
	}
	return all, nil
}

func describe(crd *apiextensionsv1.CustomResourceDefinition) (v1alpha1.CRDDescription, error) {
	version := crd.Spec.Versions[0]
	kind, ok := kinds[crd.Spec.Names.Kind]
	if !ok {
		return v1alpha1.CRDDescription{}, fmt.Errorf("it is not said how to show a %s", crd.Spec.Names.Kind)
	}
	described := v1alpha1.CRDDescription{
		Name: crd.Name, Kind: crd.Spec.Names.Kind, Version: version.Name,
		DisplayName: kind.name, Description: kind.description, Resources: kind.resources,
	}
	for _, f := range kind.spec {
		schema, err := find(version.Schema.OpenAPIV3Schema, "spec."+f.path)
		if err != nil {
			return described, fmt.Errorf("%s: %w", crd.Name, err)
		}
		described.SpecDescriptors = append(described.SpecDescriptors, v1alpha1.SpecDescriptor{
			Path: f.path, DisplayName: f.name, Description: schema.Description, XDescriptors: input(f.path, schema),
		})
	}
	for _, f := range kind.status {
		schema, err := find(version.Schema.OpenAPIV3Schema, "status."+f.path)
		if err != nil {
			return described, fmt.Errorf("%s: %w", crd.Name, err)
		}
		described.StatusDescriptors = append(described.StatusDescriptors, v1alpha1.StatusDescriptor{
			Path: f.path, DisplayName: f.name, Description: schema.Description, XDescriptors: output(f.path),
		})
	}
	return described, nil
}

// find returns the schema of a field.
func find(schema *apiextensionsv1.JSONSchemaProps, path string) (*apiextensionsv1.JSONSchemaProps, error) {
	for step := range strings.SplitSeq(path, ".") {
		next, ok := schema.Properties[step]
		if !ok {
			return nil, fmt.Errorf("there is no field %s", path)
		}
		schema = &next
	}
	return schema, nil
}

const urn = "urn:alm:descriptor:"

// input returns how a console lets a user enter a field.
func input(path string, schema *apiextensionsv1.JSONSchemaProps) []string {
	switch {
	case path == "namespaceSelector":
		return []string{urn + "com.tectonic.ui:selector:core:v1:Namespace"}
	case path == "serviceSelector":
		return []string{urn + "com.tectonic.ui:selector:core:v1:Service"}
	case path == "source.secret.name":
		return []string{urn + "io.kubernetes:Secret"}
	case len(schema.Enum) > 0:
		var choices []string
		for _, value := range schema.Enum {
			choices = append(choices, urn+"com.tectonic.ui:select:"+strings.Trim(string(value.Raw), `"`))
		}
		return choices
	case schema.Type == "integer":
		return []string{urn + "com.tectonic.ui:number"}
	case schema.Type == "string":
		return []string{urn + "com.tectonic.ui:text"}
	}
	return nil
}

// output returns how a console shows a field.
func output(path string) []string {
	switch path {
	case "conditions":
		return []string{urn + "io.kubernetes.conditions"}
	case "rotation.phase":
		return []string{urn + "io.kubernetes.phase"}
	}
	return []string{urn + "text"}
}
