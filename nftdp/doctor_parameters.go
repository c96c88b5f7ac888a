package nftdp

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// forwarded reports whether packets to backends of a family leave the node, and by
// which links.
func (x *examination) forwarded(f ruleset.Family) (links map[uint32]bool) {
	links = map[uint32]bool{}
	for a, r := range x.Hops {
		if ruleset.FamilyOf(a) == f && !r.Local && r.Refusal == around.Routed {
			links[r.Out.Index] = true
		}
	}
	return links
}

// forwarding finds what does not forward. Packets of IPv4 are forwarded if the
// interface by which they arrive says so (ip_route_input_slow in net/ipv4/route.c), for
// all of which net.ipv4.ip_forward stands; those of IPv6 by one parameter (ip6_forward
// in net/ipv6/ip6_output.c), of which since Linux 6.17 interfaces can be excepted.
func (x *examination) forwarding() {
	out := x.forwarded(ruleset.IPv4)
	if len(out) > 0 && x.Parameters["net.ipv4.ip_forward"] == "0" && slices.ContainsFunc(x.Links, around.Link.BlocksForwarding) {
		x.foundForwarding(SeverityError, "net.ipv4.ip_forward", "the node forwards no IPv4 packets: clients outside do not reach backends outside of this namespace", "Turn forwarding on: the node becomes a router, for everything that its filters let through")
	} else if len(out) > 0 {
		for i := range x.Links {
			if l := &x.Links[i]; l.BlocksForwarding() {
				severity := SeverityWarning
				if out[l.Index] {
					severity = SeverityError
				}
				x.foundForwarding(severity, "net.ipv4.conf."+inSysctl(l.Name)+".forwarding", fmt.Sprintf(
					"IPv4 packets that arrive by %s are not forwarded: neither requests of clients nor replies of backends there", l.Name), "Turn forwarding on for the interface")
			}
		}
	}
	const ipv6 = "net.ipv6.conf.all.forwarding"
	if len(x.forwarded(ruleset.IPv6)) > 0 && x.Parameters[ipv6] == "0" && x.Parameters["net.ipv6.conf.all.force_forwarding"] != "1" {
		x.foundForwarding(SeverityError, ipv6, "the node forwards no IPv6 packets: clients outside do not reach backends outside of this namespace", "Turn forwarding on: the node becomes a router, and its interfaces accept no router advertisements any more unless their accept_ra is 2")
	}
}

func (x *examination) foundForwarding(severity Severity, name, evidence, remedy string) {
	x.found(Finding{
		Severity: severity, Code: CodeForwardingOff, Subject: name, Evidence: "is 0: " + evidence, Remedy: remedy,
		Set: []Parameter{{name, "1"}},
	})
}

// tcpLiberal: see requirements.
func (x *examination) tcpLiberal() {
	const name = "net.netfilter.nf_conntrack_tcp_be_liberal"
	tcp := slices.ContainsFunc(x.services, func(s *compile.Service) bool { return s.Proto == compile.TCP })
	if tcp && x.Parameters[name] == "0" {
		x.found(Finding{
			Severity: SeverityWarning, Code: CodeTCPBeLiberalOff, Subject: name,
			Evidence: "is 0: a TCP segment outside of the window that conntrack has tracked is not translated, and the answer to it resets the connection",
			Remedy:   "Turn it on; `ct state invalid` of a firewall then no longer matches such segments",
			Set:      []Parameter{{name, "1"}},
		})
	}
}

// rpFilter: of the parameter for all interfaces and that of one, the larger counts
// (IN_DEV_RPFILTER in linux/inetdevice.h): 1 is strict, and 2 loose.
func (x *examination) rpFilter() {
	const name = "net.ipv4.conf.all.rp_filter"
	forAll, _ := strconv.Atoi(x.Parameters[name])
	var strict []string
	for i := range x.Links {
		if l := &x.Links[i]; l.Up && !l.Loopback && l.IPv4 != nil && max(forAll, l.IPv4.RPFilter) == 1 {
			strict = append(strict, l.Name)
		}
	}
	if len(strict) > 0 && x.Filtered > 0 {
		x.found(Finding{
			Severity: SeverityWarning, Code: CodeRPFilter, Subject: name,
			Evidence: fmt.Sprintf("rp_filter is strict on %s, and %d packets were dropped since their source has its best route through another interface, or none", some(strict), x.Filtered),
			Remedy:   "Make it loose, if packets of clients or backends come by another way than they go; it then still refuses sources without any route",
			Set:      []Parameter{{name, "2"}},
		})
	}
}

