// Command controlplane is etcd and Kubernetes in one binary, so that a cluster for tests and trials
// needs Go and nothing else. It runs the component whose name it is called by; ./build compiles it
// and creates the links with these names.
package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	_ "time/tzdata" // for the time zones of CronJobs, whatever the host has

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // for kubectl against other clusters
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"

	"github.com/servingcert/operator/hack/controlplane/hollownode"
)

// components maps the name of each link to what the binary runs under that name. ./build creates
// links with the same names.
var components = map[string]func(){
	"etcd":                    func() { etcdmain.Main(os.Args) },
	"kube-apiserver":          func() { run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() { run(controllermanager.NewControllerManagerCommand()) },
	"kube-scheduler":          func() { run(scheduler.NewSchedulerCommand()) },
	"kubectl":                 func() { kubectlutil.CheckErr(cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand())) },
	"hollow-node":             func() { run(hollownode.NewCommand()) },
}

func main() {
	component, ok := components[filepath.Base(os.Args[0])]
	if !ok {
		fmt.Fprintf(os.Stderr, "call me by one of these names: %q\n", slices.Sorted(maps.Keys(components)))
		os.Exit(2)
	}
	dieWithParent()
	component()
}

func run(command *cobra.Command) {
	os.Exit(cli.Run(command))
}
