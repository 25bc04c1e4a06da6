package console

import (
	"context"
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"

	"berth/coordinator"
	"berth/coordinator/rest"
)

const (
	maxLogLines = 2000 // that are kept to scroll through
	maxLogLine  = 500  // bytes
)

// A logView is the log of a build on the screen.
type logView struct {
	id     int
	title  string
	lines  []string
	ended  bool
	err    string
	top    int
	follow bool // the end is shown, and stays so
	cancel context.CancelFunc
}

// A logMsg is a line of a log that is being read, or its end.
type logMsg struct {
	id    int
	line  string
	ended bool
	err   error
}

// openLog shows the log of a workspace's latest build, and what follows.
func (m *model) openLog(w rest.Workspace) tea.Cmd {
	if w.Build == nil {
		m.say(w.Name + " has no build yet")
		return nil
	}
	ctx, cancel := context.WithCancel(m.ctx)
	m.logs++
	id, send, number := m.logs, m.send, w.Build.Number
	m.log = &logView{id: id, title: fmt.Sprintf("%s, build %d", clean(w.Name), number), follow: true, cancel: cancel}
	read := m.client.BuildLog(coordinator.Target{Workspace: w.Name}, number, "*")
	return m.do(func(context.Context) tea.Msg {
		defer cancel()
		err := read.Read(ctx, true, func(l coordinator.LogLine) error {
			send(logMsg{id: id, line: logLine(l)})
			return ctx.Err()
		})
		return logMsg{id: id, ended: true, err: err}
	})
}

// logLine is a line of a log as it is shown.
func logLine(l coordinator.LogLine) string {
	where := l.Stage
	if l.Source != "" && l.Source != coordinator.SourceBuild {
		where = l.Source + "/" + l.Stage
	}
	text := l.Text
	if l.Address != "" && !strings.HasPrefix(text, l.Address) {
		text = l.Address + ": " + text
	}
	text = clean(coordinator.Clip(where+" | "+text, maxLogLine))
	switch l.Level {
	case "error":
		return red + text + reset
	case "warn":
		return yellow + text + reset
	}
	return text
}

// take takes a line in, or the end.
func (v *logView) take(msg logMsg) {
	if msg.ended {
		v.ended = true
		if msg.err != nil {
			v.err = clean(msg.err.Error())
		}
		return
	}
	v.lines = append(v.lines, msg.line)
	if over := len(v.lines) - maxLogLines; over > maxLogLines/10 {
		v.lines = append([]string(nil), v.lines[over:]...)
		v.top = max(0, v.top-over)
	}
}

// logKey is a key over a log.
func (m *model) logKey(k tea.KeyPressMsg) tea.Cmd {
	v := m.log
	page := max(1, m.rows-2)
	move := func(by int) {
		last := max(0, len(v.lines)-page)
		if v.follow {
			v.top = last
		}
		v.top = min(max(v.top+by, 0), last)
		v.follow = v.top == last
	}
	switch k.String() {
	case "q", "esc", "l", "left":
		v.cancel()
		m.log = nil
	case "up", "k":
		move(-1)
	case "down", "j", "enter":
		move(1)
	case "pgup", "b":
		move(-page)
	case "pgdown", "space", " ":
		move(page)
	case "home", "g":
		move(-len(v.lines))
	case "end", "G":
		move(len(v.lines))
	}
	return nil
}

func (m *model) viewLog() []string {
	v := m.log
	page := max(1, m.rows-2)
	top := v.top
	if v.follow {
		top = max(0, len(v.lines)-page)
	}
	state := "goes on"
	switch {
	case v.err != "" && v.ended:
		state = v.err
	case v.ended:
		state = "complete"
	}
	lines := []string{bold + v.title + reset + dim + fmt.Sprintf("  %d-%d of %d, %s", min(top+1, len(v.lines)), min(top+page, len(v.lines)), len(v.lines), state) + reset}
	lines = append(lines, v.lines[min(top, len(v.lines)):min(top+page, len(v.lines))]...)
	for len(lines) < m.rows-1 {
		lines = append(lines, "")
	}
	return append(lines, dim+"up down pgup pgdn scroll  g G begin end  q back"+reset)
}
