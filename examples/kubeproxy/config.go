package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// The kind of the configuration file.
const (
	configVersion = "kubeproxy.config.k8s.io/v1alpha1"
	configKind    = "KubeProxyConfiguration"
)

// fileConfig is kube-proxy's configuration file, of Kubernetes 1.37. A pointer tells
// what is not given from what is zero; sections without any effect are not looked into.
type fileConfig struct {
	metav1.TypeMeta  `json:",inline"`
	ClientConnection struct {
		Kubeconfig         string  `json:"kubeconfig"`
		AcceptContentTypes string  `json:"acceptContentTypes"`
		ContentType        string  `json:"contentType"`
		QPS                float32 `json:"qps"`
		Burst              int32   `json:"burst"`
	} `json:"clientConnection"`
	Logging struct {
		Format         string         `json:"format"`
		FlushFrequency any            `json:"flushFrequency"`
		Verbosity      int            `json:"verbosity"`
		VModule        any            `json:"vmodule"`
		Options        map[string]any `json:"options"`
	} `json:"logging"`
	HostnameOverride            string         `json:"hostnameOverride"`
	BindAddress                 string         `json:"bindAddress"`
	HealthzBindAddress          string         `json:"healthzBindAddress"`
	MetricsBindAddress          string         `json:"metricsBindAddress"`
	BindAddressHardFail         *bool          `json:"bindAddressHardFail"`
	EnableProfiling             *bool          `json:"enableProfiling"`
	ShowHiddenMetricsForVersion string         `json:"showHiddenMetricsForVersion"`
	Mode                        string         `json:"mode"`
	IPTables                    rulesConfig    `json:"iptables"`
	NFTables                    rulesConfig    `json:"nftables"`
	IPVS                        map[string]any `json:"ipvs"`
	Winkernel                   map[string]any `json:"winkernel"`
	DetectLocalMode             string         `json:"detectLocalMode"`
	DetectLocal                 struct {
		BridgeInterface     string `json:"bridgeInterface"`
		InterfaceNamePrefix string `json:"interfaceNamePrefix"`
	} `json:"detectLocal"`
	ClusterCIDR         string          `json:"clusterCIDR"`
	NodePortAddresses   []string        `json:"nodePortAddresses"`
	OOMScoreAdj         *int32          `json:"oomScoreAdj"`
	Conntrack           map[string]any  `json:"conntrack"`
	ConfigSyncPeriod    metav1.Duration `json:"configSyncPeriod"`
	FeatureGates        map[string]bool `json:"featureGates"`
	PortRange           string          `json:"portRange"`
	WindowsRunAsService bool            `json:"windowsRunAsService"`
}

// rulesConfig is the section of a mode.
type rulesConfig struct {
	MasqueradeBit      *int32          `json:"masqueradeBit"`
	MasqueradeAll      bool            `json:"masqueradeAll"`
	LocalhostNodePorts *bool           `json:"localhostNodePorts"`
	SyncPeriod         metav1.Duration `json:"syncPeriod"`
	MinSyncPeriod      metav1.Duration `json:"minSyncPeriod"`
}

// effective are the fields that have an effect, but for the sections of modes.
var effective = []string{
	"apiVersion", "kind", "clientConnection.", "logging.format", "logging.verbosity", "hostnameOverride",
	"healthzBindAddress", "metricsBindAddress", "bindAddressHardFail", "enableProfiling",
	"detectLocalMode", "detectLocal.", "clusterCIDR", "nodePortAddresses", "oomScoreAdj",
}

// readConfig sets the flags that a configuration file has values for, unless they were
// given: a flag wins. It returns the fields of the file that have a value, but no effect.
// Unknown fields are errors.
func readConfig(file string, set *pflag.FlagSet) (idle []string, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	var c fileConfig
	var raw map[string]any
	if err := errors.Join(yaml.UnmarshalStrict(data, &c), yaml.Unmarshal(data, &raw)); err != nil {
		return nil, fmt.Errorf("--config %s: %w", file, err)
	}
	if c.APIVersion != configVersion || c.Kind != configKind {
		return nil, fmt.Errorf("--config %s: it is a %q of %q: use %s of %s", file, c.Kind, c.APIVersion, configKind, configVersion)
	}
	for name, value := range c.flags() {
		if value == "" || set.Changed(name) {
			continue
		}
		if err := set.Set(name, value); err != nil {
			return nil, fmt.Errorf("--config %s: %w", file, err)
		}
	}
	walk("", raw, func(path string) {
		if !c.hasEffect(path) {
			idle = append(idle, path)
		}
	})
	slices.Sort(idle)
	return idle, nil
}

