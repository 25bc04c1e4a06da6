package startup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"berth/agent"
	"berth/agent/shell"
)

// installScripts are what a dotfiles repository may bring to install itself; the first that is there is run.
var installScripts = []string{
	"install.sh", "install", "bootstrap.sh", "bootstrap", "setup.sh", "setup",
	"script/install", "script/bootstrap", "script/setup",
}

// notLinked are dot files of a repository that are about the repository.
var notLinked = []string{".git", ".github", ".gitlab", ".gitignore", ".gitattributes", ".gitmodules", ".gitkeep", ".editorconfig"}

// Caps of linking.
const (
	maxLinks = 5000
	maxDepth = 16
)

// dotfiles clones the user's repository into ~/.local/share/berth/dotfiles, or brings it up to date, and runs its
// install script; where it has none, its dot files are linked into the home.
func (r *Runner) dotfiles(ctx context.Context, j *job, address string) outcome {
	if address == "" {
		return skipped("no dotfiles repository is set")
	}
	if r.who.Refuse != "" {
		return skipped("%s", r.who.Refuse)
	}
	if err := checkAddress(address); err != nil {
		return failed("%s", oneLine(err))
	}
	dir := filepath.Join(r.who.User.Home, ".local", "share", "berth", "dotfiles")
	fetched := r.fetchDotfiles(ctx, j, address, dir)
	if ctx.Err() != nil && fetched.outcome == agent.OutcomeOK {
		return failed("the dotfiles were not installed")
	}
	if ctx.Err() != nil || fetched.outcome == agent.OutcomeFailed && !isRepository(r.who.User, dir) {
		return fetched
	}
	installed := r.install(ctx, j, dir)
	if installed.outcome == agent.OutcomeFailed {
		return installed
	}
	return fetched
}

// install runs the repository's script or links its files.
func (r *Runner) install(ctx context.Context, j *job, dir string) outcome {
	script := ""
	var links linker
	err := shell.As(r.who.User, func() error {
		for _, s := range installScripts {
			if fi, err := os.Stat(filepath.Join(dir, s)); err == nil && fi.Mode().IsRegular() {
				script = s
				return nil
			}
		}
		links = linker{repository: dir, now: time.Now()}
		return links.directory(dir, r.who.User.Home, 0)
	})
	for _, line := range links.log {
		j.line(line)
	}
	if err != nil {
		return failed("%s", oneLine(err))
	}
	if script == "" {
		j.logf("the repository has no install script: linked %d files", links.count)
		return ok
	}
	j.logf("running %s", script)
	return r.runFile(ctx, j, filepath.Join(dir, script), dir)
}

var scpLike = regexp.MustCompile(`^[A-Za-z0-9._-]+@[A-Za-z0-9._\[\]:-]+:[^:].*$`)

// checkAddress refuses addresses that would be an option to git, or that make git run a command (ext::sh -c ...).
func checkAddress(address string) error {
	for _, c := range address {
		if c < ' ' || c == 0x7f {
			return errors.New("the dotfiles repository's address holds control characters")
		}
	}
	refused := fmt.Errorf("%.100q is not an address of a dotfiles repository: use https://, ssh:// or user@host:path", address)
	switch {
	case strings.HasPrefix(address, "-") || strings.Contains(address, "::"):
		return refused
	case filepath.IsAbs(address) || scpLike.MatchString(address):
		return nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return refused
	}
	if !slices.Contains([]string{"https", "http", "ssh", "git", "file"}, u.Scheme) || strings.HasPrefix(u.Host, "-") {
		return refused
	}
	return nil
}

