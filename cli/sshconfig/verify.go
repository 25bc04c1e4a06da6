package sshconfig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	verifyTime   = 20 * time.Second // for one run of ssh -G, which may run the user's own Match exec commands
	verifyOutput = 4 << 20          // bytes of its output
)

// A Problem is a way in which ssh does not do what our file says.
type Problem struct {
	Host string // as it is typed; empty where it is about all
	Text string // what is wrong, in one line
	File string // of the line that causes it; empty if that is not known
	Line int
	Hint string // what to do
	Fail bool   // ssh does not get in; else something works less well
}

// String is the problem in one line.
func (p Problem) String() string {
	s := p.Text
	if p.Host != "" {
		s = p.Host + ": " + s
	}
	if p.File != "" {
		s += fmt.Sprintf(" (%s:%d)", p.File, p.Line)
	}
	return s
}

// A Verification says what is looked at and with what.
type Verification struct {
	SSH  string // the ssh program
	User string // the user's ssh_config
	Own  string // our file, which it includes
}

// Verify asks ssh itself, by ssh -G, what it would do for a workspace and for the door, and returns what differs from
// the configuration. It opens no connection.
func (c Config) Verify(ctx context.Context, v Verification) ([]Problem, error) {
	version, text, err := v.version(ctx)
	if err != nil {
		return nil, err
	}
	if version < 703 { // Include came with 7.3
		return []Problem{{
			Text: fmt.Sprintf("%s is too old: it reads no Include line (OpenSSH 7.3 does)", text), Fail: true,
			Hint: "install a newer OpenSSH, or copy what berth ssh-config --stdout prints into " + v.User,
		}}, nil
	}
	h := Host{Name: "dev." + c.Suffix}
	if len(c.Hosts) > 0 {
		h = c.Hosts[0]
	}
	known, err := c.file(c.KnownHosts)
	if err != nil {
		return nil, err
	}
	wishes, err := c.wishes(h, known)
	if err != nil {
		return nil, err
	}
	problems, err := v.check(ctx, h.Name, wishes)
	if err != nil || c.Door.Host == "" || strings.Contains(c.Suffix, ".") {
		return problems, err
	}
	for _, p := range problems {
		if p.Host == "" { // it would be the same for the door
			return problems, nil
		}
	}
	more, err := v.check(ctx, c.Suffix, c.doorWishes(known))
	return append(problems, more...), err
}

// version returns ssh's version as 100*major+minor, and its name.
func (v Verification) version(ctx context.Context) (int, string, error) {
	_, out, err := v.run(ctx, "-V")
	m := regexp.MustCompile(`OpenSSH_(?:for_Windows_)?(\d{1,3})\.(\d{1,3})\S*`).FindStringSubmatch(out)
	if m == nil {
		return 0, "", errors.Join(fmt.Errorf("%s is not OpenSSH: it says %.80q", v.SSH, strings.TrimSpace(out)), err)
	}
	major, _ := strconv.Atoi(m[1]) // digits
	minor, _ := strconv.Atoi(m[2])
	return 100*major + min(minor, 99), strings.TrimSuffix(m[0], ","), nil
}

// check compares what ssh would do for a host with what it should.
func (v Verification) check(ctx context.Context, host string, wishes []wish) ([]Problem, error) {
	out, debug, err := v.run(ctx, "-vvv", "-G", "--", host)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return []Problem{{Text: "ssh does not read its configuration: " + complaint(debug), Fail: true, Hint: "mend that line first"}}, nil
	}
	if err != nil {
		return nil, err
	}
	trace := parseTrace(debug)
	if p, ok := v.unread(trace); ok {
		return []Problem{p}, nil
	}
	got := map[string][]string{}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		got[key] = append(got[key], value)
	}
	var l *locator
	var problems []Problem
	for _, w := range wishes {
		if w.good(got[w.keyword]) {
			continue
		}
		if l == nil {
			l = v.locate(trace)
		}
		problems = append(problems, l.problem(host, w, got))
	}
	return problems, nil
}