func (x *examination) routeLocalnet() {
	const all = "net.ipv4.conf.all.route_localnet"
	var names []string
	if x.Parameters[all] == "1" {
		names = append(names, all+"=0")
	}
	for i := range x.Links {
		if l := &x.Links[i]; l.Up && !l.Loopback && l.IPv4 != nil && l.IPv4.RouteLocalnet {
			names = append(names, "net.ipv4.conf."+inSysctl(l.Name)+".route_localnet=0")
		}
	}
	if len(names) == 0 || x.cfg.Localhost {
		return
	}
	x.found(Finding{
		Severity: SeverityWarning, Code: CodeRouteLocalnet, Subject: strings.TrimSuffix(names[0], "=0"),
		Evidence: "is 1: neighbours reach what listens on 127.0.0.0/8 of this node. Config.Localhost does not need it, and guards these addresses",
		Remedy:   "Turn it off unless other software on the node relies on it, as kube-proxy and the portmap plug-in of CNI do",
		Command:  "sysctl -w " + strings.Join(names, " "),
	})
}

// conntrack finds a table that is full to nine tenths.
func (x *examination) conntrack() {
	const name = "net.netfilter.nf_conntrack_max"
	count, err := strconv.Atoi(x.Parameters["net.netfilter.nf_conntrack_count"])
	limit, err2 := strconv.Atoi(x.Parameters[name])
	if err != nil || err2 != nil || limit == 0 || count < limit-limit/10 {
		return
	}
	severity := SeverityWarning
	if count >= limit {
		severity = SeverityError
	}
	x.found(Finding{
		Severity: severity, Code: CodeConntrackFull, Subject: name,
		Evidence: fmt.Sprintf("%d of %d connections are tracked: when the table is full, first packets are dropped", count, limit),
		Remedy:   "Raise the limit in the initial network namespace, or find out who opens the connections (conntrack -L)",
		Command:  fmt.Sprintf("sysctl -w %s=%d", name, 2*limit),
	})
}

// bridges finds bridges on which connections between backends, or of a backend with
// itself, do not work. Without br_netfilter, replies cross a bridge past conntrack;
// with it, packets are translated on the bridge, which sends none back by the port
// that it came from (should_deliver in net/bridge/br_forward.c).
func (x *examination) bridges() {
	for i, name := range []string{"net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"} {
		f := ruleset.Families[i]
		for _, bridge := range x.bridgesOf(f) {
			if x.Parameters[name] == "1" {
				x.foundHairpin(bridge)
			} else if x.internalOn(f, bridge) {
				finding := Finding{
					Severity: SeverityWarning, Code: CodeBridgeNetfilterOff, Subject: bridge.Name,
					Evidence: fmt.Sprintf("backends on the bridge are in Config.Internal, so that they are not masqueraded as clients, and %s is not 1: replies from one to another cross the bridge untranslated", name),
					Remedy:   "Load br_netfilter and turn the parameter on, or leave clients on the bridge out of Internal (or list them in MasqueradeClients)",
					Command:  "modprobe br_netfilter && sysctl -w " + name + "=1",
				}
				if x.Parameters[name] != "" {
					finding.Command, finding.Set = "", []Parameter{{name, "1"}}
				}
				x.found(finding)
			}
		}
	}
}

// bridgesOf lists the bridges that packets to backends leave by.
func (x *examination) bridgesOf(f ruleset.Family) (out []*around.Link) {
	leaving := x.forwarded(f)
	for i := range x.Links {
		if l := &x.Links[i]; l.Kind == "bridge" && leaving[l.Index] {
			out = append(out, l)
		}
	}
	return out
}

