package hub

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/agent"
	"berth/coordinator"
)

const (
	holdLimit  = 20 * time.Second // for the record of an agent that is ahead of it
	builtLimit = 10               // builds that are looked back at
)

// A claim is who asks for a link. The token has proved workspace and agent; key and instance are what it says.
type claim struct {
	ws       coordinator.WorkspaceID
	name     string // of the workspace, owner/name
	agentID  string
	instance string
	version  string // as the agent says
	key      []byte
	peer     string
}

// A refusal answers a request for a link.
type refusal struct {
	status int
	code   string // for agent.HeaderCode
	msg    string
	nonce  string
	retry  int // seconds
}

func (r *refusal) Error() string { return r.msg }

func (r *refusal) write(w http.ResponseWriter) {
	h := w.Header()
	if r.code != "" {
		h.Set(agent.HeaderCode, r.code)
	}
	if r.nonce != "" {
		h.Set(agent.HeaderNonce, r.nonce)
	}
	if r.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(r.retry))
	}
	if r.status == http.StatusUpgradeRequired {
		h.Set("Upgrade", agent.LinkUpgrade)
	}
	http.Error(w, r.msg, r.status)
}

var (
	errNotUpgrade = &refusal{status: 400, msg: "this is where agents link: GET with Upgrade: " + agent.LinkUpgrade + " over HTTP/1.1"}
	errTooOld     = &refusal{status: 426, code: agent.CodeTooOld, msg: "this agent is too old for the coordinator"}
	errInstance   = &refusal{status: 400, msg: agent.HeaderInstance + " is not 32 hexadecimal digits"}
	errToken      = &refusal{status: 401, code: agent.CodeUnknownToken, msg: "the token is not known, or out of date"}
	errNotRunning = &refusal{status: 403, code: agent.CodeNotRunning, msg: "the workspace may not run now"}
	errOtherKey   = &refusal{status: 403, code: agent.CodeOtherKey, msg: "the workspace's own agent is connected, with another key"}
	errReplaced   = &refusal{status: 409, code: agent.CodeReplaced, msg: "another instance of this agent has replaced this one"}
	errBusy       = &refusal{status: 503, code: agent.CodeTryAgain, msg: "many agents come back at once", retry: 2}
	errAhead      = &refusal{status: 503, code: agent.CodeTryAgain, msg: "the agent is not recorded yet", retry: 1}
	errUnsure     = &refusal{status: 503, code: agent.CodeTryAgain, msg: "an agent with another key may still be connected", retry: 5}
	errStore      = &refusal{status: 503, code: agent.CodeTryAgain, msg: "the coordinator cannot look now", retry: 2}
)

// ServeHTTP takes an agent's request for a link: GET agent.LinkPath.
//
//	GET with token and instance                 401 challenge, with a nonce
//	GET with nonce, key and signature besides   101, then yamux with the agent as its client
//
// It returns at once after 101; the link is the hub's own then.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	who, rec, err := h.admit(r)
	if err == nil {
		err = h.upgrade(w, r, who, rec)
	}
	if err == nil {
		return
	}
	var no *refusal
	if !errors.As(err, &no) {
		if r.Context().Err() == nil {
			h.log.Error("cannot judge a request for a link", "err", err)
		}
		no = errStore
	}
	h.log.Debug("link refused", "status", no.status, "code", no.code, "peer", r.RemoteAddr)
	no.write(w)
}

// admit judges a request.
func (h *Hub) admit(r *http.Request) (claim, coordinator.WorkspaceAgent, error) {
	who, err := h.authenticate(r)
	if err != nil {
		return who, coordinator.WorkspaceAgent{}, err
	}
	rec, err := h.findOrHold(r.Context(), who)
	if err != nil {
		return who, rec, err
	}
	return who, rec, h.pin(r.Context(), who, &rec)
}