// fetchDotfiles clones or fast-forwards. A clone of another repository is put aside.
func (r *Runner) fetchDotfiles(ctx context.Context, j *job, address, dir string) outcome {
	env := shell.Merge(r.Env(), []string{
		"GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=file:git:http:https:ssh", "GIT_ADVICE=0",
		"GIT_SSH_COMMAND=" + r.sshCommand("-o BatchMode=yes "),
	})
	var origin string
	err := shell.As(r.who.User, func() (err error) {
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return err
		}
		if err := os.RemoveAll(dir + ".new"); err != nil { // of a clone that was interrupted
			return err
		}
		origin, err = readOrigin(dir)
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		if err != nil || origin == address {
			return err
		}
		if _, err := os.Lstat(dir); err == nil {
			aside := dir + ".before-" + time.Now().UTC().Format("20060102-150405.000")
			j.logf("the dotfiles of %s are kept in %s", orUnknown(origin), aside)
			return os.Rename(dir, aside)
		}
		return nil
	})
	if err != nil {
		return failed("%s", oneLine(err))
	}
	if origin == address {
		j.logf("updating %s", redact(address))
		return r.run(ctx, j, env, dir, "git", "pull", "--ff-only", "--no-rebase", "--recurse-submodules")
	}
	j.logf("cloning %s", redact(address))
	o := r.run(ctx, j, env, r.who.User.Home, "git", "clone", "--recurse-submodules", "--", address, dir+".new")
	err = shell.As(r.who.User, func() error {
		if o.outcome != agent.OutcomeOK {
			return os.RemoveAll(dir + ".new")
		}
		if err := os.Rename(dir+".new", dir); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, ".git", originFile), []byte(address), 0o600)
	})
	if err != nil && o.outcome == agent.OutcomeOK {
		return failed("%s", oneLine(err))
	}
	return o
}

// originFile, in the clone's .git, tells which address it is a clone of, as the user wrote it.
const originFile = "berth-origin"

func readOrigin(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, ".git", originFile))
	return string(b), err
}

func isRepository(u *shell.User, dir string) bool {
	return shell.As(u, func() error {
		_, err := readOrigin(dir)
		return err
	}) == nil
}

func orUnknown(origin string) string {
	if origin == "" {
		return "an unknown origin"
	}
	return redact(origin)
}

// redact takes a password or token out of an address.
func redact(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return address
	}
	if u.Scheme != "ssh" {
		u.User = nil
	}
	return u.Redacted()
}

// A linker links a repository's dot files into a home. Directories are made, files are linked, so that what programs
// put into the same directories stays out of the repository.
type linker struct {
	repository string
	now        time.Time
	count      int
	log        []string
}

func (l *linker) directory(from, to string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("link dotfiles: %s is nested too deeply", from)
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return fmt.Errorf("link dotfiles: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if depth == 0 && (!strings.HasPrefix(name, ".") || slices.Contains(notLinked, name)) || name == ".git" {
			continue
		}
		if err := l.entry(filepath.Join(from, name), filepath.Join(to, name), e, depth); err != nil {
			return err
		}
	}
	return nil
}

func (l *linker) entry(from, to string, e fs.DirEntry, depth int) error {
	if l.count++; l.count > maxLinks {
		return fmt.Errorf("link dotfiles: more than %d files", maxLinks)
	}
	if e.IsDir() {
		l.count--
		if fi, err := os.Stat(to); err == nil && fi.IsDir() {
			return l.directory(from, to, depth+1)
		}
		if err := l.makeRoom(to); err != nil {
			return err
		}
		if err := os.Mkdir(to, 0o755); err != nil {
			return fmt.Errorf("link dotfiles: %w", err)
		}
		return l.directory(from, to, depth+1)
	}
	if target, err := os.Readlink(to); err == nil && target == from {
		return nil
	}
	if err := l.makeRoom(to); err != nil {
		return err
	}
	if err := os.Symlink(from, to); err != nil {
		return fmt.Errorf("link dotfiles: %w", err)
	}
	l.log = append(l.log, "linked "+to)
	return nil
}

// makeRoom takes away a link of an earlier run, and keeps anything else that stands at path under another name.
func (l *linker) makeRoom(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if target, err := os.Readlink(path); err == nil && strings.HasPrefix(target, l.repository+"/") {
		return os.Remove(path)
	}
	kept := path + ".before-berth"
	if _, err := os.Lstat(kept); err == nil {
		kept += "-" + l.now.UTC().Format("20060102-150405.000")
	}
	if err := os.Rename(path, kept); err != nil {
		return fmt.Errorf("link dotfiles: %w", err)
	}
	l.log = append(l.log, path+" was there: kept as "+kept)
	return nil
}
