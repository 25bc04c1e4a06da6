package console

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"

	"berth/cli/client"
	"berth/coordinator"
	"berth/coordinator/rest"
)

// How often the list is read: while something is under way, while somebody uses the screen, and later.
const (
	lookSoon  = 500 * time.Millisecond
	lookOften = 2 * time.Second
	lookLater = 5 * time.Second
	idleAfter = time.Minute
)

const (
	framesPerSecond = 10
	maxFollows      = 4 // builds whose log is followed for their progress
	maxFilter       = 64
	messageTime     = 20 * time.Second
)

// screen draws the user's workspaces until the user leaves. While they are in a workspace's shell there is no screen:
// the terminal is the shell's.
func (s *session) screen(ctx context.Context, c *client.Client) int {
	m := &model{name: s.visitor.User.Name, host: strings.TrimPrefix(s.console.cfg.Name, "ssh berth@"), now: time.Now, client: c}
	for {
		err := s.draw(ctx, m)
		switch {
		case ctx.Err() != nil:
			return 1
		case err != nil && !errors.Is(err, tea.ErrInterrupted):
			s.log.Info("screen of the console ended", "error", err)
			return 1
		case m.connect == nil:
			return 0
		}
		t := *m.connect
		m.connect = nil
		m.say(s.connect(ctx, t))
	}
}

// draw runs the screen until it is left, or left for a workspace.
func (s *session) draw(ctx context.Context, m *model) error {
	ctx, cancel := context.WithCancel(ctx)
	keys := s.keys.open()
	defer keys.close()
	m.ctx, m.work, m.quit = ctx, &tasks{}, false
	m.columns, m.rows = s.size()
	env := []string{"TERM=" + s.pty.Term}
	for k, v := range s.env {
		env = append(env, k+"="+v)
	}
	// Without a terminal of this process the renderer takes LF for CR LF, as a driver would write it.
	p := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(keys), tea.WithOutput(crlf{s.ch}), tea.WithEnvironment(env),
		tea.WithWindowSize(m.columns, m.rows), tea.WithoutSignalHandler(), tea.WithFPS(framesPerSecond),
		tea.WithColorProfile(profile(s.pty.Term, s.env["COLORTERM"])))
	m.send = p.Send
	var beside sync.WaitGroup
	beside.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.resized:
				columns, rows := s.size()
				p.Send(tea.WindowSizeMsg{Width: columns, Height: rows})
			}
		}
	})
	_, err := p.Run()
	cancel()
	m.work.end()
	beside.Wait()
	return err
}

// profile is how many colours a terminal has.
func profile(term, colorterm string) colorprofile.Profile {
	switch {
	case colorterm == "truecolor" || colorterm == "24bit":
		return colorprofile.TrueColor
	case strings.Contains(term, "256color"):
		return colorprofile.ANSI256
	case strings.HasPrefix(term, "vt") || strings.HasSuffix(term, "-m") || strings.HasSuffix(term, "-mono"):
		return colorprofile.ASCII
	default:
		return colorprofile.ANSI
	}
}

// A model is the state of the screen. It is owned by the program that draws it, and outlives it.
type model struct {
	name, host string
	client     *client.Client
	now        func() time.Time

	// Of the program that runs.
	ctx  context.Context //nolint:containedctx // a model has no calls to pass it along
	work *tasks          // what still asks the API
	send func(tea.Msg)
	quit bool

	columns, rows int
	all           []rest.Workspace
	loaded        bool
	trouble       string // why the list could not be read
	filter        string
	filtering     bool
	chosen        string // name of the workspace under the cursor
	top           int    // first row that is shown
	ask           *question
	message       string
	messageUntil  time.Time
	help          bool
	touched       time.Time           // of the last key
	progress      map[string]progress // by workspace
	connect       *coordinator.Target // the screen is left for
	log           *logView
	logs          int // that were opened
}

// A progress is how far a build is.
type progress struct {
	build int
	p     coordinator.Progress
	since time.Time
}

// A question is asked before a key does what it does.
type question struct {
	text string
	yes  func() tea.Cmd
}

// Messages.
type (
	listMsg struct {
		list []rest.Workspace
		err  error
	}
	lookMsg     struct{}
	onceMsg     listMsg // beside the reading that goes on
	didMsg      struct{ text string }
	progressMsg struct {
		workspace string
		build     int
		p         coordinator.Progress
	}
)

// Init begins to read.
func (m *model) Init() tea.Cmd {
	m.touched = m.now()
	m.progress = map[string]progress{}
	return m.look()
}

// say shows a line for a while.
func (m *model) say(text string) {
	m.message, m.messageUntil = clean(text), m.now().Add(messageTime)
}

