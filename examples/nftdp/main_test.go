//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

func TestMain(m *testing.M) { nstest.MainOf(m, main) }

// node is a topology with a directory for files.
type node struct {
	*testing.T
	*nstest.Topology
	dir string
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t, nstest.NewTestTopology(t, 2, "tcp"), t.TempDir()}
	if err := n.Node.Sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1"); err != nil {
		t.Fatal(err)
	}
	n.write("web.yaml", webYAML)
	return n
}

const webYAML = `services:
- name: demo/web
  frontends:
  - {addr: 10.96.0.10, port: 80}
  - port: 80
  backends:
  - addr: 10.180.0.1:8080
  - addr: 10.180.0.2:8080
`

func (n *node) write(name, text string) {
	n.Helper()
	write(n.T, filepath.Join(n.dir, name), text)
}

// nftdp runs the tool in the node with an exit code, and returns what it prints to
// both standard output and standard error.
func (n *node) nftdp(code int, args ...string) string {
	n.Helper()
	return n.fed("", code, args...)
}

func (n *node) fed(stdin string, code int, args ...string) string {
	n.Helper()
	cmd := n.command(args...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
	if err := n.Node.Do(cmd.Start); err != nil {
		n.Fatal(err)
	}
	_ = cmd.Wait() // the exit code is compared
	if got := cmd.ProcessState.ExitCode(); got != code {
		n.Fatalf("nftdp %v: exit code %d, want %d, after\n%s", args, got, code, &out)
	}
	return out.String()
}

func (n *node) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(n.Context(), 30*time.Second)
	n.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Dir, cmd.Env = n.dir, append(os.Environ(), "NFTDP_TEST_PROGRAM=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// says fails unless the tool prints all of some words.
func (n *node) says(got string, words ...string) {
	n.Helper()
	for _, w := range words {
		if !strings.Contains(got, w) {
			n.Errorf("no %q in\n%s", w, got)
		}
	}
}

var clusterIP = netip.MustParseAddrPort("10.96.0.10:80")

func (n *node) connect() {
	n.Helper()
	if err := n.dial(); err != nil {
		n.Fatal(err)
	}
}

func (n *node) dial() error {
	_, err := nstest.Dial(n.Client, "tcp", netip.Addr{}, clusterIP, 5*time.Second)
	return err
}

// Services come, are seen, change and go, each by a process of its own.
func TestApplyListRemove(t *testing.T) {
	n := newNode(t)
	n.says(n.nftdp(0, "list"), "the kernel holds no services. To program some: nftdp apply -f FILE")
	n.says(n.nftdp(3, "plan", "--detailed-exitcode", "-f", "web.yaml"), "add table ip nftdp", `"demo/web"`, "To make them: nftdp apply -f web.yaml")
	n.says(n.nftdp(0, "plan", "-f", "web.yaml"), "add table ip nftdp")
	n.says(n.nftdp(0, "apply", "-f", "web.yaml"), "applied: 1 service, ")
	n.says(n.nftdp(0, "apply", "-f", "web.yaml"), "unchanged: 1 service in place")
	n.says(n.nftdp(0, "plan", "--detailed-exitcode", "-f", "web.yaml"), "no changes")
	n.connect()
	n.says(n.nftdp(0, "list"), "demo/web  tcp       10.96.0.10:80  2           1\n", "*:80 (ip6)     none: pass  0")
	n.says(n.nftdp(0, "list", "-o", "wide"), "10.96.0.10:80  10.180.0.1:8080  50.0 %")
	n.says(n.nftdp(0, "list", "-o", "nft"), "table ip nftdp {", "10.180.0.1")
	n.says(n.nftdp(0, "get", "demo/web"), "demo/web, tcp", "frontend 10.96.0.10:80: 1 connection\n")
	n.says(n.fed(strings.ReplaceAll(webYAML, "demo/web", "demo/other"), 0, "apply", "-v", "-f", "-"), "delete element ip nftdp", "add element ip nftdp", "applied: 1 service")
	n.says(n.nftdp(1, "get", "demo/web"), `nftdp: "demo/web": no such service in the kernel`, "See which there are: nftdp list")
	n.says(n.fed("[]", 1, "apply", "-f", "-"), "add --allow-empty")
	n.says(n.fed("[]", 0, "apply", "--allow-empty", "-f", "-"), "applied: 0 services")
	n.nftdp(0, "remove")
	n.says(n.nftdp(0, "list"), "no services")
}

// Output as data is what the library has, in JSON and YAML alike.
func TestOutputAsData(t *testing.T) {
	n := newNode(t)
	n.nftdp(0, "apply", "-f", "web.yaml")
	var fromJSON, fromYAML any
	if err := json.Unmarshal([]byte(n.nftdp(0, "list", "-o", "json")), &fromJSON); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(n.nftdp(0, "list", "-o", "yaml")), &fromYAML); err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(fromJSON)
	b, _ := json.Marshal(fromYAML)
	if !bytes.Equal(a, b) || !strings.Contains(string(a), `"name":"demo/web"`) {
		t.Errorf("as JSON %s\nas YAML %s", a, b)
	}
	for _, args := range [][]string{{"get", "demo/web", "-o", "json"}, {"flows", "-o", "json"}, {"plan", "-o", "json", "-f", "web.yaml"}} {
		if out := n.nftdp(0, args...); !json.Valid([]byte(out)) {
			t.Errorf("%v: no JSON:\n%s", args, out)
		}
	}
}

// Every error says what to do, and has its exit code.
func TestErrors(t *testing.T) {
	n := newNode(t)
	n.write("bad.yaml", "- name: web\n  frontends:\n  - prot: 80\n")
	n.write("bad.json", "[{\"name\": \"web\",\n\"frontends\": [{\"port\": 0}]}]")
	for _, c := range []struct {
		args  string
		code  int
		words string
	}{
		{"", 2, "which command?"},
		{"aply", 2, `unknown command "aply" for "nftdp"`},
		{"list --colour", 2, "unknown flag: --colour"},
		{"list -o xml", 2, "use table, wide, json, yaml, nft"},
		{"get", 2, "accepts 1 arg(s), received 0"},
		{"apply", 2, "which services? Name a file: -f FILE, or -f - for standard input"},
		{"apply -f none.yaml", 1, "none.yaml: no such file"},
		{"apply -f bad.yaml", 1, `nftdp: bad.yaml:3: service "web": frontends[0].prot: is unknown: did you mean "port"?`},
		{"plan -f bad.json", 1, `nftdp: bad.json:2: service "web": frontends[0].port: is 0`},
		{"list --netns nowhere", 1, "ip netns list"},
		{"list --netns 4000000000", 1, "--netns 4000000000: there is no /proc/4000000000/ns/net"},
		{"list --table 7", 1, "config: table: "},
		{"cut demo/web 10.0.0.1", 2, "write address and port, as in 10.0.0.1:8080"},
		{"cut demo/web", 1, `"demo/web": no such service in the kernel`},
		{"flows demo/web", 1, `"demo/web": no such service in the kernel`},
		{"drain demo/web", 1, `"demo/web": no such service in the kernel`},
		{"drain -f web.yaml demo/wbe 10.180.0.1:8080", 1, `the files have no service "demo/wbe"`},
		{"drain -f web.yaml demo/web 10.180.0.9:8080", 1, `service "demo/web" has no backend 10.180.0.9:8080 in the files`},
		{"trace --src nobody", 2, `--src "nobody" is neither an address nor a prefix`},
		{"trace -p gre", 1, "use tcp, udp, sctp, icmp or icmpv6"},
		{"trace -s demo/web", 1, "no such service"},
		{"watch -f web.yaml", 1, "run nftdp apply or nftdp keep"},
		{"top --interval 1ms", 2, "use 100ms or more"},
	} {
		n.says(n.nftdp(c.code, strings.Fields(c.args)...), c.words)
	}
}

// The namespace can be another one than that of the tool: by process, and by path.
func TestNetns(t *testing.T) {
	n := newNode(t)
	sleeper := exec.CommandContext(t.Context(), "sleep", "60")
	sleeper.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.Node.Do(sleeper.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() })
	pid := sleeper.Process.Pid
	elsewhere := *n
	top := *n.Topology
	top.Node = n.Client
	elsewhere.Topology = &top
	elsewhere.nftdp(0, "apply", "--netns", number(uint64(pid)), "-f", "web.yaml")
	n.says(n.nftdp(0, "list"), "demo/web")
	elsewhere.says(elsewhere.nftdp(0, "list", "--netns", "/proc/"+number(uint64(pid))+"/ns/net"), "demo/web")
	elsewhere.says(elsewhere.nftdp(0, "list"), "no services")
}

