package provider

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/credentials"
)

// patience is how long a peer that nobody has allowed yet is left to wait.
const patience = 5 * time.Second

// errPeer says nothing to the peer but that the connection ends.
var errPeer = errors.New("peer is not this build's terraform")

// A gate lets the build's terraform through and nobody else. It stands where transport security would in gRPC, so
// that each connection waits for its judgement by itself.
type gate struct {
	mu       sync.Mutex    // guards what follows
	pid      int           // the process that is allowed
	changed  chan struct{} // closed when pid changes
	closed   bool
	patience time.Duration
}

func newGate() *gate {
	return &gate{patience: patience, changed: make(chan struct{})}
}

func (g *gate) allow(pid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pid = pid
	if !g.closed {
		close(g.changed)
		g.changed = make(chan struct{})
	}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.closed = true
		close(g.changed)
	}
}

// ServerHandshake lets the connection's peer through or fails. It sends and receives nothing.
func (g *gate) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	peer, err := peerOf(c)
	if err != nil {
		return nil, nil, err
	}
	g.mu.Lock()
	late := time.NewTimer(g.patience)
	g.mu.Unlock()
	defer late.Stop()
	for {
		g.mu.Lock()
		pid, changed, closed := g.pid, g.changed, g.closed
		g.mu.Unlock()
		if closed {
			return nil, nil, errPeer
		}
		if pid > 0 && peer == pid {
			return c, authInfo{}, nil
		}
		select {
		case <-changed:
		case <-late.C:
			return nil, nil, errPeer
		}
	}
}

// authInfo tells gRPC that there is no transport security, and none is needed within one host.
type authInfo struct{}

func (authInfo) AuthType() string { return "peer" }

// ClientHandshake fails: a gate is for servers.
func (g *gate) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("a gate is for servers")
}

// Info describes the gate to gRPC.
func (g *gate) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peer"}
}

// Clone returns g, whose state has to be one.
func (g *gate) Clone() credentials.TransportCredentials { return g }

// OverrideServerName does nothing.
func (g *gate) OverrideServerName(string) error { return nil }

// control runs f on the connection's descriptor.
func control(c net.Conn, f func(fd int) error) error {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return errPeer
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return fmt.Errorf("look at peer: %w", err)
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return fmt.Errorf("look at peer: %w", err)
	}
	if ferr != nil {
		return fmt.Errorf("look at peer: %w", ferr)
	}
	return nil
}

// reachable reports whether uid can get to dir from the root; 0 stands for this process's own user.
func reachable(dir string, uid int) bool {
	if uid <= 0 {
		info, err := os.Stat(dir)
		return err == nil && info.IsDir()
	}
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return false
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || info.Mode().Perm()&0o001 == 0 && (int(st.Uid) != uid || info.Mode().Perm()&0o100 == 0) {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir = parent
	}
}

// sweep removes sockets' directories in base that were left by processes of this user that are gone.
func sweep(base string) {
	entries, err := os.ReadDir(base)
	if err != nil {
		return
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), prefix)
		number, _, _ := strings.Cut(rest, "-")
		pid, err := strconv.Atoi(number)
		if !ok || err != nil || pid <= 0 || !e.IsDir() {
			continue
		}
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(filepath.Join(base, e.Name())) // refused where it is not ours
		}
	}
}

// quiet keeps the plugin library from writing every request to stderr, which it does unless the environment says
// otherwise.
func quiet() {
	const level = "TF_LOG_SDK"
	if os.Getenv(level) == "" {
		_ = os.Setenv(level, "off")
	}
}
