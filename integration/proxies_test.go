//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// proxyProgram is a program as docs/proxies.md recommends it: its configuration on a
// port, and the signal by which it ends when it has served what it has.
type proxyProgram struct {
	name   string
	args   func(dir string) []string
	config string // PORT and DIR are replaced
	quit   os.Signal
}

// nginx writes nowhere but to the directory, and keeps the user, of whom a user
// namespace has only one.
var nginx = proxyProgram{
	name: "nginx", quit: syscall.SIGQUIT,
	args: func(dir string) []string { return []string{"-e", "stderr", "-p", dir, "-c", "config"} },
	config: `
daemon off;
user root root;
pid DIR/pid;
error_log stderr;
events { worker_connections 64; }
http {
	access_log off;
	client_body_temp_path DIR/1; proxy_temp_path DIR/2; fastcgi_temp_path DIR/3; uwsgi_temp_path DIR/4; scgi_temp_path DIR/5;
	server {
		listen PORT;
		listen [::]:PORT;
		absolute_redirect off;
		location = /dir { return 301 /dir/; }
		location / { return 200 "nginx"; }
	}
}
`,
}

var haproxy = proxyProgram{
	name: "haproxy", quit: syscall.SIGUSR1,
	args: func(string) []string { return []string{"-db", "-f", "config"} },
	config: `
defaults
	mode http
	timeout client 30s
	timeout server 30s
	timeout connect 30s
frontend web
	bind 0.0.0.0:PORT
	bind [::]:PORT v6only
	http-request return status 200 content-type text/plain lf-string "haproxy %[dst] %[dst_port]"
`,
}

// run starts the program in a namespace, on a port, and returns when it listens. The
// function that it returns tells it to end, and another one waits until it has ended
// well: haproxy takes a second to notice that it has nothing left to do.
func (p proxyProgram) run(t *testing.T, ns *nstest.Namespace, port uint16) (quit func() (wait func())) {
	t.Helper()
	dir := t.TempDir()
	config := strings.NewReplacer("PORT", fmt.Sprint(port), "DIR", dir).Replace(p.config)
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	cmd := exec.Command(p.name, p.args(dir)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := ns.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	wait := sync.OnceValue(cmd.Wait)
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // nginx has a worker, which ends with it
		_ = wait()
	})
	for _, a := range nstest.Families() {
		awaitListener(t, ns, netip.AddrPortFrom(a.Node, port))
	}
	return func() func() {
		err := cmd.Process.Signal(p.quit)
		return func() {
			t.Helper()
			if err := errors.Join(err, wait()); err != nil {
				t.Fatalf("%s: %v\n%s", p.name, err, &said)
			}
		}
	}
}

// awaitListener waits until somebody listens. It connects: a list of sockets would have
// those of all connections that have ended.
func awaitListener(t *testing.T, ns *nstest.Namespace, at netip.AddrPort) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(askTimeout); ; <-poll.C {
		c, err := nstest.Open(ns, "tcp", netip.Addr{}, at, askTimeout)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody listens: %v", err)
		}
	}
}

// httpClient makes a connection for each request.
func httpClient(ns *nstest.Namespace) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(_ context.Context, _, to string) (net.Conn, error) {
				return nstest.Open(ns, "tcp", netip.Addr{}, netip.MustParseAddrPort(to), askTimeout)
			},
		},
	}
}

// fetch returns the body of an answer, and its header Location.
func fetch(c *http.Client, to netip.AddrPort, path string) (body, location string, err error) {
	response, err := c.Get("http://" + to.String() + path)
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), response.Header.Get("Location"), err
}

// programTakeovers is how often TestTakeoverPrograms replaces a program.
const programTakeovers = 50

