// Package link keeps an agent's link to its coordinator: it dials, proves who it is, keeps retrying with a back-off
// that does not stampede, and hands out the streams that arrive. What the agent has to tell waits in an Outbox, so
// that a lost link loses nothing.
//
// It owns the yamux session and the control and manifest streams. It does not know what the other streams carry.
package link

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"berth/agent"
)

// ErrReplaced is returned by Run where another instance of the agent has taken over for good.
var ErrReplaced = errors.New("another instance of this agent has taken over")

// A Config says how to link, and what to do with what arrives. URL, Token and Key are required.
type Config struct {
	URL      string // base URL of the coordinator
	Token    agent.Secret
	Key      ed25519.PrivateKey
	Version  string
	Features []string

	CAFile       string // PEM; trusted instead of the system's roots where set
	InsecureHTTP bool   // plain HTTP beyond loopback

	Outbox *Outbox
	Logger *slog.Logger

	// OnStream serves one stream and closes it. ctx ends with the link.
	OnStream func(ctx context.Context, conn net.Conn, hdr agent.StreamHeader)
	// OnManifest takes a manifest: after every connect and whenever it changed. Calls do not overlap.
	OnManifest func(m *agent.Manifest)
	// OnStopNotice takes the coordinator's word that the workspace is about to stop.
	OnStopNotice func(text string)
}

// steady is how long a link lives that counts as one.
const steady = 5 * time.Second

// A linker is one Run.
type linker struct {
	Config
	log       *slog.Logger
	workspace string
	instance  string
	transport *http.Transport

	manifests sync.Mutex // held while OnManifest runs
}

// Run links until ctx ends, when it says goodbye and returns nil, or until another instance takes over: ErrReplaced.
// Any other error is a setting that cannot work. It returns once every stream that it handed out has been given back.
func Run(ctx context.Context, c Config) error {
	l, err := newLinker(c)
	if err != nil {
		return err
	}
	defer l.transport.CloseIdleConnections()
	ctx, cancel := context.WithCancel(ctx)
	var sessions sync.WaitGroup
	defer sessions.Wait()
	defer cancel()
	var pace pacer
	for ctx.Err() == nil {
		s, err := l.connect(ctx)
		if err == nil {
			began := time.Now()
			sessions.Go(func() { s.run(ctx) })
			select {
			case <-s.leaving: // go-away, or ended: dial the next one
			case <-ctx.Done():
			}
			if time.Since(began) > steady {
				pace.connected()
				continue
			}
			err = errEarly
		}
		if errors.Is(err, ErrReplaced) {
			return err
		}
		if ctx.Err() != nil {
			break
		}
		wait, say := pace.failed(err, time.Now())
		if say {
			l.log.Warn("cannot link to the coordinator, retrying", "error", err)
		}
		sleep(ctx, wait)
	}
	return nil
}

func newLinker(c Config) (*linker, error) {
	u, err := checkURL(c.URL, c.InsecureHTTP)
	if err != nil {
		return nil, err
	}
	c.URL = u
	ws, ok := workspaceOf(c.Token)
	if !ok {
		return nil, errors.New("the agent token is malformed: set " + agent.EnvToken + " to the token of a berth_agent")
	}
	if len(c.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("link: no key")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Outbox == nil {
		c.Outbox = NewOutbox()
	}
	transport, err := NewTransport(c.CAFile)
	if err != nil {
		return nil, err
	}
	return &linker{Config: c, log: c.Logger, workspace: ws, instance: newInstance(), transport: transport}, nil
}

// newInstance returns 32 random hexadecimal digits.
func newInstance() string {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	return hex.EncodeToString(b[:])
}

// workspaceOf returns the workspace that an agent token names: ba1_<workspace>_<agent>_<HMAC>.
func workspaceOf(t agent.Secret) (string, bool) {
	rest, ok := strings.CutPrefix(string(t), "ba1_")
	parts := strings.SplitN(rest, "_", 3)
	if !ok || len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" || len(rest) > 200 {
		return "", false
	}
	for _, r := range rest { // it goes into a header
		if r <= ' ' || r > '~' {
			return "", false
		}
	}
	return parts[0], true
}

// refuse answers a stream that is not served.
func refuse(w io.Writer, format string, args ...any) {
	_ = agent.WriteLine(w, agent.Reply{Error: fmt.Sprintf(format, args...)}, agent.MaxStreamHeader)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
