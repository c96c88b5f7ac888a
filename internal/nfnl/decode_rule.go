//go:build linux

package nfnl

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// DecodeRule decodes a message of type NFT_MSG_NEWRULE. The sets of t, which
// is the rule's table, tell what the rule's lookups read and give; lookups in
// other sets are opaque.
//
// Expressions have no structure: they load registers, compare them and use
// them. They are run symbolically, with what was loaded in the place of
// values, and whatever is not exactly one of package ruleset's statements
// makes the whole rule opaque.
func DecodeRule(msg []byte, t *ruleset.Table) (table string, family ruleset.Family, chain string, r ruleset.Rule, err error) {
	family, attrs, err := body(msg)
	if err != nil {
		return "", 0, "", nil, fmt.Errorf("decode rule: %w", err)
	}
	f := readFields(attrs, unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN, unix.NFTA_RULE_HANDLE,
		unix.NFTA_RULE_EXPRESSIONS, unix.NFTA_RULE_POSITION, unix.NFTA_RULE_USERDATA)
	table, chain = f.str(unix.NFTA_RULE_TABLE), f.str(unix.NFTA_RULE_CHAIN)
	run := ruleRun{family: family}
	if t != nil && t.Name == table && t.Family == family {
		run.sets = t
	}
	if err := run.expressions(f.val[unix.NFTA_RULE_EXPRESSIONS]); err != nil {
		f.fail(err)
	}
	what, err := ownerError(family, f.err, table, chain)
	if err != nil {
		return "", 0, "", nil, fmt.Errorf("decode rule: %w", err)
	}
	if what != "" {
		run.rule = ruleset.Rule{ruleset.Opaque{What: what}}
	}
	return table, family, chain, run.rule, nil
}

// ruleRun is a symbolic run of a rule's expressions.
type ruleRun struct {
	family ruleset.Family
	sets   *ruleset.Table // nil if not known
	regs   registers
	rule   ruleset.Rule
}

func (r *ruleRun) expressions(b []byte) error {
	c := cursor{rest: b}
	for c.next() {
		if c.typ != unix.NFTA_LIST_ELEM {
			return unknown("list of expressions")
		}
		if err := r.expression(c.val); err != nil {
			return err
		}
	}
	if c.err == nil && !r.regs.settled() {
		return unknown("value that is loaded and not used")
	}
	return c.err
}

func (r *ruleRun) expression(b []byte) error {
	f := readFields(b, unix.NFTA_EXPR_NAME, unix.NFTA_EXPR_DATA)
	if f.err != nil {
		return f.err
	}
	name := f.str(unix.NFTA_EXPR_NAME)
	data := f.val[unix.NFTA_EXPR_DATA]
	err := r.named(name, data)
	if what, bad := opaqueText(err); bad == nil && what != "" {
		return unknown(name + ": " + what)
	}
	return err
}

// named runs one expression. The attributes are those that the kernel reports
// for what we know; any other makes a different expression of it.
func (r *ruleRun) named(name string, data []byte) error {
	switch name {
	case "payload":
		return r.payload(readFields(data, unix.NFTA_PAYLOAD_DREG, unix.NFTA_PAYLOAD_SREG, unix.NFTA_PAYLOAD_BASE,
			unix.NFTA_PAYLOAD_OFFSET, unix.NFTA_PAYLOAD_LEN,
			unix.NFTA_PAYLOAD_CSUM_TYPE, unix.NFTA_PAYLOAD_CSUM_OFFSET, unix.NFTA_PAYLOAD_CSUM_FLAGS))
	case "meta":
		return r.meta(readFields(data, unix.NFTA_META_DREG, unix.NFTA_META_KEY))
	case "ct":
		return r.ct(readFields(data, unix.NFTA_CT_DREG, unix.NFTA_CT_KEY, unix.NFTA_CT_DIRECTION))
	case "fib":
		return r.fib(readFields(data, unix.NFTA_FIB_DREG, unix.NFTA_FIB_RESULT, unix.NFTA_FIB_FLAGS))
	case "numgen":
		return r.numgen(readFields(data, unix.NFTA_NG_DREG, unix.NFTA_NG_MODULUS,
			unix.NFTA_NG_TYPE, unix.NFTA_NG_OFFSET))
	case "hash":
		return r.hash(readFields(data, unix.NFTA_HASH_SREG, unix.NFTA_HASH_DREG, unix.NFTA_HASH_LEN,
			unix.NFTA_HASH_MODULUS, unix.NFTA_HASH_SEED, unix.NFTA_HASH_OFFSET, unix.NFTA_HASH_TYPE))
	case "byteorder":
		return r.byteorder(readFields(data, unix.NFTA_BYTEORDER_SREG, unix.NFTA_BYTEORDER_DREG,
			unix.NFTA_BYTEORDER_OP, unix.NFTA_BYTEORDER_LEN, unix.NFTA_BYTEORDER_SIZE))
	case "bitwise":
		return r.bitwise(readFields(data, unix.NFTA_BITWISE_SREG, unix.NFTA_BITWISE_DREG,
			unix.NFTA_BITWISE_LEN, unix.NFTA_BITWISE_MASK, unix.NFTA_BITWISE_XOR, nftaBitwiseOp))
	case "cmp":
		return r.cmp(readFields(data, unix.NFTA_CMP_SREG, unix.NFTA_CMP_OP, unix.NFTA_CMP_DATA))
	case "lookup":
		return r.lookup(readFields(data, unix.NFTA_LOOKUP_SET, unix.NFTA_LOOKUP_SREG,
			unix.NFTA_LOOKUP_DREG, unix.NFTA_LOOKUP_FLAGS, unix.NFTA_LOOKUP_SET_ID))
	case "immediate":
		return r.immediate(readFields(data, unix.NFTA_IMMEDIATE_DREG, unix.NFTA_IMMEDIATE_DATA))
	case "nat":
		return r.nat(readFields(data, unix.NFTA_NAT_TYPE, unix.NFTA_NAT_FAMILY, unix.NFTA_NAT_FLAGS,
			unix.NFTA_NAT_REG_ADDR_MIN, unix.NFTA_NAT_REG_ADDR_MAX,
			unix.NFTA_NAT_REG_PROTO_MIN, unix.NFTA_NAT_REG_PROTO_MAX))
	case "dynset":
		return r.dynset(readFields(data, unix.NFTA_DYNSET_SET_NAME, unix.NFTA_DYNSET_SET_ID, unix.NFTA_DYNSET_OP,
			unix.NFTA_DYNSET_SREG_KEY, unix.NFTA_DYNSET_SREG_DATA, unix.NFTA_DYNSET_TIMEOUT, unix.NFTA_DYNSET_FLAGS))
	case "connlimit":
		return r.connlimit(readFields(data, nftaConnlimitCount, nftaConnlimitFlags))
	case "masq":
		return r.masq(readFields(data, unix.NFTA_MASQ_FLAGS))
	case "reject":
		return r.reject(readFields(data, unix.NFTA_REJECT_TYPE, unix.NFTA_REJECT_ICMP_CODE))
	}
	return unknown("not known")
}

// match appends a statement that only lets packets pass or not. Such
// statements may come between a load and the use of what was loaded, since
// their order makes no difference.
func (r *ruleRun) match(s ruleset.Statement) error {
	r.rule = append(r.rule, s)
	return nil
}

// act appends a statement that does something. Whatever has been loaded until
// then must have been used, as a load can prevent it.
func (r *ruleRun) act(s ruleset.Statement) error {
	if !r.regs.settled() {
		return unknown("value that is loaded and not used before it")
	}
	r.rule = append(r.rule, s)
	return nil
}
