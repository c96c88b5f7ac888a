package nftdp_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"strings"
	"syscall"

	"github.com/nftdp/go-nftdp/nftdp"
)

// Equal services compile to the same text, in whatever order they are.
func ExampleRuleset() {
	one, other := ingress("10.180.0.1:8080"), nftdp.Service{Name: "default/other"}
	a, err := nftdp.Config{}.Compile([]nftdp.Service{one, other})
	if err != nil {
		log.Fatal(err)
	}
	b, err := nftdp.Config{}.Compile([]nftdp.Service{other, one})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(a.String() == b.String())
	table, _, _ := strings.Cut(a.String(), "\n")
	fmt.Println(table)
	// Output:
	// true
	// table ip nftdp {
}

// A program says what it is about to do, if there is anything.
func ExamplePlan() {
	var config nftdp.Config
	before, err := config.Compile([]nftdp.Service{ingress("10.180.0.1:8080")})
	if err != nil {
		log.Fatal(err)
	}
	after, err := config.Compile([]nftdp.Service{ingress("10.180.0.7:8080")})
	if err != nil {
		log.Fatal(err)
	}
	for _, plan := range []*nftdp.Plan{before.PlanTo(before), before.PlanTo(after)} {
		if plan.Empty() {
			fmt.Println("nothing to do")
			continue
		}
		fmt.Printf("%d objects, the first by\n", plan.Len())
		first, _, _ := strings.Cut(plan.String(), "\n")
		fmt.Println(first)
	}
	// Output:
	// nothing to do
	// 10 objects, the first by
	// delete element ip nftdp node_backends { tcp . 80 . 0 }
}

// Each problem can be looked at, for example to show it beside a field.
func ExampleFieldError() {
	err := nftdp.Config{}.Validate([]nftdp.Service{{Frontends: []nftdp.Frontend{{}}}})
	fmt.Println(err)
	if first, ok := errors.AsType[*nftdp.FieldError](err); ok {
		fmt.Println(first.Service, "/", first.Field, "/", first.Reason)
	}
	// Output:
	// service "services[0]": name: is empty: give every service a name of its own
	// service "services[0]": frontends[0].port: is 0: give a port from 1 to 65535
	// services[0] / name / is empty: give every service a name of its own
}

// The kernel lacks memory for a service.
func ExampleApplyError() {
	var err error = &nftdp.ApplyError{ // as Apply or Update return it
		Service: "default/web:http",
		Change:  "add chain ip nftdp random-7",
		Err:     syscall.ENOMEM,
	}
	fmt.Println(err)
	fmt.Println(errors.Is(err, syscall.ENOMEM))
	text, _ := json.Marshal(err)
	fmt.Println(string(text))
	// Output:
	// service "default/web:http": kernel refused "add chain ip nftdp random-7": cannot allocate memory
	// true
	// {"service":"default/web:http","change":"add chain ip nftdp random-7","error":"cannot allocate memory"}
}
