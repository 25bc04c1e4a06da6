package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"

	"berth/coordinator"
)

// settings are the flags of serve.
type settings struct {
	data, keyFile        string
	http, ssh            string
	url, agentURL        string
	sshHost, suffix      string
	sshExempt            prefixes
	tlsCert, tlsKey      string
	tlsCA, tlsACME       string
	insecureHTTP         bool
	insecureHost         bool
	workers              int
	startupLimit         time.Duration
	gitKnownHosts        string
	logLevel, logFormat  string
	public, agentsPublic *url.URL // url and agentURL, parsed
}

const defaultHTTP, defaultSSH = "127.0.0.1:7080", "127.0.0.1:7022"

// parseSettings reads flags, and environment variables of the same names: --tls-cert is BERTH_TLS_CERT.
func parseSettings(args []string, getenv func(string) string, out io.Writer) (settings, error) {
	var s settings
	f := flag.NewFlagSet("berthd serve", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&s.data, "data", defaultData(getenv), "directory of the database, templates and homes")
	f.StringVar(&s.keyFile, "key-file", defaultKeyFile(getenv), "file of the installation's key, outside of the data directory")
	f.StringVar(&s.http, "http", defaultHTTP, "address to serve HTTP on")
	f.StringVar(&s.ssh, "ssh", defaultSSH, "address to serve SSH on: the door")
	f.StringVar(&s.url, "url", "", "URL under which people reach this coordinator (by default made of --http)")
	f.StringVar(&s.agentURL, "agent-url", "", "URL under which agents reach it (by default --url)")
	f.StringVar(&s.sshHost, "ssh-host", "", "HOST or HOST:PORT under which people reach the door (by default made of --url and --ssh)")
	f.Var(&s.sshExempt, "ssh-exempt", "comma-separated networks whose people share an address: neither limits of their own at the door nor penalties")
	f.StringVar(&s.suffix, "suffix", coordinator.Suffix, "suffix of workspaces' host names: dev.berth")
	f.StringVar(&s.tlsCert, "tls-cert", "", "PEM file with the TLS certificate and its chain")
	f.StringVar(&s.tlsKey, "tls-key", "", "PEM file with the TLS key")
	f.StringVar(&s.tlsCA, "tls-ca", "", "PEM file with the authority that agents have to trust, where it is not publicly known")
	f.StringVar(&s.tlsACME, "tls-acme", "", "domain to get a certificate for from Let's Encrypt; --http has to be port 443")
	f.BoolVar(&s.insecureHTTP, "insecure-http", false, "allow plain HTTP beyond this machine")
	f.BoolVar(&s.insecureHost, "insecure-host-processes", false, "allow workspaces on this machine without isolation")
	f.IntVar(&s.workers, "workers", 0, "builds at once (by default the number of CPUs)")
	f.DurationVar(&s.startupLimit, "startup-limit", 0, "time limit of each startup hook (10 minutes by default)")
	f.StringVar(&s.gitKnownHosts, "git-known-hosts", "", "file of known_hosts lines for Git hosts, added to the well-known ones")
	f.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&s.logFormat, "log-format", "", "text or json (by default text on a terminal)")
	if err := fromEnvironment(f, getenv); err != nil {
		return s, err
	}
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			f.SetOutput(out)
			fmt.Fprintf(out, "usage: berthd serve [settings]\n\nEvery setting can be given as a variable too: --tls-cert as BERTH_TLS_CERT.\n\n")
			f.PrintDefaults()
			return s, err
		}
		return s, usagef("%v", err)
	}
	if f.NArg() > 0 {
		return s, usagef("unexpected argument %q", coordinator.Clip(f.Arg(0), 40))
	}
	return s, s.check()
}

// prefixes are IP networks, or single addresses.
type prefixes []netip.Prefix

func (p *prefixes) String() string {
	var all []string
	for _, x := range *p {
		all = append(all, x.String())
	}
	return strings.Join(all, ",")
}

