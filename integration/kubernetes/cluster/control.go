//go:build linux

package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// Control is etcd and an API server in a namespace of their own.
type Control struct {
	Client *kubernetes.Clientset

	ns        *nstest.Namespace
	bin       Binaries
	dir       string
	etcd, api *Process
	nodes     int // how many are connected
}

// The token of those who may do everything: tests, and proxies that were not started with
// an account of their own (see StartContainer).
const token = "token-of-the-tests"

// APIServer is where the API server is, for every node and in its certificate.
var APIServer = netip.MustParseAddrPort("100.127.0.1:6443")

// startTimeout bounds the start of the API server, which takes some seconds.
const startTimeout = 2 * time.Minute

// NewControl starts etcd and the API server, with their data in dir, and returns when
// objects can be written.
func NewControl(ctx context.Context, bin Binaries, dir string) (*Control, error) {
	ns, err := nstest.New("control")
	if err != nil {
		return nil, err
	}
	c := &Control{ns: ns, bin: bin, dir: dir}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Control) start(ctx context.Context) (err error) {
	if err := errors.Join(c.writeFiles(), c.ns.AddAddr("lo", single(APIServer.Addr()))); err != nil {
		return err
	}
	c.etcd, err = Start(c.ns, c.dir, "etcd", "etcd", "--data-dir", filepath.Join(c.dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
		"--listen-peer-urls", "http://127.0.0.1:2380", "--quota-backend-bytes", "8589934592")
	if err != nil {
		return err
	}
	if c.Client, err = kubernetes.NewForConfig(c.config()); err != nil {
		return err
	}
	return c.StartAPI(ctx)
}

// config is for clients in this process, whose connections begin in the namespace.
func (c *Control) config() *rest.Config {
	return &rest.Config{
		Host: "https://" + APIServer.String(), BearerToken: token, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
		ContentConfig:   rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf"},
		Dial: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = c.ns.Do(func() (err error) { conn, err = (&net.Dialer{}).DialContext(ctx, network, addr); return err })
			return conn, err
		},
	}
}

// StartAPI starts the API server, which StopAPI has stopped, and waits until it is
// ready and has made the namespace "default".
func (c *Control) StartAPI(ctx context.Context) (err error) {
	c.api, err = Start(c.ns, c.dir, "kube-apiserver", c.bin.APIServer, "--etcd-servers", "http://127.0.0.1:2379",
		"--service-cluster-ip-range", strings.Join([]string{V4.Services.String(), V6.Services.String()}, ","),
		"--token-auth-file", c.file("tokens"), "--authorization-mode", "RBAC",
		"--audit-policy-file", c.file("audit-policy"), "--audit-log-path", c.file("audit"),
		"--service-account-issuer", "https://control", "--service-account-key-file", c.file("key"),
		"--service-account-signing-key-file", c.file("key"), "--allow-privileged", "--bind-address", "0.0.0.0",
		"--advertise-address", APIServer.Addr().String(), "--cert-dir", c.file("certificates"),
		"--disable-admission-plugins", "ServiceAccount", "--max-requests-inflight", "0",
		"--max-mutating-requests-inflight", "0", "--enable-priority-and-fairness=false")
	if err != nil {
		return err
	}
	return Eventually(ctx, startTimeout, "the API server is ready", func() error {
		if !c.api.Running() {
			return fmt.Errorf("it has ended:\n%s", c.api.Tail())
		}
		if b, err := c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err != nil {
			return fmt.Errorf("%w: %s", err, b)
		}
		_, err := c.Client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// StopAPI stops the API server. Its data stay in etcd.
func (c *Control) StopAPI() { c.api.Kill() }

// CutWatches resets the connections that agents have to the API server, with whatever
// was under way, once they are used (see Connected).
func (c *Control) CutWatches() error {
	return c.ns.Do(func() error {
		cmd := exec.Command("nft", "add table inet cut; add chain inet cut in { type filter hook input priority 0; }; "+
			"add rule inet cut in iif != lo tcp dport 6443 reject with tcp reset")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	})
}

// AllowWatches lets agents connect again after CutWatches.
func (c *Control) AllowWatches() error {
	return c.ns.Do(func() error { return exec.Command("nft", "delete table inet cut").Run() })
}

// Kubectl runs kubectl with a manifest at its standard input and returns what it
// prints.
func (c *Control) Kubectl(manifest string, args ...string) (string, error) {
	cmd := exec.Command(c.bin.Kubectl, append([]string{"--kubeconfig", c.kubeconfig()}, args...)...)
	cmd.Stdin = strings.NewReader(manifest)
	cmd.Env = append(os.Environ(), "HOME="+c.dir)
	var out []byte
	err := c.ns.Do(func() (err error) { out, err = cmd.CombinedOutput(); return err })
	if err != nil {
		return "", fmt.Errorf("kubectl %v: %w\n%s", args, err, out)
	}
	return string(out), nil
}

// connect links a node with the control plane, on a network of their own.
func (c *Control) connect(node *nstest.Namespace) error {
	i := c.nodes
	c.nodes++
	here := netip.AddrFrom4([4]byte{100, 64, byte(i >> 6), byte(i<<2) + 1})
	link := fmt.Sprintf("node%d", i)
	return errors.Join(nstest.Connect(node, "control", c.ns, link),
		c.ns.AddAddr(link, netip.PrefixFrom(here, 30)),
		node.AddAddr("control", netip.PrefixFrom(here.Next(), 30)),
		node.AddRoute("control", single(APIServer.Addr()), here, netip.Addr{}),
		node.WaitUp(), c.ns.WaitUp())
}

// kubeconfig is the path of the file of those who may do everything.
func (c *Control) kubeconfig() string { return c.file("kubeconfig") }

func (c *Control) file(name string) string { return filepath.Join(c.dir, name) }

func (c *Control) writeFiles() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	return errors.Join(
		os.WriteFile(c.kubeconfig(), fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://%v", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: %s}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
`, APIServer, token), 0o600),
		os.WriteFile(c.file("audit-policy"), []byte(auditPolicy), 0o600),
		os.WriteFile(c.file("key"), block, 0o600),
		os.WriteFile(c.file("tokens"), []byte(token+`,tests,tests,"system:masters"`+"\n"), 0o600))
}

// Close ends the control plane.
func (c *Control) Close() error {
	for _, p := range []*Process{c.api, c.etcd} {
		if p != nil {
			p.Kill()
		}
	}
	return c.ns.Close()
}

// Eventually waits for a condition: until the function returns nil. The error after
// the timeout has its last one.
func Eventually(ctx context.Context, timeout time.Duration, what string, fn func() error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		err := fn()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not so after %v: %s: %w", timeout, what, err)
		case <-poll.C:
		}
	}
}
