package sshconfig

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func config(dir string) Config {
	return Config{
		Berth: dir + "/bin/berth", Args: []string{"--config-dir", dir}, Suffix: "berth", KnownHosts: dir + "/known_hosts",
		Identity: dir + "/id_ed25519", Hosts: []Host{{"dev.berth", "dev.alice.berth"}, {"gpu.big.alice.berth", "big.alice.berth"}},
		Door: Door{"127.0.0.1", 7022},
	}
}

// settings asks OpenSSH what the file means for a host.
func settings(t *testing.T, data []byte, args ...string) map[string]string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ssh", append([]string{"-G", "-F", file}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh -G %v: %v\n%s\n%s", args, err, out, data)
	}
	got := map[string]string{}
	for line := range strings.Lines(string(out)) {
		k, v, _ := strings.Cut(strings.TrimRight(line, "\n"), " ")
		if got[k] == "" {
			got[k] = v
		}
	}
	return got
}

// TestOpenSSH has the real ssh read the file, also where its paths hold what needs care.
func TestOpenSSH(t *testing.T) {
	for _, tt := range []struct{ name, dir, quoted string }{
		{"plain", "/opt/berth", "/opt/berth/bin/berth --config-dir /opt/berth"},
		{"blanks", "/opt/my berth", "'/opt/my berth/bin/berth' --config-dir '/opt/my berth'"},
		{"percent", "/opt/50%n", "'/opt/50%%n/bin/berth' --config-dir '/opt/50%%n'"},
		{"quote", "/opt/it's", `'/opt/it'\''s/bin/berth' --config-dir '/opt/it'\''s'`},
		{"hash", "/opt/#1", "'/opt/#1/bin/berth' --config-dir '/opt/#1'"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data, err := config(tt.dir).Render()
			if err != nil {
				t.Fatal(err)
			}
			got := settings(t, data, "dev.berth")
			for k, want := range map[string]string{
				"proxycommand":          tt.quoted + " connect -- '%n'",
				"hostkeyalias":          "dev.alice.berth",
				"stricthostkeychecking": "true",
				"serveraliveinterval":   "15",
				"serveralivecountmax":   "40",
				"identitiesonly":        "yes",
			} {
				if got[k] != want {
					t.Errorf("%s is %q, want %q", k, got[k], want)
				}
			}
			// OpenSSH prints one of them expanded.
			for k, want := range map[string]string{
				"identityfile": strings.ReplaceAll(tt.dir, "%", "%%") + "/id_ed25519", "userknownhostsfile": tt.dir + "/known_hosts",
			} {
				if strings.Trim(got[k], `"`) != want {
					t.Errorf("%s is %q, want %q", k, got[k], want)
				}
			}
		})
	}
}

func TestNames(t *testing.T) {
	data, err := config("/opt/berth").Render()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		args  []string
		alias string
		ours  bool // reached through berth connect
	}{
		{"concrete", []string{"dev.berth"}, "dev.alice.berth", true},
		{"agent", []string{"gpu.big.alice.berth"}, "big.alice.berth", true},
		{"wildcard", []string{"other.bob.berth"}, "", true},
		{"another host", []string{"example.com"}, "", false},
		{"the door itself", []string{"berth"}, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := settings(t, data, tt.args...)
			if got["hostkeyalias"] != tt.alias || strings.Contains(got["proxycommand"], "connect") != tt.ours {
				t.Errorf("alias %q, command %q", got["hostkeyalias"], got["proxycommand"])
			}
		})
	}
	ours := func(args ...string) bool {
		return settings(t, data, args...)["userknownhostsfile"] == "/opt/berth/known_hosts"
	}
	if got := settings(t, data, "dev@berth"); got["hostname"] != "127.0.0.1" || got["port"] != "7022" || !ours("dev@berth") {
		t.Errorf("the door's short name: %s port %s", got["hostname"], got["port"])
	}
	if !ours("-p", "7022", "dev@127.0.0.1") {
		t.Error("the door's own address does not use our known_hosts")
	}
	if ours("127.0.0.1") || ours("-p", "2222", "127.0.0.1") {
		t.Error("another port of the door's machine is touched")
	}
}

// TestProxyCommand runs what ssh runs: paths arrive whole, and no name runs a command.
func TestProxyCommand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `a b'c%n$HOME`)
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nprintf '%s\\n' \"$@\" >\"${0%/bin/berth}/args\"\n"
	if err := os.WriteFile(filepath.Join(dir, "bin", "berth"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	c := config(dir)
	data, err := c.Render()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"dev.berth", "$(touch${IFS}pwned).berth", "`touch${IFS}pwned`.berth", "x';touch${IFS}pwned;'.berth", "a&b.berth"} {
		os.Remove(filepath.Join(dir, "args"))
		cmd := exec.Command("ssh", "-F", file, "-o", "ConnectTimeout=1", "-o", "BatchMode=yes", host, "true")
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Fatalf("%s: ssh succeeds", host)
		}
		if _, err := os.Stat(filepath.Join(dir, "pwned")); err == nil {
			t.Fatalf("%s: ran a command\n%s", host, out)
		}
		got, _ := os.ReadFile(filepath.Join(dir, "args"))
		if want := "--config-dir\n" + dir + "\nconnect\n--\n" + host + "\n"; string(got) != want && !strings.Contains(host, "'") && len(got) > 0 {
			t.Errorf("%s: berth got %q", host, got)
		} else if host == "dev.berth" && string(got) != want {
			t.Errorf("berth got %q, want %q\n%s", got, want, out)
		}
	}
}