// The configuration comes from the file, and flags have precedence.
func TestConfiguration(t *testing.T) {
	n := newNode(t)
	n.write("config.yaml", "config: {table: mine, nodeAddrs: [192.168.0.0/24]}\n")
	n.nftdp(0, "apply", "-f", "config.yaml", "-f", "web.yaml")
	n.says(n.nftdp(0, "list", "-f", "config.yaml"), "demo/web")
	n.says(n.nftdp(0, "list"), "no services")
	n.says(n.nftdp(0, "list", "--table", "mine", "-o", "nft"), "192.168.0.0/24")
	n.says(n.fed("- name: cni/web\n  frontends: [{port: 81}]\n", 0, "apply", "--owner", "cni", "-f", "-"), "applied")
	n.says(n.nftdp(1, "apply", "--owner", "cni", "-f", "web.yaml"), `"demo/web" is not of owner "cni"`)
	n.says(n.nftdp(1, "apply", "-f", "web.yaml"), "nftdp apply --take-over")
}

// Connections are listed, drained and cut.
func TestFlowsDrainCut(t *testing.T) {
	n := newNode(t)
	n.nftdp(0, "apply", "-f", "web.yaml")
	n.says(n.nftdp(0, "flows"), "no flows")
	conn, err := nstest.DialTCP(n.Client, netip.Addr{}, clusterIP, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	n.says(n.nftdp(0, "flows", "demo/web"), "demo/web  tcp", conn.LocalAddr().String(), ":8080")
	var flows []nftdp.Flow
	if err := json.Unmarshal([]byte(n.nftdp(0, "flows", "-o", "json")), &flows); err != nil || len(flows) != 1 {
		t.Fatal(flows, err)
	}
	backend := flows[0].Backend.String()
	n.says(n.nftdp(4, "drain", "-f", "web.yaml", "demo/web", backend, "--timeout", "500ms"),
		"waiting for 1 flow", "1 flow left after 500ms. To end them: nftdp cut demo/web "+backend)
	if out := n.nftdp(0, "list", "-o", "wide"); strings.Contains(out, backend) {
		t.Errorf("%s still gets connections:\n%s", backend, out)
	}
	n.says(n.nftdp(0, "drain", "demo/web", "--timeout", "100ms", "--cut"), "cut 1 flow that were left after 100ms")
	n.says(n.nftdp(0, "drain", "demo/web"), "drained: no flow is left")
	n.says(n.nftdp(0, "cut", "demo/web"), "cut 0 flows")
}

// A trace names service, backend and what dropped a packet.
func TestTrace(t *testing.T) {
	n := newNode(t)
	n.nftdp(0, "apply", "-f", "web.yaml")
	load := nstest.StartLoad(n, n.dial)
	for _, c := range []struct{ args, want string }{
		{"-i uplink --dst 10.96.0.0/16", "> 10.96.0.10:80 tcp syn: demo/web → 10.180.0."},
		{"-s demo/web --replies", ":8080 > 10.0.0.1:"},
		{"-s demo/web --full", "    the packet is now "},
		{"-s demo/web -o json", `"service":"demo/web","backend":"10.180.0.`},
	} {
		trace := nstest.Start(t, n.Node, append([]string{"trace"}, strings.Fields(c.args)...)...)
		trace.Await(t, c.want)
		trace.Signal(t, syscall.SIGINT)
		trace.Exit(t, 0)
	}
	if lines := strings.Count(n.nftdp(0, "trace", "-s", "demo/web", "-n", "3"), "(DELIVERED)\n"); lines != 3 {
		t.Errorf("%d lines, not 3", lines)
	}
	load.Stop(n)
	trace := nstest.Start(t, n.Node, "trace")
	waitFor(t, func() bool { return strings.Contains(n.tables(), "nftdp-trace-") })
	trace.Signal(t, syscall.SIGINT)
	trace.Exit(t, 0)
	waitFor(t, func() bool { return !strings.Contains(n.tables(), "nftdp-trace-") })
}

// tables lists the tables of the node by stock nft.
func (n *node) tables() string {
	n.Helper()
	cmd := exec.CommandContext(n.Context(), "nft", "list", "tables")
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := n.Node.Do(cmd.Run); err != nil {
		n.Fatal(err)
	}
	return out.String()
}

// waitFor waits for a condition.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatal("the condition did not come true")
		}
	}
}