// unread is the problem of a configuration that ssh does not read.
func (v Verification) unread(t trace) (Problem, bool) {
	p := Problem{Fail: true}
	switch {
	case !t.reads(v.User):
		p.Text = fmt.Sprintf("ssh does not read %s", v.User)
		p.Hint = "it takes the home directory of your account, not $HOME; or give it: ssh -F " + v.User
	case !t.reads(v.Own):
		p.Text = fmt.Sprintf("%s does not include %s", v.User, v.Own)
		p.Hint = "berth ssh-config writes the line"
	default:
		at, inactive := t.onlyFor(v.Own)
		if !inactive {
			return p, false
		}
		p.Text, p.File, p.Line = "our Include line stands in a Host or Match block, so that it is read for other hosts only", at.file, at.line
		p.Hint = "berth ssh-config moves it to the top"
	}
	return p, true
}

// run runs ssh and returns its stdout and stderr.
func (v Verification) run(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, v.SSH, args...)
	cmd.WaitDelay = time.Second // what Match exec commands have left behind holds the pipes
	out, bad := &capped{}, &capped{}
	cmd.Stdout, cmd.Stderr = out, bad
	err = cmd.Run()
	if ctxErr := ctx.Err(); ctxErr != nil {
		return "", "", fmt.Errorf("run %s %s: %w", v.SSH, strings.Join(args, " "), ctxErr)
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return out.String(), bad.String(), err
}

// capped keeps the first bytes that are written to it.
type capped struct{ bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	if n := verifyOutput - c.Len(); n > 0 {
		c.Buffer.Write(p[:min(n, len(p))])
	}
	return len(p), nil
}

// complaint is what ssh says besides its debugging.
func complaint(stderr string) string {
	var said []string
	for line := range strings.Lines(stderr) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "debug") && len(said) < 2 {
			said = append(said, line)
		}
	}
	return strings.Join(said, "; ")
}

// A place is a line of a file.
type place struct {
	file string
	line int
}

// A trace is what ssh tells of how it reads its configuration.
type trace struct {
	files    []string               // in order
	applied  map[place]bool         // Host lines that matched
	matches  []bool                 // results of Match lines, in order
	includes map[string][]inclusion // by included file
}

// An inclusion is an Include of a file: from where, and whether for this host.
type inclusion struct {
	at   place
	live bool
}

// The lines of ssh -vvv that are understood, of OpenSSH 7.3 to 10.
var (
	traceRead    = regexp.MustCompile(`^debug1: Reading configuration data (.+)$`)
	traceHost    = regexp.MustCompile(`^debug1: (.+) line (\d+): Applying options for `)
	traceInclude = regexp.MustCompile(`^debug3: (.+) line (\d+): Including file (.+) depth \d+( \(parse only\))?$`)
)

func parseTrace(debug string) trace {
	t := trace{applied: map[place]bool{}, includes: map[string][]inclusion{}}
	for line := range strings.Lines(debug) {
		line = strings.TrimRight(line, "\r\n")
		if m := traceRead.FindStringSubmatch(line); m != nil {
			t.files = append(t.files, m[1])
		} else if m := traceHost.FindStringSubmatch(line); m != nil {
			t.applied[at(m[1], m[2])] = true
		} else if m := traceInclude.FindStringSubmatch(line); m != nil {
			t.includes[m[3]] = append(t.includes[m[3]], inclusion{at(m[1], m[2]), m[4] == ""})
		} else if line == "debug2: match found" || line == "debug2: match not found" {
			t.matches = append(t.matches, line == "debug2: match found")
		}
	}
	return t
}

func at(file, line string) place {
	n, _ := strconv.Atoi(line) // digits
	return place{file, n}
}

// reads reports whether ssh read a file, under whatever name.
func (t trace) reads(file string) bool {
	for _, f := range t.files {
		if same(f, file) {
			return true
		}
	}
	return false
}

// onlyFor reports whether a file is included for other hosts only, and where.
func (t trace) onlyFor(file string) (place, bool) {
	var where place
	found := false
	for f, list := range t.includes {
		if !same(f, file) {
			continue
		}
		for _, i := range list {
			if i.live {
				return place{}, false
			}
			where, found = i.at, true
		}
	}
	return where, found
}

func same(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}