// Set replaces them: a flag comes after the variable of its name.
func (p *prefixes) Set(s string) error {
	var all prefixes
	for f := range strings.SplitSeq(s, ",") {
		f = strings.TrimSpace(f)
		if a, err := netip.ParseAddr(f); err == nil {
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		x, err := netip.ParsePrefix(f)
		if err != nil {
			return fmt.Errorf("%q is no network: write 192.0.2.0/24", coordinator.Clip(f, 40))
		}
		all = append(all, x.Masked())
	}
	*p = all
	return nil
}

func fromEnvironment(f *flag.FlagSet, getenv func(string) string) error {
	var err error
	f.VisitAll(func(x *flag.Flag) {
		name := "BERTH_" + strings.ToUpper(strings.ReplaceAll(x.Name, "-", "_"))
		if v := getenv(name); v != "" {
			if setErr := x.Value.Set(v); setErr != nil {
				err = usagef("%s: %q is not valid", name, coordinator.Clip(v, 40))
			}
			x.DefValue = x.Value.String()
		}
	})
	return err
}

func defaultData(getenv func(string) string) string {
	if d := getenv("XDG_DATA_HOME"); d != "" {
		return filepath.Join(d, "berth")
	}
	return filepath.Join(getenv("HOME"), ".local", "share", "berth")
}

// defaultKeyFile prefers a systemd credential, which never lies on a disk in the clear.
func defaultKeyFile(getenv func(string) string) string {
	if d := getenv("CREDENTIALS_DIRECTORY"); d != "" {
		if p := filepath.Join(d, "berth-key"); exists(p) {
			return p
		}
	}
	if d := getenv("XDG_CONFIG_HOME"); d != "" {
		return filepath.Join(d, "berth", "key")
	}
	return filepath.Join(getenv("HOME"), ".config", "berth", "key")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// check finds what makes no sense, or is not safe, before anything is touched.
func (s *settings) check() error {
	var err error
	if s.data, err = filepath.Abs(s.data); err != nil {
		return err
	}
	if s.keyFile, err = filepath.Abs(s.keyFile); err != nil {
		return err
	}
	switch {
	case (s.tlsCert == "") != (s.tlsKey == ""):
		return usagef("--tls-cert and --tls-key belong together")
	case s.tlsCert != "" && s.tlsACME != "":
		return usagef("--tls-cert and --tls-acme exclude each other")
	case s.workers < 0:
		return usagef("--workers has to be 0 or more")
	case coordinator.CheckName("suffix", s.suffix) != nil && s.suffix != coordinator.Suffix:
		return usagef("--suffix %q is not valid: use lower-case letters, digits and hyphens", coordinator.Clip(s.suffix, 40))
	}
	if _, err := s.level(); err != nil {
		return err
	}
	if s.logFormat != "" && s.logFormat != "text" && s.logFormat != "json" {
		return usagef("--log-format %q is neither text nor json", coordinator.Clip(s.logFormat, 40))
	}
	for _, a := range []struct{ name, addr string }{{"--http", s.http}, {"--ssh", s.ssh}} {
		if _, port, err := net.SplitHostPort(a.addr); err != nil || port == "" {
			return usagef("%s %q is not an address like 127.0.0.1:7080", a.name, coordinator.Clip(a.addr, 80))
		}
	}
	return s.checkPlain()
}

func (s *settings) tls() bool { return s.tlsCert != "" || s.tlsACME != "" }

// checkPlain refuses plain HTTP beyond loopback: tokens would cross a network in the clear.
func (s *settings) checkPlain() error {
	const hint = "use TLS (--tls-cert and --tls-key, --tls-acme, or a proxy in front), or allow it with --insecure-http"
	if !s.tls() && !s.insecureHTTP && !loopback(hostOf(s.http)) {
		return coordinator.Errorf(coordinator.CodeInvalid, "--http %s is plain HTTP beyond this machine", s.http).WithHint(hint)
	}
	var err error
	if s.url != "" {
		if s.public, err = s.parseURL("--url", s.url, hint); err != nil {
			return err
		}
	}
	if s.agentURL != "" {
		if s.agentsPublic, err = s.parseURL("--agent-url", s.agentURL, hint); err != nil {
			return err
		}
	}
	return nil
}

func (s *settings) parseURL(name, raw, hint string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, usagef("%s %q is not a URL like https://berth.example.com", name, coordinator.Clip(raw, 80))
	}
	u.Path = ""
	if u.Scheme == "http" && !s.insecureHTTP && !loopback(u.Hostname()) {
		return nil, coordinator.Errorf(coordinator.CodeInvalid, "%s %s is plain HTTP beyond this machine", name, raw).WithHint(hint)
	}
	return u, nil
}

// complete fills in the URLs that were not given, from the address that is listened on.
func (s *settings) complete(l net.Addr) error {
	if s.public == nil {
		u := &url.URL{Scheme: "http", Host: l.String()}
		switch {
		case s.tlsACME != "":
			u.Scheme, u.Host = "https", s.tlsACME
		case s.tls():
			u.Scheme = "https"
		}
		if addr, err := netip.ParseAddrPort(u.Host); err == nil && addr.Addr().IsUnspecified() {
			return usagef("--url is needed, for --http %s does not tell how people reach this coordinator", s.http)
		}
		s.public = u
	}
	if s.agentsPublic == nil {
		s.agentsPublic = s.public
	}
	return nil
}

func hostOf(addr string) string {
	host, _, _ := net.SplitHostPort(addr) //nolint:errcheck // checked before
	return host
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func (s *settings) level() (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(s.logLevel)); err != nil {
		return l, usagef("--log-level %q is none of debug, info, warn and error", coordinator.Clip(s.logLevel, 40))
	}
	return l, nil
}

// logger writes to w: text for people, JSON for machines.
func (s *settings) logger(w *os.File) *slog.Logger {
	level, _ := s.level() //nolint:errcheck // checked before
	o := &slog.HandlerOptions{Level: level}
	if s.logFormat == "text" || s.logFormat == "" && term.IsTerminal(int(w.Fd())) {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}
