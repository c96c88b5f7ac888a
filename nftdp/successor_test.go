package nftdp

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nftdp/go-nftdp/internal/compile"
)

// FuzzSuccessor: what is lowered beside a former service is what is lowered alone, but
// for the arrangement of pools, and nothing is found valid that is not. Frontends that
// stay are shared, and with them their pools.
func FuzzSuccessor(f *testing.F) {
	addRandom(f, 400)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		s := d.service("s", nil)
		before := s.clone()
		if len(before.Backends) > 0 {
			before.Backends = before.Backends[1:]
		}
		former := lowerAll([]Service{*s.clone()})[0].Arranged(lowerAll([]Service{*before})[0])
		for range 8 {
			next := d.tweaked(&s)
			got, ok := next.after(former).valid()
			if !ok {
				continue
			}
			if err := (Config{}).Validate([]Service{*next}); err != nil {
				t.Fatalf("%s\nafter %s: %v", asJSON(next), asJSON(s), err)
			}
			whole := lowerAll([]Service{*next})[0]
			if diff := gocmp.Diff(whole.Model, got.Model, sameAddrs()...); diff != "" {
				t.Errorf("model (-want +got):\n%s", diff)
			}
			want := whole.Arranged(got)
			if diff := gocmp.Diff(want, got, append(sameAddrs(), cmpopts.IgnoreFields(compile.Service{}, "Model"))...); diff != "" {
				t.Errorf("%s\nafter %s (-want +got):\n%s", asJSON(next), asJSON(s), diff)
			}
			config := d.config()
			wantSamePlan(t, config.lower(), former, whole, got)
			s, former = *next, got
		}
	})
}

func sameAddrs() []gocmp.Option {
	return []gocmp.Option{
		gocmp.Comparer(func(a, b netip.Addr) bool { return a == b }), gocmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
		gocmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty(),
		gocmp.AllowUnexported(compile.Source{}, model{}),
	}
}

// wantSamePlan fails if it makes a difference for what is committed whether a service
// shares frontends with the former one.
func wantSamePlan(t *testing.T, cfg compile.Config, former, whole, shared *compile.Service) {
	t.Helper()
	var plans [2]string
	for i, next := range []*compile.Service{whole, shared} {
		state := compile.New(cfg, []*compile.Service{former})
		plan := Plan{state.Stage([]*compile.Service{next.Arranged(former)}, nil).Transaction().Changes()}
		plans[i] = plan.String()
	}
	if diff := gocmp.Diff(plans[0], plans[1]); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
}

// tweaked returns a copy of a service in which a few frontends are changed, added,
// removed or in another order. It can be invalid.
func (d *dice) tweaked(s *Service) *Service {
	out := s.clone()
	for range d.roll(3) {
		n := len(out.Frontends)
		at := d.roll(n)
		f := d.frontend(d.roll(8) == 0, d.roll(3) == 0, d.roll(3) == 0)
		switch change := d.roll(5); {
		case n == 0 || change == 0:
			out.Frontends = slices.Insert(out.Frontends, at, f)
		case change == 1:
			out.Frontends = slices.Delete(out.Frontends, at, at+1)
		case change == 2:
			out.Frontends[at] = f
		case change == 3:
			f.Addr, f.Port, f.EndPort = out.Frontends[at].Addr, out.Frontends[at].Port, out.Frontends[at].EndPort
			out.Frontends[at] = f
		default:
			shuffle(d, out.Frontends)
		}
	}
	return out
}

// TestSuccessorHasEveryField: services that differ in any field are not taken for alike.
func TestSuccessorHasEveryField(t *testing.T) {
	service := Service{
		Name: "s", Protocol: ProtocolUDP, Scheduler: SchedulerMaglev, Affinity: aSecond, MaglevSize: 251, CutStale: true,
		Frontends: []Frontend{{}}, Backends: []Backend{{}}, SNAT: []netip.Addr{{}},
	}
	var none Service
	for field, value := range reflect.ValueOf(&service).Elem().Fields() {
		var one Service
		reflect.ValueOf(&one).Elem().FieldByIndex(field.Index).Set(value)
		if value.IsZero() || one.alike(&none) != (field.Name == "Frontends") {
			t.Errorf("Service.%s makes no difference", field.Name)
		}
	}
	frontend := Frontend{
		Addr: addr("10.96.0.1"), Port: 80, EndPort: 90, Policy: PolicyLocalOnly, Masquerade: MasqueradeAlways, NoBackend: ActionDrop,
		MasqueradeClients: make([]netip.Prefix, 1), Allow: make([]netip.Prefix, 1), Deny: make([]netip.Prefix, 1),
	}
	var nowhere Frontend
	for field, value := range reflect.ValueOf(&frontend).Elem().Fields() {
		var one Frontend
		reflect.ValueOf(&one).Elem().FieldByIndex(field.Index).Set(value)
		if value.IsZero() || one.equal(&nowhere) {
			t.Errorf("Frontend.%s makes no difference", field.Name)
		}
	}
}

// TestSuccessorShares: a change of one frontend leaves the others as they are, also
// with the pools of schedulers that have one arrangement alone.
func TestSuccessorShares(t *testing.T) {
	for _, scheduler := range []Scheduler{SchedulerRandom, SchedulerMaglev} {
		s := Service{Name: "s", Scheduler: scheduler, Backends: []Backend{{Addr: netip.MustParseAddrPort("10.180.0.1:80")}}}
		for port := range uint16(20) {
			s.Frontends = append(s.Frontends, Frontend{Addr: addr("10.96.0.1"), Port: 20 - port})
		}
		former := lowerAll([]Service{s})[0]
		next := s.clone()
		next.Frontends[3].Masquerade = MasqueradeAlways
		next.Frontends = append(next.Frontends, Frontend{Addr: addr("10.96.0.1"), Port: 100})
		got, ok := next.after(former).valid()
		if !ok || len(got.Frontends) != 21 {
			t.Fatalf("%v: %t, %d frontends", scheduler, ok, len(got.Frontends))
		}
		shared := 0
		for i, f := range got.Frontends {
			if i < 20 && f == former.Frontends[i] {
				shared++
			}
			if !f.SamePools(got.Frontends[0]) {
				t.Errorf("%v: the pool of port %d is another one", scheduler, f.Port)
			}
		}
		if shared != 19 {
			t.Errorf("%v: %d frontends are shared", scheduler, shared)
		}
		if same, ok := s.after(former).valid(); !ok || same != former {
			t.Errorf("%v: the same service is lowered again", scheduler)
		}
	}
}
