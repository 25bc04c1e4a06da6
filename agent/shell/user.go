package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A User is whom commands run as.
type User struct {
	Name   string
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary groups; GID is among them
	Home   string
	Shell  string // an executable file

	// PathFile is a file with PathScript's text, for login shells whose profile sets PATH anew; empty where it does not.
	PathFile string
}

// Uids of ordinary users: people rather than services, by the convention of every distribution.
const (
	minOrdinaryUID = 1000
	maxOrdinaryUID = 60000
)

// maxDatabase caps what is read of a user database.
const maxDatabase = 8 << 20

// ErrNoUser is returned where no user fits.
var ErrNoUser = errors.New("no such user")

// Accounts names the files of a user database.
type Accounts struct {
	Passwd string // /etc/passwd if empty
	Group  string // /etc/group if empty
}

// Lookup finds a user by name or decimal uid in the system's database.
func Lookup(name string) (*User, error) { return Accounts{}.Lookup(name) }

// Current returns the user that this process runs as, whether the database knows them or not.
func Current() (*User, error) { return Accounts{}.Current() }

// Ordinary returns the image's only ordinary user that has a home directory. It fails with ErrNoUser where there is
// none, or more than one.
func Ordinary() (*User, error) { return Accounts{}.Ordinary() }

// Lookup finds a user by name or decimal uid. A uid that the database does not know is a user all the same: its group
// has the same number, its home is / and its shell what the image has.
func (a Accounts) Lookup(name string) (*User, error) {
	if name == "" {
		return nil, fmt.Errorf("look up user: %w", ErrNoUser)
	}
	entries, err := a.entries()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.name == name {
			return a.user(e)
		}
	}
	uid, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		if e, ok := getent(name); ok && e.name == name {
			return a.user(e)
		}
		return nil, fmt.Errorf("look up user %q: %w", name, ErrNoUser)
	}
	return a.byID(uint32(uid), entries, entry{name: name, uid: uint32(uid), gid: uint32(uid), home: "/"})
}

// Current returns the user that this process runs as. Where the database does not know them, HOME, USER and SHELL
// say what they can.
func (a Accounts) Current() (*User, error) {
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	entries, err := a.entries()
	if err != nil {
		return nil, err
	}
	fallback := entry{name: strconv.Itoa(int(uid)), uid: uid, gid: gid, home: "/", shell: os.Getenv("SHELL")}
	if home := os.Getenv("HOME"); isDir(home) {
		fallback.home = home
	}
	u, err := a.byID(uid, entries, fallback)
	if err != nil {
		return nil, err
	}
	// The process keeps the groups that it has: they cannot be set without privilege, and need not be.
	u.GID = gid
	if groups, err := os.Getgroups(); err == nil {
		u.Groups = []uint32{gid}
		for _, g := range groups {
			u.addGroup(uint32(g))
		}
	}
	// A home that the one who started the agent chose (a bound directory, say) goes before the database's.
	if home := os.Getenv("HOME"); home != "/" && isDir(home) {
		u.Home = home
	}
	return u, nil
}

// Ordinary returns the only user with an ordinary uid and a home directory that exists.
func (a Accounts) Ordinary() (*User, error) {
	entries, err := a.entries()
	if err != nil {
		return nil, err
	}
	var found []entry
	for _, e := range entries {
		if e.uid >= minOrdinaryUID && e.uid < maxOrdinaryUID && e.home != "/" && isDir(e.home) {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("find the image's ordinary user: %w", ErrNoUser)
	case 1:
		return a.user(found[0])
	default:
		return nil, fmt.Errorf("find the image's ordinary user: there are %d: %w", len(found), ErrNoUser)
	}
}

// byID picks the entry of uid, asks the system's name services for it, or takes the fallback.
func (a Accounts) byID(uid uint32, entries []entry, fallback entry) (*User, error) {
	for _, e := range entries {
		if e.uid == uid {
			return a.user(e)
		}
	}
	if e, ok := getent(strconv.FormatUint(uint64(uid), 10)); ok && e.uid == uid {
		return a.user(e)
	}
	return a.user(fallback)
}

// user makes a User of an entry: its groups, and a shell that can be started.
func (a Accounts) user(e entry) (*User, error) {
	u := &User{Name: e.name, UID: e.uid, GID: e.gid, Home: e.home, Groups: []uint32{e.gid}}
	if u.Home == "" {
		u.Home = "/"
	}
	text, err := readDatabase(a.Group, "/etc/group")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimRight(line, "\r\n"), ":")
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), e.name) {
			continue
		}
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			u.addGroup(uint32(gid))
		}
	}
	if u.Shell = usableShell(e.shell); u.Shell == "" {
		return nil, fmt.Errorf("find a shell for user %q: there is no /bin/sh", e.name)
	}
	return u, nil
}

func (u *User) addGroup(gid uint32) {
	if !slices.Contains(u.Groups, gid) {
		u.Groups = append(u.Groups, gid)
	}
}

// An entry is one line of a passwd file.
type entry struct {
	name        string
	uid, gid    uint32
	home, shell string
}

func (a Accounts) entries() ([]entry, error) {
	text, err := readDatabase(a.Passwd, "/etc/passwd")
	if err != nil {
		return nil, err
	}
	var entries []entry
	for line := range strings.Lines(text) {
		if e, ok := parseEntry(line); ok {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// parseEntry reads name:password:uid:gid:gecos:home:shell. Lines of other shapes (comments, NIS inclusions) are
// passed over.
func parseEntry(line string) (entry, bool) {
	f := strings.Split(strings.TrimRight(line, "\r\n"), ":")
	if len(f) < 7 || f[0] == "" || strings.ContainsAny(f[0][:1], "+-#") {
		return entry{}, false
	}
	uid, err1 := strconv.ParseUint(f[2], 10, 32)
	gid, err2 := strconv.ParseUint(f[3], 10, 32)
	if err1 != nil || err2 != nil {
		return entry{}, false
	}
	return entry{name: f[0], uid: uint32(uid), gid: uint32(gid), home: f[5], shell: f[6]}, true
}

// readDatabase returns the text of a database file; a missing file is an empty one, as in images built from scratch.
func readDatabase(path, standard string) (string, error) {
	if path == "" {
		path = standard
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read user database: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDatabase))
	if err != nil {
		return "", fmt.Errorf("read user database: %w", err)
	}
	return string(b), nil
}

// getent asks the system's name services (LDAP and the like), which a static binary cannot, through the command of
// that name where the system has it.
func getent(key string) (entry, bool) {
	path, err := exec.LookPath("getent")
	if err != nil {
		return entry{}, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "passwd", "--", key).Output()
	if err != nil {
		return entry{}, false
	}
	return parseEntry(string(out))
}

// usableShell returns shell if it can be started and lets people in, else the best that the image has.
func usableShell(shell string) string {
	switch base := shell[strings.LastIndexByte(shell, '/')+1:]; base {
	case "", "nologin", "false", "true", "sync", "halt", "shutdown":
	default:
		if isExecutable(shell) {
			return shell
		}
	}
	for _, s := range []string{"/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh", "/bin/ash", "/bin/dash"} {
		if isExecutable(s) {
			return s
		}
	}
	return ""
}

func isExecutable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0
}

func isDir(path string) bool {
	if path == "" {
		return false
	}
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}
