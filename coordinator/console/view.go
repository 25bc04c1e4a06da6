package console

import (
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// Colours, of the sixteen that every terminal has.
const (
	bold    = "\x1b[1m"
	dim     = "\x1b[2m"
	reverse = "\x1b[7m"
	red     = "\x1b[31m"
	green   = "\x1b[32m"
	yellow  = "\x1b[33m"
	reset   = "\x1b[0m"
)

// fit cuts text to a width in columns.
func fit(text string, width int) string {
	return ansi.Truncate(text, max(width, 1), "~")
}

// pad is fit, filled with blanks.
func pad(text string, width int) string {
	text = fit(text, width)
	return text + strings.Repeat(" ", max(0, width-ansi.StringWidth(text)))
}

// View draws the screen.
func (m *model) View() tea.View {
	var lines []string
	switch {
	case m.quit || m.connect != nil:
		return tea.NewView("") // the last picture: nothing is left behind
	case m.log != nil:
		lines = m.viewLog()
	case m.help:
		lines = m.viewHelp()
	default:
		lines = m.viewList()
	}
	if len(lines) > m.rows {
		lines = lines[:m.rows]
	}
	for i, l := range lines {
		lines[i] = fit(l, m.columns)
	}
	v := tea.NewView(strings.Join(lines, "\n"))
	v.AltScreen = true
	return v
}

// room is how many rows of the list fit: beside the title, the head, and three lines below.
func (m *model) room() int {
	if m.rows < 8 {
		return max(1, m.rows-2)
	}
	return m.rows - 6
}

// viewList is the list: title, head, rows, what the chosen one is about, a message, the keys.
func (m *model) viewList() []string {
	list := m.visible()
	at := m.cursor(list)
	room := m.room()
	m.top = min(m.top, max(0, len(list)-room))
	if at >= 0 {
		m.top = max(min(m.top, at), at-room+1)
	}
	small := m.rows < 8
	var lines []string
	title := bold + "berth" + reset + " " + m.name + " at " + strings.Fields(m.host)[0]
	if m.filter != "" || m.filtering {
		text := fmt.Sprintf("filter: %s (%d of %d)", m.filter, len(list), len(m.all))
		if title += "  " + text; ansi.StringWidth(title) > m.columns {
			title = bold + text + reset
		}
	}
	lines = append(lines, title)
	if !small {
		lines = append(lines, "", dim+"  "+m.row("NAME", "STATUS", "TEMPLATE", "LAST USED")+reset)
	}
	for i := m.top; i < min(len(list), m.top+room); i++ {
		lines = append(lines, m.viewRow(list[i], i == at))
	}
	if len(list) == 0 {
		lines = append(lines, "  "+m.nothing())
	}
	bottom := []string{m.note(list, at), m.footer()}
	if small {
		bottom = bottom[1:]
	} else {
		bottom = append([]string{""}, bottom...)
	}
	for len(lines) < m.rows-len(bottom) {
		lines = append(lines, "")
	}
	return append(lines, bottom...)
}

func (m *model) nothing() string {
	switch {
	case !m.loaded:
		return "reading ..."
	case m.filter != "":
		return "no workspace is like that"
	default:
		return "no workspaces yet; make one: ssh berth@" + m.host + " create dev --template NAME"
	}
}

// row lays the columns out; narrow terminals have fewer.
func (m *model) row(name, status, template, used string) string {
	switch w := m.columns - 2; {
	case w >= 70:
		return pad(name, w-54) + "  " + pad(status, 10) + "  " + pad(template, 24) + "  " + pad(used, 14)
	case w >= 40:
		return pad(name, w-32) + "  " + pad(status, 10) + "  " + pad(template, 18)
	default:
		return pad(name, max(8, w-12)) + "  " + pad(status, 10)
	}
}

// viewRow is one workspace; where it is on its way, how far instead of what it is made of.
func (m *model) viewRow(w rest.Workspace, chosen bool) string {
	template := fmt.Sprintf("%s %d", w.Template, w.Version)
	if w.Outdated {
		template += " (old)"
	}
	text := m.row(clean(w.Name), string(w.Status), clean(template), ago(m.now(), w.LastUsed))
	if chosen {
		return reverse + "> " + text + reset
	}
	colour := ""
	switch w.Status {
	case coordinator.StatusRunning:
		colour = green
	case coordinator.StatusFailed, coordinator.StatusUnhealthy:
		colour = red
	default:
		if changing(w) {
			colour = yellow
		}
	}
	status := string(w.Status)
	if i := strings.Index(text, "  "+status); colour != "" && i >= 0 {
		text = text[:i+2] + colour + status + reset + text[i+2+len(status):]
	}
	return "  " + text
}

// note is the line above the keys: a question, a message, or what the chosen workspace is about.
func (m *model) note(list []rest.Workspace, at int) string {
	switch {
	case m.ask != nil:
		return bold + m.ask.text + reset
	case m.trouble != "":
		return red + m.trouble + reset
	}
	if at >= 0 {
		if text := m.underway(list[at]); text != "" {
			return yellow + text + reset
		}
	}
	switch {
	case m.message != "" && m.now().Before(m.messageUntil):
		return m.message
	case at < 0:
		return ""
	}
	w := list[at]
	if w.Reason != "" {
		return clean(w.Name + ": " + w.Reason)
	}
	return dim + "ssh " + clean(w.Name) + "@" + m.host + reset
}

// underway is how far a workspace is on its way; "" where it is on none.
func (m *model) underway(w rest.Workspace) string {
	if p, ok := m.progress[w.Name]; ok && p.p.Stage != "" {
		now := p.p
		now.Elapsed += m.now().Sub(p.since)
		return clean(w.Name + ": " + now.String())
	}
	for _, g := range w.Agents {
		for _, s := range g.Steps {
			if s.Outcome == "running" && changing(w) {
				return clean(w.Name + ": " + g.Name + ": " + s.Name)
			}
		}
	}
	return ""
}

func (m *model) footer() string {
	switch {
	case m.filtering:
		return dim + "type to filter  enter keep  esc clear" + reset
	case m.columns < 76:
		return dim + "enter ssh  s start  x stop  l logs  ? help  q quit" + reset
	default:
		return dim + "enter connect  s start  x stop  r restart  l logs  / filter  ? help  q quit" + reset
	}
}

func (m *model) viewHelp() []string {
	return []string{
		bold + "Keys" + reset, "",
		"up, down, k, j    choose a workspace",
		"enter             open a shell in it, starting it first where it is stopped",
		"s                 start",
		"x                 stop",
		"r                 restart",
		"c                 cancel the build under way",
		"l                 read the log of its latest build",
		"/                 filter by name, status or template; esc clears",
		"q, Ctrl-C         leave", "",
		"Commands: ssh berth@" + m.host + " --help", "",
		dim + "any key goes back" + reset,
	}
}

// ago is a time relative to now.
func ago(now, t time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return "never"
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d/time.Minute))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d/time.Hour))
	default:
		return fmt.Sprintf("%d d ago", int(d/(24*time.Hour)))
	}
}
