package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/nftdp/go-nftdp/nftdp/kube"
)

// flags are kube-proxy's, as far as they mean something here.
type flags struct {
	config                 string
	idle                   []string // fields of the file that have no effect
	kubeconfig, master     string
	contentType, accept    string
	qps                    float32
	burst                  int
	table                  string
	cleanup, initOnly      bool
	verbosity              int
	logFormat              string
	healthz, metrics       string
	bindHardFail, profiled bool
	syncPeriod             time.Duration
	oomScoreAdj            int
	setOOMScoreAdj         bool
	options                kube.Options
}

func parseFlags(args []string) (*flags, error) {
	f := &flags{}
	set := pflag.NewFlagSet("kubeproxy", pflag.ContinueOnError)
	var override, detect string
	var cidrs []string
	set.StringVar(&f.config, "config", "", "file in the form of kube-proxy's KubeProxyConfiguration; flags win")
	set.StringVar(&f.master, "master", "", "address of the API server, instead of the one in the kubeconfig")
	set.StringVar(&override, "hostname-override", "", "name of this node's Node object, instead of the host's name")
	set.StringSliceVar(&cidrs, "cluster-cidr", nil, "prefixes of all pods")
	set.StringVar(&detect, "detect-local-mode", "", "how pods are told from other clients: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix")
	set.StringVar(&f.options.PodBridgeInterface, "pod-bridge-interface", "", "bridge of the node's pods, for BridgeInterface")
	set.StringVar(&f.options.PodInterfaceNamePrefix, "pod-interface-name-prefix", "", "how the names of the node's interfaces to pods begin, for InterfaceNamePrefix")
	set.BoolVar(&f.options.MasqueradeAll, "masquerade-all", false, "masquerade all connections to ClusterIPs")
	set.StringSliceVar(&f.options.NodePortAddresses, "nodeport-addresses", nil, "addresses for node ports: primary, localhost, all, or prefixes")
	set.StringVar(&f.options.ProxyName, "service-proxy-name", "", "serve Services with this value of the label service.kubernetes.io/service-proxy-name")
	set.StringVar(&f.table, "table", "nftdp-kube", "name of the nftables tables")
	set.BoolVar(&f.cleanup, "cleanup", false, "delete the tables and end")
	set.BoolVar(&f.initOnly, "init-only", false, "set kernel parameters, for which a container has to be privileged, and end")
	set.IntVarP(&f.verbosity, "v", "v", 0, "4 or more logs details")
	set.StringVar(&f.logFormat, "logging-format", "text", "text, as klog writes it, or json")
	f.addClient(set)
	f.addServers(set)
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("unknown argument %q: all settings are flags", set.Arg(0))
	}
	if f.config != "" {
		var err error
		if f.idle, err = readConfig(f.config, set); err != nil {
			return nil, err
		}
	}
	f.setOOMScoreAdj = set.Changed("oom-score-adj")
	return f, f.finish(override, detect, cidrs)
}

// addClient adds the flags of the connection to the API server.
func (f *flags) addClient(set *pflag.FlagSet) {
	set.StringVar(&f.kubeconfig, "kubeconfig", "", "file that says where the API server is; a pod needs none")
	set.StringVar(&f.contentType, "kube-api-content-type", "application/vnd.kubernetes.protobuf", "content type of requests to the API server")
	set.StringVar(&f.accept, "kube-api-accept-content-types", "application/vnd.kubernetes.protobuf,application/json", "content types of its answers")
	set.Float32Var(&f.qps, "kube-api-qps", 50, "most requests to the API server a second")
	set.IntVar(&f.burst, "kube-api-burst", 100, "most requests to the API server at once")
}

// addServers adds the flags of what the program serves.
func (f *flags) addServers(set *pflag.FlagSet) {
	set.StringVar(&f.healthz, "healthz-bind-address", "0.0.0.0:10256", "where /healthz and /livez are; empty: nowhere")
	set.StringVar(&f.metrics, "metrics-bind-address", "127.0.0.1:10249", "where /metrics and /proxyMode are; empty: nowhere")
	set.BoolVar(&f.bindHardFail, "bind-address-hard-fail", false, "end if one of these addresses cannot be bound, instead of trying again")
	set.BoolVar(&f.profiled, "profiling", false, "serve /debug/pprof beside /metrics")
	set.DurationVar(&f.syncPeriod, "iptables-sync-period", 30*time.Second, "a change that waits twice as long makes /healthz and /livez fail")
	set.IntVar(&f.oomScoreAdj, "oom-score-adj", 0, "oom_score_adj of the process, if it is given")
}

// finish derives the options from the texts of flags.
func (f *flags) finish(override, detect string, cidrs []string) (err error) {
	if f.options.NodeName, err = hostname(override); err != nil {
		return err
	}
	for _, text := range cidrs {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return fmt.Errorf("--cluster-cidr %q: use prefixes such as 10.244.0.0/16,fd00:10:244::/56", text)
		}
		f.options.ClusterCIDRs = append(f.options.ClusterCIDRs, p.Masked())
	}
	f.options.DetectLocal = kube.DetectLocal(detect)
	if detect == "" && len(cidrs) > 0 {
		f.options.DetectLocal = kube.DetectLocalClusterCIDR
	}
	if f.options.DetectLocal == kube.DetectLocalClusterCIDR && len(cidrs) == 0 {
		f.options.DetectLocal = kube.DetectLocalNone // as kube-proxy, whose default it is
	}
	f.healthz, f.metrics = withPort(f.healthz, "10256"), withPort(f.metrics, "10249")
	return errors.Join(f.checkServers(), f.options.Validate())
}

func (f *flags) checkServers() (err error) {
	for name, address := range map[string]string{"healthz-bind-address": f.healthz, "metrics-bind-address": f.metrics} {
		if _, parseErr := netip.ParseAddrPort(address); address != "" && parseErr != nil {
			err = errors.Join(err, fmt.Errorf("--%s %q: use an address and a port, such as 0.0.0.0:10256", name, address))
		}
	}
	if f.logFormat != "text" && f.logFormat != "json" {
		err = errors.Join(err, fmt.Errorf("--logging-format %q: use text or json", f.logFormat))
	}
	if f.syncPeriod <= 0 {
		err = errors.Join(err, fmt.Errorf("--iptables-sync-period %v: use a positive one", f.syncPeriod))
	}
	return err
}

// withPort adds a port to an address that has none.
func withPort(address, port string) string {
	if a, err := netip.ParseAddr(address); err == nil {
		return net.JoinHostPort(a.String(), port)
	}
	return address
}
