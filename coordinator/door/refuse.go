package door

import (
	"fmt"
	"io"
	"net"
	"time"

	"berth/agent"
)

const (
	maxFarewells  = 50               // connections that are told at once why they are refused; the others are only closed
	farewellLimit = time.Second      // for a client to read it
	farewellBytes = 64 << 10         // that are read of it meanwhile
	refusalEvery  = 10 * time.Second // at most so often the log tells of refusals
)

// refuse tells a client why it is not served: by a disconnect message in clear, before the key exchange, which clients
// show. It costs no cryptography.
func (d *Server) refuse(nc net.Conn, reason error) {
	d.countRefusal(nc, reason)
	select {
	case d.farewells <- struct{}{}:
		defer func() { <-d.farewells }()
	default:
		return
	}
	_ = nc.SetDeadline(time.Now().Add(farewellLimit))
	if _, err := nc.Write(append([]byte(agent.SSHVersion+"\r\n"), disconnect("berth: "+reason.Error())...)); err != nil {
		return
	}
	// What is closed with bytes unread is reset, and the client would not see the message.
	if t, ok := nc.(interface{ CloseWrite() error }); ok {
		_ = t.CloseWrite()
	}
	_, _ = io.CopyN(io.Discard, nc, farewellBytes)
}

// countRefusal logs refusals, but not each one of a flood.
func (d *Server) countRefusal(nc net.Conn, reason error) {
	d.mu.Lock()
	d.refused++
	n, now := d.refused, time.Now()
	due := now.Sub(d.refusedAt) >= refusalEvery
	if due {
		d.refused, d.refusedAt = 0, now
	}
	d.mu.Unlock()
	if due {
		d.log.Warn("ssh connection refused", "peer", nc.RemoteAddr().String(), "reason", reason, "refused", n)
	}
}

// expire ends a login whose grace is over, with words where the protocol has a place for them.
func (c *conn) expire() {
	c.late.Store(true)
	defer c.net.Close()
	_ = c.net.SetWriteDeadline(time.Now().Add(farewellLimit))
	text := fmt.Sprintf("the login took longer than %v", c.door.grace)
	switch pre := c.pre.Load(); {
	case pre != nil:
		_ = (*pre).SendAuthBanner(banner(text))
	case !c.net.heard.Load():
		_, _ = c.net.Write(disconnect("berth: " + text)) // the version was sent, and nothing else
	}
}