// watch reports, keep repairs, and both end well with Ctrl-C.
func TestWatchKeep(t *testing.T) {
	n := newNode(t)
	damage := func() {
		t.Helper()
		if err := n.Node.Do(exec.CommandContext(t.Context(), "nft", "flush", "chain", "ip", "nftdp", "prerouting").Run); err != nil {
			t.Fatal(err)
		}
	}
	keep := nstest.Start(t, n.Node, "keep", "-f", filepath.Join(n.dir, "web.yaml"))
	keep.Await(t, "keeping them until Ctrl-C")
	damage()
	keep.Await(t, "repaired: ")
	keep.Await(t, "it was nft, thread ")
	n.connect()
	keep.Signal(t, syscall.SIGINT)
	keep.Exit(t, 0)

	watch := nstest.Start(t, n.Node, "watch", "-v", "-f", filepath.Join(n.dir, "web.yaml"))
	watch.Await(t, "watching until Ctrl-C")
	damage()
	watch.Await(t, "changed by others, a repair takes: ")
	watch.Await(t, "add rule ip nftdp prerouting")
	watch.Signal(t, syscall.SIGTERM)
	watch.Exit(t, 0)
	if _, err := nstest.Dial(n.Client, "tcp", netip.Addr{}, clusterIP, 300*time.Millisecond); err == nil {
		t.Error("watch has repaired what it should only report")
	}
}

