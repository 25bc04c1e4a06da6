package sshd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/agent/shell"
)

const (
	maxMOTD      = 64 << 10
	maxLastLogin = 512
)

// messages are the system's of the day, in their order: what Debian's PAM makes, and the file.
var messages = []string{"/run/motd.dynamic", "/etc/motd"}

// greet shows what is for a person's eyes, before a login shell on a terminal and nowhere else: the message of the day,
// what startup has to say, and the login before this one. A ~/.hushlogin keeps it to what startup has to say.
func (s *session) greet(what start) {
	s.mu.Lock()
	tty := s.tty != nil
	s.mu.Unlock()
	if !tty || what.kind != "shell" {
		return
	}
	u := s.conn.srv.cfg.User
	host, _ := splitPeer(s.conn.header.Peer)
	last := exchangeLogin(u, login{at: time.Now(), host: host, person: s.conn.header.User.Name})
	var text string
	hush := shell.As(u, func() error {
		_, err := os.Lstat(filepath.Join(u.Home, ".hushlogin"))
		return err
	}) == nil
	if !hush {
		text = s.conn.srv.messageOfTheDay(s.conn.manifest.Agent.MOTD)
	}
	if n := s.conn.srv.cfg.Note(); n != "" {
		text += "berth: " + n + "\n"
	}
	if !hush && !last.at.IsZero() {
		text += last.String() + "\n"
	}
	if text == "" {
		return
	}
	if _, err := s.channel.Write([]byte(strings.ReplaceAll(text, "\n", "\r\n"))); err != nil {
		s.conn.log.Debug("greet", "error", err)
	}
}

// messageOfTheDay is the template's, else the system's.
func (s *Server) messageOfTheDay(template string) string {
	if template != "" {
		return strings.TrimRight(template, "\n") + "\n"
	}
	var text strings.Builder
	for _, path := range messages {
		// Whatever the path names is opened as the user; a FIFO would not end.
		err := shell.As(s.cfg.User, func() error { return appendFile(&text, path, maxMOTD) })
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			s.log.Debug("read message of the day", "path", path, "error", err)
		}
	}
	if text.Len() == 0 {
		return ""
	}
	return strings.TrimRight(text.String(), "\n") + "\n"
}

// appendFile reads at most limit bytes of a regular file.
func appendFile(w io.Writer, path string, limit int64) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return errors.Join(err, errors.New("not a regular file"))
	}
	_, err = io.Copy(w, io.LimitReader(f, limit))
	return err
}

// A login is one of a person on a terminal.
type login struct {
	at     time.Time
	host   string
	person string
}

// String is the line that sshd prints, and who it was: several people may share a workspace.
func (l login) String() string {
	line := "Last login: " + l.at.Format("Mon Jan _2 15:04:05 2006") + " from " + l.host
	if l.person != "" {
		line += " (" + l.person + ")"
	}
	return line
}

var loginLine = regexp.MustCompile(`^([^ ]+) ([0-9A-Za-z.:%_-]+) ([0-9A-Za-z._@-]*)\n$`)

// parseLogin reads what exchangeLogin wrote. Anything else is no login: the file is the user's own, and what it holds is
// shown on a terminal.
func parseLogin(text string) login {
	f := loginLine.FindStringSubmatch(text)
	if f == nil {
		return login{}
	}
	at, err := time.Parse(time.RFC3339, f[1])
	if err != nil {
		return login{}
	}
	return login{at: at.Local(), host: f[2], person: f[3]}
}

// exchangeLogin keeps a login in the user's home, which outlives a rebuild, and returns the one before. Where that cannot
// be, there is none.
func exchangeLogin(u *shell.User, now login) (before login) {
	dir := filepath.Join(u.Home, ".local/state/berth")
	path := filepath.Join(dir, "last-login")
	_ = shell.As(u, func() error {
		var text strings.Builder
		if err := appendFile(&text, path, maxLastLogin); err == nil {
			before = parseLogin(text.String())
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %s %s\n", now.at.UTC().Format(time.RFC3339), now.host, now.person)
		tmp := fmt.Sprintf("%s.%d", path, now.at.UnixNano())
		err := os.WriteFile(tmp, []byte(line), 0o600)
		if err == nil {
			err = os.Rename(tmp, path)
		}
		if err != nil {
			_ = os.Remove(tmp) // it may not be there
		}
		return err
	})
	return before
}
