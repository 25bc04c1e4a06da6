package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"berth/coordinator"
	"berth/coordinator/rest"
)

const (
	ndjson    = "application/x-ndjson"
	logPage   = 500              // lines that are read at once
	logPause  = 5 * time.Second  // a log that is followed is looked at so often, even if nobody woke it
	writeTime = 30 * time.Second // for a client to take what was written
)

// A feed is a log to stream.
type feed struct {
	build   coordinator.BuildID
	events  coordinator.WorkspaceID                          // whose changes wake it
	sources func(context.Context) ([]string, error)          // in the order in which they are sent
	open    func(ctx context.Context) (more bool, err error) // whether lines may still come
	next    map[string]int                                   // by source
	follow  bool
}

// LogFrom is where a stream of a log begins and whether it goes on.
type LogFrom struct {
	From   int  `query:"from" minimum:"0" doc:"sequence number of the first line; with several sources, of the build's own"`
	Follow bool `query:"follow" doc:"stay until nothing more will come"`
}

type versionLogInput struct {
	VersionPath
	LogFrom
}

func (s *server) versionLog(ctx context.Context, in *versionLogInput) (*streamed, error) {
	_, v, err := s.findVersion(ctx, in.VersionPath)
	if err != nil {
		return nil, err
	}
	return s.streamLog(&feed{
		build: coordinator.BuildID(v.ID), events: coordinator.WorkspaceID(v.ID), follow: in.Follow,
		next:    map[string]int{coordinator.SourceBuild: in.From},
		sources: only(coordinator.SourceBuild),
		open: func(ctx context.Context) (bool, error) {
			now, err := s.Store.Version(ctx, v.ID)
			return now.Status == coordinator.VersionImporting, err
		},
	}), nil
}

func only(source string) func(context.Context) ([]string, error) {
	return func(context.Context) ([]string, error) { return []string{source}, nil }
}

type buildLogInput struct {
	BuildPath
	LogFrom
	Source string `query:"source" maxLength:"64" default:"build" doc:"build, the name of an agent, or * for the build and then its agents"`
}

func (s *server) buildLog(ctx context.Context, in *buildLogInput) (*streamed, error) {
	ws, b, err := s.findBuild(ctx, in.BuildPath)
	if err != nil {
		return nil, err
	}
	f := &feed{build: b.ID, events: ws.ID, follow: in.Follow, next: map[string]int{}, sources: only(in.Source)}
	f.next[in.Source] = in.From
	switch in.Source {
	case "*":
		f.next[coordinator.SourceBuild] = in.From
		f.sources = func(ctx context.Context) ([]string, error) { return s.Store.LogSources(ctx, b.ID) }
		f.open = func(ctx context.Context) (bool, error) { return s.starting(ctx, ws.ID, b.ID) }
	case coordinator.SourceBuild:
		f.open = func(ctx context.Context) (bool, error) {
			now, err := s.Store.Build(ctx, b.ID)
			return now.Status.Open(), err
		}
	default:
		f.open = func(ctx context.Context) (bool, error) { return s.starting(ctx, ws.ID, b.ID) }
	}
	return s.streamLog(f), nil
}

// starting reports whether a build, or the startup of the agents that it made, still goes on.
func (s *server) starting(ctx context.Context, ws coordinator.WorkspaceID, id coordinator.BuildID) (bool, error) {
	b, err := s.Store.Build(ctx, id)
	if err != nil || b.Status.Open() {
		return b.Status.Open(), err
	}
	latest, err := s.Store.LatestBuild(ctx, ws)
	if err != nil || latest == nil || latest.ID != id {
		return false, err
	}
	agents, err := s.Store.Agents(ctx, ws)
	if err != nil {
		return false, err
	}
	return coordinator.Derive(latest, agents, s.Hub.Presence(ws), s.Now()).Status == coordinator.StatusStarting, nil
}

// streamLog sends a feed as lines of rest.LogEvent. It ends when the log ends, when the client goes away, and when
// the coordinator shuts down; only the first is told by an event, so that a client knows to ask again.
func (s *server) streamLog(f *feed) *streamed {
	return stream(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		woken, cancel := s.Events.Watch(f.events)
		defer cancel()
		w.Header().Set("Content-Type", ndjson)
		w.Header().Set("X-Accel-Buffering", "no") // a proxy would hold lines back
		send := lineSender(w)
		for {
			// Whether it is open is asked first: what was written before the end is then read for certain.
			more, err := f.open(ctx)
			if coordinator.CodeOf(err) == coordinator.CodeNotFound {
				more, err = false, nil // deleted with its workspace
			}
			if err == nil {
				err = s.sendLines(ctx, f, send)
			}
			if err != nil {
				if ctx.Err() == nil {
					s.Logger.DebugContext(ctx, "stream log", "err", err)
				}
				return
			}
			if !more {
				_ = send(rest.LogEvent{End: true}) // the client is gone, if this fails
				return
			}
			if !f.follow || !s.pause(ctx, woken) {
				return
			}
		}
	})
}

// lineSender returns a function that sends one event, or only pushes out what was sent before if it holds nothing.
func lineSender(w http.ResponseWriter) func(rest.LogEvent) error {
	rc := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	return func(e rest.LogEvent) error {
		_ = rc.SetWriteDeadline(time.Now().Add(writeTime)) // not every writer has deadlines
		if e.Line != nil || e.End {
			if err := enc.Encode(e); err != nil {
				return err
			}
		}
		if e.Line == nil {
			return rc.Flush()
		}
		return nil
	}
}

func (s *server) sendLines(ctx context.Context, f *feed, send func(rest.LogEvent) error) error {
	sources, err := f.sources(ctx)
	if err != nil {
		return err
	}
	for _, source := range sources {
		for {
			lines, err := s.Store.Log(ctx, f.build, source, f.next[source], logPage)
			if err != nil {
				return err
			}
			for _, l := range lines {
				if err := send(rest.LogEvent{Line: &l}); err != nil {
					return err
				}
				f.next[source] = l.Seq + 1
			}
			if len(lines) < logPage {
				break
			}
		}
	}
	return send(rest.LogEvent{})
}

// pause waits for a reason to look again. It reports false when there will be none.
func (s *server) pause(ctx context.Context, woken <-chan struct{}) bool {
	t := time.NewTimer(logPause)
	defer t.Stop()
	select {
	case <-woken:
	case <-t.C:
	case <-ctx.Done():
		return false
	case <-s.Done:
		return false
	}
	return true
}
