package sshd

import (
	"cmp"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"

	"berth/agent/shell"
)

// Caps of what a client may set in one session.
const (
	maxEnv      = 128
	maxEnvBytes = 64 << 10
)

var (
	envName     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	gitProtocol = regexp.MustCompile(`^version=[0-9](:[a-z0-9=.-]{1,64})*$`)
)

// deniedEnv are variables that change what a shell or an interpreter runs before the user's command, that glibc takes for
// unsafe, or that say who and where one is.
var deniedEnv = []string{
	"BASH_ENV", "ENV", "SHELLOPTS", "BASHOPTS", "IFS", "CDPATH", "PS0", "PS4", "PROMPT_COMMAND", "GLOBIGNORE", "FPATH", "ZDOTDIR", "BASH_LOADABLES_PATH",
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "MAIL", "PWD", "OLDPWD", "SHLVL", "TERM", "TMPDIR",
	"PERL5OPT", "PERL5LIB", "PERLLIB", "PERL5DB", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME", "RUBYOPT", "RUBYLIB", "NODE_OPTIONS", "GCONV_PATH",
	"NODE_PATH", "LUA_INIT", "LUA_PATH", "PHPRC", "CLASSPATH", "OPENSSL_CONF",
	"GETCONF_DIR", "GLIBC_TUNABLES", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH", "MALLOC_TRACE", "NIS_PATH", "NLSPATH",
	"RESOLV_HOST_CONF", "RES_OPTIONS", "TZDIR",
}

var deniedEnvPrefixes = []string{"LD_", "DYLD_", "BASH_FUNC_", "SSH_", "BERTH_", "GIT_"}

// allowedEnv says whether a client may set the variable.
func allowedEnv(name, value string) bool {
	if name == "GIT_PROTOCOL" { // by which git asks for its faster protocol
		return gitProtocol.MatchString(value)
	}
	if !envName.MatchString(name) || strings.ContainsRune(value, 0) || slices.Contains(deniedEnv, name) {
		return false
	}
	return !slices.ContainsFunc(deniedEnvPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// environment composes a session's: the workspace's, then what the client set, then what describes the session.
func (s *session) environment(tty *terminal) []string {
	cfg := s.conn.srv.cfg
	base := shell.Without(cfg.Env(), func(name string) bool { return name == "TERM" || name == "SSH_TTY" })
	host, port := splitPeer(s.conn.header.Peer)
	own := []string{
		"SSH_CLIENT=" + host + " " + port + " 22",
		"SSH_CONNECTION=" + host + " " + port + " " + localHost(s.conn.net.LocalAddr()) + " 22",
	}
	if socket := cmp.Or(s.conn.agent.path(), cfg.AgentSocket); socket != "" {
		own = append(own, "SSH_AUTH_SOCK="+socket)
	}
	if s.x11 != nil {
		own = append(own, "DISPLAY="+s.x11.display())
	}
	if tty != nil && tty.name != "" {
		own = append(own, "TERM="+tty.name)
	}
	return shell.Merge([]string{"PATH=" + shell.DefaultPath}, cfg.User.Basic(), base, s.env, own)
}

// splitPeer returns the address and port of the true peer as the coordinator told them, or zeros: they are words of
// an environment variable that scripts split at spaces.
func splitPeer(peer string) (host, port string) {
	host, port, err := net.SplitHostPort(peer)
	if err != nil || host == "" || port == "" || strings.ContainsAny(host+port, " \t\n\x00") {
		return "0.0.0.0", "0"
	}
	return host, port
}

func localHost(a net.Addr) string {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.IP.String()
	}
	return "127.0.0.1"
}

// lookPath finds a command in an environment's PATH.
func lookPath(env []string, name string) bool {
	for dir := range strings.SplitSeq(shell.Value(env, "PATH"), ":") {
		if executable(dir + "/" + name) {
			return true
		}
	}
	return false
}

func executable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0
}