// authenticate proves who asks, the cheapest checks first. Nothing is looked up for a token but the workspace that it
// names until it is verified.
func (h *Hub) authenticate(r *http.Request) (claim, error) {
	who := claim{
		instance: r.Header.Get(agent.HeaderInstance), peer: r.RemoteAddr,
		version: coordinator.Clip(r.Header.Get(agent.HeaderVersion), maxVersion),
	}
	token, err := readRequest(r, who.instance)
	if err != nil {
		return who, err
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		return who, errBusy
	}
	if err := h.verifyToken(r.Context(), token, &who); err != nil {
		return who, err
	}
	if h.fenced(who.ws, who.agentID, who.instance) {
		return who, errReplaced
	}
	if _, _, err := h.find(r.Context(), who, true); err != nil {
		return who, err
	}
	who.key, err = h.verifyKey(r, who)
	return who, err
}

// readRequest checks the request's form and returns its token.
func readRequest(r *http.Request, instance string) (coordinator.Secret, error) {
	upgrade := r.Header.Get("Upgrade")
	switch {
	case r.Method != http.MethodGet || r.ProtoMajor != 1 || !hasToken(r.Header.Get("Connection"), "upgrade"):
		return "", errNotUpgrade
	case strings.HasPrefix(upgrade, "berth-link/") && upgrade != agent.LinkUpgrade:
		return "", errTooOld
	case upgrade != agent.LinkUpgrade:
		return "", errNotUpgrade
	case len(instance) != 32 || strings.Trim(instance, "0123456789abcdef") != "":
		return "", errInstance
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", errToken
	}
	return coordinator.Secret(token), nil
}

func hasToken(list, token string) bool {
	return slices.ContainsFunc(strings.Split(list, ","), func(s string) bool {
		return strings.EqualFold(strings.TrimSpace(s), token)
	})
}

func (h *Hub) verifyToken(ctx context.Context, token coordinator.Secret, who *claim) error {
	id, agentID, ok := coordinator.SplitAgentToken(token)
	if !ok {
		return errToken
	}
	ws, err := h.store.Workspace(ctx, id)
	var key []byte
	if err == nil {
		key, err = h.store.AgentKey(ctx, id)
	}
	switch {
	case coordinator.CodeOf(err) == coordinator.CodeNotFound:
		return errToken
	case err != nil:
		return fmt.Errorf("look up workspace: %w", err)
	case len(key) == 0 || !coordinator.VerifyAgentToken(token, key, id, agentID, ws.Generation):
		return errToken
	}
	who.ws, who.agentID, who.name = id, agentID, ws.OwnerName+"/"+ws.Name
	return nil
}

// verifyKey checks the answer to a challenge and returns the key that signed it. Without an answer, or with a bad
// one, it challenges.
func (h *Hub) verifyKey(r *http.Request, who claim) ([]byte, error) {
	now := h.now()
	owner := nonceOwner{who.ws, who.agentID}
	nonce := r.Header.Get(agent.HeaderNonce)
	key, err := base64.StdEncoding.DecodeString(r.Header.Get(agent.HeaderKey))
	if err != nil {
		key = nil
	}
	sig, err := base64.StdEncoding.DecodeString(r.Header.Get(agent.HeaderSignature))
	if err == nil && h.nonces.genuine(nonce, owner, who.instance, now) &&
		agent.VerifyLink(key, sig, nonce, string(who.ws), who.instance) &&
		h.nonces.use(nonce, owner, who.instance, now) {
		return key, nil
	}
	return nil, &refusal{
		status: http.StatusUnauthorized, code: agent.CodeChallenge, msg: "sign the nonce and ask again",
		nonce: h.nonces.make(owner, who.instance, now),
	}
}

