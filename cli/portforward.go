package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"berth/coordinator"
)

const (
	forwardPatience = 10 * time.Second // of a local connection, for a passage that is away
	forwardBuffer   = 64 << 10         // bytes that are copied at once
	returnMin       = 200 * time.Millisecond
	returnMax       = 5 * time.Second // between two attempts to come back
	refusalPause    = 10 * time.Second
)

func (a *app) portForwardCommand() *cobra.Command {
	var noStart bool
	cmd := &cobra.Command{
		Use:   "port-forward NAME FORWARD...",
		Short: "Make ports and sockets of a workspace reachable here",
		Long: `Listen here and carry what connects to a workspace, until Ctrl-C. A forward is, as with ssh -L,

  8080                       the same port on both sides; lists 8080,8081 and ranges 3000-3005 work everywhere
  LOCAL:REMOTE               8080:80; LOCAL may be empty for any free port
  LOCAL:HOST:REMOTE          5432:db:5432, a host that the workspace reaches
  BIND:LOCAL:HOST:REMOTE     127.0.0.1:9000:db:9000; without BIND only this machine can connect, * is every address
  /local/sock:/remote/sock   unix sockets, also one side only: 8080:/remote/sock, /local/sock:5432

A stopped workspace is started first, unless --no-start is given. When the network or the coordinator was away, the
forwards come back by themselves; a workspace that was stopped meanwhile is not started again, only waited for. It needs
no ssh program: berth opens one SSH connection, end to end, with the host key checked.`,
		Example: `  berth port-forward dev 8080
  berth port-forward dev 5432:5432 3000-3005 :8080
  berth port-forward dev 127.0.0.1:9000:db:9000 /tmp/docker.sock:/var/run/docker.sock`,
		Args: func(cmd *cobra.Command, args []string) error {
			return arguments(2, max(2, len(args)))(cmd, args)
		},
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			forwards, err := parseForwards(args[1:])
			if err != nil {
				return err
			}
			return a.portForward(cmd.Context(), args[0], forwards, noStart)
		},
	}
	cmd.Flags().BoolVar(&noStart, "no-start", false, "do not start a stopped workspace")
	return cmd
}

// portForward listens first, so that a port that is taken is told before anything is started.
func (a *app) portForward(ctx context.Context, name string, forwards []forward, noStart bool) (err error) {
	f := &forwarder{a: a, changed: make(chan struct{})}
	defer f.close()
	for i, fw := range forwards {
		l, err := listen(fw.local)
		if err != nil {
			return err
		}
		f.listeners = append(f.listeners, l)
		if at, ok := l.Addr().(*net.TCPAddr); ok {
			forwards[i].local.port = at.Port
		}
	}
	if f.p, err = a.passage(ctx, name); err != nil {
		return err
	}
	c, err := f.p.open(ctx, noStart)
	if err != nil {
		return err
	}
	for _, fw := range forwards {
		a.printf("%s leads to %s in %s\n", oneLine(fw.local.String()), oneLine(fw.remote.String()), f.p.target)
	}
	a.hintf("Ctrl-C ends it.")
	return f.run(ctx, c, forwards)
}

// listen opens a forward's listener.
func listen(e endpoint) (net.Listener, error) {
	network, address := e.network()
	var l net.Listener
	var err error
	if network == "unix" {
		l, err = listenUnix(address)
	} else {
		l, err = net.Listen(network, address)
	}
	if err == nil {
		return l, nil
	}
	var told *coordinator.Error
	if errors.As(err, &told) {
		return nil, told
	}
	var dns *net.DNSError
	refused := coordinator.Errorf(coordinator.CodeFailed, "cannot listen on %s", e).WithCause(err)
	switch {
	case inUse(err):
		refused.Code, refused.Msg = coordinator.CodeConflict, refused.Msg+": something else does"
		refused.Hint = "choose another on this side: write LOCAL:REMOTE, or :REMOTE for any free port"
	case errors.Is(err, fs.ErrPermission) && network == "tcp":
		refused.Code, refused.Msg = coordinator.CodeDenied, refused.Msg+": the system does not let you"
		refused.Hint = "ports below 1024 are root's; write LOCAL:REMOTE with a higher one"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist):
		refused.Msg += ": its directory is not there, or not yours"
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.As(err, &dns):
		refused.Msg += ": this machine has no such address"
	default:
		refused.Msg += ": " + plainCause(err)
	}
	return nil, refused
}

// plainCause is the innermost message of an error.
func plainCause(err error) string {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err.Error()
}

// A forwarder carries connections through whichever passage there is.
type forwarder struct {
	a         *app
	p         *passage
	listeners []net.Listener

	mu      sync.Mutex    // guards what follows
	current *ssh.Client   // nil while it is away
	changed chan struct{} // closed when current changes
}

