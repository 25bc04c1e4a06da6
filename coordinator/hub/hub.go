// Package hub holds the links of live agents: it lets them in, serves them their manifest, takes in what they report,
// and opens streams to them. What it knows of an agent beyond the store's record lasts as long as the coordinator
// runs: which links are live, and which instances were replaced.
package hub

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"berth/agent"
	"berth/coordinator"
)

// A Store knows the workspaces whose agents may link, and keeps what they report.
type Store interface {
	Lookup
	Records
}

// A Lookup tells who may link.
type Lookup interface {
	Workspace(ctx context.Context, id coordinator.WorkspaceID) (coordinator.Workspace, error)
	AgentKey(ctx context.Context, id coordinator.WorkspaceID) ([]byte, error)
	LatestBuild(ctx context.Context, ws coordinator.WorkspaceID) (*coordinator.Build, error)
	Builds(ctx context.Context, ws coordinator.WorkspaceID, before, limit int) ([]coordinator.Build, error)
	Agents(ctx context.Context, ws coordinator.WorkspaceID) ([]coordinator.WorkspaceAgent, error)
}

// Records take in what agents tell.
type Records interface {
	PinAgentKey(ctx context.Context, ws coordinator.WorkspaceID, agentID string, build coordinator.BuildID, key []byte) error
	UpdateAgent(ctx context.Context, a coordinator.WorkspaceAgent) error
	AppendLog(ctx context.Context, build coordinator.BuildID, lines []coordinator.LogLine) error
	Audit(ctx context.Context, a coordinator.AuditEntry) error
}

// Manifests composes what an agent has to know.
type Manifests interface {
	Manifest(ctx context.Context, ws coordinator.WorkspaceID, agentID string) (*agent.Manifest, error)
}

// Events wakes those who watch a workspace.
type Events interface {
	Notify(ws coordinator.WorkspaceID)
	Watch(ws coordinator.WorkspaceID) (<-chan struct{}, func())
}

// A Config is what a Hub is made of. Boot is since when it listens, now by default; Logger and Now have defaults.
type Config struct {
	Store     Store
	Manifests Manifests
	Events    Events
	Logger    *slog.Logger
	Now       func() time.Time
	Boot      time.Time
}

// A Hub holds the links of live agents.
type Hub struct {
	store     Store
	manifests Manifests
	events    Events
	log       *slog.Logger
	now       func() time.Time
	boot      time.Time
	limits    limits
	nonces    *nonces
	slots     chan struct{} // handshakes at once
	holds     chan struct{} // held handshakes at once
	done      chan struct{} // closed by Close
	work      sync.WaitGroup

	mu     sync.Mutex
	closed bool                                              // guarded by mu
	seats  map[coordinator.WorkspaceID]map[string]*seat      // by agent id; guarded by mu
	waits  map[coordinator.WorkspaceID]map[chan struct{}]int // of Await, woken by a new link; guarded by mu
}

// A seat is what is known of one agent while it has been linked since the start of its workspace. Its fields are
// guarded by the hub's mu.
type seat struct {
	links    []*link  // live ones, the newest last
	instance string   // of the newest link
	fenced   []string // instances that were replaced
	reporter *reporter
}

// Limits of handshakes and of what is remembered.
const (
	maxHandshakes = 128
	maxVersion    = 64 // bytes of a version that an agent states
	maxHolds      = 1024
	maxOverlap    = 4  // links of one instance
	maxFenced     = 32 // instances remembered as replaced
)

// limits are the times that a link gives its agent.
type limits struct {
	heartbeat time.Duration // without a message
	open      time.Duration // to take up a stream
	grace     time.Duration // to end its direction of a stream that we have closed
	probe     time.Duration // to answer when another uses its token
}

var defaultLimits = limits{heartbeat: agent.HeartbeatTimeout, open: 30 * time.Second, grace: 10 * time.Second, probe: 3 * time.Second}

// New returns a Hub without links.
func New(c Config) *Hub {
	h := &Hub{
		store: c.Store, manifests: c.Manifests, events: c.Events, log: c.Logger, now: c.Now, boot: c.Boot,
		limits: defaultLimits,
		nonces: newNonces(rand.Reader),
		slots:  make(chan struct{}, maxHandshakes),
		holds:  make(chan struct{}, maxHolds),
		done:   make(chan struct{}),
		seats:  make(map[coordinator.WorkspaceID]map[string]*seat),
		waits:  make(map[coordinator.WorkspaceID]map[chan struct{}]int),
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if h.now == nil {
		h.now = time.Now
	}
	if h.boot.IsZero() {
		h.boot = h.now()
	}
	return h
}

// Presence says which agents of a workspace are connected.
func (h *Hub) Presence(ws coordinator.WorkspaceID) coordinator.Presence {
	p := coordinator.Presence{
		Connected: make(map[string]bool), Versions: make(map[string]string), IDEs: make(map[string][]agent.IDEServer), UpSince: h.boot,
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, s := range h.seats[ws] {
		if n := len(s.links); n > 0 {
			newest := s.links[n-1]
			p.Connected[id], p.Versions[id], p.IDEs[id] = true, newest.version, newest.ides
		}
	}
	return p
}

// Await waits until the agent is connected.
func (h *Hub) Await(ctx context.Context, ws coordinator.WorkspaceID, agentID string) error {
	woken := make(chan struct{}, 1)
	h.mu.Lock()
	if h.waits[ws] == nil {
		h.waits[ws] = make(map[chan struct{}]int)
	}
	h.waits[ws][woken] = 1
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if delete(h.waits[ws], woken); len(h.waits[ws]) == 0 {
			delete(h.waits, ws)
		}
	}()
	for {
		if _, err := h.newest(ws, agentID); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-h.done:
			return errClosing()
		case <-woken:
		}
	}
}