// findOrHold is find, which holds an agent that is ahead of its record for a while.
func (h *Hub) findOrHold(ctx context.Context, who claim) (coordinator.WorkspaceAgent, error) {
	changed, stop := h.events.Watch(who.ws)
	defer stop()
	limit := time.NewTimer(holdLimit)
	defer limit.Stop()
	held := false
	for {
		rec, ahead, err := h.find(ctx, who, false)
		if err != nil || !ahead {
			return rec, err
		}
		if !held {
			select {
			case h.holds <- struct{}{}:
				held = true
				defer func() { <-h.holds }()
			default:
				return rec, errBusy
			}
		}
		select {
		case <-changed:
		case <-limit.C:
			return rec, errAhead
		case <-h.done:
			return rec, errBusy
		case <-ctx.Done():
			return rec, ctx.Err()
		}
	}
}

// find returns the agent's record, if the workspace may run now. During an open start build it reports an agent as
// ahead that is not recorded for that build yet, unless it is the one that was there before. With early it does not ask
// for the key.
//
// After a stop that succeeded nothing may run; after a build that ended badly, whatever still stands may.
func (h *Hub) find(ctx context.Context, who claim, early bool) (rec coordinator.WorkspaceAgent, ahead bool, err error) {
	latest, before, err := h.latest(ctx, who.ws)
	if err != nil {
		return rec, false, fmt.Errorf("look up build: %w", err)
	}
	if idle(latest) {
		return rec, false, errNotRunning
	}
	found, err := h.record(ctx, who.ws, who.agentID)
	if err != nil {
		return rec, false, fmt.Errorf("look up agent: %w", err)
	}
	starting := latest.Transition == coordinator.Start && latest.Status.Open()
	switch {
	case found == nil && latest.Status.Open():
		return rec, true, nil
	case found == nil:
		return rec, false, errToken
	case starting && !early && found.BuildID != latest.ID:
		stayed := !idle(before) && len(found.PinnedKey) > 0 && bytes.Equal(found.PinnedKey, who.key)
		return *found, !stayed, nil
	case !latest.Status.Open() && latest.Status != coordinator.BuildSucceeded && !stands(latest.Resources, found.Resource):
		return rec, false, errNotRunning
	}
	return *found, false, nil
}

// idle reports whether nothing runs after b: there was no build, or it destroyed what ran.
func idle(b *coordinator.Build) bool {
	return b == nil || b.Status == coordinator.BuildSucceeded && b.Transition != coordinator.Start
}

// stands reports whether the resource is still in the state that a build left. A build that left no word of its
// state may have left anything.
func stands(resources []string, address string) bool {
	bare := func(a string) string {
		if i := strings.LastIndexByte(a, '['); i > 0 && strings.HasSuffix(a, "]") {
			return a[:i]
		}
		return a
	}
	return len(resources) == 0 || address == "" ||
		slices.ContainsFunc(resources, func(r string) bool { return bare(r) == bare(address) })
}

// latest returns the workspace's latest build that is open or was carried out, and the one before. A build that was
// canceled in the queue changed nothing.
func (h *Hub) latest(ctx context.Context, ws coordinator.WorkspaceID) (latest, before *coordinator.Build, err error) {
	b, err := h.store.LatestBuild(ctx, ws)
	if err != nil || b == nil {
		return nil, nil, err
	}
	if carried(*b) && !(b.Status.Open() && b.Transition == coordinator.Start) {
		return b, nil, nil // the one before does not matter
	}
	older, err := h.store.Builds(ctx, ws, b.Number, builtLimit)
	if err != nil {
		return nil, nil, err
	}
	for _, o := range append([]coordinator.Build{*b}, older...) {
		switch {
		case !carried(o):
		case latest == nil:
			latest = &o
		default:
			return latest, &o, nil
		}
	}
	return latest, nil, nil
}

func carried(b coordinator.Build) bool { return b.Status.Open() || !b.Started.IsZero() }

func (h *Hub) record(ctx context.Context, ws coordinator.WorkspaceID, agentID string) (*coordinator.WorkspaceAgent, error) {
	agents, err := h.store.Agents(ctx, ws)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(agents, func(a coordinator.WorkspaceAgent) bool { return a.ID == agentID }); i >= 0 {
		return &agents[i], nil
	}
	return nil, nil
}