func (f *forwarder) close() {
	for _, l := range f.listeners {
		_ = l.Close() // perhaps again
	}
}

// run carries until ctx ends, which is the usual end and no error, or until there is no way back.
func (f *forwarder) run(ctx context.Context, c *ssh.Client, forwards []forward) error {
	ctx, cancel := context.WithCancel(ctx)
	var children sync.WaitGroup
	defer children.Wait()
	defer f.close()
	defer cancel()
	for i, l := range f.listeners {
		children.Go(func() { f.accept(ctx, l, forwards[i].remote) })
	}
	for {
		f.set(c)
		hold(ctx, c)
		f.set(nil)
		if ctx.Err() != nil {
			return nil
		}
		var err error
		if c, err = f.comeBack(ctx); err != nil || ctx.Err() != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// comeBack opens the passage again, for as long as that takes. It starts nothing: nobody has asked anew.
func (f *forwarder) comeBack(ctx context.Context) (*ssh.Client, error) {
	t := f.p.target
	begin := time.Now()
	f.a.hintf("The connection to %s was lost; connecting again ...", t)
	told := ""
	for pause := returnMin; ; pause = min(2*pause, returnMax) {
		c, err := f.p.open(ctx, true)
		if err == nil {
			f.a.hintf("Connected to %s again after %s.", t, took(time.Since(begin)))
			return c, nil
		}
		switch coordinator.CodeOf(err) {
		case coordinator.CodeUnavailable:
		case coordinator.CodeConflict: // stopped, or about to be
			var e *coordinator.Error
			if errors.As(err, &e) && e.Msg != told {
				told = e.Msg
				f.a.hintf("%s; the forwards wait for it. %s", oneLine(e.Msg), oneLine(e.Hint))
			}
		default:
			return nil, err
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

func (f *forwarder) set(c *ssh.Client) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current = c
	close(f.changed)
	f.changed = make(chan struct{})
}

// client is the passage that is there, or comes back soon; nil if it does not.
func (f *forwarder) client(ctx context.Context) *ssh.Client {
	t := time.NewTimer(forwardPatience)
	defer t.Stop()
	for {
		f.mu.Lock()
		c, changed := f.current, f.changed
		f.mu.Unlock()
		if c != nil {
			return c
		}
		select {
		case <-changed:
		case <-t.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// accept carries each connection of a listener. It returns when they have ended.
func (f *forwarder) accept(ctx context.Context, l net.Listener, to endpoint) {
	var children sync.WaitGroup
	defer children.Wait()
	var refused silence
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			if err == nil {
				_ = conn.Close() // too late
			}
			return
		}
		if err != nil { // out of descriptors, or gone before it was accepted
			if sleep(ctx, returnMin) != nil {
				return
			}
			continue
		}
		children.Go(func() {
			defer func() { _ = conn.Close() }() // both directions have ended
			if err := f.carry(ctx, conn, to); err != nil && refused.over() {
				f.a.hintf("%s", oneLine(err.Error()))
			}
		})
	}
}

// carry joins one local connection with its end in the workspace.
func (f *forwarder) carry(ctx context.Context, local net.Conn, to endpoint) error {
	c := f.client(ctx)
	if c == nil {
		return nil // it has been said that the workspace is away
	}
	network, address := to.network()
	remote, err := c.DialContext(ctx, network, address)
	var refused *ssh.OpenChannelError
	switch {
	case errors.As(err, &refused):
		return coordinator.Errorf(coordinator.CodeFailed, "%s in %s takes no connection: %s", to, f.p.target, coordinator.Clip(refused.Message, 200))
	case err != nil:
		return nil // the passage is gone, or we are
	}
	defer func() { _ = remote.Close() }()
	stop := context.AfterFunc(ctx, func() { _, _ = local.Close(), remote.Close() })
	defer stop()
	join(local, remote)
	return nil
}

// join copies both ways until both have ended. The end of one direction ends it on the other side, and no more.
func join(a, b net.Conn) {
	done := make(chan struct{})
	oneWay := func(to, from net.Conn) {
		_, err := io.CopyBuffer(onlyWriter{to}, onlyReader{from}, make([]byte, forwardBuffer))
		if half, ok := to.(closeWriter); ok && err == nil {
			_ = half.CloseWrite() // a side that is gone ends the other direction
			return
		}
		_, _ = to.Close(), from.Close()
	}
	go func() {
		defer close(done)
		oneWay(b, a)
	}()
	oneWay(a, b)
	<-done
}

// silence keeps the same complaint from being repeated all the time.
type silence struct {
	mu   sync.Mutex
	last time.Time
}

// over reports whether it is time to say it again.
func (s *silence) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.last) < refusalPause {
		return false
	}
	s.last = time.Now()
	return true
}
