package compile

import "strings"

// Refusal says why our rules dropped or rejected a packet.
type Refusal uint8

// The refusals.
const (
	NoBackend    Refusal = iota // of its frontend, or no frontend at all in one of the service CIDRs
	ClientDenied                // by the frontend's lists of clients, or from outside to a loopback address
	LimitReached                // of the chosen backend
)

// RefusalOf returns the reason for which a rule, in nft's words, refused a packet.
// The rule is in a chain, to which a rule of the chain before has led.
func RefusalOf(chain, rule, before string) Refusal {
	if chain == noBackendChain {
		chain, rule = before, ""
	}
	chain = strings.TrimPrefix(chain, "node-")
	bare := rule == "" || rule == "drop" // of the chain's class, not of its conditions
	switch {
	case strings.HasPrefix(chain, prefixesPrefix) && !bare, strings.Contains(rule, "iiftype"):
		return ClientDenied
	case strings.HasPrefix(chain, limitPrefix):
		return LimitReached
	}
	return NoBackend
}