// pin binds the agent to the key for the start build. A token alone, which lies in what a template starts, does not
// let another take over an agent that is there: its key is known, and it is asked whether it is alive.
func (h *Hub) pin(ctx context.Context, who claim, rec *coordinator.WorkspaceAgent) error {
	if l, err := h.newest(who.ws, who.agentID); err == nil && !bytes.Equal(l.key, who.key) {
		if err := h.displace(ctx, l, who); err != nil {
			return err
		}
	}
	if bytes.Equal(rec.PinnedKey, who.key) {
		return nil
	}
	if len(rec.PinnedKey) > 0 {
		h.log.Warn("an agent comes back with another key", "workspace", who.name, "agent", rec.Name, "peer", who.peer)
		err := h.store.Audit(ctx, coordinator.AuditEntry{
			Time: h.now(), Action: "agent.other-key", Target: who.name,
			Detail: fmt.Sprintf("agent %s linked with another key than before, from %s", rec.Name, who.peer),
		})
		if err != nil {
			return fmt.Errorf("write audit: %w", err)
		}
	}
	if err := h.store.PinAgentKey(ctx, who.ws, who.agentID, rec.BuildID, who.key); err != nil {
		return fmt.Errorf("pin key: %w", err)
	}
	rec.PinnedKey = who.key
	return nil
}

// displace ends a link in favour of who comes with another key, if its agent is dead: it is lost, or it leaves a ping
// unanswered and has sent nothing for as long as a link may be silent. Nothing that who does shortens the ping's time,
// and what proves nothing ends no link.
func (h *Hub) displace(ctx context.Context, l *link, who claim) error {
	probe, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.limits.probe)
	defer cancel()
	_, err := l.ping(probe)
	switch {
	case err == nil:
		h.log.Warn("another key uses the token of an agent that is connected", "workspace", who.name, "peer", who.peer)
		return errOtherKey
	case l.session.IsClosed():
	case ctx.Err() != nil || probe.Err() == nil || !l.silent():
		return errUnsure
	}
	l.end("it does not answer, and another agent has come")
	return nil
}

// upgrade takes the connection over and starts the link.
func (h *Hub) upgrade(w http.ResponseWriter, r *http.Request, who claim, rec coordinator.WorkspaceAgent) error {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return errNotUpgrade
	}
	rest, _ := buffered.Reader.Peek(buffered.Reader.Buffered()) // what is buffered can be peeked at
	rest = bytes.Clone(rest)
	const answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + agent.LinkUpgrade + "\r\n\r\n"
	err = conn.SetDeadline(time.Time{})
	if err == nil {
		_, err = conn.Write([]byte(answer))
	}
	if err != nil {
		_ = conn.Close() // it is lost
		return nil
	}
	l, err := newLink(h, conn, rest, who)
	if err != nil {
		_ = conn.Close() // the first error says more
		h.log.Error("cannot start a link", "err", err)
		return nil
	}
	if !h.spawn(func() { h.serve(l, rec) }) {
		_ = l.session.Close() // always nil
	}
	return nil
}

// serve runs a link. It looks once more whether the workspace may run, now that a Drop would find the link.
func (h *Hub) serve(l *link, rec coordinator.WorkspaceAgent) {
	l.deadman = time.AfterFunc(h.limits.heartbeat, func() { l.end("no heartbeat") })
	old, ok := h.enter(l, rec)
	for _, o := range old {
		o.end("another instance or link has replaced it")
	}
	if !ok {
		l.end("it was replaced while it came")
		l.work.Wait()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeLimit)
	_, _, err := h.find(ctx, claim{ws: l.ws, agentID: l.agentID, key: l.key}, true)
	cancel()
	if err != nil {
		l.end("the workspace may not run any more")
	} else {
		l.log.Info("link began", "name", rec.Name)
		l.reporter.flush()
		h.events.Notify(l.ws)
	}
	l.run()
}