func (x *examination) internalOn(f ruleset.Family, bridge *around.Link) bool {
	for a, r := range x.Hops {
		if r.Out.Index == bridge.Index && ruleset.FamilyOf(a) == f && r.Via == a &&
			slices.ContainsFunc(x.cfg.Internal, func(p netip.Prefix) bool { return p.Masked().Contains(a) }) {
			return true
		}
	}
	return false
}

func (x *examination) foundHairpin(bridge *around.Link) {
	var off []string
	for i := range x.Links {
		if l := &x.Links[i]; l.Master == bridge.Index && l.HairpinOff {
			off = append(off, l.Name)
		}
	}
	subject := bridge.Name
	known := func(f Finding) bool { return f.Code == CodeBridgeHairpinOff && f.Subject == subject }
	if len(off) == 0 || slices.ContainsFunc(x.findings, known) {
		return
	}
	slices.Sort(off)
	commands := make([]string, len(off))
	for i, port := range off {
		commands[i] = fmt.Sprintf("bridge link set dev %s hairpin on", port)
	}
	x.found(Finding{
		Severity: SeverityWarning, Code: CodeBridgeHairpinOff, Subject: subject,
		Evidence: fmt.Sprintf("br_netfilter translates packets on the bridge, and its ports %s send none back: a backend there does not reach itself through its service", some(off)),
		Remedy:   "Turn hairpin mode on for the ports, or bridge-nf-call-iptables off",
		Command:  strings.Join(commands, " && "),
	})
}

func (x *examination) legacy() {
	if len(x.Legacy) > 0 {
		x.found(Finding{
			Severity: SeverityNotice, Code: CodeLegacyIptables, Subject: some(x.Legacy),
			Evidence: "iptables-legacy has these tables, whose rules nf_tables does not show: they were not looked at",
			Remedy:   "Look at them with iptables-legacy-save and ip6tables-legacy-save, and move the rules to nftables (iptables-restore-translate)",
		})
	}
}

// ephemeral finds ports of node-wide frontends among those of outgoing connections.
func (x *examination) ephemeral() {
	const reserved = "net.ipv4.ip_local_reserved_ports"
	var first, last int
	if n, _ := fmt.Sscan(x.Parameters["net.ipv4.ip_local_port_range"], &first, &last); n != 2 {
		return
	}
	kept := portRanges(x.Parameters[reserved])
	var add, names []string
	for _, s := range x.services {
		for _, f := range s.Frontends {
			from, to := max(int(f.Port), first), min(int(max(f.Port, f.End)), last)
			if from > to || !f.Addr.IsUnspecified() && !x.isLocal(f.Addr) || covered(kept, from, to) {
				continue
			}
			add, names = append(add, portsText(from, to)), append(names, s.Name)
		}
	}
	if len(add) == 0 {
		return
	}
	slices.Sort(add)
	add = slices.Compact(add)
	all := strings.Join(add, ",")
	if old := x.Parameters[reserved]; old != "" {
		all = old + "," + all
	}
	x.found(Finding{
		Severity: SeverityWarning, Code: CodeEphemeralPort, Subject: reserved,
		Evidence: fmt.Sprintf("the kernel gives the ports %d to %d to outgoing connections, among them %s of %s", first, last, some(add), some(names)),
		Remedy:   "Reserve the ports, so that outgoing connections get others, or use other ports for the frontends",
		Set:      []Parameter{{reserved, all}},
	})
}

func portsText(from, to int) string {
	if from == to {
		return strconv.Itoa(from)
	}
	return fmt.Sprintf("%d-%d", from, to)
}

// portRanges reads a list such as "8080,9000-9010".
func portRanges(list string) (out [][2]int) {
	for word := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(word, "-")
		first, err := strconv.Atoi(from)
		last := first
		if isRange {
			last, _ = strconv.Atoi(to)
		}
		if err == nil {
			out = append(out, [2]int{first, last})
		}
	}
	return out
}

// covered reports whether all ports are in the ranges, which are in order and apart,
// as the kernel prints them.
func covered(ranges [][2]int, from, to int) bool {
	for _, r := range ranges {
		if r[0] <= from && from <= r[1] {
			from = r[1] + 1
		}
	}
	return from > to
}
