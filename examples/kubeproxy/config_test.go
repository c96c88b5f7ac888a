package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/nftdp/kube"
)

// configFile writes a configuration file.
func configFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const fullConfig = `
bindAddress: 0.0.0.0
clientConnection:
  kubeconfig: /etc/kubeconfig
  acceptContentTypes: application/json
  contentType: application/json
  qps: 12.5
  burst: 34
logging: {format: json, verbosity: 4, flushFrequency: 5s, options: {json: {infoBufferSize: "0"}}}
hostnameOverride: Node-A
healthzBindAddress: 127.0.0.1:1
metricsBindAddress: "::1"
bindAddressHardFail: true
enableProfiling: true
mode: nftables
nftables: {masqueradeAll: true, masqueradeBit: 14, syncPeriod: 10s, minSyncPeriod: 0s}
iptables: {masqueradeAll: false, masqueradeBit: null, localhostNodePorts: null, syncPeriod: 0s, minSyncPeriod: 0s}
ipvs: {scheduler: "", strictARP: false, excludeCIDRs: null}
winkernel: {networkName: ""}
detectLocalMode: ClusterCIDR
detectLocal: {bridgeInterface: "", interfaceNamePrefix: ""}
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
nodePortAddresses: [localhost, 192.0.2.0/24]
oomScoreAdj: -998
conntrack: {maxPerCore: 32768, min: null, tcpEstablishedTimeout: 24h0m0s}
configSyncPeriod: 15m0s
portRange: ""
showHiddenMetricsForVersion: ""
featureGates: {SomeFeature: true}
`

// TestConfig: fields have the effect of their flags, those without an effect are named,
// and those that say nothing are not.
func TestConfig(t *testing.T) {
	file := configFile(t, fullConfig)
	f, err := parseFlags([]string{"--config", file})
	if err != nil {
		t.Fatal(err)
	}
	idle := "configSyncPeriod conntrack.maxPerCore conntrack.tcpEstablishedTimeout featureGates.SomeFeature logging.flushFrequency nftables.masqueradeBit"
	if got := strings.Join(f.idle, " "); got != idle {
		t.Errorf("without effect: %s\nwant %s", got, idle)
	}
	for name, ok := range map[string]bool{
		"clientConnection": f.kubeconfig == "/etc/kubeconfig" && f.accept == "application/json" && f.contentType == "application/json" && f.qps == 12.5 && f.burst == 34,
		"logging":          f.logFormat == "json" && f.verbosity == 4,
		"addresses":        f.healthz == "127.0.0.1:1" && f.metrics == "[::1]:10249" && f.bindHardFail && f.profiled,
		"periods":          f.syncPeriod == 10*time.Second,
		"oomScoreAdj":      f.setOOMScoreAdj && f.oomScoreAdj == -998,
		"node":             f.options.NodeName == "node-a",
		"pods":             f.options.DetectLocal == kube.DetectLocalClusterCIDR && len(f.options.ClusterCIDRs) == 2,
		"masqueradeAll":    f.options.MasqueradeAll,
		"nodePorts":        slices.Equal(f.options.NodePortAddresses, []string{"localhost", "192.0.2.0/24"}),
	} {
		if !ok {
			t.Errorf("%s: %+v", name, f)
		}
	}

	f, err = parseFlags([]string{"--config", file, "--hostname-override", "b", "--v", "2", "--nodeport-addresses", "all", "--kube-api-burst", "5", "--profiling=false"})
	if err != nil {
		t.Fatal(err)
	}
	if f.options.NodeName != "b" || f.verbosity != 2 || !slices.Equal(f.options.NodePortAddresses, []string{"all"}) || f.burst != 5 || f.profiled || f.qps != 12.5 {
		t.Errorf("flags do not win: %+v", f)
	}
}

// TestConfigDefaults: without values the defaults are kube-proxy's, for the family of
// its bindAddress.
func TestConfigDefaults(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "0.0.0.0:10256 127.0.0.1:10249 []",
		"bindAddress: '::'":    "[::]:10256 [::1]:10249 []",
		"bindAddress: fd00::1": "[::]:10256 [::1]:10249 [bindAddress]",
		"mode: ipvs":           "0.0.0.0:10256 127.0.0.1:10249 [mode]",
	} {
		f, err := parseFlags([]string{"--config", configFile(t, text), "--hostname-override", "a"})
		if err != nil {
			t.Fatal(err)
		}
		if got := f.healthz + " " + f.metrics + " [" + strings.Join(f.idle, " ") + "]"; got != want || f.syncPeriod != 30*time.Second {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// TestConfigModeIPTables: the section of the mode counts.
func TestConfigModeIPTables(t *testing.T) {
	f, err := parseFlags([]string{"--config", configFile(t, "mode: iptables\niptables: {masqueradeAll: true, syncPeriod: 7s}\nnftables: {syncPeriod: 9s}"), "--hostname-override", "a"})
	if err != nil {
		t.Fatal(err)
	}
	if !f.options.MasqueradeAll || f.syncPeriod != 7*time.Second || strings.Join(f.idle, " ") != "mode nftables.syncPeriod" {
		t.Errorf("got %+v", f)
	}
}

// TestConfigInterfaces: pods can be those behind interfaces.
func TestConfigInterfaces(t *testing.T) {
	f, err := parseFlags([]string{"--config", configFile(t, "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}"), "--hostname-override", "a"})
	if err != nil {
		t.Fatal(err)
	}
	if f.options.DetectLocal != kube.DetectLocalInterfaceNamePrefix || f.options.PodInterfaceNamePrefix != "veth" || len(f.idle) > 0 {
		t.Errorf("got %+v", f)
	}
}

// TestConfigErrors: what is wrong in a file or a flag is named.
func TestConfigErrors(t *testing.T) {
	for text, want := range map[string]string{
		"nodePortAddreses: [all]":           "nodePortAddreses",
		"nftables: {masqueradeAl: true}":    "masqueradeAl",
		"clusterCIDR: 10.0.0.0":             "10.0.0.0",
		"kind: Other":                       "kind",
		"detectLocalMode: BridgeInterfaces": "BridgeInterfaces",
		"logging: {format: xml}":            "xml",
		"healthzBindAddress: nowhere":       "nowhere",
		"detectLocalMode: BridgeInterface":  "pod-bridge-interface",
		"nodePortAddresses: [everywhere]":   "everywhere",
		"nftables: {syncPeriod: soon}":      "soon",
	} {
		_, err := parseFlags([]string{"--config", configFile(t, text), "--hostname-override", "a"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", text, err, want)
		}
	}
	other := filepath.Join(t.TempDir(), "other.yaml")
	if err := os.WriteFile(other, []byte("apiVersion: v1\nkind: Pod\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{other, other + ".missing"} {
		if _, err := parseFlags([]string{"--config", file}); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}
}
