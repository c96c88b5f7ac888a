package nftdp_test

import (
	"context"
	"log"
	"net/netip"
	"os/signal"
	"syscall"

	"github.com/vishvananda/netns"

	"github.com/nftdp/go-nftdp/nftdp"
)

// A node agent programs the namespace that it runs in, and repairs what others
// do to its rules until it is told to stop. The rules stay, and the next agent
// adopts them.
func ExampleConfig_Open() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	dataplane, err := nftdp.Config{}.Open(ctx)
	if err != nil {
		log.Fatal(err) // such as a lack of CAP_NET_ADMIN
	}
	defer dataplane.Close()

	plan, err := dataplane.Apply(ctx, []nftdp.Service{{
		Name:      "default/web:http",
		Frontends: []nftdp.Frontend{{Port: 80}},
		Backends:  []nftdp.Backend{{Addr: netip.MustParseAddrPort("10.180.0.1:8080")}},
	}})
	if err != nil {
		log.Fatal(err)
	}
	log.Print(plan.Len(), " objects changed") // 0 if everything was there already
	err = dataplane.Keep(ctx, func(drift *nftdp.Drift, err error) {
		if err != nil {
			log.Print(err) // Keep tries again
			return
		}
		log.Printf("%v changed our rules; repaired by\n%v", drift.By, drift)
	})
	log.Print("stopped: ", err)
}

// A container plugin publishes a port inside of a pod's namespace, which another
// program has made.
func ExampleConfig_OpenIn() {
	ctx := context.Background()
	pod, err := netns.GetFromPath("/run/netns/pod")
	if err != nil {
		log.Fatal(err)
	}
	defer pod.Close()
	dataplane, err := nftdp.Config{}.OpenIn(ctx, pod)
	if err != nil {
		log.Fatal(err) // such as a lack of CAP_SYS_ADMIN
	}
	defer dataplane.Close()

	_, err = dataplane.Apply(ctx, []nftdp.Service{{
		Name:      "sidecar",
		Frontends: []nftdp.Frontend{{Port: 80}},
		Backends:  []nftdp.Backend{{Addr: netip.MustParseAddrPort("10.180.0.1:8080")}},
	}})
	if err != nil {
		log.Fatal(err)
	}
}
