package door

import (
	"context"
	"sync"

	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/entry"
)

// ConsoleUser is the login name under which the product itself answers. No workspace can be called so.
const ConsoleUser = "berth"

// A Console serves the connections of ConsoleUser.
type Console interface {
	// Serve serves one connection until its channels end or ctx does. Both channels are its to drain.
	Serve(ctx context.Context, v Visitor, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request)
}

// A Visitor is somebody who has proved a key and came to the console.
type Visitor struct {
	User coordinator.User
	Key  string // fingerprint of the key
	Peer string // the true peer, host:port
	// Enter brings one of the user's workspaces up and opens SSH to it, as the terminated door does. The returned
	// function ends the connection and the session's record.
	Enter func(ctx context.Context, t coordinator.Target, progress func(coordinator.Progress)) (*ssh.Client, func(), error)
}

// serveConsole hands the connection to the console.
func (c *conn) serveConsole(sc *ssh.ServerConn, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	c.door.cfg.Console.Serve(c.ctx, Visitor{User: c.user, Key: c.key, Peer: c.peer, Enter: c.enterConsole}, chans, reqs)
	_ = sc.Close()
}

// enterConsole opens SSH to a workspace for somebody at the console.
func (c *conn) enterConsole(ctx context.Context, t coordinator.Target, progress func(coordinator.Progress)) (*ssh.Client, func(), error) {
	stream, err := c.enter(ctx, entry.Request{Target: t, Via: agent.ViaConsole, Progress: progress})
	if err != nil {
		return nil, nil, err
	}
	to := &conn{door: c.door, user: c.user, ws: stream.Workspace, log: c.log}
	in, err := to.connect(ctx, stream, agent.SSHVersion)
	if err != nil {
		_ = stream.Close() // the first error says more
		return nil, nil, err
	}
	client := ssh.NewClient(in.side.Conn, in.side.Channels, in.side.Requests)
	return client, sync.OnceFunc(func() {
		_ = client.Close() // it may have ended by itself
		_ = stream.Close()
	}), nil
}
