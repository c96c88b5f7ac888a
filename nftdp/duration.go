package nftdp

import (
	"encoding/json"
	"fmt"
	"time"
)

// Duration is a time.Duration that is text in JSON and YAML, as in "10m" or
// "1h30m": numbers with a unit from "ns" to "h". A number without a unit is
// refused.
type Duration time.Duration

// String is the duration as time.Duration prints it: "10m0s".
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText returns what String does. It never fails.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes what time.ParseDuration does: "10m" or "10m0s". It leaves
// the duration as it was when it fails.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf(`%q is not a duration: write it with units, as in "10m"`, text)
	}
	*d = Duration(parsed)
	return nil
}

// UnmarshalJSON takes a string, as UnmarshalText does, and refuses a number with
// an error that shows how to write it.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var text *string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf(`%s is not a duration: write it as text with units, as in "10m"`, data)
	}
	if text == nil {
		return nil // as encoding/json treats null
	}
	return d.UnmarshalText([]byte(*text))
}
