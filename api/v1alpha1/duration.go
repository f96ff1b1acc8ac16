package v1alpha1

import "time"

// The length and the digits of a Duration are bounded so that whatever matches its rule fits into a time.Duration. Every rule that
// computes with a duration excuses those that do not match, so that the person reads the one sentence that helps.

// Duration is a length of time in Go's form, such as 90m or 2160h.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=20
// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,6}([.][0-9]{1,3})?(h|m|s|ms))+$')",message="write a duration as numbers with the units h, m, s and ms, such as 90m, 36h or 2160h (90 days); there is no unit for days"
type Duration string

// Std is the same length as a time.Duration; zero where the API server's validation was bypassed.
func (d Duration) Std() time.Duration {
	std, err := time.ParseDuration(string(d))
	if err != nil {
		return 0
	}
	return std
}
