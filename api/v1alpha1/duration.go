package v1alpha1

import "time"

// The length and the digits of a Duration are limited so that every value that matches its rule
// fits into a time.Duration. Every rule that computes with a Duration skips values that do not
// match, so that the user gets only the one message that helps.

// Duration is a length of time in Go's format, such as 90m or 2160h.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=20
// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,6}([.][0-9]{1,3})?(h|m|s|ms))+$')",message="write a duration as numbers with the units h, m, s and ms, such as 90m, 36h or 2160h (90 days); there is no unit for days"
type Duration string

// Std returns the duration as a time.Duration; zero if the value bypassed the API server's
// validation.
func (d Duration) Std() time.Duration {
	std, err := time.ParseDuration(string(d))
	if err != nil {
		return 0
	}
	return std
}