// do is a command that asks the API beside the screen, and has ended when the screen has.
func (m *model) do(f func(context.Context) tea.Msg) tea.Cmd {
	ctx, work := m.ctx, m.work
	return func() tea.Msg {
		if !work.begin() {
			return nil
		}
		defer work.n.Done()
		return f(ctx)
	}
}

// tasks are what runs beside a screen, and has ended when it has.
type tasks struct {
	mu   sync.Mutex
	over bool // guarded by mu
	n    sync.WaitGroup
}

func (t *tasks) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.n.Add(1)
	}
	return !t.over
}

// end lets nothing more begin, and waits for what has begun.
func (t *tasks) end() {
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	t.n.Wait()
}

// look reads the list.
func (m *model) look() tea.Cmd {
	return m.do(func(ctx context.Context) tea.Msg {
		list, err := m.client.Workspaces(ctx, false)
		return listMsg{list, err}
	})
}

// later reads the list again: soon where something changes, seldom where nobody looks.
func (m *model) later() tea.Cmd {
	d := lookOften
	if slices.ContainsFunc(m.all, changing) {
		d = lookSoon
	} else if m.now().Sub(m.touched) > idleAfter {
		d = lookLater
	}
	return m.do(func(ctx context.Context) tea.Msg {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			return lookMsg{}
		}
	})
}

// changing reports whether a workspace is about to be something else.
func changing(w rest.Workspace) bool {
	switch w.Status {
	case coordinator.StatusPending, coordinator.StatusStarting, coordinator.StatusStopping, coordinator.StatusDeleting, coordinator.StatusCanceling:
		return true
	}
	return false
}

// Update takes a message in.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.columns, m.rows = msg.Width, msg.Height
	case tea.KeyPressMsg:
		m.touched = m.now()
		return m, m.key(msg)
	case tea.PasteMsg:
		if m.filtering {
			m.setFilter(m.filter + msg.Content)
		}
	case listMsg:
		follow := m.listed(msg)
		return m, tea.Batch(follow, m.later())
	case onceMsg:
		return m, m.listed(listMsg(msg))
	case lookMsg:
		return m, m.look()
	case didMsg:
		m.say(msg.text)
	case progressMsg:
		if cur := m.progress[msg.workspace]; cur.build == msg.build {
			m.progress[msg.workspace] = progress{msg.build, msg.p, m.now()}
		}
	case logMsg:
		if m.log != nil && m.log.id == msg.id {
			m.log.take(msg)
		}
	}
	return m, nil
}

// listed takes the list in, and follows the builds that are under way.
func (m *model) listed(msg listMsg) tea.Cmd {
	m.trouble = ""
	if msg.err != nil {
		m.trouble = clean(msg.err.Error())
		return nil
	}
	m.all, m.loaded = msg.list, true
	live := map[string]int{}
	for _, w := range m.all {
		if w.Build != nil && w.Build.Status.Open() {
			live[w.Name] = w.Build.Number
		}
	}
	for name, p := range m.progress { // first, for they take the places of others
		if live[name] != p.build {
			delete(m.progress, name)
		}
	}
	var cmds []tea.Cmd
	for _, w := range m.all {
		if build := live[w.Name]; build != 0 && m.progress[w.Name].build != build && len(m.progress) < maxFollows {
			m.progress[w.Name] = progress{build: build, since: m.now()}
			cmds = append(cmds, m.follow(w.Name, build))
		}
	}
	return tea.Batch(cmds...)
}

// follow reads a build's log for how far it is.
func (m *model) follow(name string, build int) tea.Cmd {
	send := m.send
	return m.do(func(ctx context.Context) tea.Msg {
		// What ends it is the end of the build, or of the screen; the list tells the rest.
		_ = m.client.BuildLog(coordinator.Target{Workspace: name}, build, coordinator.SourceBuild).Read(ctx, true, func(l coordinator.LogLine) error {
			if l.Level != "debug" && !strings.HasPrefix(l.Address, "data.") {
				send(progressMsg{name, build, coordinator.Progress{Build: build, Stage: l.Stage, Address: l.Address, Text: l.Text, Elapsed: l.Elapsed}})
			}
			return nil
		})
		return nil
	})
}

// visible are the workspaces that the filter lets through.
func (m *model) visible() []rest.Workspace {
	if m.filter == "" {
		return m.all
	}
	var list []rest.Workspace
	for _, w := range m.all {
		if strings.Contains(strings.ToLower(w.Name+" "+string(w.Status)+" "+w.Template), strings.ToLower(m.filter)) {
			list = append(list, w)
		}
	}
	return list
}

// cursor is the index of the chosen workspace in list; -1 if that is empty.
func (m *model) cursor(list []rest.Workspace) int {
	if len(list) == 0 {
		return -1
	}
	return max(0, slices.IndexFunc(list, func(w rest.Workspace) bool { return w.Name == m.chosen }))
}

func (m *model) setFilter(s string) { m.filter = coordinator.Clip(clean(s), maxFilter) }
