// Package nftdptest is a node in memory, for unit tests of programs that use
// package nftdp. A Dataplane of a Node is the real one, and what it programs
// are the real rules; only the kernel below is replaced. So tests need no
// privileges and no Linux, and they send packets:
//
//	node := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))
//	dataplane, err := node.Open(ctx, nftdp.Config{})
//	…
//	got := node.Send(nftdptest.Packet{Source: client, Destination: frontend})
//
// A Node does what the rules of nftdp mean for the first packet of a
// connection, and follows the connection from then on. It has no routes: a
// packet that is delivered may be one that nobody would receive, and the kernel
// parameters which Dataplane.MeetRequirements sets make no difference. Backends
// never have more connections than their MaxConns, and every backend is drawn
// as often as the others, whatever its weight.
//
// Nothing happens by itself: no time passes but by Node.Advance, no goroutine
// is started, and where the kernel draws a number, a Node takes turns. All
// methods may be called concurrently. Dataplane.Keep, Watch and Drain wait as
// they do on a running kernel, so that package testing/synctest can be used.
// Dataplane.Explain explains what the rules make of a packet, without routes and
// neighbours. Dataplane.Trace ends at once with an error that matches nftdp.ErrNotSupported.
package nftdptest
