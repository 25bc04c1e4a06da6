package startup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/agent"
)

func TestDotfilesLinks(t *testing.T) {
	p := newPlace(t)
	p.manifest.DotfilesURL = p.repository(map[string]string{
		".bashrc": "new", ".config/app/conf": "conf", ".gitignore": "x", ".github/y": "y", "README.md": "r", ".vimrc": "vim",
	})
	p.script(p.home+"/.bashrc", "the user's own", 0o644)
	must(t, os.Mkdir(p.home+"/.config", 0o755))
	p.own(p.home + "/.config")
	p.script(p.home+"/.config/other", "kept", 0o644)
	p.run()
	p.check(agent.StepDotfiles, agent.OutcomeOK, "")
	clone := p.home + "/.local/share/berth/dotfiles"
	for path, want := range map[string]string{
		".bashrc": "new", ".bashrc.before-berth": "the user's own", ".config/app/conf": "conf", ".config/other": "kept", ".vimrc": "vim",
	} {
		if got := p.read(filepath.Join(p.home, path)); got != want {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
	}
	if target, err := os.Readlink(p.home + "/.bashrc"); err != nil || target != clone+"/.bashrc" {
		t.Errorf(".bashrc links to %q, %v", target, err)
	}
	for _, path := range []string{".gitignore", ".github", "README.md", ".git"} {
		if _, err := os.Lstat(filepath.Join(p.home, path)); err == nil {
			t.Errorf("%s was linked", path)
		}
	}

	// The repository moves on: the clone follows, and nothing else is put aside.
	p.commit(strings.TrimPrefix(p.manifest.DotfilesURL, "file://"), map[string]string{".bashrc": "newer", ".zshrc": "zsh"})
	p.manifest.StartBuild = "b2"
	p.give()
	p.wait()
	p.check(agent.StepDotfiles, agent.OutcomeOK, "")
	if got := p.read(p.home + "/.bashrc"); got != "newer" {
		t.Errorf(".bashrc holds %q", got)
	}
	if got := p.read(p.home + "/.zshrc"); got != "zsh" {
		t.Errorf(".zshrc holds %q", got)
	}
	if kept, _ := filepath.Glob(p.home + "/.*before-berth*"); len(kept) != 1 {
		t.Errorf("kept: %q", kept)
	}

	// Another repository: the old clone is put aside.
	p.manifest.DotfilesURL = p.repository(map[string]string{".bashrc": "third"})
	p.manifest.StartBuild = "b3"
	p.give()
	p.wait()
	p.check(agent.StepDotfiles, agent.OutcomeOK, "")
	if got := p.read(p.home + "/.bashrc"); got != "third" {
		t.Errorf(".bashrc holds %q", got)
	}
	if aside, _ := filepath.Glob(clone + ".before-*"); len(aside) != 1 {
		t.Errorf("put aside: %q", aside)
	}
}

func TestDotfilesGone(t *testing.T) {
	p := newPlace(t)
	p.manifest.DotfilesURL = p.repository(map[string]string{".bashrc": "x", "install.sh": "#!/bin/sh\necho run >> ~/runs\n"})
	p.run()
	must(t, os.RemoveAll(strings.TrimPrefix(p.manifest.DotfilesURL, "file://")))
	p.manifest.StartBuild = "b2"
	p.give()
	p.wait()
	// What was fetched before is installed all the same; the step tells what went wrong.
	p.check(agent.StepDotfiles, agent.OutcomeFailed, "git pull exited with")
	if got := p.read(p.home + "/runs"); got != "run\nrun\n" {
		t.Errorf("runs: %q", got)
	}
}

func TestDotfilesScript(t *testing.T) {
	p := newPlace(t)
	p.manifest.DotfilesURL = p.repository(map[string]string{"script/setup": "#!/bin/sh\npwd\nexit 4\n", ".bashrc": "x"})
	p.run()
	if r := p.check(agent.StepDotfiles, agent.OutcomeFailed, "script/setup exited with 4"); r.ExitCode != 4 {
		t.Errorf("exit code %d", r.ExitCode)
	}
	if got := p.told.log(agent.StepDotfiles); !strings.Contains(got, p.home+"/.local/share/berth/dotfiles\n") {
		t.Errorf("not run in the repository: %q", got)
	}
	if _, err := os.Lstat(p.home + "/.bashrc"); err == nil {
		t.Error("linked although there is a script")
	}
}

func TestDotfilesAddressReachesNoShell(t *testing.T) {
	marker := filepath.Join(t.TempDir(), "marker")
	for _, address := range []string{
		"--upload-pack=touch " + marker, "ext::sh -c touch% " + marker, "-x", "https://x/\ntouch " + marker,
		"file:///x; touch " + marker, "$(touch " + marker + ")", "ssh://-oProxyCommand=touch " + marker + "/x", "fd::17",
	} {
		p := newPlace(t)
		p.manifest.DotfilesURL = address
		p.run()
		p.check(agent.StepDotfiles, agent.OutcomeFailed, "")
		if _, err := os.Stat(marker); err == nil {
			t.Fatalf("%q ran a command", address)
		}
	}
}

func TestCheckAddress(t *testing.T) {
	for address, want := range map[string]bool{
		"https://github.com/a/dotfiles": true, "git@github.com:a/dotfiles.git": true, "ssh://git@host:2222/x": true,
		"file:///srv/x": true, "/srv/x": true, "http://x/y": true, "git://x/y": true,
		"-x": false, "ext::sh": false, "ssh://-oX/y": false, "relative/path": false, "x:y": false, "a@-b:c": true, "javascript:x": false,
		"a@b::c": false, "https://a\x00b": false,
	} {
		if err := checkAddress(address); (err == nil) != want {
			t.Errorf("%q: %v", address, err)
		}
	}
	if got := redact("https://user:token@example.com/x"); got != "https://example.com/x" {
		t.Errorf("redacted: %q", got)
	}
}
