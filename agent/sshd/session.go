package sshd

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/crypto/ssh"

	"berth/agent/shell"
)

// A session is one session channel: a shell, a command or a subsystem.
type session struct {
	conn    *conn
	channel ssh.Channel
	eof     sync.Once     // sends EOF
	done    chan struct{} // closed when the session's process has been dealt with; only if started

	// ctx ends when the channel does, from either side.
	ctx    context.Context
	cancel context.CancelFunc

	// Owned by the loop of requests.
	env      []string
	envBytes int
	started  bool
	x11      *x11 // nil: not asked for

	mu      sync.Mutex
	tty     *terminal        // guarded by mu; nil without a terminal
	process *running         // guarded by mu; nil until it has started
	signals []syscall.Signal // guarded by mu; that came before it had started
	eow     bool             // guarded by mu; the client reads no more output
}

// A start is what a client asked a session to run.
type start struct {
	kind    string // shell, exec or subsystem
	command string // the command, or the subsystem's name
}

const maxSignals = 16 // kept for a process that has not started yet

func (c *conn) session(sc *ssh.ServerConn, nc ssh.NewChannel) {
	ch, reqs, err := nc.Accept()
	if err != nil {
		c.log.Debug("accept session", "error", err)
		return
	}
	s := &session{conn: c, channel: ch, done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(c.ctx)
	defer s.cancel()
	for req := range reqs {
		ok := s.request(req, sc)
		if err := req.Reply(ok, nil); err != nil {
			c.log.Debug("reply", "request", req.Type, "error", err)
		}
	}
	s.cancel()
	if s.started {
		<-s.done
	}
	if s.x11 != nil {
		s.x11.close()
	}
}

// request handles one request of the channel. It never waits: unread requests would hold up the whole connection.
func (s *session) request(req *ssh.Request, sc *ssh.ServerConn) bool {
	switch req.Type {
	case "env":
		return s.setEnv(req.Payload)
	case "pty-req":
		return s.requestTerminal(req.Payload)
	case "window-change":
		return s.resize(req.Payload)
	case "signal":
		return s.signal(req.Payload)
	case "break":
		return s.sendBreak()
	case "auth-agent-req@openssh.com":
		return !s.started && s.conn.forwardAgent(sc)
	case "x11-req":
		return s.requestX11(req.Payload, sc)
	case "eow@openssh.com":
		s.endOutput()
		return true
	case "shell":
		return s.begin(start{kind: req.Type}, sc)
	case "exec", "subsystem":
		var msg struct{ Command string }
		if err := ssh.Unmarshal(req.Payload, &msg); err != nil {
			return false
		}
		return s.begin(start{kind: req.Type, command: msg.Command}, sc)
	default:
		return false
	}
}

// begin starts what the client asked for, beside the loop of requests. A second start, or an unknown subsystem, is
// refused.
func (s *session) begin(what start, sc *ssh.ServerConn) bool {
	if s.started || what.kind == "subsystem" && what.command != "sftp" {
		return false
	}
	s.started = true
	go s.run(what, strings.HasPrefix(string(sc.ClientVersion()), "SSH-2.0-OpenSSH"))
	return true
}

func (s *session) setEnv(payload []byte) bool {
	v, err := parseVariable(payload)
	if err != nil || s.started {
		return false
	}
	n := len(v.Name) + len(v.Value) + 1
	if len(s.env) >= maxEnv || s.envBytes+n > maxEnvBytes {
		return false
	}
	s.env = append(s.env, v.Name+"="+v.Value)
	s.envBytes += n
	return true
}

func (s *session) requestTerminal(payload []byte) bool {
	t, err := parseTerminal(payload)
	if err != nil || s.started {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tty != nil {
		return false
	}
	s.tty = t
	return true
}

// resize takes a new size at any time: before the start it replaces the one that was asked for, and the kernel
// keeps the newest only.
func (s *session) resize(payload []byte) bool {
	size, err := parseSize(payload)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tty == nil {
		return false
	}
	s.tty.size = size
	if s.process != nil {
		return s.process.resize(size) == nil
	}
	return true
}

func (s *session) signal(payload []byte) bool {
	var msg struct{ Name string }
	if err := ssh.Unmarshal(payload, &msg); err != nil {
		return false
	}
	sig, ok := signalNumber(msg.Name)
	if !ok {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		return s.process.Signal(sig) == nil
	}
	if len(s.signals) >= maxSignals {
		return false
	}
	s.signals = append(s.signals, sig)
	return true
}

// sendBreak sends a break to the terminal (RFC 4335). One that comes before the process has started has nobody to
// interrupt; the request is in order all the same.
func (s *session) sendBreak() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return s.tty != nil
	}
	return s.process.sendBreak() == nil
}

// endOutput is what the client asks for when nobody reads its output any more: the command's next write fails, so
// that "ssh host yes | head -1" ends.
func (s *session) endOutput() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.eow = true
	if s.process != nil {
		s.process.endOutput()
	}
}

// run starts the session's process, joins it to the channel and tells how it ended.
func (s *session) run(what start, openSSH bool) {
	defer close(s.done)
	gate, cancel := context.WithTimeout(s.ctx, gateLimit)
	s.conn.srv.cfg.Ready(gate)
	cancel()
	if s.ctx.Err() != nil {
		s.close()
		return
	}
	s.greet(what)
	exit, err := s.runProcess(what, openSSH)
	if err != nil {
		s.conn.log.Warn("start session", "error", err)
		s.tell(fmt.Sprintf("berth: %v\n", err))
		exit = shell.Exit{Code: 255}
	}
	s.sendExit(exit)
	s.close()
}

func (s *session) runProcess(what start, openSSH bool) (shell.Exit, error) {
	p, err := s.start(what)
	if err != nil {
		return shell.Exit{}, err
	}
	s.mu.Lock()
	s.process = p
	if s.tty != nil && p.master != nil {
		_ = p.resize(s.tty.size) // a change may have come in between
	}
	for _, sig := range s.signals {
		_ = p.Signal(sig) // it may have ended already
	}
	if s.eow {
		p.endOutput()
	}
	s.mu.Unlock()
	if p.master != nil {
		return p.joinTerminal(s.ctx, s.channel), nil
	}
	return p.joinPipes(s.ctx, s.channel, s.closeWrite, openSSH), nil
}

// tell writes a line to the client's stderr.
func (s *session) tell(text string) {
	if _, err := s.channel.Stderr().Write([]byte(text)); err != nil {
		s.conn.log.Debug("write to session", "error", err)
	}
}

// closeWrite tells the client that no more output comes. Its error means that the client has gone.
func (s *session) closeWrite() {
	s.eof.Do(func() { _ = s.channel.CloseWrite() })
}

// sendExit tells how the process ended. It comes after the last output and before CLOSE: a client that sees the close
// first reports -1. EOF comes after it, unless the command runs on without output.
func (s *session) sendExit(e shell.Exit) {
	var err error
	if e.Signal != 0 {
		_, err = s.channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name      string
			Core      bool
			Text, Tag string
		}{signalName(e.Signal), e.CoreDumped, "", ""}))
	} else {
		_, err = s.channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{uint32(e.Code)}))
	}
	if err != nil {
		s.conn.log.Debug("send exit", "error", err)
	}
}

// close ends the channel in order. Its errors mean that the client has gone.
func (s *session) close() {
	s.closeWrite()
	_ = s.channel.Close()
}
