package nftdp

import "encoding/json"

// MarshalJSON returns the object of the Plan with one more list, "by", unless
// nobody is known to have done it.
func (d Drift) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Changes []step    `json:"changes"`
		By      []Process `json:"by,omitempty"`
	}{d.steps(), d.By})
}
