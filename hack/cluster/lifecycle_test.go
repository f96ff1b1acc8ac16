package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// holder is the environment variable that makes this test binary keep a cluster running until it is
// killed.
const holder = "CLUSTER_TEST_HOLDER"

func TestMain(m *testing.M) {
	if os.Getenv(holder) != "" {
		hold()
	}
	os.Exit(m.Run())
}

func hold() {
	c, err := Start(context.Background(), Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(c.etcd.address(), c.apiserver.address())
	<-c.Failed()
}

func TestComponentsDieWithWhoStartedThem(t *testing.T) {
	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = append(os.Environ(), holder+"=1", "TMPDIR="+t.TempDir())
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "127.0.0.1:") {
		t.Fatalf("%s (%v)", line, err)
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait()
	for address := range strings.FieldsSeq(line) {
		eventually(t, "the end of "+address, func(ctx context.Context) error { return silent(ctx, address) })
	}
}

func silent(ctx context.Context, address string) error {
	connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(errors.New("somebody answers"), connection.Close())
}

func TestAComponentThatEndsIsReported(t *testing.T) {
	c, err := Start(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, c)
	if err := c.Err(); err != nil {
		t.Errorf("a failure is reported while all is well: %v", err)
	}
	if err := c.processes[1].command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Failed():
	case <-time.After(patience):
		t.Fatal("nobody notices")
	}
	for _, want := range []string{"kube-apiserver ended by itself (exit status 0)", "Shutting down"} {
		if got := c.Err().Error(); !strings.Contains(got, want) {
			t.Errorf("%q does not say %q", got, want)
		}
	}
}

func TestAStartThatFailsLeavesNothing(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx     context.Context
		options Options
		want    string
	}{
		"no binaries":     {t.Context(), Options{Binaries: t.TempDir()}, "make controlplane"},
		"no CRDs":         {t.Context(), Options{CRDs: []string{"missing"}}, "missing"},
		"nobody waits":    {cancelled, Options{}, "canceled"},
		"no way to start": {t.Context(), Options{Binaries: brokenBinaries(t)}, "out of order"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			t.Setenv("TMPDIR", folder)
			if _, err := Start(test.ctx, test.options); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v does not say %q", err, test.want)
			}
			if left, err := os.ReadDir(folder); err != nil || len(left) != 0 {
				t.Errorf("files are left: %v (%v)", left, err)
			}
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
				t.Errorf("processes are left: %d (%v)", pid, err)
			}
		})
	}
}

// brokenBinaries returns a folder of components that print a message and exit.
func brokenBinaries(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for _, component := range []string{"etcd", "kube-apiserver"} {
		script := "#!/bin/sh\necho " + component + " is out of order >&2\nexit 3\n"
		if err := os.WriteFile(folder+"/"+component, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func TestClustersRunSideBySide(t *testing.T) {
	clusters := make([]*Cluster, 2)
	var starting sync.WaitGroup
	for i := range clusters {
		starting.Go(func() { clusters[i] = start(t, Options{}) })
	}
	starting.Wait()
	hosts := map[string]bool{}
	for _, c := range clusters {
		if _, err := c.client.Discovery().ServerVersion(); err != nil {
			t.Error(err)
		}
		server, err := url.Parse(c.Config.Host)
		if err != nil || server.Hostname() != "127.0.0.1" {
			t.Errorf("listens on %s (%v)", c.Config.Host, err)
		}
		hosts[c.Config.Host] = true
	}
	if len(hosts) != len(clusters) {
		t.Errorf("clusters share an address: %v", hosts)
	}
}