// newest returns the newest live link of an agent.
func (h *Hub) newest(ws coordinator.WorkspaceID, agentID string) (*link, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.seats[ws][agentID]; s != nil && len(s.links) > 0 {
		return s.links[len(s.links)-1], nil
	}
	return nil, coordinator.Errorf(coordinator.CodeUnavailable, "the workspace's agent is not connected").
		WithHint("wait a moment; if that does not help, restart the workspace")
}

func errClosing() error {
	return coordinator.Errorf(coordinator.CodeUnavailable, "the coordinator is shutting down").WithHint("try again in a moment")
}

// Open opens a stream to the agent and writes its header. The connection has CloseWrite. For agent.KindDial it has
// been answered already.
func (h *Hub) Open(ctx context.Context, ws coordinator.WorkspaceID, agentID string, hdr agent.StreamHeader) (net.Conn, error) {
	l, err := h.newest(ws, agentID)
	if err != nil {
		return nil, err
	}
	s, err := l.open(ctx, hdr)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Ping measures the round trip to the agent.
func (h *Hub) Ping(ctx context.Context, ws coordinator.WorkspaceID, agentID string) (time.Duration, error) {
	l, err := h.newest(ws, agentID)
	if err != nil {
		return 0, err
	}
	return l.ping(ctx)
}

// ManifestChanged tells the workspace's agents to fetch their manifest again.
func (h *Hub) ManifestChanged(ws coordinator.WorkspaceID) {
	for _, l := range h.linksOf(ws) {
		l.send(agent.Message{Type: agent.TypeManifestChanged})
	}
}

func (h *Hub) linksOf(ws coordinator.WorkspaceID) []*link {
	h.mu.Lock()
	defer h.mu.Unlock()
	var links []*link
	for _, s := range h.seats[ws] {
		links = append(links, s.links...)
	}
	return links
}

// Drop ends every link of a workspace and forgets its agents.
func (h *Hub) Drop(ws coordinator.WorkspaceID) {
	links := h.linksOf(ws)
	h.mu.Lock()
	for _, s := range h.seats[ws] {
		s.reporter.drop()
	}
	delete(h.seats, ws)
	h.mu.Unlock()
	for _, l := range links {
		l.end("the workspace was stopped")
	}
	h.events.Notify(ws)
}

// Close ends all links, stores what was reported last, and returns once nothing of the hub runs any more. Agents
// come back to the next coordinator by themselves.
func (h *Hub) Close() {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		h.work.Wait()
		return
	}
	h.closed = true
	var links []*link
	for _, agents := range h.seats {
		for _, s := range agents {
			links = append(links, s.links...)
		}
	}
	h.mu.Unlock()
	close(h.done)
	for _, l := range links {
		l.end("the coordinator is shutting down")
	}
	h.work.Wait()
}

// spawn runs f in a goroutine that Close waits for. It reports false, and runs nothing, once the hub is closed.
func (h *Hub) spawn(f func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.work.Go(f)
	return true
}

// fenced reports whether the instance was replaced by another.
func (h *Hub) fenced(ws coordinator.WorkspaceID, agentID, instance string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.seats[ws][agentID]
	return s != nil && slices.Contains(s.fenced, instance)
}

// enter makes l the newest link of its agent. An instance that was there before is replaced for good and its links
// are returned to be ended; it reports false for a link that may not enter.
func (h *Hub) enter(l *link, rec coordinator.WorkspaceAgent) (old []*link, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.seats[l.ws][l.agentID]
	if s == nil {
		s = &seat{reporter: newReporter(h, l.ws, l.agentID)}
		if h.seats[l.ws] == nil {
			h.seats[l.ws] = make(map[string]*seat)
		}
		h.seats[l.ws][l.agentID] = s
	}
	if h.closed || slices.Contains(s.fenced, l.instance) {
		return nil, false
	}
	if s.instance != l.instance {
		if s.instance != "" {
			s.fenced = append(s.fenced, s.instance)
			s.fenced = s.fenced[max(0, len(s.fenced)-maxFenced):]
		}
		old, s.links, s.instance = s.links, nil, l.instance
	}
	if len(s.links) >= maxOverlap {
		old = append(old, s.links[0])
		s.links = slices.Clone(s.links[1:])
	}
	s.links = append(s.links, l)
	l.reporter = s.reporter
	s.reporter.adopt(rec)
	for c := range h.waits[l.ws] {
		select {
		case c <- struct{}{}:
		default:
		}
	}
	return old, true
}

// leave takes l out.
func (h *Hub) leave(l *link) {
	h.mu.Lock()
	if s := h.seats[l.ws][l.agentID]; s != nil {
		s.links = slices.DeleteFunc(s.links, func(o *link) bool { return o == l })
	}
	h.mu.Unlock()
	h.events.Notify(l.ws)
}
