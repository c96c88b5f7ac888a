package nftdp_test

import (
	"fmt"

	"github.com/nftdp/go-nftdp/nftdp"
)

func ExampleParseConfig() {
	config, err := nftdp.ParseConfig([]byte(`{"nodeAddrs": ["192.168.0.0/24"], "localhost": true}`))
	fmt.Println(config.NodeAddrs, config.Localhost, err)
	_, err = nftdp.ParseConfig([]byte("{\n\"nodeAdrs\": [\"192.168.0.0/24\"]\n}"))
	fmt.Println(err)
	// Output:
	// [192.168.0.0/24] true <nil>
	// line 2: config: nodeAdrs: is unknown: did you mean "nodeAddrs"?
}
