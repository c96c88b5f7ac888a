package nftdp_test

import (
	"encoding/json"
	"flag"
	"fmt"

	"github.com/nftdp/go-nftdp/nftdp"
)

// Enumerations are words in JSON, in lower case. They are read in upper case, too.
func ExampleProtocol() {
	var dns nftdp.Service
	err := json.Unmarshal([]byte(`{"name": "infra/dns", "protocol": "UDP"}`), &dns)
	fmt.Println(dns.Protocol, err)
	text, err := json.Marshal(dns)
	fmt.Println(string(text), err)
	// Output:
	// udp <nil>
	// {"name":"infra/dns","protocol":"udp"} <nil>
}

// Enumerations can be flags of a program.
func ExampleScheduler() {
	var scheduler nftdp.Scheduler
	flags := flag.NewFlagSet("program", flag.ContinueOnError)
	flags.TextVar(&scheduler, "scheduler", nftdp.SchedulerRandom, "how backends are chosen")
	err := flags.Parse([]string{"-scheduler", "source-hash"})
	fmt.Println(scheduler, err)
	// Output:
	// source-hash <nil>
}

// An unknown word is refused with those that are known.
func ExampleState() {
	var backend nftdp.Backend
	err := json.Unmarshal([]byte(`{"addr": "10.180.0.1:8080", "state": "drained"}`), &backend)
	fmt.Println(err)
	backend.State = nftdp.StateDraining
	text, err := json.Marshal(backend)
	fmt.Println(string(text), err)
	// Output:
	// unknown state "drained": want active, draining or down
	// {"addr":"10.180.0.1:8080","state":"draining"} <nil>
}

// A number that is no constant is printed as such, but refused in JSON.
func ExampleAction() {
	action := nftdp.ActionDrop
	fmt.Println(action, nftdp.Action(9))
	_, err := nftdp.Action(9).MarshalText()
	fmt.Println(err)
	err = action.UnmarshalText([]byte("reject"))
	fmt.Println(action, err)
	// Output:
	// drop action(9)
	// unknown action 9: want default, reject, drop or pass
	// reject <nil>
}

func ExampleMasquerade() {
	var frontend nftdp.Frontend
	err := json.Unmarshal([]byte(`{"port": 443, "masquerade": "never"}`), &frontend)
	fmt.Println(frontend.Masquerade, err)
	text, err := json.Marshal(nftdp.MasqueradeAlways)
	fmt.Println(string(text), err)
	// Output:
	// never <nil>
	// "always" <nil>
}

func ExamplePolicy_String() {
	fmt.Println(nftdp.PolicyLocalOnly, nftdp.PolicyExternalLocalOnly)
	// Output: local-only external-local-only
}

func ExamplePolicy_MarshalText() {
	text, err := json.Marshal(nftdp.Frontend{Port: 80, Policy: nftdp.PolicyLocalOnly})
	fmt.Println(string(text), err)
	// Output: {"port":80,"policy":"local-only"} <nil>
}

func ExamplePolicy_UnmarshalText() {
	var frontend nftdp.Frontend
	err := json.Unmarshal([]byte(`{"port": 80, "policy": "external-local-only"}`), &frontend)
	fmt.Println(frontend.Policy, err)
	// Output: external-local-only <nil>
}
