//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/nftdp/go-nftdp/nftdp"
)

// config is what the plugin reads from its standard input.
type config struct {
	types.PluginConf

	// SNAT and MasqAll are those of the reference plugin.
	SNAT    *bool `json:"snat"`
	MasqAll bool  `json:"masqAll"`
	// The conditions are rules of iptables or nft, which an element of a map
	// cannot have: they are refused unless they are empty.
	ConditionsV4 []string `json:"conditionsV4"`
	ConditionsV6 []string `json:"conditionsV6"`
	// These choose among the reference plugin's ways to do what is done in one
	// way here. They have no effect.
	Backend              string `json:"backend"`
	MarkMasqBit          *int   `json:"markMasqBit"`
	ExternalSetMarkChain string `json:"externalSetMarkChain"`

	// Allow and Deny list clients, as in nftdp.Frontend.
	Allow []netip.Prefix `json:"allow"`
	Deny  []netip.Prefix `json:"deny"`
	// Dataplane is an nftdp.Config. StateDir is where the agent finds the
	// published ports.
	Dataplane nftdp.Config `json:"dataplane"`
	StateDir  string       `json:"stateDir"`

	Args          json.RawMessage `json:"args"` // a convention of CNI, for other plugins
	RuntimeConfig runtimeConfig   `json:"runtimeConfig"`
}

type runtimeConfig struct {
	PortMappings []json.RawMessage `json:"portMappings"`
}

// mapping is one published port, in the words of CNI's conventions. Some runtimes
// write the names with other capitals.
type mapping struct {
	HostPort      uint16         `json:"hostPort"`
	ContainerPort uint16         `json:"containerPort"`
	Protocol      nftdp.Protocol `json:"protocol"`
	HostIP        string         `json:"hostIP"`
}

func defaults() *config {
	return &config{
		Dataplane: nftdp.Config{Table: "portmap", Owner: "portmap", Localhost: true},
		StateDir:  "/run/nftdp-portmap",
	}
}

// parse reads the configuration. Unless strict is set it ignores what it does not
// know, so that whatever was added can be deleted.
func parse(data []byte, strict bool) (*config, error) {
	c := defaults()
	if err := json.Unmarshal(data, c); err != nil {
		return nil, wrong(types.ErrDecodingFailure, "read the network configuration: %v", err)
	}
	if c.Dataplane.Owner == "" {
		return nil, wrong(types.ErrInvalidNetworkConfig, "dataplane.owner is empty: the plugin shares its tables with its other runs")
	}
	if !strict {
		return c, nil
	}
	if err := unknown(data); err != nil {
		return nil, err
	}
	for key, list := range map[string][]string{"conditionsV4": c.ConditionsV4, "conditionsV6": c.ConditionsV6} {
		if len(list) > 0 {
			return nil, wrong(types.ErrUnsupportedField, "%s: %q: rules are not possible here; allow and deny list clients, and hostIP chooses an address of the node", key, list)
		}
	}
	return c, nil
}

func (c *config) setDataplane(text string) error { return json.Unmarshal([]byte(text), &c.Dataplane) }

// known are the keys of a configuration: those of CNI, the reference plugin's, and ours.
var known = strings.Fields(`cniVersion name type capabilities args ipam dns prevResult runtimeConfig
	snat masqAll conditionsV4 conditionsV6 backend markMasqBit externalSetMarkChain
	allow deny dataplane stateDir`)

// unknown refuses keys that would have no effect.
func unknown(data []byte) error {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(data, &keys); err != nil {
		return wrong(types.ErrDecodingFailure, "read the network configuration: %v", err)
	}
	for key, value := range keys {
		if !slices.Contains(known, key) && !strings.HasPrefix(key, "cni.dev/") {
			return wrong(types.ErrUnsupportedField, "%q: %s: the key is unknown; the keys are %s", key, value, strings.Join(known, ", "))
		}
	}
	return nil
}

// mappings returns the published ports.
func (c *config) mappings() ([]mapping, error) {
	var out []mapping
	for i, text := range c.RuntimeConfig.PortMappings {
		var m mapping
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.DisallowUnknownFields()
		err := decoder.Decode(&m)
		switch {
		case err != nil:
		case m.HostPort == 0:
			err = fmt.Errorf("hostPort is 0: it is 1 to 65535")
		case m.ContainerPort == 0:
			err = fmt.Errorf("containerPort is 0: it is 1 to 65535")
		}
		if err != nil {
			return nil, wrong(types.ErrInvalidNetworkConfig, "portMappings[%d]: %s: %v", i, text, err)
		}
		out = append(out, m)
	}
	return out, nil
}
