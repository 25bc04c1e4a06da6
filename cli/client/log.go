package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/rest"
)

const (
	maxLogEvent = 64 << 10        // bytes of one event of a log
	logPatience = 2 * time.Minute // how long a lost log is asked for again
)

// A Log is a log that the server streams.
type Log struct {
	c      *Client
	route  string
	source string // empty: there is only one
}

// Read calls each with every line of the log, in order, and returns at its end. With follow that is when nothing more
// will come: a connection that is lost before is made again, and goes on after the last line that arrived.
func (l Log) Read(ctx context.Context, follow bool, each func(coordinator.LogLine) error) error {
	p := position{next: map[string]int{}, all: l.source == "*"}
	lost := time.Time{} // since when
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		before := p.lines
		err := l.read(ctx, follow, &p, each)
		if err == nil || !follow || coordinator.CodeOf(err) != coordinator.CodeUnavailable {
			return err
		}
		if p.lines > before || lost.IsZero() {
			lost, pause = time.Now(), 50*time.Millisecond
		}
		if time.Since(lost) > logPatience {
			return err
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// A position is how far a log has been read, by source.
type position struct {
	next  map[string]int
	all   bool // several sources in one stream: their offsets differ, so all of it is read again
	lines int
}

func (p *position) from() int {
	if p.all {
		return 0
	}
	for _, n := range p.next {
		return n
	}
	return 0
}

// fresh reports whether the line was not seen before.
func (p *position) fresh(line coordinator.LogLine) bool {
	source := line.Source
	if !p.all {
		source = ""
	}
	if line.Seq < p.next[source] {
		return false
	}
	p.next[source] = line.Seq + 1
	p.lines++
	return true
}

// read reads once, from the position on.
func (l Log) read(ctx context.Context, follow bool, p *position, each func(coordinator.LogLine) error) error {
	query := url.Values{"follow": {strconv.FormatBool(follow)}, "from": {strconv.Itoa(p.from())}}
	if l.source != "" {
		query.Set("source", l.source)
	}
	req, err := l.c.request(ctx, http.MethodGet, l.route, query, nil)
	if err != nil {
		return err
	}
	resp, err := l.c.send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() // only read from
	lines := agent.NewMessageReader(resp.Body, maxLogEvent)
	for {
		var e rest.LogEvent
		switch err := lines.Next(&e); {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF) && !follow:
			return nil
		case errors.Is(err, agent.ErrTooLong):
			return l.c.foreign(err)
		case err != nil:
			return l.c.unreachable(err)
		case e.Line != nil && p.fresh(*e.Line):
			if err := each(*e.Line); err != nil {
				return err
			}
		}
		if e.End {
			return nil
		}
	}
}
