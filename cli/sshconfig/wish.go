package sshconfig

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A wish is a setting that a host has to get for things to work.
type wish struct {
	keyword string   // as ssh -G prints it
	also    []string // further keywords that take its place, for the search of the line
	good    func(got []string) bool
	effect  string // what happens otherwise
	fail    bool   // nobody gets in
}

// wishes are those for a workspace.
func (c Config) wishes(h Host, known string) ([]wish, error) {
	command, err := c.proxyCommand()
	if err != nil {
		return nil, err
	}
	list := []wish{
		{
			keyword: "proxycommand", also: []string{"proxyjump"}, good: is(command), fail: true,
			effect: "ssh does not go through berth connect",
		},
		{keyword: "proxyusefdpass", good: absentOr("no"), effect: "ssh waits for a descriptor that berth connect does not pass", fail: true},
		{keyword: "pubkeyauthentication", good: not("no", "false"), effect: "ssh shows no key", fail: true},
		{
			keyword: "preferredauthentications", good: func(got []string) bool { return len(got) == 0 || strings.Contains(got[0], "publickey") },
			effect: "ssh shows no key", fail: true,
		},
		{
			keyword: "hostkeyalgorithms", good: func(got []string) bool {
				return len(got) == 0 || strings.Contains(got[0], "ssh-ed25519-cert-v01@openssh.com") || strings.Contains(got[0], "ecdsa-sha2-nistp256-cert-v01@openssh.com")
			},
			effect: "ssh does not accept the host certificate", fail: true,
		},
		{keyword: "remotecommand", good: absentOr("none"), effect: "IDEs, scp and rsync cannot run their own commands"},
		{keyword: "requesttty", good: not("true", "yes", "force"), effect: "a terminal changes the bytes of IDEs, rsync and git"},
		{keyword: "serveraliveinterval", also: []string{"serveralivecountmax"}, good: atLeast(1), effect: "ssh does not notice a network that is gone"},
		{keyword: "serveralivecountmax", good: atLeast(10), effect: "a session does not survive a network that is away for a while"},
	}
	if h.Alias != "" {
		list = append(list, wish{keyword: "hostkeyalias", good: is(h.Alias), effect: "the host key is not checked against the workspace's long name", fail: true})
	}
	list = append(list, checked(known)...)
	return append(list, c.keyWishes()...), nil
}

// doorWishes are those for the door. A proxy on the way to it is the user's own affair.
func (c Config) doorWishes(known string) []wish {
	list := []wish{
		{keyword: "hostname", good: is(strings.ToLower(c.Door.Host)), effect: "ssh looks for the door elsewhere", fail: true},
		{keyword: "port", good: is(strconv.Itoa(c.Door.Port)), effect: "ssh looks for the door on another port", fail: true},
	}
	list = append(list, checked(known)...)
	return append(list, c.keyWishes()...)
}

// checked has host keys checked against our file, and nobody asked.
func checked(known string) []wish {
	path := strings.Trim(known, `"`)
	return []wish{
		{
			keyword: "userknownhostsfile", good: func(got []string) bool {
				// Some print the tokens, and some what they stand for.
				s := strings.Join(got, " ")
				return strings.Contains(s, path) || strings.Contains(s, strings.ReplaceAll(path, "%%", "%"))
			},
			effect: "ssh knows nothing of the certificate authority", fail: true,
		},
		{keyword: "stricthostkeychecking", good: oneOf("yes", "true"), effect: "ssh asks, or accepts a host key that is not certified"},
	}
}

// keyWishes have the device key shown, where there is one.
func (c Config) keyWishes() []wish {
	if c.Identity == "" {
		return nil
	}
	path, err := c.file(c.Identity)
	if err != nil {
		return nil // told before
	}
	path = strings.Trim(path, `"`)
	return []wish{
		{
			keyword: "identityfile", good: func(got []string) bool {
				return slices.Contains(got, path) || slices.Contains(got, strings.ReplaceAll(path, "%%", "%"))
			},
			effect: "ssh does not show this machine's key", fail: true,
		},
		{keyword: "identitiesonly", good: oneOf("yes", "true"), effect: "ssh shows all keys of the ssh-agent first; more than 20 end a login"},
	}
}

func is(want string) func([]string) bool {
	return func(got []string) bool { return len(got) > 0 && got[0] == want }
}

func oneOf(want ...string) func([]string) bool {
	return func(got []string) bool { return len(got) > 0 && slices.Contains(want, got[0]) }
}

