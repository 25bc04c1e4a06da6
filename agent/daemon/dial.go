package daemon

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"berth/agent"
	"berth/agent/shell"
)

const dialTimeout = 10 * time.Second

// dial answers a stream of kind dial: it connects to the target as the user, says how that went, and joins the two.
func (w *worker) dial(ctx context.Context, conn net.Conn, target string) error {
	out, err := dialTarget(ctx, w.user, target)
	reply := agent.Reply{OK: err == nil}
	if err != nil {
		reply.Error = err.Error()
	}
	if werr := agent.WriteLine(conn, reply, agent.MaxStreamHeader); werr != nil || err != nil {
		if out != nil {
			out.Close()
		}
		return err
	}
	join(ctx, conn, out)
	return nil
}

// dialTarget connects to tcp:HOST:PORT or unix:PATH.
func dialTarget(ctx context.Context, u *shell.User, target string) (net.Conn, error) {
	network, address, _ := strings.Cut(target, ":")
	dialer := net.Dialer{Timeout: dialTimeout}
	switch network {
	case "tcp":
		return dialer.DialContext(ctx, "tcp", address)
	case "unix":
		var conn net.Conn
		err := shell.As(u, func() (err error) { // else root would open what the user may not
			conn, err = dialer.DialContext(ctx, "unix", address)
			return err
		})
		return conn, err
	}
	return nil, fmt.Errorf("dial: %.60q is neither tcp:HOST:PORT nor unix:PATH", target)
}

// join copies both ways; each end of input is handed on as a half-close. It returns when both directions have ended.
func join(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() {
		a.Close()
		b.Close()
	})
	defer stop()
	defer a.Close()
	defer b.Close()
	var both sync.WaitGroup
	copyTo := func(to, from net.Conn) {
		both.Go(func() {
			if _, err := io.Copy(to, from); err != nil {
				a.Close() // a connection that failed one way is of no use the other way
				b.Close()
				return
			}
			if c, ok := to.(interface{ CloseWrite() error }); ok {
				_ = c.CloseWrite()
				return
			}
			to.Close()
		})
	}
	copyTo(a, b)
	copyTo(b, a)
	both.Wait()
}
