package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"berth/agent"
	"berth/agent/keyring"
	"berth/agent/link"
	"berth/agent/shell"
	"berth/agent/sshd"
	"berth/agent/startup"
)

const (
	stopLimit   = 1500 * time.Millisecond // from the signal to the exit
	sshWait     = 15 * time.Second        // for the first manifest, while a stream is held
	gcPercent   = 50                      // small rather than quick: the agent is idle most of its life
	gcBusy      = 200                     // while it serves streams
	trimPeriod  = 5 * time.Second
	downloadCap = 10 * time.Minute
)

// A worker is the process that works.
type worker struct {
	log     *slog.Logger
	runner  *startup.Runner
	keys    *keyring.Keyring
	socket  string
	started chan struct{} // closed once ssh and user are set
	quiet   quiet
	outbox  *link.Outbox
	ssh     *sshd.Server
	user    *shell.User
}

// work links, sets up and serves until ctx ends. It returns an exit status.
func work(ctx context.Context, s settings, log *slog.Logger) int {
	debug.SetGCPercent(gcPercent)
	dir, err := openRuntimeDir(s.runtimeDir, os.Getenv("XDG_RUNTIME_DIR"))
	if err != nil {
		log.Error("cannot open a runtime directory", "error", err)
		return exitFailed
	}
	key, err := loadKey(dir)
	if err != nil {
		log.Error("cannot use the agent's key", "error", err)
		return exitFailed
	}
	transport, err := link.NewTransport(s.caFile)
	if err != nil {
		log.Error("cannot reach a coordinator", "error", err)
		return exitUsage
	}
	defer transport.CloseIdleConnections()
	transport.ResponseHeaderTimeout = time.Minute

	w := &worker{log: log, started: make(chan struct{}), keys: keyring.New(log)}
	agentSocket := w.listenKeys(dir)
	outbox := link.NewOutbox()
	w.outbox = outbox
	w.runner = startup.New(startup.Config{
		Dir: dir, CoderDir: s.coderDir, Socket: w.socket, Base: os.Environ(),
		Host: os.Getenv("BERTH_PROCESS_ID") != "" && os.Geteuid() == 0, // in a sandbox it would not be root
		HTTP: &http.Client{Transport: transport, Timeout: downloadCap}, Outbox: outbox, Logger: log,
		SetKey: func(g agent.Git) error { return w.keys.Set(g.PrivateKey, "berth git key") },
		OnUser: w.start,
	})
	log.Info("agent started", "version", agent.Version, "url", s.url, "runtime_dir", dir)
	return w.run(ctx, agentSocket, link.Config{
		URL: s.url, Token: s.token, Key: key, Version: agent.Version, Features: []string{"dial"},
		CAFile: s.caFile, InsecureHTTP: s.insecureHTTP, Outbox: outbox, Logger: log,
		OnStream: w.stream, OnManifest: w.runner.Manifest, OnStopNotice: w.stopNotice,
	})
}

// run runs the parts until ctx ends or one of them cannot go on.
func (w *worker) run(ctx context.Context, keys *net.UnixListener, c link.Config) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var parts sync.WaitGroup
	if keys != nil {
		parts.Go(func() {
			if err := w.keys.Serve(ctx, keys); err != nil {
				w.log.Error("the ssh-agent socket failed", "error", err)
			}
		})
	}
	parts.Go(func() {
		if err := w.runner.Run(ctx); err != nil {
			w.log.Error("startup failed", "error", err)
		}
	})
	parts.Go(func() { w.quiet.trim(ctx) })
	parts.Go(func() { w.watchIDEs(ctx) })
	linked := make(chan error, 1)
	parts.Go(func() { linked <- link.Run(ctx, c) })

	var err error
	select {
	case err = <-linked:
	case <-ctx.Done():
	}
	cancel()
	w.log.Info("agent stopping")
	ended := make(chan struct{})
	parts.Go(w.closeSSH)
	go func() { // the process ends with the limit, and takes it along
		defer close(ended)
		parts.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(stopLimit):
	}
	switch {
	case errors.Is(err, link.ErrReplaced):
		w.log.Warn("ending for good", "reason", err)
		return agent.ExitReplaced
	case err != nil:
		w.log.Error("cannot link", "error", err)
		return exitUsage
	}
	return 0
}

// start is called once it is known whom to run as.
func (w *worker) start(u *shell.User) {
	srv, err := sshd.New(sshd.Config{
		Manifest: w.runner.Current, User: u, Env: w.runner.Env, Ready: w.runner.Ready,
		AgentSocket: w.socket, Note: w.runner.Note, Logger: w.log,
		ForwardAgent: func(open func() (io.ReadWriteCloser, error)) (stop func()) { return w.keys.Forward(open) },
	})
	if err != nil {
		w.log.Error("cannot serve SSH", "error", err)
		return
	}
	w.keys.Allow(u.UID)
	if w.socket != "" && int(u.UID) != os.Geteuid() {
		if err := os.Chown(w.socket, int(u.UID), int(u.GID)); err != nil {
			w.log.Error("cannot give the ssh-agent socket to the user", "error", err)
		}
	}
	w.ssh, w.user = srv, u
	close(w.started)
}

func (w *worker) closeSSH() {
	select {
	case <-w.started:
		w.ssh.Close()
	default:
	}
}

// stream serves a stream of the coordinator's.
func (w *worker) stream(ctx context.Context, conn net.Conn, hdr agent.StreamHeader) {
	defer conn.Close()
	w.quiet.enter()
	defer w.quiet.exit()
	timer := time.NewTimer(sshWait)
	defer timer.Stop()
	select {
	case <-w.started:
	case <-ctx.Done():
		return
	case <-timer.C:
		_ = agent.WriteLine(conn, agent.Reply{Error: "the agent has not got its manifest yet: try again"}, agent.MaxStreamHeader)
		return
	}
	var err error
	if hdr.Kind == agent.KindDial {
		err = w.dial(ctx, conn, hdr.Target)
	} else {
		err = w.ssh.ServeConn(conn, hdr)
	}
	if err != nil {
		w.log.Info("stream ended", "kind", hdr.Kind, "id", hdr.ID, "via", hdr.Via, "error", err)
	}
}

func (w *worker) stopNotice(text string) {
	w.log.Info("the workspace is about to stop", "reason", text)
}

// listenKeys opens the ssh-agent socket at its fixed path, in place of an earlier agent's.
func (w *worker) listenKeys(dir string) *net.UnixListener {
	path := filepath.Join(dir, "ssh-agent.sock")
	l, err := listenUnix(path)
	if err != nil {
		w.log.Error("cannot open the ssh-agent socket: the Git key cannot be used", "error", err)
		return nil
	}
	w.socket = path
	return l
}

func listenUnix(path string) (*net.UnixListener, error) {
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the path may be a later agent's by then
	err = os.Chmod(tmp, 0o600)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(tmp))
	}
	return l, nil
}