// TestTakeoverPrograms: under load, one process of nginx or haproxy after the other
// takes port 80 over by an Update, and the one before ends when nothing leads to it any
// more. No request fails.
func TestTakeoverPrograms(t *testing.T) {
	t.Parallel()
	for _, p := range []proxyProgram{nginx, haproxy} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			needTool(t, p.name)
			w := newWorld(t, nftdp.Config{}, 0)
			web := func(port uint16) nftdp.Service {
				return nftdp.Service{Name: "web", Frontends: nodeWide(80), Backends: onNodePorts(port)}
			}
			quit := p.run(t, w.Node, proxyPort)
			w.apply(t, web(proxyPort))
			load := startRequests(t, w.Client, p.name)
			var ends []func()
			for i := range uint16(programTakeovers) {
				next := p.run(t, w.Node, proxyPort+1+i)
				w.update(t, nftdp.Change{Set: []nftdp.Service{web(proxyPort + 1 + i)}})
				w.drain(t, drainTimeout).want(t, 0, nil)
				ends = append(ends, quit())
				quit = next
				load.Await(t, 20)
			}
			requests := load.Stop(t)
			for _, ended := range append(ends, quit()) {
				ended()
			}
			t.Logf("%d requests in %d takeovers", requests, programTakeovers)
		})
	}
}

// startRequests starts clients that send a request to port 80 of the node every few
// milliseconds, in both families, for answers that begin with a word. More often would
// not do: the kernel keeps the entries of ended connections for two minutes, and Drain
// lists them.
func startRequests(t *testing.T, from *nstest.Namespace, word string) *nstest.Load {
	t.Helper()
	var clients []func() error
	for i := range 6 {
		dst := netip.AddrPortFrom(nstest.Families()[i%2].Node, 80)
		client, pace := httpClient(from), time.NewTicker(3*time.Millisecond)
		clients = append(clients, func() error {
			<-pace.C
			body, _, err := fetch(client, dst, "/")
			if err != nil || !strings.HasPrefix(body, word) {
				return fmt.Errorf("answer %q, %w", body, err)
			}
			return nil
		})
	}
	return nstest.StartLoad(t, clients...)
}

// TestProxyRecipes: by the recipes of docs/proxies.md, nginx redirects within the scheme
// and port that the client has used, and haproxy knows the IPv4 address and port that it
// has connected to, with one socket for several published ports. nginx's own default
// names the port that it listens on, and so does haproxy on sockets of IPv6.
func TestProxyRecipes(t *testing.T) {
	t.Parallel()
	needTool(t, nginx.name)
	needTool(t, haproxy.name)
	w := newWorld(t, nftdp.Config{}, 0)
	byDefault := nginx
	byDefault.config = strings.Replace(nginx.config, "absolute_redirect off;", "", 1)
	nginx.run(t, w.Node, proxyPort)
	byDefault.run(t, w.Node, proxyPort+1)
	haproxy.run(t, w.Node, proxyPort+2)
	w.apply(t,
		nftdp.Service{Name: "nginx", Frontends: nodeWide(8000), Backends: onNodePorts(proxyPort)},
		nftdp.Service{Name: "default", Frontends: nodeWide(8001), Backends: onNodePorts(proxyPort + 1)},
		nftdp.Service{Name: "haproxy", Frontends: append(nodeWide(80), on(external, 443)...), Backends: onNodePorts(proxyPort + 2)})
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		client := httpClient(w.Client)
		for port, want := range map[uint16]string{
			8000: "/dir/", 8001: fmt.Sprintf("http://%s/dir/", netip.AddrPortFrom(a.Node, proxyPort+1)),
		} {
			if _, got, err := fetch(client, netip.AddrPortFrom(a.Node, port), "/dir"); err != nil || got != want {
				t.Errorf("Location from port %d: %q, %v; want %q", port, got, err, want)
			}
		}
		for _, dst := range []netip.AddrPort{
			netip.AddrPortFrom(a.Node, 80), netip.AddrPortFrom(a.Uplink, 80), netip.AddrPortFrom(a.External, 443),
		} {
			want := fmt.Sprintf("haproxy %v %d", dst.Addr(), dst.Port())
			if dst.Addr().Is6() {
				want = fmt.Sprintf("haproxy %v %d", a.Node, proxyPort+2)
			}
			got, _, err := fetch(client, dst, "/")
			if err != nil || strings.TrimSpace(got) != want && dst.Addr() != a.Uplink {
				t.Errorf("haproxy at %v: %q, %v; want %q", dst, got, err, want)
			}
		}
	})
}
