//go:build linux

package nfnl

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// codec translates one of the kernel's expressions to package ruleset and back. A
// statement takes several expressions: the first ones load its operands (see
// loads), and the codec of the last one encodes it.
type codec struct {
	name   string
	known  uint16 // decode knows the attributes up to this one; others make the rule opaque
	decode func(*ruleDecoder)
	encode statementEncoder
}

var codecs = [...]codec{
	{"payload", unix.NFTA_PAYLOAD_CSUM_FLAGS, (*ruleDecoder).payload, of((*ruleEncoder).setAddr)},
	{"meta", unix.NFTA_META_KEY, (*ruleDecoder).meta, nil},
	{"ct", unix.NFTA_CT_DIRECTION, (*ruleDecoder).ct, nil},
	{"fib", unix.NFTA_FIB_FLAGS, (*ruleDecoder).fib, nil},
	{"socket", expr.NFTA_SOCKET_LEVEL, (*ruleDecoder).socket, nil},
	{"numgen", unix.NFTA_NG_OFFSET, (*ruleDecoder).numgen, nil},
	{"hash", unix.NFTA_HASH_TYPE, (*ruleDecoder).hash, nil},
	{"byteorder", unix.NFTA_BYTEORDER_SIZE, (*ruleDecoder).byteorder, nil},
	{"bitwise", nftaBitwiseOp, (*ruleDecoder).bitwise, nil},
	{"cmp", unix.NFTA_CMP_DATA, (*ruleDecoder).cmp, oneOf(of((*ruleEncoder).match), of((*ruleEncoder).matchAddr), of((*ruleEncoder).matchInput))},
	{"lookup", unix.NFTA_LOOKUP_FLAGS, (*ruleDecoder).lookup, oneOf(of((*ruleEncoder).lookup), of((*ruleEncoder).vmap))},
	{"dynset", unix.NFTA_DYNSET_FLAGS, (*ruleDecoder).dynset, of((*ruleEncoder).update)},
	{"nat", unix.NFTA_NAT_FLAGS, (*ruleDecoder).nat, oneOf(of((*ruleEncoder).dnat), of((*ruleEncoder).dnatTo), of((*ruleEncoder).snatTo))},
	{"redir", unix.NFTA_REDIR_FLAGS, (*ruleDecoder).redir, of((*ruleEncoder).redirect)},
	{"masq", unix.NFTA_MASQ_FLAGS, (*ruleDecoder).masq, of((*ruleEncoder).masquerade)},
	{"immediate", unix.NFTA_IMMEDIATE_DATA, (*ruleDecoder).immediate, of((*ruleEncoder).verdict)},
	{"reject", unix.NFTA_REJECT_ICMP_CODE, (*ruleDecoder).reject, of((*ruleEncoder).reject)},
	{"connlimit", nftaConnlimitFlags, (*ruleDecoder).connlimit, of((*ruleEncoder).connCount)},
}

// statementEncoder reports whether it knows the type of the statement.
type statementEncoder func(*ruleEncoder, ruleset.Statement) bool

func of[S ruleset.Statement](encode func(*ruleEncoder, S)) statementEncoder {
	return func(e *ruleEncoder, s ruleset.Statement) bool {
		own, ok := s.(S)
		if ok {
			encode(e, own)
		}
		return ok
	}
}

func oneOf(list ...statementEncoder) statementEncoder {
	return func(e *ruleEncoder, s ruleset.Statement) bool {
		return slices.ContainsFunc(list, func(encode statementEncoder) bool { return encode(e, s) })
	}
}

// ruleEncoder appends the expressions of a rule to a list. They are those of stock
// nft, so that nft prints the rule as package ruleset does.
type ruleEncoder struct {
	family ruleset.Family
	list   *netlink.Buffer
	err    error // the first one
}

// reg0 is the first register of four bytes. Every statement loads its operands
// from here on.
const reg0 = unix.NFT_REG32_00

var errStatement = errors.New("statement cannot be encoded")

func (e *ruleEncoder) statement(s ruleset.Statement) {
	for i := range codecs {
		if encode := codecs[i].encode; encode != nil && encode(e, s) {
			return
		}
	}
	e.refuse("%T", s)
}

// refuse notes what cannot be encoded.
func (e *ruleEncoder) refuse(format string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf(format+": %w", append(args, errStatement)...)
	}
}

