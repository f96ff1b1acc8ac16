// Command main runs the operator: it parses flags, creates the manager and wires the controllers.
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"time"
	_ "time/tzdata" // the image has no time zones, which restart windows name

	uberzap "go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	registry "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/servingcert/operator/controllers"
	"github.com/servingcert/operator/controllers/metrics"
	"github.com/servingcert/operator/controllers/restart"
)

const (
	// ballast is the size of a block of memory that is never written to. It uses no physical
	// memory, but counts as in use, so that the garbage collector does not run constantly while
	// little memory is in use.
	ballast = 48 << 20
	// gcPercent starts a garbage collection when garbage reaches 40 % of the memory in use, instead
	// of Go's default of 100 %.
	gcPercent = 40
)

// freeMemoryInterval is how often unused memory is returned to the node. Each time costs a garbage
// collection.
const freeMemoryInterval = 30 * time.Second

// version is set at build time; see the Makefile.
var version = "devel"

// flags holds the command-line flags. controller-runtime defines --kubeconfig.
type flags struct {
	namespace, clusterDomain, metricsAddress, metricsCertDir, probeAddress string

	leaderElect, version bool
	reissueRate          float64
	restartKinds         []schema.GroupVersionResource
	log                  zap.Options
}

// defaultReissueRate follows from a budget of 50 writes per second, a twentieth of what a small API
// server handles. A certificate costs one write of its Secret, at most one Event, and one write of
// its Service if the Service uses OpenShift's annotations.
const defaultReissueRate = 50 / 2.5

func parseFlags() flags {
	var f flags
	flag.StringVar(&f.namespace, "namespace", "servingcert-system", "the operator's own namespace, which holds the signing keys")
	flag.StringVar(&f.clusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster, for policies that name none")
	flag.StringVar(&f.metricsAddress, "metrics-bind-address", "0", "address of the metrics endpoint, such as :8080; 0 turns it off")
	flag.StringVar(&f.metricsCertDir, "metrics-cert-dir", "",
		"folder of the tls.crt and tls.key that metrics are served with, to whom the API server lets get /metrics; empty for no TLS, and anybody")
	flag.StringVar(&f.probeAddress, "health-probe-bind-address", ":8081", "address of /healthz and /readyz; 0 turns them off")
	flag.BoolVar(&f.leaderElect, "leader-elect", false, "let one of several replicas work at a time")
	flag.Float64Var(&f.reissueRate, "reissue-rate", defaultReissueRate, "certificates reissued in a second after a CA has rotated; 0 for no limit")
	flag.Func("restart-kinds",
		"further kinds of workloads to restart by eviction, as resource.version.group, separated by commas; may be given more than once", f.addRestartKinds)
	flag.BoolVar(&f.version, "version", false, "print the version, and end")
	f.log.BindFlags(flag.CommandLine)
	flag.Parse()
	return f
}

func (f *flags) addRestartKinds(list string) error {
	kinds, err := restart.ParseKinds(list)
	f.restartKinds = append(f.restartKinds, kinds...)
	return err
}

func main() {
	f := parseFlags()
	if f.version {
		fmt.Fprintln(os.Stdout, version)
		return
	}
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&f.log), zap.WriteTo(controllers.LogWriter(os.Stderr)), withoutBodies,
		zap.RawZapOpts(uberzap.WrapCore(func(core zapcore.Core) zapcore.Core { return lazyCore{core} }))))
	if err := run(f); err != nil {
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(1)
	}
}

// bodiesVerbosity is the verbosity from which client-go logs the bodies of requests and responses,
// which contain the keys of every Secret.
const bodiesVerbosity = 8

// withoutBodies keeps the level of a logger below bodiesVerbosity.
func withoutBodies(options *zap.Options) {
	if options.Level != nil {
		options.Level = belowBodies{options.Level}
	}
}

type belowBodies struct{ zapcore.LevelEnabler }

// Enabled reports whether messages of the level are logged. zap negates the verbosity: verbosity 8
// is level -8.
func (b belowBodies) Enabled(level zapcore.Level) bool {
	return level > -bodiesVerbosity && b.LevelEnabler.Enabled(level)
}

// lazyCore encodes the fields of a logger only when it writes a line. Each reconciliation creates
// its own logger, and few of them write one.
type lazyCore struct{ zapcore.Core }

// With returns a core with more fields.
func (l lazyCore) With(fields []zapcore.Field) zapcore.Core {
	return lazyCore{zapcore.NewLazyWith(l.Core, fields)}
}

func run(f flags) error {
	ctx := ctrl.SetupSignalHandler()
	ctrl.Log.Info("servingcert operator", "version", version, "go", runtime.Version())
	mgr, err := newManager(f)
	if err != nil {
		return err
	}
	err = controllers.Setup(ctx, mgr, controllers.Options{
		Namespace: f.namespace, ClusterDomain: f.clusterDomain, Clock: clock.RealClock{}, ReissueRate: f.reissueRate,
		Metrics: registry.Registry, RestartKinds: f.restartKinds,
	})
	if err != nil {
		return err
	}
	// The operator trades CPU time for memory, and returns memory to the node after a burst of
	// work.
	weight := make([]byte, ballast)
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		// GOMEMLIMIT is the container's limit. The collector gets 90 % of it, because it does not
		// manage all memory of the process; the ballast is added because it uses none.
		debug.SetMemoryLimit(limit/10*9 + ballast)
	}
	defer runtime.KeepAlive(weight)
	debug.SetGCPercent(gcPercent)
	go wait.Until(debug.FreeOSMemory, freeMemoryInterval, ctx.Done())
	return mgr.Start(ctx)
}

func newManager(f flags) (manager.Manager, error) {
	config, err := ctrl.GetConfig()
	if err != nil {
		return nil, err
	}
	config.UserAgent = fmt.Sprintf("servingcert-operator/%s (%s/%s)", version, runtime.GOOS, runtime.GOARCH)
	// The API server's Priority and Fairness limits the rate, and the client honours 429 with
	// Retry-After. A client-side limit would only add delay.
	config.QPS = -1
	// Kubernetes' own controllers do the same: compression took most of the API server's time for
	// an event of a watch.
	config.DisableCompression = true
	options, err := controllers.ManagerOptions()
	if err != nil {
		return nil, err
	}
	options.Metrics = metrics.Server(f.metricsAddress, f.metricsCertDir)
	options.HealthProbeBindAddress = f.probeAddress
	options.LeaderElection = f.leaderElect
	options.LeaderElectionID = "servingcert-operator"
	options.LeaderElectionNamespace = f.namespace
	options.LeaderElectionReleaseOnCancel = true
	return ctrl.NewManager(config, options)
}
