package nftdptest_test

import (
	"errors"
	"testing"

	"github.com/nftdp/go-nftdp/nftdp"
)

// TestBlame: an Update whose frontends another service has already, which is not part
// of the Update, names the service that is to be left out, and its frontend.
func TestBlame(t *testing.T) {
	d := open(t, newNode(), nftdp.Config{})
	vip, wide := nftdp.Frontend{Addr: addr("10.96.0.1"), Port: 80}, nftdp.Frontend{Port: 30080}
	apply(t, d, nftdp.Service{Name: "held", Frontends: []nftdp.Frontend{vip, wide}})
	for _, taken := range []nftdp.Frontend{vip, wide, {Addr: addr("::"), Port: 30080}} {
		good := nftdp.Service{Name: "good", Frontends: []nftdp.Frontend{{Addr: addr("10.96.0.2"), Port: 80}}}
		bad := nftdp.Service{Name: "bad", Frontends: []nftdp.Frontend{{Addr: addr("10.96.0.3"), Port: 80}, taken}}
		_, err := d.Update(t.Context(), nftdp.Change{Set: []nftdp.Service{good, bad}})
		if p, ok := errors.AsType[*nftdp.FieldError](err); !ok || p.Service != "bad" || p.Field != "frontends[1]" {
			t.Errorf("%v: %v", taken, err)
		}
		if _, err := d.Update(t.Context(), nftdp.Change{Set: []nftdp.Service{good}}); err != nil {
			t.Error(err)
		}
	}
}
