package sshconfig

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fakeSSH is the system's ssh, which reads the configuration of a home that is not its account's.
func fakeSSH(t *testing.T, user string) string {
	t.Helper()
	real, err := exec.LookPath("ssh")
	if err != nil {
		t.Fatal(err)
	}
	return script(t, "exec "+real+" -F '"+user+"' \"$@\"")
}

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ssh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestVerify(t *testing.T) {
	dir := t.TempDir()
	user, own, other := filepath.Join(dir, "config"), filepath.Join(dir, "berth", "ssh_config"), filepath.Join(dir, "other")
	c := Config{
		Berth: "/opt/my berth", Suffix: "berth", KnownHosts: filepath.Join(dir, "100% known"), Identity: filepath.Join(dir, "id"),
		Hosts: []Host{{"dev.berth", "dev.alice.berth"}}, Door: Door{"berth.example.com", 7022},
	}
	data, err := c.Render()
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(own, data, 0o600); err != nil {
		t.Fatal(err)
	}
	const include = "INCLUDE\n"
	for _, tt := range []struct {
		name, config, other string
		want                []string // of the problems, in order
	}{
		{name: "ours alone", config: include},
		{name: "behind a comment, before all else", config: "# mine\n\n" + include + "Host *\n\tProxyCommand nc %h %p\n\tStrictHostKeyChecking accept-new\n\tUser me\n"},
		{name: "settings that are none of ours", config: "User me\nForwardAgent yes\nCompression yes\nIdentityFile ~/.ssh/mine\n" + include},
		{
			name: "a line above", config: "StrictHostKeyChecking accept-new\n" + include,
			want: []string{"dev.berth: StrictHostKeyChecking accept-new*ssh asks*(CONFIG:1)", "berth: StrictHostKeyChecking accept-new*(CONFIG:1)"},
		},
		{
			name: "another tool above", config: "Include OTHER\n" + include, other: "# tool\nHost tool\n\tPort 3\nHost *\n\tUserKnownHostsFile=\"/dev/null\"\n",
			want: []string{"dev.berth: UserKnownHostsFile /dev/null*certificate authority*(OTHER:5)", "berth: UserKnownHostsFile*(OTHER:5)"},
		},
		{
			name: "a match above", config: "Include OTHER\n" + include, other: "Match host nix.berth\n\tProxyCommand no\nMatch host *.berth\n\tProxyJump bastion\n",
			want: []string{"dev.berth: ProxyJump bastion*does not go through berth connect*(OTHER:4)"},
		},
		{
			name: "a match that runs a command", config: "Include OTHER\n" + include, other: "Match exec false\n\tRequestTTY yes\nMatch host dev.* exec \"test %n = dev.berth\"\n\tRequestTTY yes\n",
			want: []string{"dev.berth: RequestTTY yes*changes the bytes*(OTHER:4)"},
		},
		{
			name: "keys and certificates", config: "Include OTHER\n" + include, other: "PubkeyAuthentication no\nHostKeyAlgorithms ssh-ed25519\nIdentitiesOnly no\n",
			want: []string{
				"dev.berth: PubkeyAuthentication no*(OTHER:1)", "dev.berth: HostKeyAlgorithms*(OTHER:2)", "dev.berth: IdentitiesOnly no*(OTHER:3)",
				"berth: IdentitiesOnly no*",
			},
		},
		{
			name: "keep-alives", config: "Include OTHER\n" + include, other: "Host dev.*\n\tServerAliveInterval 0\n\tServerAliveCountMax 2\n",
			want: []string{"dev.berth: ServerAliveInterval 0*(OTHER:2)", "dev.berth: ServerAliveCountMax 2*(OTHER:3)"},
		},
		{
			name: "the door elsewhere", config: "Include OTHER\n" + include, other: "Host berth\n\tHostName old.example.com\n",
			want: []string{"berth: HostName old.example.com*(OTHER:2)", "berth: UserKnownHostsFile*", "berth: StrictHostKeyChecking*", "berth: IdentityFile*", "berth: IdentitiesOnly*"},
		},
		{name: "no include", config: "Host *\n", want: []string{"CONFIG does not include OWN"}},
		{name: "include for others", config: "Host other\n\t" + include, want: []string{"our Include line stands in a Host or Match block*(CONFIG:2)"}},
		{name: "include for us", config: "Host *.berth berth\n\t" + include},
		{name: "a mistake", config: include + "NoSuchWord yes\n", want: []string{"ssh does not read its configuration:*line 2*"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			names := strings.NewReplacer("INCLUDE", "Include "+own, "OTHER", other, "CONFIG", user, "OWN", own)
			for path, text := range map[string]string{user: tt.config, other: tt.other} {
				if err := os.WriteFile(path, []byte(names.Replace(text)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			problems, err := c.Verify(t.Context(), Verification{SSH: fakeSSH(t, user), User: user, Own: own})
			if err != nil {
				t.Fatal(err)
			}
			for i := range max(len(problems), len(tt.want)) {
				got, want := "", ""
				if i < len(problems) {
					got = problems[i].String()
				}
				if i < len(tt.want) {
					want = names.Replace(tt.want[i])
				}
				if !like(strings.ToLower(got), strings.ToLower(want)) {
					t.Errorf("problem %d is %q, want %q", i, got, want)
				}
			}
		})
	}
}

// like reports whether s consists of the parts of pattern, with anything at each star and at the end.
func like(s, pattern string) bool {
	if pattern == "" {
		return s == ""
	}
	for i, part := range strings.Split(pattern, "*") {
		n := strings.Index(s, part)
		if n < 0 || i == 0 && n != 0 {
			return false
		}
		s = s[n+len(part):]
	}
	return true
}

func TestVerifyStale(t *testing.T) {
	dir := t.TempDir()
	user, own := filepath.Join(dir, "config"), filepath.Join(dir, "ssh_config")
	c := Config{Berth: "/opt/berth", Suffix: "berth", KnownHosts: filepath.Join(dir, "known")}
	data, err := c.Render()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Install(user, own, data); err != nil {
		t.Fatal(err)
	}
	c.Berth, c.Identity = "/usr/bin/berth", filepath.Join(dir, "id")
	problems, err := c.Verify(t.Context(), Verification{SSH: fakeSSH(t, user), User: user, Own: own})
	if err != nil || len(problems) != 3 || problems[0].Hint != "berth ssh-config writes our file anew" {
		t.Errorf("got %v, %v", problems, err)
	}
}

func TestVerifyOtherSSH(t *testing.T) {
	dir := t.TempDir()
	user, own := filepath.Join(dir, "config"), filepath.Join(dir, "ssh_config")
	c := Config{Berth: "/opt/berth", Suffix: "berth", KnownHosts: filepath.Join(dir, "known")}
	if _, err := Install(user, own, nil); err != nil {
		t.Fatal(err)
	}
	real, err := exec.LookPath("ssh")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, ssh, want string }{
		{"old", script(t, "echo OpenSSH_6.6.1p1, OpenSSL 1.0.1f >&2"), "OpenSSH_6.6.1p1 is too old"},
		{"another home", real, "ssh does not read " + user},
		{"no OpenSSH", script(t, "echo Dropbear v2022.83 >&2"), "is not OpenSSH"},
		{"missing", filepath.Join(dir, "nosuch"), "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			problems, err := c.Verify(t.Context(), Verification{SSH: tt.ssh, User: user, Own: own})
			got := ""
			if err != nil {
				got = err.Error()
			} else if len(problems) > 0 {
				got = problems[0].String()
			}
			if !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
