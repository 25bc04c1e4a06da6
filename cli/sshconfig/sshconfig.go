// Package sshconfig writes and removes our own ssh_config file and the one Include line with which the user's own
// configuration reads it. Nothing else in the user's file is ever touched.
//
// Host names come from the server and paths from the machine; both are checked before they are written, for a line
// break or a quote in one of them could run a command.
package sshconfig

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Config is what our ssh_config file says.
type Config struct {
	Berth      string   // absolute path of the berth command
	Args       []string // arguments of it before "connect"
	Suffix     string   // of the workspaces' host names
	KnownHosts string   // path of our own known_hosts file
	Identity   string   // path of the device's private key; empty: none
	Hosts      []Host   // concrete names beside the wildcard, so that IDEs list them
	Door       Door
	Windows    bool // commands are run by cmd.exe, paths have backslashes
}

// A Host is one workspace, or one agent of one.
type Host struct {
	Name  string // as it is typed: dev.berth
	Alias string // the long name that its host key is certified for: dev.alice.berth
}

// A Door is where the coordinator's SSH front door listens. The zero value leaves it out.
type Door struct {
	Host string
	Port int
}

const (
	lower    = "abcdefghijklmnopqrstuvwxyz"
	digits   = "0123456789"
	letters  = lower + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	maxHost  = 253 // bytes of a host name
	maxLabel = 63
)

// consistsOf reports whether s holds characters of the set only, and at least one.
func consistsOf(s, set string) bool { return s != "" && strings.Trim(s, set) == "" }

// checkName returns an error unless s is a host name in lower case.
func checkName(what, s string) error {
	good := len(s) <= maxHost
	for label := range strings.SplitSeq(s, ".") {
		good = good && len(label) <= maxLabel && consistsOf(label, lower+digits+"-") && strings.Trim(label, "-") == label
	}
	if !good {
		return fmt.Errorf("%s %.80q is not a host name", what, s)
	}
	return nil
}

// Options are the settings that every workspace gets, as ssh_config lines and as values for ssh's -o.
func (c Config) Options() ([]string, error) {
	command, err := c.proxyCommand()
	if err != nil {
		return nil, err
	}
	known, err := c.file(c.KnownHosts)
	if err != nil {
		return nil, err
	}
	options := []string{
		"ProxyCommand " + command,
		"UserKnownHostsFile " + known,
		// Nobody is asked: the certificate authority in that file vouches for every workspace, and a host that
		// shows no certificate of it is not one of them.
		"StrictHostKeyChecking yes",
		// Long enough for a network that was away; also what a start may take.
		"ServerAliveInterval 15",
		"ServerAliveCountMax 40",
	}
	if c.Identity != "" {
		identity, err := c.file(c.Identity)
		if err != nil {
			return nil, err
		}
		options = append(options, "IdentityFile "+identity, "IdentitiesOnly yes")
	}
	return options, nil
}

