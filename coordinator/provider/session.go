// Package provider is the Terraform provider that Berth serves itself, from the process that runs a build: a table
// of resources and data sources, an engine that speaks protocol 5 for them, and a private unix socket that a
// terraform finds by TF_REATTACH_PROVIDERS.
//
// It trusts nobody on that socket, for template code and other providers can reach it: the peer must be the build's
// terraform, and ids and paths come from the build's job, never from configuration or state alone.
package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tfprotov5/tf5server"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"berth/coordinator"
	"berth/coordinator/host"
)

// addresses are the names under which terraform and tofu know the provider "berth/berth".
var addresses = []string{"registry.terraform.io/berth/berth", "registry.opentofu.org/berth/berth"}

// maxMessage is the size of the largest message on the socket, in bytes.
const maxMessage = 64 << 20

// A Session is one build's provider.
type Session struct {
	job    coordinator.Job
	host   *host.Host
	gate   *gate
	server *grpc.Server
	dir    string // the socket's own directory
	socket string
	undo   func() bool // of the watch on Serve's context
	served chan struct{}
	sign   *lifeSign

	mu         sync.Mutex // guards what follows
	startCount int
	asked      map[string]coordinator.Parameter // by name
	agents     map[string]bool                  // ids of this workspace's agents that the build has seen
}

// Serve starts to serve the provider for one build on a unix socket in a fresh directory below dir, or below a
// system's directory for such things where dir has too long a path or terraform's user cannot get there. Nobody is
// let in before AllowPeer. The session ends with Close, or with ctx.
func Serve(ctx context.Context, job coordinator.Job, dir string) (*Session, error) {
	s := &Session{
		job:    job,
		host:   host.New(job.Host, host.Workspace{ID: job.WorkspaceID, Name: job.Workspace, Owner: job.Owner.Name, OwnerFullName: job.Owner.FullName}),
		gate:   newGate(),
		served: make(chan struct{}),
		asked:  map[string]coordinator.Parameter{},
		agents: map[string]bool{},
	}
	if job.Transition == coordinator.Start {
		s.startCount = 1
	}
	sign, err := newLifeSign(job.Host.BuildUID)
	if err != nil {
		return nil, err
	}
	s.sign = sign
	l, err := s.listen(dir)
	if err != nil {
		return nil, errors.Join(err, sign.end())
	}
	quiet()
	s.server = grpc.NewServer(grpc.Creds(s.gate), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	ready := health.NewServer()
	ready.SetServingStatus("plugin", grpc_health_v1.HealthCheckResponse_SERVING)
	grpc_health_v1.RegisterHealthServer(s.server, ready)
	plugin := &tf5server.GRPCProviderPlugin{
		Name:         addresses[0],
		GRPCProvider: func() tfprotov5.ProviderServer { return newEngine(s, berth) },
		Opts:         []tf5server.ServeOpt{tf5server.WithoutLogStderrOverride()},
	}
	if err := plugin.GRPCServer(nil, s.server); err != nil {
		return nil, errors.Join(fmt.Errorf("serve provider: %w", err), l.Close(), os.RemoveAll(s.dir), sign.end())
	}
	go func() { // until Close
		defer close(s.served)
		_ = s.server.Serve(l) // ends with Stop; terraform reports anything else
	}()
	s.undo = context.AfterFunc(ctx, s.shut)
	return s, nil
}

// Reattach returns the value of TF_REATTACH_PROVIDERS by which terraform finds this session.
func (s *Session) Reattach() string {
	type addr struct{ Network, String string }
	type reattach struct {
		Protocol        string
		ProtocolVersion int
		Pid             int
		Test            bool // terraform is not to end the process that serves
		Addr            addr
	}
	all := map[string]reattach{}
	for _, a := range addresses {
		all[a] = reattach{"grpc", 5, s.sign.pid, true, addr{"unix", s.socket}}
	}
	b, _ := json.Marshal(all) //nolint:errchkjson // strings and numbers
	return string(b)
}

// Parameters returns the parameters that the template has asked for so far, by name.
func (s *Session) Parameters() []coordinator.Parameter {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]coordinator.Parameter, 0, len(s.asked))
	for _, p := range s.asked {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b coordinator.Parameter) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// SetStartCount sets what data.berth_workspace's start_count is from now on. It is 1 for a start build, else 0.
func (s *Session) SetStartCount(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.startCount = n
}

// AllowPeer lets the process with that pid in, and no longer the one before it.
func (s *Session) AllowPeer(pid int) { s.gate.allow(pid) }

// Close ends the session: connections are closed, the socket and its directory removed.
func (s *Session) Close() error {
	s.undo()
	s.shut()
	<-s.served
	err := s.sign.end()
	if e := os.RemoveAll(s.dir); e != nil {
		err = errors.Join(err, fmt.Errorf("remove provider socket: %w", e))
	}
	return err
}

func (s *Session) shut() {
	s.gate.close()
	s.server.Stop()
}

func (s *Session) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.startCount
}

// saw remembers an agent of this workspace.
func (s *Session) saw(agentID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if agentID != "" {
		s.agents[agentID] = true
	}
}

func (s *Session) knows(agentID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.agents[agentID]
}

// maxSocket is the length of the longest path that a unix socket can have everywhere.
const maxSocket = 100

// listen makes the socket's directory, which only the coordinator's user or else the build's user can enter.
func (s *Session) listen(dir string) (l net.Listener, err error) {
	if s.dir, err = socketDir(dir, s.job.Host.BuildUID); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(s.dir))
		}
	}()
	s.socket = filepath.Join(s.dir, "provider")
	if l, err = net.Listen("unix", s.socket); err != nil {
		return nil, fmt.Errorf("listen on provider socket: %w", err)
	}
	if err = os.Chmod(s.socket, 0o600); err == nil && s.job.Host.BuildUID > 0 {
		err = errors.Join(os.Chown(s.socket, s.job.Host.BuildUID, -1), os.Chown(s.dir, s.job.Host.BuildUID, -1))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("hand over provider socket: %w", err), l.Close())
	}
	return l, nil
}

// socketDir makes a directory of mode 0700 for the socket.
func socketDir(dir string, uid int) (string, error) {
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", fmt.Errorf("make provider's directory: %w", err)
		}
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("make provider's directory: %w", err)
		}
		if len(abs)+len("/p-1234567890/provider") <= maxSocket && reachable(abs, uid) {
			return mkdirTemp(abs, "p-")
		}
	}
	var errs []error
	for _, base := range []string{os.Getenv("XDG_RUNTIME_DIR"), "/run", os.TempDir(), "/tmp"} {
		if base == "" || len(base) > maxSocket/2 || !reachable(base, uid) {
			continue
		}
		sweep(base)
		d, err := mkdirTemp(base, prefix+fmt.Sprint(os.Getpid())+"-")
		if err == nil {
			return d, nil
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("no directory for the provider's socket: %w", errors.Join(errs...))
}

// prefix is followed by the pid of the process that serves.
const prefix = "berth-provider-"

func mkdirTemp(base, pattern string) (string, error) {
	d, err := os.MkdirTemp(base, pattern)
	if err != nil {
		return "", fmt.Errorf("make provider's directory: %w", err)
	}
	return d, nil
}
