package main

import (
	"fmt"
	"path/filepath"
)

// suggestion is a command to try, with its purpose.
type suggestion struct {
	what, command string
}

// suggestions are commands that work while the demo is running.
var suggestions = []suggestion{
	{"Ask for a certificate for another Service, and see the Secret come:",
		"kubectl annotate service api -n demo servingcert.dev/secret-name=api-tls && kubectl wait --for=create secret/api-tls -n demo"},
	{"Rotate the CA, as a commit would: the phases are among the Events, and no handshake fails:",
		"kubectl patch serviceca default --type=merge -p '{\"spec\":{\"rotation\":{\"trigger\":\"first\",\"propagation\":{\"minimum\":\"10s\"}}}}' && " +
			"kubectl wait serviceca/default --for=jsonpath='{.status.rotation.phase}'=Retiring --timeout=2m && kubectl describe serviceca default"},
	{"Read why a certificate was made:",
		"kubectl describe service web -n demo"},
}

func (d *demo) printWhatNext() {
	fmt.Fprintf(d.out, "\nThis stays up until Ctrl-C. In another terminal:\n")
	if d.target.embedded != nil {
		fmt.Fprintf(d.out, "\n  export KUBECONFIG=%s\n", d.target.embedded.Kubeconfig)
		fmt.Fprintf(d.out, "  export PATH=%s:$PATH\n", filepath.Join(d.root, "bin", "k8s"))
	}
	for _, s := range suggestions {
		fmt.Fprintf(d.out, "\n  # %s\n  %s\n", s.what, s.command)
	}
}
