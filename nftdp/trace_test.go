package nftdp_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/nftdp"
)

// TestTraceFilterErrors: a wrong filter is refused by the name of its field, and all
// problems at once.
func TestTraceFilterErrors(t *testing.T) {
	_, d := start(t.Context())
	defer d.Close()
	v4, v6 := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")
	for name, c := range map[string]struct {
		filter nftdp.TraceFilter
		want   string
	}{
		"protocol":        {nftdp.TraceFilter{Protocol: "tls"}, `config: protocol: "tls" is unknown: use tcp, udp, sctp, icmp or icmpv6`},
		"port":            {nftdp.TraceFilter{DestinationPort: 80}, "config: protocol: has no ports: set tcp, udp or sctp"},
		"port of ICMP":    {nftdp.TraceFilter{Protocol: "icmp", SourcePort: 80}, "config: protocol: has no ports: set tcp, udp or sctp"},
		"mapped":          {nftdp.TraceFilter{Source: netip.MustParsePrefix("::ffff:10.0.0.0/104")}, "config: source: is an IPv4-mapped IPv6 prefix: write it as IPv4"},
		"families":        {nftdp.TraceFilter{Source: v4, Destination: v6}, "config: destination: is of another family than source"},
		"long interface":  {nftdp.TraceFilter{Interface: "abcdefghijklmnop"}, `config: interface: "abcdefghijklmnop" is no name of a network device`},
		"wrong interface": {nftdp.TraceFilter{Interface: "eth/0"}, `config: interface: "eth/0" is no name of a network device`},
		"rate":            {nftdp.TraceFilter{Rate: -1}, "config: rate: is not between 0 and 2147483647"},
		"service":         {nftdp.TraceFilter{Service: "none"}, `service "none": name: no such service`},
		"two": {
			nftdp.TraceFilter{Protocol: "tls", Rate: -1},
			"config: protocol: \"tls\" is unknown: use tcp, udp, sctp, icmp or icmpv6\nconfig: rate: is not between 0 and 2147483647",
		},
	} {
		n := 0
		for found, err := range d.Trace(t.Context(), c.filter) {
			if n++; found != nil || err == nil || err.Error() != c.want {
				t.Errorf("%s: %v, want %s", name, err, c.want)
			}
			if _, ok := errors.AsType[*nftdp.FieldError](err); !ok {
				t.Errorf("%s: %T", name, err)
			}
		}
		if n != 1 {
			t.Errorf("%s: %d results", name, n)
		}
	}
}

// TestTraceUnsupported: a node in memory reports no packets.
func TestTraceUnsupported(t *testing.T) {
	_, d := start(t.Context(), web("10.180.0.1:8080"))
	n := 0
	for _, err := range d.Trace(t.Context(), nftdp.TraceFilter{Service: "web", DestinationPort: 80}) {
		if n++; !errors.Is(err, nftdp.ErrNotSupported) {
			t.Error(err)
		}
	}
	if n != 1 {
		t.Errorf("%d results", n)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for _, err := range d.Trace(t.Context(), nftdp.TraceFilter{}) {
		if !errors.Is(err, nftdp.ErrClosed) {
			t.Error(err)
		}
	}
}

func TestTraceJSON(t *testing.T) {
	step := `{"hook":"forward","priority":10,"family":"inet","table":"firewalld","chain":"filter_FORWARD","handle":12,` +
		`"rule":"ct state new drop","comment":"default","verdict":"drop","packet":{"protocol":"tcp",` +
		`"source":"203.0.113.7:40000","destination":"10.180.0.1:8080","info":"syn","length":60}}`
	tr := *dropped()
	tr.Steps = tr.Steps[2:]
	roundTrip(t, tr, `{"time":"2026-05-04T12:30:00.25Z","packet":{"protocol":"tcp","source":"203.0.113.7:40000","destination":"192.0.2.1:80",`+
		`"info":"syn","length":60},"last":{"protocol":"tcp","source":"203.0.113.7:40000","destination":"10.180.0.1:8080","info":"syn","length":60},`+
		`"in":"eth0","out":"pod1","connection":1579908097,"state":"new","service":"web","backend":"10.180.0.1:8080",`+
		`"verdict":"dropped","code":"FORWARD_DROPPED_BY","by":`+step+`,"steps":[`+step+`]}`)
	roundTrip(t, nftdp.TraceFilter{}, `{}`)
	roundTrip(t, nftdp.TraceFilter{
		Service: "a", Protocol: "udp", Source: netip.MustParsePrefix("10.0.0.0/8"), Destination: netip.MustParsePrefix("10.1.0.0/16"),
		SourcePort: 1, DestinationPort: 2, Interface: "eth0", Replies: true, Rate: 3,
	}, `{"service":"a","protocol":"udp","source":"10.0.0.0/8","destination":"10.1.0.0/16","sourcePort":1,"destinationPort":2,`+
		`"interface":"eth0","replies":true,"rate":3}`)
}

// TestTraceLine: the line of a packet without a service, of a reply, and of one that
// was translated by others.
func TestTraceLine(t *testing.T) {
	for _, c := range []struct {
		change func(*nftdp.Trace)
		want   string
	}{
		{func(tr *nftdp.Trace) {
			tr.Service, tr.Backend, tr.By = "", netip.AddrPort{}, nil
			tr.Verdict, tr.Code = nftdp.VerdictSent, nftdp.CodeNoService
		}, "tcp syn: sent by pod1 (NO_SERVICE)"},
		{func(tr *nftdp.Trace) { tr.Service = "" }, "tcp syn: → 10.180.0.1:8080, dropped by table"},
		{func(tr *nftdp.Trace) {
			tr.Reply, tr.By, tr.Verdict, tr.Code = true, nil, nftdp.VerdictDelivered, nftdp.CodeDelivered
		}, "tcp syn: web ← 10.180.0.1:8080, delivered (DELIVERED)"},
		{func(tr *nftdp.Trace) {
			tr.Verdict, tr.Code = nftdp.VerdictSent, nftdp.CodeForeignDNATFirst
		}, "sent by pod1, translated by table inet firewalld, chain filter_FORWARD, rule 12"},
		{func(tr *nftdp.Trace) { tr.Incomplete, tr.By, tr.Verdict = true, nil, nftdp.VerdictLost }, "lost (FORWARD_DROPPED_BY), reports were missed"},
	} {
		tr := dropped()
		c.change(tr)
		if line := tr.String(); !strings.Contains(line, c.want) {
			t.Errorf("%s\nwant %s", line, c.want)
		}
	}
}
