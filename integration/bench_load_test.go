//go:build linux

package integration

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
)

// BenchmarkLoad programs all services into an empty namespace in several ways,
// one right after the other, so that they run under the same conditions.
func BenchmarkLoad(b *testing.B) {
	inSizes(b, func(b *testing.B, n int) {
		b.Run("by=library", func(b *testing.B) { loadByLibrary(b, n) })
		b.Run("by=raw", func(b *testing.B) { loadRaw(b, n) })
		if n > 1_000 {
			return // nft takes minutes to load 10,000 services
		}
		b.Run("by=nft-endpoint-chains", func(b *testing.B) { loadByNft(b, endpointChains(n)) })
		b.Run("by=nft-service-chains", func(b *testing.B) { loadByNft(b, serviceChains(n)) })
	})
}

func loadByLibrary(b *testing.B, n int) {
	b.Helper()
	ns, services := newNamespace(b), manyServices(n)
	laps := newLaps()
	b.ReportAllocs()
	for b.Loop() {
		begin := time.Now()
		d := open(b, ns, nftdp.Config{})
		plan, err := d.Apply(b.Context(), services)
		laps.add(begin)
		mustChange(b, plan, err)
		untimed(b, func() {
			closeOrFail(b, d)
			remove(b, ns)
		})
	}
	laps.report(b, "p50-ns")
}

// remove deletes the tables and waits until the kernel has freed them, which it
// does some time later, but at the latest while it closes a socket
// (nft_rcv_nl_event in net/netfilter/nf_tables_api.c).
func remove(b *testing.B, ns *nstest.Namespace) {
	b.Helper()
	conn := dialKernel(b, ns)
	defer closeOrFail(b, conn)
	var tables []ruleset.Change
	for _, f := range ruleset.Families {
		tables = append(tables, ruleset.Change{Verb: ruleset.Delete, Family: f, Table: nftdp.DefaultTable})
	}
	commit(b, conn, tables)
}

// loadRaw is the lower bound: it sends the same bytes as the library, encoded
// beforehand, and waits for the answer.
func loadRaw(b *testing.B, n int) {
	b.Helper()
	ns := newNamespace(b)
	changes := ruleset.Diff(&ruleset.Ruleset{}, compiled(n)).Changes()
	conn := dialRaw(b, ns)
	laps := newLaps()
	for i := 0; b.Loop(); i++ {
		var batch []byte
		untimed(b, func() {
			if i > 0 {
				remove(b, ns)
			}
			batch = encode(b, ns, changes)
		})
		begin := time.Now()
		err := conn.commit(batch)
		laps.add(begin)
		if err != nil {
			b.Fatal(err)
		}
	}
	laps.report(b, "p50-ns")

	// The library finds what it would have programmed.
	d := open(b, ns, nftdp.Config{})
	plan, err := d.Apply(b.Context(), manyServices(n))
	mustKeep(b, plan, err)
	closeOrFail(b, d)
}

// compiled are the rules of manyServices.
func compiled(n int) *ruleset.Ruleset {
	services := make([]*compile.Service, n)
	for i := range services {
		pool := make([]netip.AddrPort, poolSize)
		for j := range pool {
			pool[j] = backendAddr(i, j)
		}
		services[i] = &compile.Service{
			Name: service(i, poolSize).Name, Proto: compile.TCP,
			Frontends: []*compile.Frontend{{Addr: clusterAddr(i), Port: 80, Pool: pool}},
		}
	}
	return compile.New(compile.Config{Table: nftdp.DefaultTable, Affinities: 65536}, services).Ruleset()
}

// encode encodes the changes as a batch for the present generation.
func encode(b *testing.B, ns *nstest.Namespace, changes []ruleset.Change) []byte {
	b.Helper()
	conn := dialKernel(b, ns)
	defer closeOrFail(b, conn)
	batch := nfnl.NewBatch(1, generation(b, conn))
	for i := range changes {
		if err := batch.Add(&changes[i]); err != nil {
			b.Fatal(err)
		}
	}
	return batch.Finish()
}

// rawConn is a bare netlink socket.
type rawConn int

func dialRaw(b *testing.B, ns *nstest.Namespace) rawConn {
	b.Helper()
	fd := -1
	err := ns.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		b.Fatal(os.NewSyscallError("socket", err))
	}
	b.Cleanup(func() { _ = unix.Close(fd) })
	const buffer = 256 << 20 // more than any batch here
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, buffer); err != nil {
		skipOrFail(b, "sending a batch in one piece needs CAP_NET_ADMIN on the host: %v", err)
	}
	return rawConn(fd)
}

// commit sends a batch and reads the kernel's answer: the first error, or the
// acknowledgement.
func (c rawConn) commit(batch []byte) error {
	if err := unix.Sendto(int(c), batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	var reply [unix.NLMSG_HDRLEN + 4]byte
	// The kernel has answered when the call that sends returns.
	n, _, err := unix.Recvfrom(int(c), reply[:], unix.MSG_DONTWAIT)
	if err != nil {
		return os.NewSyscallError("recvfrom", err)
	}
	if n < len(reply) || binary.NativeEndian.Uint16(reply[4:]) != unix.NLMSG_ERROR {
		return errors.New("the answer is not an acknowledgement")
	}
	if errno := -int32(binary.NativeEndian.Uint32(reply[unix.NLMSG_HDRLEN:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}
