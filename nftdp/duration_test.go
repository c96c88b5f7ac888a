package nftdp_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

func TestDurationJSON(t *testing.T) {
	const tenMinutes = nftdp.Duration(10 * time.Minute)
	roundTrip(t, tenMinutes, `"10m0s"`)
	roundTrip(t, nftdp.Duration(0), `"0s"`)
	roundTrip(t, nftdp.Duration(-time.Millisecond), `"-1ms"`)
	for _, c := range []struct {
		text    string
		want    nftdp.Duration
		problem string
	}{
		{`"10m"`, tenMinutes, ""},
		{`"600s"`, tenMinutes, ""},
		{`null`, 1, ""},
		{`600`, 1, `600 is not a duration: write it as text with units, as in "10m"`},
		{`true`, 1, `true is not a duration: write it as text with units, as in "10m"`},
		{`"600"`, 1, `"600" is not a duration: write it with units, as in "10m"`},
		{`""`, 1, `"" is not a duration: write it with units, as in "10m"`},
		{`"1 h"`, 1, `"1 h" is not a duration: write it with units, as in "10m"`},
	} {
		got := nftdp.Duration(1)
		err := json.Unmarshal([]byte(c.text), &got)
		if got != c.want || err != nil && err.Error() != c.problem || err == nil && c.problem != "" {
			t.Errorf("%s became %v, error %v; want %v, %s", c.text, got, err, c.want, c.problem)
		}
	}
}

func ExampleDuration() {
	var service nftdp.Service
	if err := json.Unmarshal([]byte(`{"name": "default/web:http", "affinity": "90m"}`), &service); err != nil {
		fmt.Println(err)
	}
	fmt.Println(service.Affinity, time.Duration(service.Affinity).Minutes())
	text, err := json.Marshal(service)
	fmt.Println(string(text), err)
	// Output:
	// 1h30m0s 90
	// {"name":"default/web:http","affinity":"1h30m0s"} <nil>
}