// section is the name of the section whose mode is used. That of nftables is without a
// mode, too.
func (c *fileConfig) section() (string, *rulesConfig) {
	if c.Mode == "iptables" {
		return "iptables", &c.IPTables
	}
	return "nftables", &c.NFTables
}

// hasEffect reports whether a field that is not zero is honoured.
func (c *fileConfig) hasEffect(path string) bool {
	section, _ := c.section()
	switch path {
	case "mode":
		return c.Mode == "nftables"
	case "bindAddress": // whose family decides the default addresses
		return c.BindAddress == "0.0.0.0" || c.BindAddress == "::"
	case section + ".masqueradeAll", section + ".syncPeriod":
		return true
	}
	return slices.ContainsFunc(effective, func(e string) bool {
		return path == e || strings.HasSuffix(e, ".") && strings.HasPrefix(path, e)
	})
}

// walk calls found for each field, or element of a map, that is not zero.
func walk(path string, value any, found func(path string)) {
	switch v := value.(type) {
	case map[string]any:
		for name, inner := range v {
			walk(strings.TrimPrefix(path+"."+name, "."), inner, found)
		}
	case nil:
	case []any:
		if len(v) > 0 {
			found(path)
		}
	default:
		if !slices.Contains([]string{"", "0", "false", "0s", "0h0m0s"}, fmt.Sprint(v)) {
			found(path)
		}
	}
}

// flags returns the values of the file by the names of flags; "" stands for none.
func (c *fileConfig) flags() map[string]string {
	_, rules := c.section()
	out := map[string]string{
		"kubeconfig": c.ClientConnection.Kubeconfig, "kube-api-content-type": c.ClientConnection.ContentType,
		"kube-api-accept-content-types": c.ClientConnection.AcceptContentTypes,
		"hostname-override":             c.HostnameOverride, "logging-format": c.Logging.Format,
		"cluster-cidr": c.ClusterCIDR, "detect-local-mode": c.DetectLocalMode,
		"pod-bridge-interface": c.DetectLocal.BridgeInterface, "pod-interface-name-prefix": c.DetectLocal.InterfaceNamePrefix,
		"nodeport-addresses":   strings.Join(c.NodePortAddresses, ","),
		"healthz-bind-address": c.HealthzBindAddress, "metrics-bind-address": c.MetricsBindAddress,
	}
	if strings.Contains(c.BindAddress, ":") {
		out["healthz-bind-address"] = cmp.Or(c.HealthzBindAddress, "[::]:10256")
		out["metrics-bind-address"] = cmp.Or(c.MetricsBindAddress, "[::1]:10249")
	}
	if q := c.ClientConnection.QPS; q != 0 {
		out["kube-api-qps"] = strconv.FormatFloat(float64(q), 'g', -1, 32)
	}
	for name, n := range map[string]int{"kube-api-burst": int(c.ClientConnection.Burst), "v": c.Logging.Verbosity} {
		if n != 0 {
			out[name] = strconv.Itoa(n)
		}
	}
	if c.OOMScoreAdj != nil {
		out["oom-score-adj"] = strconv.Itoa(int(*c.OOMScoreAdj))
	}
	for name, b := range map[string]*bool{
		"bind-address-hard-fail": c.BindAddressHardFail, "profiling": c.EnableProfiling, "masquerade-all": &rules.MasqueradeAll,
	} {
		if b != nil {
			out[name] = strconv.FormatBool(*b)
		}
	}
	if rules.SyncPeriod.Duration > 0 {
		out["iptables-sync-period"] = rules.SyncPeriod.Duration.Round(time.Millisecond).String()
	}
	return out
}
