package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"berth/agent"
	"berth/coordinator/door"
	"berth/coordinator/sqlite"
)

const (
	graceTime  = 10 * time.Second // for requests to finish at the end
	pruneEvery = 6 * time.Hour
)

// serve runs the coordinator until a signal ends it. The second signal ends it at once.
func serve(args []string) int {
	s, err := parseSettings(args, os.Getenv, os.Stdout)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		return complain(os.Stderr, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // from then on a signal has its usual effect
	defer stop()
	log := s.logger(os.Stderr)
	d, err := open(ctx, s, log)
	if err != nil {
		return complain(os.Stderr, err)
	}
	if err := d.run(ctx); err != nil {
		return complain(os.Stderr, err)
	}
	return exitOK
}

// A daemon is a coordinator that is ready to run.
type daemon struct {
	log   *slog.Logger
	store *sqlite.Store
	parts *parts

	web, ssh net.Listener
	server   *http.Server
	busy     *inflight
	done     chan struct{} // closed when the end begins: streams that are followed end
}

// open checks everything that can keep a coordinator from running, before it changes anything for those who use it.
func open(ctx context.Context, s settings, log *slog.Logger) (_ *daemon, err error) {
	data := dataDir(s.data)
	if err := data.prepare(); err != nil {
		return nil, err
	}
	if err := checkKeyFile(s.data, s.keyFile); err != nil {
		return nil, err
	}
	if err := sqlite.Vacant(ctx, s.data); err != nil { // before the database is opened and perhaps migrated
		return nil, err
	}
	d := &daemon{log: log, busy: &inflight{}, done: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.web, err = listen(ctx, "--http", s.http); err != nil {
		return nil, err
	}
	if d.ssh, err = listen(ctx, "--ssh", s.ssh); err != nil {
		return nil, err
	}
	if err := s.complete(d.web.Addr()); err != nil {
		return nil, err
	}
	tls, err := tlsConfig(s, data)
	if err != nil {
		return nil, err
	}
	key, err := loadKey(s.keyFile)
	if err != nil {
		return nil, err
	}
	if d.store, err = sqlite.Open(ctx, s.data, key, log); err != nil {
		return nil, err
	}
	if err := d.store.Activate(ctx, os.Getpid(), time.Now()); err != nil {
		return nil, err
	}
	if d.parts, err = assemble(ctx, s, d); err != nil {
		return nil, err
	}
	d.server = &http.Server{
		Handler: d.busy.count(d.parts.web), TLSConfig: tls,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return d, nil
}

// run adopts what runs, serves until ctx ends, and ends in order.
func (d *daemon) run(ctx context.Context) error {
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	failed := make(chan error, 4)
	var builds, servers sync.WaitGroup
	// What was running is adopted before anybody can ask for more.
	builds.Go(func() { report(failed, "builder", d.parts.builder.Run(work)) })
	builds.Go(func() { d.prune(work) })
	builds.Go(func() { d.parts.sweeper.run(work) })
	builds.Go(func() { d.parts.jobs.look(work) })
	servers.Go(func() { report(failed, "http server", d.serveHTTP()) })
	servers.Go(func() { report(failed, "door", d.parts.door.Serve(d.ssh)) })
	d.announce()

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	notify("STOPPING=1")
	d.log.Info("the coordinator ends; builds go on by themselves and are followed by the next one")
	close(d.done)
	d.shutdown()
	servers.Wait()
	stopWork()
	builds.Wait()
	return errors.Join(err, d.close())
}

// report passes on why a part ended by itself. The end of a server is no failure once it was shut down.
func report(failed chan<- error, what string, err error) {
	if err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, door.ErrClosed) && !errors.Is(err, net.ErrClosed) {
		failed <- fmt.Errorf("%s: %w", what, err)
	}
}

func (d *daemon) serveHTTP() error {
	if d.server.TLSConfig != nil {
		return d.server.ServeTLS(d.web, "", "")
	}
	return d.server.Serve(d.web)
}

// announce tells that the coordinator is ready, and how to sign in for the first time.
func (d *daemon) announce() {
	p := d.parts
	if p.setup != "" {
		// To people, not through the log: a token is in no record that is kept.
		fmt.Fprintf(os.Stderr, "berthd: nobody has signed in yet; make the first owner with: berth login %s --token %s\n", p.url, string(p.setup))
	}
	d.log.Info("the coordinator is ready", "version", agent.Version, "url", p.url, "http", d.web.Addr().String(), "ssh", d.ssh.Addr().String())
	notify("READY=1")
}

// shutdown stops accepting, lets requests finish, and then ends the agents' links, which ends the streams over them.
func (d *daemon) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), graceTime)
	defer cancel()
	var g sync.WaitGroup
	g.Go(func() {
		if err := d.server.Shutdown(ctx); err != nil {
			d.log.Warn("requests were cut off", "err", err)
			_ = d.server.Close() // it is the end anyway
		}
	})
	g.Go(func() {
		if err := d.parts.door.Shutdown(ctx); err != nil {
			d.log.Warn("ssh sessions were cut off", "err", err)
		}
	})
	d.parts.hub.Close()
	g.Wait()
	if !d.busy.wait(ctx) {
		d.log.Warn("streams were cut off")
	}
}

func (d *daemon) prune(ctx context.Context) {
	t := time.NewTicker(pruneEvery)
	defer t.Stop()
	for {
		if err := d.store.Prune(ctx, time.Now()); err != nil && ctx.Err() == nil {
			d.log.Error("prune old records", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// close lets go of what open took.
func (d *daemon) close() error {
	var errs []error
	for _, l := range []net.Listener{d.web, d.ssh} {
		if l == nil {
			continue
		}
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if d.store != nil {
		errs = append(errs, d.store.Deactivate(context.Background()), d.store.Close())
	}
	return errors.Join(errs...)
}

// inflight counts handlers that run, upgraded connections included, which http.Server forgets.
type inflight struct {
	mu   sync.Mutex
	n    int           // guarded by mu
	idle chan struct{} // guarded by mu; closed when n becomes 0, nil while nobody waits
}

func (f *inflight) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.add(1)
		defer f.add(-1)
		next.ServeHTTP(w, r)
	})
}

func (f *inflight) add(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n += n; f.n == 0 && f.idle != nil {
		close(f.idle)
		f.idle = nil
	}
}

// wait waits until nothing is in flight; false if ctx ends before.
func (f *inflight) wait(ctx context.Context) bool {
	f.mu.Lock()
	if f.n == 0 {
		f.mu.Unlock()
		return true
	}
	if f.idle == nil {
		f.idle = make(chan struct{})
	}
	idle := f.idle
	f.mu.Unlock()
	select {
	case <-idle:
		return true
	case <-ctx.Done():
		return false
	}
}
