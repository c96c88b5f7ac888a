//go:build linux

package integration

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// exchange sends a datagram and returns the answer.
func exchange(socket net.Conn, payload string) (string, error) {
	if _, err := socket.Write([]byte(payload)); err != nil {
		return "", err
	}
	b := make([]byte, 1<<16)
	n, err := socket.Read(b)
	return string(b[:n]), err
}

// receivedSegments is the number of TCP segments, UDP datagrams and ICMP errors of
// both families that a namespace has received. Neighbour discovery does not count.
func receivedSegments(t *testing.T, ns *nstest.Namespace) int {
	t.Helper()
	return snmpSum(t, ns, "snmp", "Tcp.InSegs", "Icmp.InMsgs", "Udp.InDatagrams", "Udp.NoPorts") +
		snmpSum(t, ns, "snmp6", "Icmp6InDestUnreachs", "Icmp6InPktTooBigs", "Udp6InDatagrams", "Udp6NoPorts")
}

// snmpSum adds up counters of a file in /proc/net.
func snmpSum(t *testing.T, ns *nstest.Namespace, file string, names ...string) int {
	t.Helper()
	var text []byte
	err := ns.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/" + file)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	counters, sum := parseSNMP(string(text)), 0
	for _, name := range names {
		n, ok := counters[name]
		if !ok {
			t.Fatalf("no counter %s in %s", name, file)
		}
		sum += n
	}
	return sum
}

// parseSNMP parses both forms: a line of names and one of values, each after the
// protocol, as in /proc/net/snmp, and a name and a value in each line, as in snmp6.
func parseSNMP(text string) map[string]int {
	counters := map[string]int{}
	var names []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		protocol, isList := strings.CutSuffix(words[0], ":")
		switch {
		case !isList:
			counters[words[0]], _ = strconv.Atoi(words[1])
		case names == nil:
			names = words
		default:
			for i, word := range words[1:] {
				counters[protocol+"."+names[i+1]], _ = strconv.Atoi(word)
			}
			names = nil
		}
	}
	return counters
}
