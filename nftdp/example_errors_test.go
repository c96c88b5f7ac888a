package nftdp_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"syscall"

	"github.com/nftdp/go-nftdp/nftdp"
)

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
