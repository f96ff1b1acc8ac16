package issuance

import (
	"cmp"
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// AnnotationChanges returns the changes that a Service's annotations need; a nil value removes an
// annotation. signedBy is the common name of the CA that signed the Service's usable certificate,
// empty without one.
func (r Resolver) AnnotationChanges(service *corev1.Service, problem *Problem, signedBy string) map[string]*string {
	changes := ErrorAnnotationChanges(service.Annotations, problem)
	if r.OpenShiftAnnotations {
		family, _ := r.RequestedSecret(service)
		maps.Copy(changes, openShiftAnnotationChanges(service, family, problem, signedBy))
	}
	return changes
}

// ErrorAnnotationChanges returns the changes that make an object's error annotation report the
// problem, or that remove the annotation when problem is nil. A nil value removes an annotation.
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

// openShiftAnnotationChanges returns the changes of the annotations of both OpenShift families. A
// Service that requests its certificate by one of them gets the report in both; the annotations of
// any other Service are removed.
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

// errorNum returns the number of different consecutive errors. Repeating the same error does not
// increase it, so nothing is written for that.
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

// SignedBy returns the common name of the CA that the Service's annotations report, empty without
// one.
func SignedBy(service *corev1.Service) string {
	return cmp.Or(service.Annotations[OpenShift.key(suffixSignedBy)], service.Annotations[OpenShiftAlpha.key(suffixSignedBy)])
}