// add appends an expression, unless it is nil.
func (e *ruleEncoder) add(x expr.Any) {
	if x == nil {
		return
	}
	b, err := expr.Marshal(byte(e.family), x)
	if err != nil && e.err == nil {
		e.err = fmt.Errorf("marshal %T: %w", x, err)
	}
	e.list.PutNested(unix.NFTA_LIST_ELEM, b)
}

// DecodeRule decodes a message of type NFT_MSG_NEWRULE. The sets of the rule's
// table determine the types of lookups; lookups in other sets are opaque.
//
// Expressions have no structure: they load registers, compare them and use
// them. They are executed symbolically, with operands in the place of values, and
// whatever is not exactly one of package ruleset's statements makes the whole rule
// opaque.
func DecodeRule(msg []byte, in *ruleset.Names) (table string, family ruleset.Family, chain string, r ruleset.Rule, err error) {
	family, a := readMessage(msg, unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN, unix.NFTA_RULE_HANDLE,
		unix.NFTA_RULE_EXPRESSIONS, unix.NFTA_RULE_POSITION)
	table, chain = a.str(unix.NFTA_RULE_TABLE), a.str(unix.NFTA_RULE_CHAIN)
	d := ruleDecoder{family: family}
	if in != nil && in.Of.Name == table && in.Of.Family == family {
		d.sets = in
	}
	a.malformed(d.expressions(a.val[unix.NFTA_RULE_EXPRESSIONS]))
	what, err := ownerError(family, a.err, table, chain)
	if err != nil {
		return "", 0, "", nil, fmt.Errorf("decode rule: %w", err)
	}
	if what != "" {
		d.rule = ruleset.Rule{ruleset.Opaque{What: what}}
	}
	return table, family, chain, d.rule, nil
}

// ruleDecoder executes a rule's expressions symbolically. Once one has failed,
// what else is decoded does not matter.
type ruleDecoder struct {
	name       string // of the current expression
	attributes        // of the current expression
	registers
	family ruleset.Family
	sets   *ruleset.Names // nil if not known
	rule   ruleset.Rule
}

func (d *ruleDecoder) expressions(b []byte) error {
	list := netlink.ReadAttributes(b)
	for list.Next() {
		if list.Type != unix.NFTA_LIST_ELEM {
			return unknown("list of expressions")
		}
		if err := d.expression(list.Value); err != nil {
			return err
		}
	}
	if list.Err() == nil && !d.settled() {
		return unknown("value that is loaded and not used")
	}
	return list.Err()
}

func (d *ruleDecoder) expression(b []byte) error {
	d.attributes = attributes{}
	d.read(b, 1<<unix.NFTA_EXPR_NAME|1<<unix.NFTA_EXPR_DATA)
	if d.err != nil {
		return d.err
	}
	data := d.val[unix.NFTA_EXPR_DATA]
	d.name, d.attributes = d.str(unix.NFTA_EXPR_NAME), attributes{}
	i := slices.IndexFunc(codecs[:], func(c codec) bool { return c.name == d.name })
	if i < 0 {
		d.opaque("not known")
	} else {
		d.read(data, 2<<codecs[i].known-1)
		codecs[i].decode(d)
	}
	if what, bad := opaqueText(d.err); bad == nil && what != "" {
		return unknown(d.name + ": " + what)
	}
	return d.err
}

// match appends a statement that only matches packets. Such a statement may stand
// between a load and the use of what was loaded, since their order makes no
// difference.
func (d *ruleDecoder) match(s ruleset.Statement) { d.rule = append(d.rule, s) }

// act appends a statement that has an effect. Everything that has been loaded
// before must have been used, since a load can end the rule.
func (d *ruleDecoder) act(s ruleset.Statement) {
	d.check(d.settled(), "value that is loaded and not used before it")
	d.rule = append(d.rule, s)
}

// set returns the set of that name in the rule's table, which must be known. An
// anonymous set is opaque, since its name does not say what it contains.
func (d *ruleDecoder) set(name string) *ruleset.Set {
	if d.sets != nil {
		if s := d.sets.Set(name); s != nil && s.Opaque == "" {
			return s
		}
	}
	d.opaque("set %s", name)
	return &ruleset.Set{}
}
