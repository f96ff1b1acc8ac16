package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/hack/cluster"
)

const operatorNamespace = "servingcert-system"

// bench is a cluster, the manager in it, and the measured values.
type bench struct {
	cluster *cluster.Cluster
	kube    client.WithWatch
	typed   *kubernetes.Clientset
	manager *exec.Cmd
	// services is the number of Services in the cluster, or of namespaces in the part that measures
	// publishing.
	services int
	// floorRate is how many objects per second plain writers create.
	floorRate float64
	// watches are the watches that a step has started.
	watches []watch.Interface
	rows    rows
}

func start(ctx context.Context, services int) (*bench, error) {
	running, err := cluster.Start(ctx, cluster.Options{CRDs: []string{filepath.Join("config", "crd", "bases")}})
	if err != nil {
		return nil, err
	}
	b := &bench{cluster: running, services: services}
	config := *running.Config
	config.QPS = -1
	clientScheme := scheme.Scheme
	if err := v1alpha1.AddToScheme(clientScheme); err != nil {
		return b, err
	}
	if b.kube, err = client.NewWithWatch(&config, client.Options{Scheme: clientScheme}); err != nil {
		return b, err
	}
	if b.typed, err = kubernetes.NewForConfig(&config); err != nil {
		return b, err
	}
	return b, b.kube.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: operatorNamespace}})
}

func (b *bench) stop() {
	b.stopManager()
	if err := b.cluster.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// startManager starts bin/manager as a separate process, so that its memory and CPU time can be
// measured.
func (b *bench) startManager(ctx context.Context, arguments ...string) error {
	log, err := os.Create(filepath.Join(b.cluster.Dir, "manager.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	arguments = append(arguments, "--kubeconfig="+b.cluster.Kubeconfig, "--health-probe-bind-address=0")
	b.manager = exec.CommandContext(ctx, filepath.Join("bin", "manager"), arguments...)
	b.manager.Stdout, b.manager.Stderr = log, log
	return b.manager.Start()
}

func (b *bench) stopManager() {
	if b.manager == nil {
		return
	}
	// An error means that the manager has exited already.
	_ = b.manager.Process.Signal(syscall.SIGTERM)
	_ = b.manager.Wait()
	b.manager = nil
}

// cpu returns the CPU time that the manager has used.
func (b *bench) cpu() (time.Duration, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.manager.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The name is in parentheses and may contain spaces; utime and stime are the 12th and 13th fields
	// after it.
	fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
	user, err := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	const ticks = 100
	return time.Duration(user+system) * time.Second / ticks, errors.Join(err, err2)
}

// memory returns a line of the manager's /proc status in MiB: VmRSS for the present value, VmHWM
// for the maximum.
func (b *bench) memory(line string) (float64, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.manager.Process.Pid))
	if err != nil {
		return 0, err
	}
	for each := range strings.Lines(string(content)) {
		if name, value, _ := strings.Cut(each, ":"); name == line {
			kilobytes, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return kilobytes / 1024, err
		}
	}
	return 0, fmt.Errorf("no %s in the status of the manager", line)
}

// writes returns the number of successful writes that the API server has counted, by verb and
// resource.
func (b *bench) writes(ctx context.Context) (map[string]float64, error) {
	return b.requests(ctx, func(labels map[string]string) bool {
		switch labels["verb"] {
		case "POST", "PUT", "PATCH", "APPLY", "DELETE":
			// A review is only a query, of which nothing is stored; a lease may be the API server's own.
			return !strings.HasSuffix(labels["resource"], "reviews") && labels["resource"] != "leases" &&
				strings.HasPrefix(labels["code"], "2") && labels["dry_run"] == ""
		}
		return false
	})
}

// reads returns the number of GET requests for a single ConfigMap. The bench itself only lists.
func (b *bench) reads(ctx context.Context) (float64, error) {
	counted, err := b.requests(ctx, func(labels map[string]string) bool {
		return labels["verb"] == "GET" && labels["resource"] == "configmaps"
	})
	return counted["GET configmaps"], err
}

// requests returns the number of requests that the API server has counted and for which counts
// returns true, by verb and resource.
func (b *bench) requests(ctx context.Context, counts func(labels map[string]string) bool) (map[string]float64, error) {
	raw, err := b.typed.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	counted := map[string]float64{}
	for _, metric := range families["apiserver_request_total"].GetMetric() {
		labels := map[string]string{}
		for _, pair := range metric.GetLabel() {
			labels[pair.GetName()] = pair.GetValue()
		}
		if counts(labels) {
			resource := strings.TrimSuffix(labels["resource"]+"/"+labels["subresource"], "/")
			counted[labels["verb"]+" "+resource] += metric.GetCounter().GetValue()
		}
	}
	return counted, nil
}

// since returns the difference between two counts of writes.
func since(before, after map[string]float64) map[string]float64 {
	made := map[string]float64{}
	for what, number := range after {
		if number > before[what] {
			made[what] = number - before[what]
		}
	}
	return made
}

// watch starts to watch a kind in the namespaces with this prefix. The returned function waits
// until this many further objects were written, and returns how many there were per second after
// the first. It counts each object only once.
func (b *bench) watch(ctx context.Context, kind, prefix string) (arrive func(number int) (perSecond float64, err error), err error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind + "List"))
	if err := b.kube.List(ctx, list, client.Limit(1)); err != nil {
		return nil, err
	}
	written, err := b.kube.Watch(ctx, list, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})
	if err != nil {
		return nil, err
	}
	b.watches = append(b.watches, written)
	visited := map[types.UID]bool{}
	return func(number int) (float64, error) {
		var start time.Time
		for count := 0; count < number; {
			event, open := <-written.ResultChan()
			if !open {
				return 0, fmt.Errorf("the watch of every %s has ended: %w", kind, ctx.Err())
			}
			object, err := meta.Accessor(event.Object)
			if err != nil || !strings.HasPrefix(object.GetNamespace(), prefix) || visited[object.GetUID()] {
				continue
			}
			if visited[object.GetUID()] = true; count == 0 {
				start = time.Now()
			}
			count++
		}
		return float64(number-1) / time.Since(start).Seconds(), nil
	}, nil
}
