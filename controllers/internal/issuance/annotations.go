package issuance

import (
	"cmp"
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// AnnotationChanges are the changes that a Service's annotations need; nil removes one. signedBy is the common name of the CA of a
// sound certificate, empty without one.
func (r Resolver) AnnotationChanges(service *corev1.Service, problem *Problem, signedBy string) map[string]*string {
	changes := ErrorAnnotationChanges(service.Annotations, problem)
	if r.OpenShiftAnnotations {
		family, _ := r.RequestedSecret(service)
		maps.Copy(changes, openShiftAnnotationChanges(service, family, problem, signedBy))
	}
	return changes
}

// ErrorAnnotationChanges are the changes that an object's annotations need to tell of a problem, or of none; nil removes one.
func ErrorAnnotationChanges(annotations map[string]string, problem *Problem) map[string]*string {
	wanted := map[string]string{}
	if problem != nil {
		wanted[v1alpha1.AnnotationError] = problem.String()
	}
	return diffAnnotations(annotations, wanted, []string{v1alpha1.AnnotationError})
}

func diffAnnotations(annotations, wanted map[string]string, keys []string) map[string]*string {
	changes := map[string]*string{}
	for _, key := range keys {
		value, want := wanted[key]
		current, has := annotations[key]
		switch {
		case want && current != value:
			changes[key] = &value
		case !want && has:
			changes[key] = nil
		}
	}
	return changes
}

// openShiftAnnotationChanges reports in both of OpenShift's families to whoever asked by one of them.
func openShiftAnnotationChanges(service *corev1.Service, requestedFamily Family, problem *Problem, signedBy string) map[string]*string {
	wanted := map[string]string{}
	var keys []string
	for _, family := range openShiftFamilies {
		keys = append(keys, family.key(suffixSignedBy), family.key(suffixError), family.key(suffixErrorNum))
		if !requestedFamily.IsOpenShift() {
			continue
		}
		if signedBy != "" {
			wanted[family.key(suffixSignedBy)] = signedBy
		}
		if problem != nil {
			wanted[family.key(suffixError)] = problem.Message
			wanted[family.key(suffixErrorNum)] = errorNum(service, family, problem.Message)
		}
	}
	return diffAnnotations(service.Annotations, wanted, keys)
}

// errorNum counts the different errors in a row, so that repeating one writes nothing.
func errorNum(service *corev1.Service, family Family, message string) string {
	number, err := strconv.Atoi(service.Annotations[family.key(suffixErrorNum)])
	if err != nil || number < 1 {
		return "1"
	}
	if service.Annotations[family.key(suffixError)] != message {
		number++
	}
	return strconv.Itoa(number)
}

// SignedBy is the CA that a Service was told of.
func SignedBy(service *corev1.Service) string {
	return cmp.Or(service.Annotations[OpenShift.key(suffixSignedBy)], service.Annotations[OpenShiftAlpha.key(suffixSignedBy)])
}