// Render returns the file.
func (c Config) Render() ([]byte, error) {
	if err := checkName("the suffix", c.Suffix); err != nil {
		return nil, err
	}
	options, err := c.Options()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("# Written by \"berth ssh-config\", which overwrites changes.\n")
	for _, h := range c.Hosts {
		if err := h.Check(c.Suffix); err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "\nHost %s\n\tHostKeyAlias %s\n", h.Name, h.Alias)
	}
	// A name with a quote in it is not ours: it could end the quotes around %n below.
	fmt.Fprintf(&b, "\nHost *.%s %s\n", c.Suffix, c.notQuoted())
	for _, o := range options {
		fmt.Fprintf(&b, "\t%s\n", o)
	}
	if err := c.door(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Check returns an error unless both names are host names below the suffix.
func (h Host) Check(suffix string) error {
	for _, s := range []string{h.Name, h.Alias} {
		if err := checkName("the workspace's host name", s); err != nil {
			return err
		}
		if !strings.HasSuffix(s, "."+suffix) {
			return fmt.Errorf("the workspace's host name %q does not end in .%s", s, suffix)
		}
	}
	return nil
}

// door writes the front door: under the suffix's name, so that `ssh dev@berth` finds it, where the suffix is one word
// and not perhaps another machine's name; and under its own name for its own port, so that nothing else that listens
// on that machine is touched.
func (c Config) door(b *bytes.Buffer) error {
	d := c.Door
	if d.Host == "" {
		return nil
	}
	if !strings.Contains(d.Host, ":") || !consistsOf(d.Host, digits+"abcdefABCDEF:") { // no IPv6 address
		if err := checkName("the door's address", strings.ToLower(d.Host)); err != nil {
			return err
		}
	}
	if d.Port < 1 || d.Port > 65535 {
		return fmt.Errorf("the door's port %d is not a port", d.Port)
	}
	options, err := c.Options()
	if err != nil {
		return err
	}
	block := func(head string, lines ...string) {
		fmt.Fprintf(b, "\n%s\n\t%s\n", head, strings.Join(lines, "\n\t"))
	}
	options = options[1:] // all but ProxyCommand
	name := []string{"HostName " + d.Host, fmt.Sprintf("Port %d", d.Port)}
	if c.Windows { // it has no test command for the block below
		name = append(name, options...)
	}
	if !strings.Contains(c.Suffix, ".") {
		block("Host "+c.Suffix, name...)
	}
	if !c.Windows {
		block(fmt.Sprintf(`Match host %s exec "test %%p = %d"`, strings.ToLower(d.Host), d.Port), options...)
	}
	return nil
}

// file quotes a path for a setting in which % stands for tokens and ${} for the environment.
func (c Config) file(path string) (string, error) {
	if c.Windows {
		path = strings.ReplaceAll(path, `\`, `/`)
	}
	if err := checkPath(path, c.Windows); err != nil {
		return "", err
	}
	if strings.ContainsAny(path, "\\\"") || strings.Contains(path, "${") {
		return "", fmt.Errorf("the path %q cannot be written into an ssh_config file: it holds a quote, a backslash or ${", path)
	}
	path = strings.ReplaceAll(path, "%", "%%")
	if strings.ContainsAny(path, " '#") {
		return `"` + path + `"`, nil
	}
	return path, nil
}

// checkPath returns an error unless the path is absolute and can stand on a line.
func checkPath(path string, windows bool) error {
	slashes := strings.ReplaceAll(path, `\`, `/`)
	absolute := strings.HasPrefix(path, "/")
	if windows {
		absolute = strings.HasPrefix(slashes, "//") || len(slashes) > 2 && consistsOf(slashes[:1], letters) && slashes[1:3] == ":/"
	}
	switch {
	case !absolute:
		return fmt.Errorf("the path %q is not absolute", path)
	case strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("the path %q cannot be written into an ssh_config file: it holds a control character", path)
	}
	return nil
}

// proxyCommand is the command that reaches a workspace. ssh hands it to the user's shell after it has replaced %n by
// the name as it was typed, unescaped: the quotes around it, and notQuoted, keep it from running commands.
func (c Config) proxyCommand() (string, error) {
	if err := checkPath(c.Berth, c.Windows); err != nil {
		return "", err
	}
	words := make([]string, 0, len(c.Args)+4)
	for _, s := range slices.Concat([]string{c.Berth}, c.Args, []string{"connect", "--"}) {
		w, err := c.quote(s)
		if err != nil {
			return "", err
		}
		words = append(words, w)
	}
	name := `'%n'`
	if c.Windows {
		name = `"%n"`
	}
	return strings.Join(append(words, name), " "), nil
}

// quote quotes a word for the shell that runs a ProxyCommand, and its % for ssh.
func (c Config) quote(s string) (string, error) {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", fmt.Errorf("%q cannot be written into an ssh_config file: it holds a control character", s)
	}
	if consistsOf(s, letters+digits+"_/.:=+@-") {
		return s, nil
	}
	s = strings.ReplaceAll(s, "%", "%%")
	if c.Windows {
		if strings.Contains(s, `"`) {
			return "", fmt.Errorf("%q cannot be written into an ssh_config file: it holds a quote", s)
		}
		return `"` + s + `"`, nil
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'", nil
}

// notQuoted is the Host pattern that takes out names with the quote that stands around %n.
func (c Config) notQuoted() string {
	if c.Windows {
		return `"!*&*" "!*|*" "!*^*" "!*%*"`
	}
	return `"!*'*"`
}

// CheckKnownHosts returns an error unless s is lines of a known_hosts file that name a certificate authority, as the
// server's answer should be: nothing else belongs into our file.
//
//	@cert-authority *.berth,[127.0.0.1]:7022 ssh-ed25519 AAAA… comment
func CheckKnownHosts(s string) error {
	const maxSize = 16 << 10
	if len(s) > maxSize || strings.TrimSpace(s) == "" {
		return errors.New("the server gives no usable known_hosts line")
	}
	for line := range strings.Lines(s) {
		line = strings.TrimRight(line, "\n")
		words := strings.Split(line, " ")
		good := len(words) >= 4 && words[0] == "@cert-authority" &&
			consistsOf(words[1], letters+digits+".*:,[]_-") &&
			consistsOf(words[2], lower+digits+"@.-") &&
			consistsOf(words[3], letters+digits+"+/=") &&
			!strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' })
		if !good {
			return fmt.Errorf("the server's known_hosts line is not one: %.80q", line)
		}
	}
	return nil
}
