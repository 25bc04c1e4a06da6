package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/rest"
)

func (w *world) log(b coordinator.Build, source string, from int, texts ...string) {
	w.t.Helper()
	var lines []coordinator.LogLine
	for i, text := range texts {
		lines = append(lines, coordinator.LogLine{Source: source, Seq: from + i, Time: time.Now(), Stage: "apply", Level: "info", Text: text})
	}
	w.check(w.store.AppendLog(w.t.Context(), b.ID, lines))
	w.bus.Notify(b.WorkspaceID)
}

// A tail is a log that is being streamed.
type tail struct {
	w     *world
	body  io.ReadCloser
	lines *agent.MessageReader
}

func (w *world) tail(path string) *tail {
	w.t.Helper()
	resp, err := w.Client().Do(w.request("member", "GET", path, nil))
	w.check(err)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != ndjson {
		w.t.Fatalf("got %s %v", resp.Status, resp.Header)
	}
	w.t.Cleanup(func() { resp.Body.Close() })
	return &tail{w, resp.Body, agent.NewMessageReader(resp.Body, 64<<10)}
}

// next returns the next event: a line's source and text, "end", or "eof".
func (l *tail) next() string {
	l.w.t.Helper()
	var e rest.LogEvent
	switch err := l.lines.Next(&e); {
	case errors.Is(err, io.EOF):
		return "eof"
	case err != nil:
		return err.Error()
	case e.End:
		return "end"
	case e.Line == nil:
		return "nothing"
	}
	return e.Line.Source + ":" + e.Line.Text
}

func (l *tail) want(events ...string) {
	l.w.t.Helper()
	for _, want := range events {
		if got := l.next(); got != want {
			l.w.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestFollowBuild(t *testing.T) {
	w := newWorld(t).populate()
	b := w.begin(w.dev, coordinator.Stop)
	w.log(b, "build", 0, "one", "two", "three")
	path := "/workspaces/me/dev/builds/latest/log"
	w.tail(path).want("build:one", "build:two", "build:three", "eof") // it is not at its end
	l := w.tail(path + "?follow=true&from=1")
	l.want("build:two", "build:three")
	w.log(b, "build", 3, "four")
	l.want("build:four")
	w.log(b, "build", 4, "five")
	w.finish(b, coordinator.BuildSucceeded)
	l.want("build:five", "end", "eof")
	w.tail(path+"?from=4").want("build:five", "end", "eof")
}

// TestFollowAgents follows a start build and then the startup of its agents.
func TestFollowAgents(t *testing.T) {
	w := newWorld(t).populate()
	b := w.begin(w.dev, coordinator.Start)
	w.log(b, "build", 0, "created")
	all, one := w.tail("/workspaces/me/dev/builds/latest/log?follow=true&source=*"), w.tail("/workspaces/me/dev/builds/latest/log?follow=true&source=main")
	all.want("build:created")
	w.finish(b, coordinator.BuildSucceeded)
	w.log(b, "main", 0, "configure runs")
	all.want("main:configure runs")
	one.want("main:configure runs")
	agents, err := w.store.Agents(t.Context(), w.dev.ID)
	w.check(err)
	agents[0].Ready, agents[0].FirstConnected = true, time.Now()
	w.check(w.store.UpdateAgent(t.Context(), agents[0]))
	w.bus.Notify(w.dev.ID)
	all.want("end", "eof")
	one.want("end", "eof")
}

// TestFollowLong checks that a log longer than a page arrives whole.
func TestFollowLong(t *testing.T) {
	w := newWorld(t).populate()
	b := w.begin(w.dev, coordinator.Stop)
	var texts []string
	for i := range 2*logPage + 1 {
		texts = append(texts, fmt.Sprint(i))
	}
	w.log(b, "build", 0, texts...)
	w.finish(b, coordinator.BuildSucceeded)
	l := w.tail("/workspaces/me/dev/builds/latest/log")
	for _, text := range texts {
		l.want("build:" + text)
	}
	l.want("end", "eof")
}

// TestFollowEnds checks what ends a stream besides the log's end.
func TestFollowEnds(t *testing.T) {
	w := newWorld(t).populate()
	b := w.begin(w.dev, coordinator.Delete)
	w.log(b, "build", 0, "one")
	deleted := w.tail("/workspaces/me/dev/builds/latest/log?follow=true")
	deleted.want("build:one")
	gone := w.tail("/workspaces/me/dev/builds/latest/log?follow=true")
	gone.want("build:one")
	gone.body.Close() // the server must not wait for it: Close of the test's server would hang
	w.finish(b, coordinator.BuildSucceeded)
	deleted.want("end", "eof")

	other := w.workspace(w.member, "other")
	b = w.begin(other, coordinator.Stop)
	w.log(b, "build", 0, "two")
	l := w.tail("/workspaces/me/other/builds/latest/log?follow=true")
	l.want("build:two")
	close(w.done) // the coordinator shuts down: no end is told, so that the client asks again
	l.want("eof")
}

func TestFollowImport(t *testing.T) {
	w := newWorld(t).populate()
	w.tokens["member"] = w.tokens["owner"]
	v := coordinator.TemplateVersion{Archive: strings.Repeat("b", 64), Status: coordinator.VersionImporting, CreatedBy: w.owner.ID}
	_, err := w.store.CreateTemplateVersion(t.Context(), "go", "", &v)
	w.check(err)
	b := coordinator.Build{ID: coordinator.BuildID(v.ID), WorkspaceID: coordinator.WorkspaceID(v.ID)}
	l := w.tail("/templates/go/versions/1/log?follow=true")
	w.log(b, "build", 0, "init")
	l.want("build:init")
	w.check(w.store.FinishImport(t.Context(), v.ID, coordinator.Result{Status: coordinator.BuildFailed, Error: "no"}))
	w.bus.Notify(b.WorkspaceID)
	l.want("end", "eof")
}

func TestLogErrors(t *testing.T) {
	w := newWorld(t).populate()
	for path, want := range map[string]int{
		"/workspaces/me/dev/builds/1/log?from=-1": http.StatusUnprocessableEntity,
		"/workspaces/me/dev/builds/9/log":         http.StatusNotFound,
		"/workspaces/me/dev/builds/x/log":         http.StatusNotFound,
		"/workspaces/me/no/builds/1/log":          http.StatusNotFound,
	} {
		if a := w.do("member", "GET", path, nil); a.status != want {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

func TestPauseEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if (&server{}).pause(ctx, nil) {
		t.Error("a pause outlives its context")
	}
}
