// Package console is "ssh berth@door": the product for whoever has nothing but an SSH client. A command is one of the
// CLI's and runs in this process; without one there is a screen.
//
// Whoever is here has proved a registered key and asks the API like anybody else, in their own name, but over no network
// and with no token. It owns the connections and their limits, and keeps nothing.
package console

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"golang.org/x/crypto/ssh"

	"berth/cli/client"
	"berth/coordinator"
)

// Caps of what is open at a time. A screen is a goroutine dozen and a poll every few seconds.
const (
	maxConnections     = 400
	maxConnectionsUser = 32
	maxSessions        = 200
	maxSessionsUser    = 16
)

// A Visitor is somebody who has proved a key.
type Visitor struct {
	User coordinator.User
	Key  string // fingerprint of the key
	Peer string // host:port
	// Enter brings one of the user's workspaces up and opens SSH to it; the function that it returns ends that.
	Enter func(ctx context.Context, t coordinator.Target, progress func(coordinator.Progress)) (*ssh.Client, func(), error)
}

// A Config is what a Console is made of. API, Identify, URL and Name are required.
type Config struct {
	API http.Handler
	// Identify returns a context in which the API takes a request for one of this user, who came with this key.
	Identify func(ctx context.Context, user coordinator.UserID, key string) context.Context
	URL      string          // of the installation
	Name     string          // how one calls the console: ssh berth@berth.example.com
	Done     <-chan struct{} // closed when the coordinator shuts down: nobody is kept from it by a screen
	Logger   *slog.Logger
}

// A Console serves connections.
type Console struct {
	cfg         Config
	log         *slog.Logger
	api         http.Handler // of the routes that a console may use
	connections *limiter
	sessions    *limiter
}

// New returns a Console.
func New(cfg Config) *Console {
	c := &Console{
		cfg: cfg, log: cfg.Logger, api: only(cfg.API),
		connections: newLimiter(maxConnections, maxConnectionsUser), sessions: newLimiter(maxSessions, maxSessionsUser),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c
}

// client returns the API as v may use it.
func (c *Console) client(v Visitor) (*client.Client, error) {
	return client.Open(c.cfg.URL, client.Config{
		InsecureHTTP: true, // it goes nowhere
		UserAgent:    "berth-console",
		Transport: &inside{handler: c.api, peer: v.Peer, identify: func(ctx context.Context) context.Context {
			return c.cfg.Identify(ctx, v.User.ID, v.Key)
		}},
	})
}

// Serve serves one connection until its channels end. Ends with ctx, or soon after Done, are ends of everything in it.
func (c *Console) Serve(ctx context.Context, v Visitor, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	k := &connection{console: c, visitor: v, log: c.log.With("user", v.User.Name, "peer", v.Peer)}
	work.Go(func() { k.globalRequests(reqs) })
	leave, full := c.connections.enter(v.User.ID)
	if full {
		k.crowded = "too many connections to the console are open; close one and try again"
	}
	defer leave()
	for nc := range chans {
		if nc.ChannelType() != "session" {
			_ = nc.Reject(ssh.Prohibited, refusal(nc.ChannelType(), c.cfg.Name))
			continue
		}
		work.Go(func() { k.session(ctx, nc) })
	}
}

// A connection is one client.
type connection struct {
	console *Console
	visitor Visitor
	log     *slog.Logger
	crowded string // why no session is served; "" for none

	mu      sync.Mutex
	refused []string // guarded by mu: what was asked for on the connection and not given, told by the next session
}

// globalRequests answers what a client asks of the connection: a keep-alive, and forwards, which there are none of.
func (k *connection) globalRequests(reqs <-chan *ssh.Request) {
	for req := range reqs {
		switch req.Type {
		case "keepalive@openssh.com":
			_ = req.Reply(true, nil) // the client has gone, if this fails
			continue
		case "tcpip-forward", "streamlocal-forward@openssh.com":
			k.tell(refusal(req.Type, k.console.cfg.Name))
		}
		_ = req.Reply(false, nil)
	}
}

// tell remembers a line for the next session.
func (k *connection) tell(line string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.refused) < 4 {
		k.refused = append(k.refused, line)
	}
}

// told returns what is to be told, once.
func (k *connection) told() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	lines := k.refused
	k.refused = nil
	return lines
}

// refusal says what the console does not do, and who does.
func refusal(what, name string) string {
	there := "ssh to a workspace by its name does"
	switch what {
	case "auth-agent-req@openssh.com":
		return "the console takes no ssh-agent; " + there
	case "x11-req":
		return "the console shows no X11; " + there
	case "subsystem":
		return "the console has no files to copy (" + name + " --help lists what it has); sftp and scp to a workspace by its name"
	default:
		return "the console forwards nothing; " + there
	}
}

// session serves one session.
func (k *connection) session(ctx context.Context, nc ssh.NewChannel) {
	leave, full := k.console.sessions.enter(k.visitor.User.ID)
	defer leave()
	switch {
	case k.crowded != "":
		_ = nc.Reject(ssh.ResourceShortage, k.crowded)
		return
	case full:
		_ = nc.Reject(ssh.ResourceShortage, "too many consoles are open; close one and try again")
		return
	}
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	newSession(k, ch).serve(ctx, reqs)
}

// A limiter counts what is open, in all and by user.
type limiter struct {
	all, each int

	mu    sync.Mutex
	n     int                        // guarded by mu
	users map[coordinator.UserID]int // guarded by mu
}

func newLimiter(all, each int) *limiter {
	return &limiter{all: all, each: each, users: map[coordinator.UserID]int{}}
}

// enter counts one more until leave is called, unless there is no room.
func (l *limiter) enter(u coordinator.UserID) (leave func(), full bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n >= l.all || l.users[u] >= l.each {
		return func() {}, true
	}
	l.n++
	l.users[u]++
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.n--
		if l.users[u]--; l.users[u] == 0 {
			delete(l.users, u)
		}
	}), false
}

// line is a message for a terminal, without anything that a terminal would act upon.
func line(text string) string { return fmt.Sprintf("berth: %s\r\n", clean(text)) }
