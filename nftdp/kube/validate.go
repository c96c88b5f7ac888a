package kube

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nftdp/go-nftdp/nftdp"
)

// Validate returns all problems of the options, joined as by errors.Join. Each names the
// option by its flag.
func (o Options) Validate() error {
	return errors.Join(slices.Concat(o.nameProblems(), o.addressProblems(), o.detectProblems())...)
}

func (o Options) nameProblems() (errs []error) {
	if o.NodeName == "" {
		errs = append(errs, errors.New("hostname-override: the node's name is missing: give that of its Node object"))
	} else if found := validation.IsDNS1123Subdomain(o.NodeName); len(found) > 0 {
		errs = append(errs, fmt.Errorf("hostname-override: %q is not the name of a Node: %s", o.NodeName, strings.Join(found, "; ")))
	}
	if found := validation.IsValidLabelValue(o.ProxyName); len(found) > 0 {
		errs = append(errs, fmt.Errorf("service-proxy-name: %q cannot be the value of a label: %s", o.ProxyName, strings.Join(found, "; ")))
	}
	return errs
}

func (o Options) addressProblems() (errs []error) {
	for _, a := range o.NodePortAddresses {
		if slices.Contains([]string{nodePortsPrimary, nodePortsLocalhost, nodePortsAll}, a) {
			continue
		}
		if p, ok := parsePrefix(a); !ok {
			errs = append(errs, fmt.Errorf("nodeport-addresses: %q: use primary, localhost, all or a prefix such as 192.0.2.0/24", a))
		} else if !takesNodePorts(p) {
			errs = append(errs, fmt.Errorf("nodeport-addresses: %q: the kernel does not forward what clients send to link-local IPv6 addresses: remove it", a))
		}
	}
	for _, p := range o.ClusterCIDRs {
		if !p.IsValid() || p.Addr().Is4In6() {
			errs = append(errs, fmt.Errorf("cluster-cidr: %v: use prefixes such as 10.244.0.0/16 and fd00:10:244::/56", p))
		}
	}
	return errs
}

// detectProblems finds a way of detection without what it needs, and what a way that was
// not chosen would need.
func (o Options) detectProblems() (errs []error) {
	switch o.DetectLocal {
	case DetectLocalNone, DetectLocalNodeCIDR, DetectLocalBridgeInterface, DetectLocalInterfaceNamePrefix:
	case DetectLocalClusterCIDR:
		if len(o.ClusterCIDRs) == 0 {
			errs = append(errs, errors.New("cluster-cidr: detect-local-mode ClusterCIDR needs the prefixes of the pods"))
		}
	default:
		return []error{fmt.Errorf("detect-local-mode: %q: use ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix", string(o.DetectLocal))}
	}
	for _, of := range []struct {
		flag, value string
		mode        DetectLocal
	}{
		{"pod-bridge-interface", o.PodBridgeInterface, DetectLocalBridgeInterface},
		{"pod-interface-name-prefix", o.PodInterfaceNamePrefix, DetectLocalInterfaceNamePrefix},
	} {
		switch chosen := o.DetectLocal == of.mode; {
		case chosen && of.value == "":
			errs = append(errs, fmt.Errorf("%s: detect-local-mode %s needs it", of.flag, of.mode))
		case !chosen && of.value != "":
			errs = append(errs, fmt.Errorf("%s: %q has no effect without detect-local-mode %s", of.flag, of.value, of.mode))
		case chosen:
			errs = append(errs, interfaceProblems(of.flag, of.value, o.podInterfaces())...)
		}
	}
	return errs
}

// interfaceProblems asks nftdp about names of interfaces.
func interfaceProblems(flag, value string, interfaces []string) (errs []error) {
	if strings.HasSuffix(value, "*") {
		return []error{fmt.Errorf("%s: %q: leave the asterisk out", flag, value)}
	}
	for _, p := range fieldErrors(nftdp.Config{InternalInterfaces: interfaces}.Validate(nil)) {
		errs = append(errs, fmt.Errorf("%s: %s", flag, p.Reason))
	}
	return errs
}
