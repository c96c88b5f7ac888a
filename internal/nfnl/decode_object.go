//go:build linux

package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// DecodeObject decodes a message of type NFT_MSG_NEWOBJ or NFT_MSG_DELOBJ or, as
// flowtable says, of type NFT_MSG_NEWFLOWTABLE or NFT_MSG_DELFLOWTABLE. Whatever
// else the message says makes no difference: every object is to be deleted.
func DecodeObject(msg []byte, flowtable bool) (table string, family ruleset.Family, o ruleset.Object, err error) {
	if len(msg) < netlink.NetfilterHeaderLen {
		return "", 0, o, fmt.Errorf("decode object: %w", errHeader)
	}
	all := netlink.ReadAttributes(msg[netlink.NetfilterHeaderLen:])
	for all.Next() {
		switch {
		case all.Type == unix.NFTA_OBJ_TABLE:
			table = netlink.String(all.Value)
		case all.Type == unix.NFTA_OBJ_NAME:
			o.Name = netlink.String(all.Value)
		case all.Type == unix.NFTA_OBJ_TYPE && len(all.Value) == 4 && !flowtable:
			o.Kind = ruleset.ObjectKind(binary.BigEndian.Uint32(all.Value))
		}
	}
	switch err = all.Err(); {
	case err != nil:
	case table == "" || o.Name == "":
		err = errors.New("no name")
	case !flowtable && o.Kind == ruleset.Flowtable:
		err = errors.New("no type")
	}
	if err != nil {
		return "", 0, ruleset.Object{}, fmt.Errorf("decode object: %w", err)
	}
	return table, ruleset.Family(msg[0]), o, nil
}
