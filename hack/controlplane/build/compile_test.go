package main

import (
	"strings"
	"testing"
)

func TestSiftTellsProgressFromErrors(t *testing.T) {
	const said = `go: downloading k8s.io/api v0.37.2
k8s.io/api/core/v1
gopkg.in/yaml.v3
# k8s.io/broken
./main.go:3:8: undefined: missing
`
	steps := []string{}
	rest := sift(strings.NewReader(said), func(step string) { steps = append(steps, step) })
	if want := "# k8s.io/broken\n./main.go:3:8: undefined: missing\n"; rest != want {
		t.Errorf("left over is %q, want %q", rest, want)
	}
	if got, want := strings.Join(steps, ","), "k8s.io/api v0.37.2,k8s.io/api/core/v1,gopkg.in/yaml.v3"; got != want {
		t.Errorf("steps are %s, want %s", got, want)
	}
}
