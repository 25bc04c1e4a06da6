package door

import (
	"context"
	"net"
	"slices"
	"time"

	"berth/agent"
	"berth/coordinator"
)

// The world is the door's and the entry's store.

func (w *world) UserByFingerprint(_ context.Context, fp string) (coordinator.User, coordinator.SSHKey, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	u, ok := w.users[fp]
	if !ok {
		return u, coordinator.SSHKey{}, coordinator.Errorf(coordinator.CodeNotFound, "no such key")
	}
	return u, coordinator.SSHKey{ID: "k1", UserID: u.ID, Fingerprint: fp}, nil
}

func (w *world) TouchKey(context.Context, coordinator.KeyID, time.Time) error {
	w.count(&w.touched, 1)
	return nil
}

func (w *world) WorkspaceByName(_ context.Context, owner coordinator.UserID, name string) (coordinator.Workspace, error) {
	if ws, ok := w.spaces[name]; ok && ws.OwnerID == owner {
		return ws, nil
	}
	return coordinator.Workspace{}, coordinator.Errorf(coordinator.CodeNotFound, "no such workspace")
}

// settled is a build as it is now: a running one ends when its time is over.
func (w *world) settled(b coordinator.Build) coordinator.Build {
	if b.Status != coordinator.BuildRunning || time.Since(b.Created) < w.buildTime {
		return b
	}
	b.Status, b.Ended = coordinator.BuildSucceeded, b.Created.Add(w.buildTime)
	if w.buildErr != "" {
		b.Status, b.Error, b.Address = coordinator.BuildFailed, w.buildErr, "docker_container.dev"
	}
	return b
}

func (w *world) LatestBuild(_ context.Context, ws coordinator.WorkspaceID) (*coordinator.Build, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range slices.Backward(w.builds) {
		if b.WorkspaceID == ws {
			b = w.settled(b)
			return &b, nil
		}
	}
	return nil, nil
}

func (w *world) Build(_ context.Context, id coordinator.BuildID) (coordinator.Build, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.builds {
		if b.ID == id {
			return w.settled(b), nil
		}
	}
	return coordinator.Build{}, coordinator.Errorf(coordinator.CodeNotFound, "no such build")
}

func (w *world) QueuedBefore(context.Context, coordinator.BuildID) (int, error) { return 0, nil }

func (w *world) Agents(_ context.Context, ws coordinator.WorkspaceID) ([]coordinator.WorkspaceAgent, error) {
	return []coordinator.WorkspaceAgent{{WorkspaceID: ws, ID: "a1", AgentRecord: coordinator.AgentRecord{ID: "a1", Name: "main"}, FirstConnected: time.Now()}}, nil
}

func (w *world) OpenSession(_ context.Context, s coordinator.SessionRecord) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sessions = append(w.sessions, s)
	return nil
}

func (w *world) CloseSession(_ context.Context, s coordinator.SessionRecord) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed++
	for i := range w.sessions {
		if w.sessions[i].ID == s.ID {
			w.sessions[i] = s
		}
	}
	return nil
}

func (w *world) TouchWorkspace(context.Context, coordinator.WorkspaceID, time.Time) error { return nil }

// The world is the entry's builder: a build takes buildTime, and then it has worked, or failed by buildErr.

func (w *world) Request(_ context.Context, _ coordinator.Actor, ws coordinator.Workspace, _ coordinator.BuildRequest) (coordinator.Build, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests++
	b := coordinator.Build{
		ID: coordinator.BuildID(coordinator.NewID()), WorkspaceID: ws.ID, Number: 7, Transition: coordinator.Start,
		Status: coordinator.BuildRunning, Created: time.Now(),
	}
	w.builds = append(w.builds, b)
	return b, nil
}

func (w *world) Progress(ws coordinator.WorkspaceID) (coordinator.Progress, bool) {
	b, _ := w.LatestBuild(context.Background(), ws)
	if b == nil || b.Status != coordinator.BuildRunning {
		return coordinator.Progress{}, false
	}
	return coordinator.Progress{
		Build: b.Number, Stage: "apply", Address: "docker_container.dev", Text: "creating\x1b[31m", Elapsed: time.Since(b.Created),
	}, true
}

// The world is the entry's hub: the agent is there once the build has worked.

func (w *world) Presence(ws coordinator.WorkspaceID) coordinator.Presence {
	b, _ := w.LatestBuild(context.Background(), ws)
	return coordinator.Presence{Connected: map[string]bool{"a1": b != nil && b.Status == coordinator.BuildSucceeded}}
}

func (w *world) Await(ctx context.Context, _ coordinator.WorkspaceID, _ string) error { return nil }

func (w *world) Open(_ context.Context, _ coordinator.WorkspaceID, _ string, hdr agent.StreamHeader) (net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	far, err := l.Accept()
	if err != nil {
		near.Close()
		return nil, err
	}
	w.conns.Go(func() { _ = w.server.ServeConn(far, hdr) })
	return near, nil
}