func not(bad ...string) func([]string) bool {
	return func(got []string) bool { return len(got) == 0 || !slices.Contains(bad, got[0]) }
}

func absentOr(want string) func([]string) bool {
	return func(got []string) bool { return len(got) == 0 || got[0] == want }
}

func atLeast(least int) func([]string) bool {
	return func(got []string) bool {
		if len(got) == 0 {
			return false
		}
		n, err := strconv.Atoi(got[0])
		return err == nil && n >= least
	}
}

// A setting is a line of the user's configuration.
type setting struct {
	place
	keyword string
	value   string
	live    bool // it is read for this host
}

// A locator knows every line that ssh has read, in order.
type locator struct {
	trace trace
	own   string // our file
	next  int    // of trace.matches
	lines []setting
}

const maxDepth = 16 // of includes, as in ssh

// locate reads what ssh has read.
func (v Verification) locate(t trace) *locator {
	l := &locator{trace: t, own: v.Own}
	nested := map[string]bool{}
	for f := range t.includes {
		nested[f] = true
	}
	seen := map[string]bool{} // a second pass, for Match final, reads all again
	for _, f := range t.files {
		if !nested[f] && !seen[f] {
			seen[f] = true
			l.walk(f, true, 0)
		}
	}
	return l
}

// walk reads one file. live says whether it is read for this host at all.
func (l *locator) walk(file string, live bool, depth int) {
	data, err := read(file)
	if err != nil || depth > maxDepth {
		return
	}
	block, n := live, 0
	for line := range strings.Lines(string(data)) {
		n++
		s := strings.TrimSpace(line)
		word := keyword(s)
		if word == "" || strings.HasPrefix(word, "#") {
			continue
		}
		at := place{file, n}
		switch word {
		case "host":
			block = live && l.trace.applied[at]
		case "match":
			block = false
			if l.next < len(l.trace.matches) {
				block = live && l.trace.matches[l.next]
			}
			l.next++
		case "include":
			for _, f := range l.includedAt(at) {
				l.walk(f, block, depth+1)
			}
		default:
			value := strings.Trim(strings.TrimSpace(strings.TrimLeft(s[len(word):], " \t=\"")), `"`)
			l.lines = append(l.lines, setting{at, word, value, block})
		}
	}
}

// includedAt are the files that a line includes, in their order.
func (l *locator) includedAt(at place) []string {
	var files []string
	for f, list := range l.trace.includes {
		if slices.ContainsFunc(list, func(i inclusion) bool { return i.at == at }) {
			files = append(files, f)
		}
	}
	slices.Sort(files)
	return files
}

// problem describes a wish that did not come true, with the line that took its place: the first one wins.
func (l *locator) problem(host string, w wish, got map[string][]string) Problem {
	p := Problem{Host: host, Fail: w.fail}
	words := append([]string{w.keyword}, w.also...)
	i := slices.IndexFunc(l.lines, func(s setting) bool { return s.live && slices.Contains(words, s.keyword) })
	// A line of our own that says something else is an old one. Of IdentityFile, every line counts.
	if i < 0 || same(l.lines[i].file, l.own) || w.keyword == "identityfile" {
		now := "not set"
		if len(got[w.keyword]) > 0 {
			now = fmt.Sprintf("%.100q", got[w.keyword][0])
		}
		p.Text = fmt.Sprintf("%s is %s: %s", w.keyword, now, w.effect)
		p.Hint = "berth ssh-config writes our file anew"
		return p
	}
	s := l.lines[i]
	p.Text = fmt.Sprintf("%.40s %.100s of your own configuration comes first: %s", name(s.keyword), s.value, w.effect)
	p.File, p.Line = s.file, s.line
	p.Hint = fmt.Sprintf("move our Include line above it, or let it apply to other hosts only: Host * !%s", pattern(host))
	return p
}

// pattern matches a host and those like it.
func pattern(host string) string {
	if i := strings.LastIndexByte(host, '.'); i > 0 {
		return "*" + host[i:]
	}
	return host
}

// name is a keyword as people write it.
func name(word string) string {
	for _, s := range []string{
		"ProxyCommand", "ProxyJump", "ProxyUseFdpass", "PubkeyAuthentication", "PreferredAuthentications", "HostKeyAlgorithms", "RemoteCommand",
		"RequestTTY", "ServerAliveInterval", "ServerAliveCountMax", "HostKeyAlias", "HostName", "Port", "UserKnownHostsFile",
		"StrictHostKeyChecking", "IdentityFile", "IdentitiesOnly",
	} {
		if strings.EqualFold(s, word) {
			return s
		}
	}
	return word
}