// TestInjection has a server, and a path, say things that would become settings.
func TestInjection(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
	}{
		{"suffix with a line break", func(c *Config) { c.Suffix = "berth\n\tProxyCommand touch pwned" }},
		{"suffix with a blank", func(c *Config) { c.Suffix = "berth *" }},
		{"suffix that is a wildcard", func(c *Config) { c.Suffix = "*" }},
		{"no suffix", func(c *Config) { c.Suffix = "" }},
		{"name with a line break", func(c *Config) { c.Hosts[0].Name = "dev.berth\nHost *" }},
		{"name with a quote", func(c *Config) { c.Hosts[0].Name = `dev".berth` }},
		{"name with upper case", func(c *Config) { c.Hosts[0].Name = "Dev.berth" }},
		{"name that is a wildcard", func(c *Config) { c.Hosts[0].Name = "*.berth" }},
		{"name outside the suffix", func(c *Config) { c.Hosts[0].Name = "github.com" }},
		{"name with an option", func(c *Config) { c.Hosts[0].Name = "-oProxyCommand=x.berth" }},
		{"alias with a blank", func(c *Config) { c.Hosts[0].Alias = "dev.alice.berth x" }},
		{"alias outside the suffix", func(c *Config) { c.Hosts[0].Alias = "github.com" }},
		{"door with a blank", func(c *Config) { c.Door.Host = "example.com x" }},
		{"door with a command", func(c *Config) { c.Door.Host = `x" exec "touch pwned` }},
		{"door with a token", func(c *Config) { c.Door.Host = "%h" }},
		{"door's port", func(c *Config) { c.Door.Port = 70000 }},
		{"relative path", func(c *Config) { c.Berth = "berth" }},
		{"path with a line break", func(c *Config) { c.Berth = "/opt/a\nb" }},
		{"argument with a line break", func(c *Config) { c.Args = []string{"a\nb"} }},
		{"known_hosts with a quote", func(c *Config) { c.KnownHosts = `/opt/"x` }},
		{"known_hosts with the environment", func(c *Config) { c.KnownHosts = "/opt/${HOME}" }},
		{"identity with a line break", func(c *Config) { c.Identity = "/opt/a\r\nb" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := config("/opt/berth")
			c.Hosts = slices.Clone(c.Hosts)
			tt.change(&c)
			if data, err := c.Render(); err == nil {
				t.Errorf("it is written:\n%s", data)
			}
		})
	}
}

func TestWindows(t *testing.T) {
	c := config("")
	c.Windows = true
	c.Berth, c.Args = `C:\Program Files\berth\berth.exe`, []string{"--config-dir", `C:\Users\Al Ice\.config\berth`}
	c.KnownHosts, c.Identity = `C:\Users\Al Ice\.config\berth\known_hosts`, `C:\Users\alice\id_ed25519`
	data, err := c.Render()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`ProxyCommand "C:\Program Files\berth\berth.exe" --config-dir "C:\Users\Al Ice\.config\berth" connect -- "%n"`,
		`UserKnownHostsFile "C:/Users/Al Ice/.config/berth/known_hosts"`,
		"IdentityFile C:/Users/alice/id_ed25519\n",
		"Host berth\n\tHostName 127.0.0.1\n\tPort 7022\n\tUserKnownHostsFile",
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %q in\n%s", want, data)
		}
	}
	if strings.Contains(string(data), "Match") {
		t.Error("a command of Unix is in it")
	}
	c.Berth = `C:\a"b\berth.exe`
	if _, err := c.Render(); err == nil {
		t.Error("a quote is written")
	}
}

func TestKnownHosts(t *testing.T) {
	const good = "@cert-authority *.berth,[127.0.0.1]:7022 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBx+/= berth\n"
	for _, tt := range []struct {
		name, lines string
		ok          bool
	}{
		{"one", good, true},
		{"two", good + good, true},
		{"no comment", strings.Replace(good, " berth\n", "", 1), true},
		{"none", "\n", false},
		{"a plain key", "github.com ssh-ed25519 AAAA\n", false},
		{"another marker", strings.Replace(good, "@cert-authority", "@revoked", 1), false},
		{"a second line of another kind", good + "github.com ssh-ed25519 AAAA\n", false},
		{"a control character", strings.Replace(good, " berth", " be\x1brth", 1), false},
		{"a carriage return", strings.Replace(good, " berth", " \rgithub.com x", 1), false},
		{"too long", good + strings.Repeat("A", 1<<20), false},
	} {
		if err := CheckKnownHosts(tt.lines); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
