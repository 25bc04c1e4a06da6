package console

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"berth/cli"
	"berth/cli/client"
	"berth/coordinator"
)

const (
	maxEnv      = 32 // variables that a client may send
	maxEnvBytes = 4 << 10
	maxSide     = 1000 // columns or lines of a terminal
)

// A pty is the terminal at the other end, as its pty-req tells (RFC 4254, section 6.2).
type pty struct {
	Term          string
	Columns, Rows uint32
	Width, Height uint32 // in pixels
	Modes         string
}

// A session is one channel: a command, or the screen.
type session struct {
	*connection
	log  *slog.Logger
	ch   ssh.Channel
	keys *keyboard

	// Owned by serve until what was asked for begins, then read only.
	env      map[string]string
	terminal bool

	mu       sync.Mutex
	pty      pty                 // guarded by mu
	passed   chan<- *ssh.Request // guarded by mu: signals and breaks, while a workspace's shell is here
	resized  chan struct{}       // capacity 1: pty has another size
	canceled context.CancelCauseFunc
}

func newSession(k *connection, ch ssh.Channel) *session {
	return &session{
		connection: k, log: k.log, ch: ch, keys: newKeyboard(), env: map[string]string{}, resized: make(chan struct{}, 1),
	}
}

// serve answers requests until the channel ends. What it began has ended when it returns.
func (s *session) serve(ctx context.Context, reqs <-chan *ssh.Request) {
	ctx, cancel := context.WithCancelCause(ctx)
	s.canceled = cancel
	var work sync.WaitGroup
	defer work.Wait()
	defer s.keys.end()
	defer s.ch.Close()
	defer cancel(context.Canceled)
	begun := false
	for req := range reqs {
		var run func(context.Context) int
		switch {
		case begun || req.Type != "shell" && req.Type != "exec" && req.Type != "subsystem":
			s.request(req, begun)
			continue
		case req.Type == "shell":
			run = s.shell
		case req.Type == "exec":
			var exec struct{ Command string }
			if ssh.Unmarshal(req.Payload, &exec) != nil {
				_ = req.Reply(false, nil)
				continue
			}
			run = func(ctx context.Context) int { return s.exec(ctx, exec.Command) }
		default:
			run = func(context.Context) int { return s.fail(refusal("subsystem", s.console.cfg.Name)) }
		}
		begun = true
		_ = req.Reply(true, nil) // the client has gone, if this fails
		work.Go(func() { s.run(ctx, run) })
		work.Go(func() { s.keys.pump(s.ch) })
	}
}

// run runs what was asked for, and ends the channel with its exit status.
func (s *session) run(ctx context.Context, f func(context.Context) int) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, l := range s.told() {
		s.say(l)
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() { // no screen keeps the coordinator from shutting down
		select {
		case <-s.console.cfg.Done:
			s.canceled(errShutdown)
		case <-ended:
		}
	}()
	code := f(ctx)
	if errors.Is(context.Cause(ctx), errShutdown) {
		s.say(errShutdown.Error())
		code = coordinator.CodeUnavailable.Exit()
	}
	_, _ = s.ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{uint32(code)})) // the client has gone, if this fails
	_ = s.ch.CloseWrite()
	_ = s.ch.Close()
}

var errShutdown = errors.New("the server shuts down; come again in a moment")

// say writes a line to whoever is there.
func (s *session) say(text string) {
	_, _ = io.WriteString(s.stderr(), line(text)) // they have gone, if this fails
}

// fail says what is wrong, and returns the exit code for it.
func (s *session) fail(lines ...string) int {
	for _, l := range lines {
		s.say(l)
	}
	return coordinator.CodeInvalid.Exit()
}

// stderr is the channel's, where there is one: a terminal has but one stream.
func (s *session) stderr() io.Writer {
	if s.terminal {
		return s.ch
	}
	return s.ch.Stderr()
}

// request answers what a client asks beside the command.
func (s *session) request(req *ssh.Request, begun bool) {
	ok := false
	switch req.Type {
	case "pty-req":
		var p pty
		if ok = !begun && ssh.Unmarshal(req.Payload, &p) == nil; ok {
			s.terminal = true
			s.pty = p
		}
	case "env":
		ok = !begun && s.setEnv(req.Payload)
	case "window-change":
		ok = s.resize(req.Payload)
	case "signal", "break":
		ok = s.signal(req)
	case "auth-agent-req@openssh.com", "x11-req":
		if !begun {
			s.tell(refusal(req.Type, s.console.cfg.Name))
		}
	}
	_ = req.Reply(ok, nil) // the client has gone, if this fails
}

// setEnv keeps the variables that say how to write to a terminal.
func (s *session) setEnv(payload []byte) bool {
	var v struct{ Name, Value string }
	if ssh.Unmarshal(payload, &v) != nil || len(s.env) >= maxEnv || len(v.Name)+len(v.Value) > maxEnvBytes/maxEnv {
		return false
	}
	if v.Name != "LANG" && v.Name != "COLORTERM" && !strings.HasPrefix(v.Name, "LC_") {
		return false
	}
	s.env[v.Name] = v.Value
	return true
}

