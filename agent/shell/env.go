package shell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// LoginLimit is how long Login waits for a user's profile.
const LoginLimit = 5 * time.Second

// maxEnvironment caps what is read from a login shell.
const maxEnvironment = 4 << 20

// DefaultPath is the PATH where nobody says another.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Merge joins environments of the form NAME=VALUE; a later layer's value replaces an earlier one's. The order of
// first appearance is kept.
func Merge(layers ...[]string) []string {
	at := make(map[string]int)
	out := []string{}
	for _, layer := range layers {
		for _, kv := range layer {
			name, _, ok := strings.Cut(kv, "=")
			if !ok || name == "" || strings.ContainsRune(kv, 0) {
				continue
			}
			if i, seen := at[name]; seen {
				out[i] = kv
				continue
			}
			at[name] = len(out)
			out = append(out, kv)
		}
	}
	return out
}

// Value returns the value of a variable in an environment, "" if it is not there.
func Value(env []string, name string) string {
	for _, kv := range slices.Backward(env) {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// Without returns env without the variables that drop names.
func Without(env []string, drop func(name string) bool) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return drop(name)
	})
}

// Basic is what a login sets of itself for u.
func (u *User) Basic() []string {
	return []string{"HOME=" + u.Home, "USER=" + u.Name, "LOGNAME=" + u.Name, "SHELL=" + u.Shell}
}

// JoinPath joins PATHs and keeps the first of each directory. Relative and empty parts are left out: they would make
// what runs depend on where it is started.
func JoinPath(paths ...string) string {
	var dirs []string
	for _, p := range paths {
		for _, d := range filepath.SplitList(p) {
			if filepath.IsAbs(d) && !slices.Contains(dirs, d) {
				dirs = append(dirs, d)
			}
		}
	}
	return strings.Join(dirs, ":")
}

// loginMark stands before and after the environment, amid what a profile prints.
const loginMark = "\x00berth-environment\x00"

// Login starts u's login shell once, with env and what a login sets, lets it read the profile, and returns the
// environment that it ends up with. Directories of env's PATH that the profile dropped are kept at its end, for an
// image's ENV means them; kept says whether none had to be. Where the shell fails, or hangs beyond limit (LoginLimit
// if 0), what was given is returned; the error says why and is for a log.
func Login(ctx context.Context, u *User, env []string, limit time.Duration) (login []string, kept bool, err error) {
	base := Merge([]string{"PATH=" + DefaultPath}, env, u.Basic())
	base = Without(base, transient)
	if limit <= 0 {
		limit = LoginLimit
	}
	out, err := loginOutput(ctx, u, base, limit)
	if err != nil {
		return base, false, fmt.Errorf("learn the login environment: %w", err)
	}
	parts := bytes.Split(out, []byte(loginMark))
	if len(parts) < 3 || !bytes.Contains(parts[len(parts)-2], []byte("PATH=")) {
		return base, false, errors.New("learn the login environment: the login shell printed none")
	}
	got := strings.Split(string(parts[len(parts)-2]), "\x00")
	// The profile's word goes before the given one, except in who the user is.
	login = Without(Merge(base, got, u.Basic()), transient)
	path := JoinPath(Value(got, "PATH"))
	joined := JoinPath(path, Value(base, "PATH"))
	return Merge(login, []string{"PATH=" + joined}), path == joined, nil
}

// transient names variables that say something about one shell and nothing about a login.
func transient(name string) bool {
	return slices.Contains([]string{"_", "SHLVL", "PWD", "OLDPWD", "TERM"}, name)
}

func loginOutput(ctx context.Context, u *User, env []string, limit time.Duration) ([]byte, error) {
	p, err := Start(Command{
		Path: u.Shell,
		Args: []string{
			filepath.Base(u.Shell), "-l", "-c",
			`printf '\000berth-environment\000'; env -0; printf '\000berth-environment\000'`,
		},
		Env:   env,
		User:  u,
		Merge: true, // what a profile says on stderr comes before the first mark
	})
	if err != nil {
		return nil, err
	}
	defer p.Close()
	p.Stdin.Close()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// A profile that hangs takes what it started along.
	stop := context.AfterFunc(ctx, func() {
		_ = p.Signal(syscall.SIGKILL)
		_ = p.Stdout.SetReadDeadline(time.Now())
	})
	defer stop()

	type result struct {
		out []byte
		err error
	}
	read := make(chan result, 1)
	go func() {
		out, err := io.ReadAll(io.LimitReader(p.Stdout, maxEnvironment))
		read <- result{out, err}
	}()
	exit := p.Wait()
	// A daemon that the profile started may hold the pipe; everything that counts is in it by now.
	_ = p.Stdout.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	r := <-read
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("the profile did not end: %w", ctx.Err())
	case exit.Code != 0:
		return nil, fmt.Errorf("the login shell exited with %d", exit.Code)
	case r.err != nil && !errors.Is(r.err, os.ErrDeadlineExceeded):
		return nil, r.err
	}
	return r.out, nil
}