// The demonstration succeeds, and says what it has shown.
func TestDemo(t *testing.T) {
	n := newNode(t)
	n.says(n.nftdp(0, "demo"), "Connect, although 0 sockets listen on the node", "60 connections to 192.168.0.2:80 landed at backend-1 ",
		"no changes: the kernel holds these services", "(DELIVERED)", "(NOT_ROUTED)")
}

// Without privileges the error says how to get them.
func TestUnprivileged(t *testing.T) {
	n := newNode(t)
	cmd := n.command("list")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// A user namespace of its own has no rights in the network namespace that it is in.
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
	if err := n.Node.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	n.says(out.String(), "Run it as root, or try it in a namespace of its own: unshare -Urn")
}

// The shells get completion, with the names of the services that the kernel holds.
func TestCompletion(t *testing.T) {
	n := newNode(t)
	n.nftdp(0, "apply", "-f", "web.yaml")
	n.says(n.nftdp(0, "__complete", "get", ""), "demo/web\n")
	n.says(n.nftdp(0, "completion", "bash"), "__start_nftdp")
	n.says(n.nftdp(0, "version"), "nftdp ", "go1.")
	n.says(n.nftdp(0, "help"), "Exit codes:", "Change:")
}

// A node on which forwarding is off is diagnosed by doctor and by explain, and fixed.
func TestDoctorExplain(t *testing.T) {
	n := newNode(t)
	n.nftdp(0, "apply", "-f", "web.yaml")
	explain := []string{"explain", "203.0.113.122", "10.96.0.10:80"}
	n.says(n.nftdp(0, explain...), "demo/web", "DELIVERED")
	n.says(n.nftdp(3, "explain", "203.0.113.122", "10.96.0.10:81"), "NO_SERVICE")
	n.says(n.nftdp(2, "explain", "nobody", "10.96.0.10"), `"nobody" is no address`)
	if err := n.Node.Sysctl("net/ipv4/ip_forward", "0"); err != nil {
		t.Fatal(err)
	}
	n.says(n.nftdp(3, explain...), "FORWARDING_OFF")
	n.says(n.nftdp(3, "doctor"), "error FORWARDING_OFF: net.ipv4.ip_forward", "run: nftdp doctor --fix FORWARDING_OFF")
	n.says(n.nftdp(1, "doctor", "--fix", "NOTHING"), "--fix NOTHING: there is no such finding")
	if out := n.nftdp(3, "doctor", "-o", "json"); !json.Valid([]byte(out)) {
		t.Errorf("no JSON: %s", out)
	}
	n.says(n.nftdp(0, "doctor", "--fix", "FORWARDING_OFF"), "fixed FORWARDING_OFF: net.ipv4.ip_forward")
	n.says(n.nftdp(0, "doctor"), "nothing is wrong with this node")
	n.says(n.nftdp(0, explain...), "DELIVERED")
}
