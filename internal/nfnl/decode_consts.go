//go:build linux

package nfnl

import "golang.org/x/sys/unix"

// Constants of linux/netfilter/nf_tables.h that golang.org/x/sys/unix has not.
const (
	nftaTableHandle   = 4
	nftaTableUserdata = 6
	nftaTableOwner    = 7 // netlink port of the owner, Linux 5.12 and later

	nftaChainFlags    = 10
	nftaChainUserdata = 12

	nftaSetHandle      = 16
	nftaSetExpr        = 17
	nftaSetExpressions = 18
	nftaSetType        = 19 // name of the backend, Linux 6.16 and later
	nftaSetCount       = 20 // number of elements, Linux 6.16 and later

	nftaSetDescConcat = 2
	nftaSetFieldLen   = 1

	nftSetConcat  = 0x80
	nftSetExpr    = 0x100
	nftSetDynamic = unix.NFT_SET_EVAL | unix.NFT_SET_TIMEOUT

	nftaSetElemKeyEnd      = 10
	nftaSetElemExpressions = 11

	nftaBitwiseOp = 6

	nftChainBase = 1
)

// Verdicts of linux/netfilter.h.
const (
	nfDrop   = 0
	nfAccept = 1
)

// Numbers of nft's data types, which the kernel keeps for nft without a look
// at them: enum datatypes in include/datatype.h of nftables. The type of a
// concatenation has six bits for each of its fields, the first one highest.
const (
	nftTypeInteger     = 4
	nftTypeIPv4Addr    = 7
	nftTypeIPv6Addr    = 8
	nftTypeInetProto   = 12
	nftTypeInetService = 13
	nftTypeBits        = 6
)

// Types of the user data that nft keeps in tables and elements: libnftnl's
// include/libnftnl/udata.h.
const (
	udataComment   = 0 // of tables and of elements
	udataElemFlags = 1 // of elements: how nft prints an interval
)

// Values that nft_nat.c reports for a translation whose address and port come
// from registers: NF_NAT_RANGE_MAP_IPS and NF_NAT_RANGE_PROTO_SPECIFIED.
const (
	natRangeAddr = 1
	natRangePort = 2
)

// NFTA_CONNLIMIT_COUNT, NFTA_CONNLIMIT_FLAGS and NFT_CONNLIMIT_F_INV.
const (
	nftaConnlimitCount = 1
	nftaConnlimitFlags = 2
	nftConnlimitInv    = 1
)

// ICMP codes of "port unreachable".
const (
	icmpPortUnreachable   = 3
	icmpv6PortUnreachable = 4
)

// Directions of a connection, enum ip_conntrack_dir of
// linux/netfilter/nf_conntrack_tuple_common.h.
const (
	original = 0
	reply    = 1
)
