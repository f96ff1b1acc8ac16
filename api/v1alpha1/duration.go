package v1alpha1

import "time"

// Duration is a length of time in Go's form, such as 90m or 2160h.
//
// +kubebuilder:validation:MaxLength=32
// +kubebuilder:validation:Pattern=`^([0-9]+([.][0-9]+)?(ms|s|m|h))+$`
type Duration string

// Std is the same length as a time.Duration; zero where the API server's validation was bypassed.
func (d Duration) Std() time.Duration {
	std, err := time.ParseDuration(string(d))
	if err != nil {
		return 0
	}
	return std
}
