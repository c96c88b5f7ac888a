//go:build linux

package nfnl

import "golang.org/x/sys/unix"

// Constants of linux/netfilter/nf_tables.h that golang.org/x/sys/unix does not have.
const (
	nftaTableHandle   = 4
	nftaTableUserdata = 6
	nftaTableOwner    = 7 // netlink port of the owner, Linux 5.12 and later

	nftaChainFlags = 10

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

	nftSetElemCatchAll = 2 // Linux 5.13 and later

	nftaSetElemKeyEnd      = 10
	nftaSetElemExpressions = 11

	nftaBitwiseOp = 6

	nftChainBase = 1
)

// Types of the user data that nft keeps in tables and elements: libnftnl's
// include/libnftnl/udata.h.
const (
	udataComment   = 0 // of tables and of elements
	udataElemFlags = 1 // of elements: how nft prints an interval
)

// NFTA_CONNLIMIT_COUNT, NFTA_CONNLIMIT_FLAGS and NFT_CONNLIMIT_F_INV.
const (
	nftaConnlimitCount = 1
	nftaConnlimitFlags = 2
	nftConnlimitInv    = 1
)
