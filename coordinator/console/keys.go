package console

import (
	"context"
	"fmt"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// key does what a key means.
func (m *model) key(k tea.KeyPressMsg) tea.Cmd {
	if k.String() == "ctrl+c" {
		return m.leave()
	}
	switch {
	case m.log != nil:
		return m.logKey(k)
	case m.ask != nil:
		q := m.ask
		m.ask = nil
		if k.String() == "y" || k.String() == "Y" {
			return q.yes()
		}
		m.say("nothing was done")
		return nil
	case m.filtering:
		m.filterKey(k)
		return nil
	case m.help:
		m.help = false
		return nil
	}
	return m.listKey(k)
}

// leave ends the screen.
func (m *model) leave() tea.Cmd {
	m.quit = true
	m.log = nil
	return tea.Quit
}

// filterKey edits the filter.
func (m *model) filterKey(k tea.KeyPressMsg) {
	switch k.String() {
	case "enter":
		m.filtering = false
	case "esc":
		m.filtering, m.filter = false, ""
	case "ctrl+u":
		m.filter = ""
	case "backspace":
		_, n := utf8.DecodeLastRuneInString(m.filter)
		m.filter = m.filter[:len(m.filter)-n]
	case "up", "down":
		m.listKey(k)
	default:
		m.setFilter(m.filter + k.Text)
	}
}

// listKey is a key over the list.
func (m *model) listKey(k tea.KeyPressMsg) tea.Cmd {
	switch k.String() {
	case "q":
		return m.leave()
	case "esc":
		m.filter, m.message = "", ""
	case "?", "h":
		m.help = true
	case "/":
		m.filtering = true
	case "up", "k":
		m.move(-1)
	case "down", "j":
		m.move(1)
	case "pgup":
		m.move(-m.room())
	case "pgdown":
		m.move(m.room())
	case "home", "g":
		m.move(-len(m.all))
	case "end", "G":
		m.move(len(m.all))
	default:
		return m.actKey(k.String())
	}
	return nil
}

func (m *model) move(by int) {
	list := m.visible()
	if i := m.cursor(list); i >= 0 {
		m.chosen = list[min(max(i+by, 0), len(list)-1)].Name
	}
}

// actKey is a key that does something to the chosen workspace.
func (m *model) actKey(key string) tea.Cmd {
	list := m.visible()
	i := m.cursor(list)
	if i < 0 {
		return nil
	}
	w := list[i]
	m.chosen = w.Name
	t := coordinator.Target{Workspace: w.Name}
	switch key {
	case "enter":
		m.connect = &t
		return tea.Quit
	case "s":
		return m.change("start", t, func(ctx context.Context) (rest.Build, error) {
			return m.client.Start(ctx, t, rest.StartWorkspace{})
		})
	case "x":
		m.confirm("stop "+w.Name, m.change("stop", t, func(ctx context.Context) (rest.Build, error) { return m.client.Stop(ctx, t) }))
	case "r":
		m.confirm("restart "+w.Name, m.change("restart", t, func(ctx context.Context) (rest.Build, error) {
			return m.client.Restart(ctx, t, rest.StartWorkspace{})
		}))
	case "c":
		m.confirm("cancel the build of "+w.Name, m.change("cancel", t, func(ctx context.Context) (rest.Build, error) {
			return m.client.Cancel(ctx, t, 0)
		}))
	case "l":
		return m.openLog(w)
	}
	return nil
}

// confirm asks first: whoever is in the workspace would be thrown out.
func (m *model) confirm(what string, do tea.Cmd) {
	m.ask = &question{what + "? y/n", func() tea.Cmd { return do }}
}

// change asks for a build and says what came of it.
func (m *model) change(what string, t coordinator.Target, ask func(context.Context) (rest.Build, error)) tea.Cmd {
	act := m.do(func(ctx context.Context) tea.Msg {
		b, err := ask(ctx)
		if err != nil {
			return didMsg{err.Error()}
		}
		return didMsg{fmt.Sprintf("%s %s: build %d", what, t, b.Number)}
	})
	return tea.Sequence(act, m.lookOnce())
}

// lookOnce reads the list once, beside the reading that goes on.
func (m *model) lookOnce() tea.Cmd {
	return m.do(func(ctx context.Context) tea.Msg {
		list, err := m.client.Workspaces(ctx, false)
		return onceMsg{list, err}
	})
}
