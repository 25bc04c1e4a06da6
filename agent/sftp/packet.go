package sftp

import (
	"encoding/binary"
	"strings"
)

// A packet is a request's body. Reading beyond its end, or a name that no file can have, sets bad; what is returned then
// means nothing.
type packet struct {
	b   []byte
	bad bool
}

func (p *packet) take(n int) []byte {
	if p.bad || n < 0 || n > len(p.b) {
		p.bad = true
		return nil
	}
	b := p.b[:n]
	p.b = p.b[n:]
	return b
}

func (p *packet) uint32() uint32 {
	if b := p.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (p *packet) uint64() uint64 {
	if b := p.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// bytes returns a string that is valid as long as the packet.
func (p *packet) bytes() []byte {
	n := p.uint32()
	if uint64(n) > uint64(len(p.b)) {
		p.bad = true
		return nil
	}
	return p.take(int(n))
}

func (p *packet) string() string { return string(p.bytes()) }

// path returns a file's name; the empty one stands for the directory where one begins.
func (p *packet) path() string {
	name := p.string()
	if strings.ContainsRune(name, 0) {
		p.bad = true
	}
	if name == "" {
		return "."
	}
	return name
}

// Which attributes are there.
const (
	attrSize     = 1
	attrOwner    = 2
	attrMode     = 4
	attrTimes    = 8
	attrExtended = 1 << 31
)

// attrs are a file's attributes:
//
//	uint32 flags | uint64 size | uint32 uid, gid | uint32 mode | uint32 atime, mtime | uint32 n | n times: string, string
type attrs struct {
	flags        uint32
	size         uint64
	uid, gid     uint32
	mode         uint32
	atime, mtime uint32
}

func (p *packet) attrs() attrs {
	a := attrs{flags: p.uint32()}
	if a.flags&attrSize != 0 {
		a.size = p.uint64()
	}
	if a.flags&attrOwner != 0 {
		a.uid, a.gid = p.uint32(), p.uint32()
	}
	if a.flags&attrMode != 0 {
		a.mode = p.uint32()
	}
	if a.flags&attrTimes != 0 {
		a.atime, a.mtime = p.uint32(), p.uint32()
	}
	if a.flags&attrExtended != 0 {
		for n := p.uint32(); n > 0 && !p.bad; n-- { // of no use to anybody
			p.bytes()
			p.bytes()
		}
	}
	return a
}

// perm is the mode to make a file with.
func (a attrs) perm(otherwise uint32) uint32 {
	if a.flags&attrMode == 0 {
		return otherwise
	}
	return a.mode & 0o7777
}

func (s *server) putAttrs(a attrs) {
	s.putUint32(attrSize | attrOwner | attrMode | attrTimes)
	s.putUint64(a.size)
	s.putUint32(a.uid)
	s.putUint32(a.gid)
	s.putUint32(a.mode)
	s.putUint32(a.atime)
	s.putUint32(a.mtime)
}