func (s *session) resize(payload []byte) bool {
	var w struct{ Columns, Rows, Width, Height uint32 }
	if !s.terminal || ssh.Unmarshal(payload, &w) != nil {
		return false
	}
	s.mu.Lock()
	s.pty.Columns, s.pty.Rows, s.pty.Width, s.pty.Height = w.Columns, w.Rows, w.Width, w.Height
	s.mu.Unlock()
	select {
	case s.resized <- struct{}{}:
	default:
	}
	return true
}

// signal passes a signal on to a workspace's shell, or ends a command.
func (s *session) signal(req *ssh.Request) bool {
	s.mu.Lock()
	passed := s.passed
	s.mu.Unlock()
	var sig struct{ Name string }
	switch {
	case passed != nil:
		select {
		case passed <- req:
		default: // it is busy with those before
		}
		return true
	case req.Type == "signal" && ssh.Unmarshal(req.Payload, &sig) == nil:
		switch sig.Name {
		case "INT", "TERM", "HUP", "QUIT", "KILL":
			s.canceled(context.Canceled)
			return true
		}
	}
	return false
}

// size is the size of the terminal, in columns and lines; what a client does not know is 80x24.
func (s *session) size() (columns, rows int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	columns, rows = int(min(s.pty.Columns, maxSide)), int(min(s.pty.Rows, maxSide))
	if columns == 0 {
		columns = 80
	}
	if rows == 0 {
		rows = 24
	}
	return columns, rows
}

// dumb reports whether the terminal can place nothing.
func (s *session) dumb() bool { return s.pty.Term == "" || s.pty.Term == "dumb" }

// exec runs a command as it came: one string.
func (s *session) exec(ctx context.Context, command string) int {
	args, err := words(command)
	if err != nil {
		return s.fail(err.Error())
	}
	c, err := s.console.client(s.visitor)
	if err != nil {
		return s.fail(err.Error())
	}
	return s.command(ctx, c, args)
}

// command runs one of the CLI's commands.
func (s *session) command(ctx context.Context, c *client.Client, args []string) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if len(args) > 0 && args[0] == "berth" {
		args = args[1:] // as it stands in a hint
	}
	if len(args) > 0 {
		s.log.Info("console command", "command", clean(coordinator.Clip(args[0], 40)))
		switch args[0] {
		case "scp", "rsync", "sftp-server", "git-upload-pack", "git-receive-pack", "mosh-server":
			return s.fail(refusal("subsystem", s.console.cfg.Name))
		}
	}
	keys := s.keys.open()
	defer keys.close()
	stop := context.AfterFunc(ctx, keys.close) // what reads stdin ends with ctx
	defer stop()
	con := cli.Console{Client: c, Name: s.console.cfg.Name, In: keys, Out: s.ch, Err: s.ch.Stderr(), Term: s.pty.Term}
	if s.terminal {
		s.keys.onInterrupt(cancel)
		defer s.keys.onInterrupt(nil)
		lines := &lineReader{in: keys, out: s.ch, width: func() int { w, _ := s.size(); return w }}
		con.In, con.Out, con.Err, con.Terminal = lines, crlf{s.ch}, crlf{s.ch}, lines
	}
	return con.Run(ctx, args)
}

// shell is what there is without a command: a screen, or where that cannot be drawn a prompt, or without a terminal the
// list.
func (s *session) shell(ctx context.Context) int {
	c, err := s.console.client(s.visitor)
	if err != nil {
		return s.fail(err.Error())
	}
	switch {
	case !s.terminal:
		code := s.command(ctx, c, []string{"list"})
		s.say("this is the console; " + s.console.cfg.Name + " --help lists its commands, and ssh -t gives you a screen")
		return code
	case s.dumb():
		return s.prompt(ctx, c)
	default:
		return s.screen(ctx, c)
	}
}

// prompt reads commands and runs them, until the end.
func (s *session) prompt(ctx context.Context, c *client.Client) int {
	s.say("the console of " + s.visitor.User.Name + "; help lists the commands, exit ends it")
	code := s.command(ctx, c, []string{"list"})
	for ctx.Err() == nil {
		keys := s.keys.open()
		stop := context.AfterFunc(ctx, keys.close)
		_, _ = io.WriteString(s.ch, "berth> ") // the read fails as well, where nobody is there
		text, err := (&lineReader{in: keys, out: s.ch}).line(true)
		stop()
		keys.close()
		if errors.Is(err, errInterrupted) {
			continue
		}
		args, badWords := words(text)
		switch {
		case err != nil || len(args) > 0 && (args[0] == "exit" || args[0] == "quit" || args[0] == "logout"):
			return code
		case badWords != nil:
			code = s.fail(badWords.Error())
		case len(args) > 0:
			code = s.command(ctx, c, args)
		}
	}
	return code
}
