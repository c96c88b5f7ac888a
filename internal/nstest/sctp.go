//go:build linux

package nstest

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// The part of SCTP (RFC 9260) for a first exchange: a client's INIT and the
// server's INIT ACK, whose state cookie is free for the server to use. It is sent
// over raw IP sockets, since few kernels have SCTP sockets, while netfilter
// translates SCTP on all of them.
const (
	protoSCTP = 132

	chunkInit    = 1
	chunkInitAck = 2
	paramCookie  = 7

	sctpHeaderLen = 12 // ports, verification tag, checksum
	chunkFixedLen = 20 // chunk header and the fixed part of INIT and INIT ACK
	initTag       = 0x6e667464
)

var errNotSCTP = errors.New("not an SCTP INIT or INIT ACK")

// sctpPacket is an SCTP packet with one INIT or INIT ACK chunk.
type sctpPacket struct {
	srcPort, dstPort uint16
	tag              uint32 // verification tag; zero in an INIT
	chunk            uint8
	cookie           string // of an INIT ACK
}

func (p sctpPacket) marshal() []byte {
	chunk := make([]byte, chunkFixedLen)
	chunk[0] = p.chunk
	binary.BigEndian.PutUint32(chunk[4:], initTag) // initiate tag
	binary.BigEndian.PutUint32(chunk[8:], 65536)   // receive window
	binary.BigEndian.PutUint16(chunk[12:], 1)      // outbound streams
	binary.BigEndian.PutUint16(chunk[14:], 1)      // inbound streams
	binary.BigEndian.PutUint32(chunk[16:], 1)      // initial TSN
	if p.cookie != "" {
		chunk = binary.BigEndian.AppendUint16(chunk, paramCookie)
		chunk = binary.BigEndian.AppendUint16(chunk, uint16(4+len(p.cookie)))
		chunk = append(chunk, p.cookie...)
	}
	binary.BigEndian.PutUint16(chunk[2:], uint16(len(chunk)))

	b := make([]byte, sctpHeaderLen, sctpHeaderLen+len(chunk)+3)
	binary.BigEndian.PutUint16(b[0:], p.srcPort)
	binary.BigEndian.PutUint16(b[2:], p.dstPort)
	binary.BigEndian.PutUint32(b[4:], p.tag)
	b = append(b, chunk...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	binary.LittleEndian.PutUint32(b[8:], sctpChecksum(b))
	return b
}

func parseSCTP(b []byte) (sctpPacket, error) {
	if len(b) < sctpHeaderLen+chunkFixedLen || binary.LittleEndian.Uint32(b[8:]) != sctpChecksum(b) {
		return sctpPacket{}, errNotSCTP
	}
	p := sctpPacket{
		srcPort: binary.BigEndian.Uint16(b[0:]),
		dstPort: binary.BigEndian.Uint16(b[2:]),
		tag:     binary.BigEndian.Uint32(b[4:]),
		chunk:   b[sctpHeaderLen],
	}
	params := b[sctpHeaderLen+chunkFixedLen:]
	switch {
	case p.chunk == chunkInit:
		return p, nil
	case p.chunk == chunkInitAck && len(params) >= 4 && binary.BigEndian.Uint16(params) == paramCookie:
		n := int(binary.BigEndian.Uint16(params[2:]))
		if n < 4 || n > len(params) {
			return sctpPacket{}, errNotSCTP
		}
		p.cookie = string(params[4:n])
		return p, nil
	}
	return sctpPacket{}, errNotSCTP
}

// sctpChecksum returns the CRC32c of the packet with a zero checksum field. It
// is sent least significant byte first (RFC 9260, appendix A).
func sctpChecksum(b []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(0, table, b[:8])
	sum = crc32.Update(sum, table, make([]byte, 4))
	return crc32.Update(sum, table, b[12:])
}
