package cli

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestInspect(t *testing.T) {
	good := map[string]string{
		"tool.tar": "/bin/tar", "tool.gzip": "/bin/gzip", "tool.wget": "/bin/wget", "tool.bash": "/bin/bash", "tool.python3": "/bin/python3",
		"python": "3.11", "libc": "glibc 2.36", "libstdcxx": "6.0.30", "home": "/home/me", "home.write": "yes", "home.exec": "yes",
		"tmp.write": "yes", "tmp.exec": "yes", "disk": "9000000", "inodes": "100000 90000", "memory": "8000000", "watches": "524288", "instances": "512",
	}
	for _, tt := range []struct {
		name, key, value, noise string
		want                    string // status and check of what is not ok
	}{
		{name: "all is well"},
		{name: "noise", noise: "Welcome!", want: "warn quiet shell"},
		{name: "no tar", key: "tool.tar", want: "fail tar"},
		{name: "no download", key: "tool.wget", want: "warn download"},
		{name: "no bash", key: "tool.bash", want: "warn bash"},
		{name: "no python", key: "tool.python3", want: "warn python"},
		{name: "old glibc", key: "libc", value: "glibc 2.17", want: "warn libc"},
		{name: "the oldest glibc", key: "libc", value: "glibc 2.28"},
		{name: "glibc", key: "libc", value: "glibc"},
		{name: "musl", key: "libc", value: "musl", want: "warn libc"},
		{name: "no libc", key: "libc", want: "warn libc"},
		{name: "no libstdc++", key: "libstdcxx", want: "warn libstdc++"},
		{name: "old libstdc++", key: "libstdcxx", value: "6.0.9", want: "warn libstdc++"},
		{name: "read-only home", key: "home.write", want: "fail home"},
		{name: "home that starts nothing", key: "home.exec", want: "fail home"},
		{name: "no home", key: "home", want: "fail home"},
		{name: "no tmp", key: "tmp.write", want: "warn tmp"},
		{name: "tmp that starts nothing", key: "tmp.exec", want: "warn tmp"},
		{name: "full disk", key: "disk", value: "1000", want: "fail disk"},
		{name: "small disk", key: "disk", value: "1000000", want: "warn disk"},
		{name: "no df", key: "disk", want: "skip disk"},
		{name: "few inodes", key: "inodes", value: "100000 5", want: "warn inodes"},
		{name: "no inodes counted", key: "inodes", value: "0 0"},
		{name: "little memory", key: "memory", value: "500000", want: "warn memory"},
		{name: "limited memory", key: "limit", value: "536870912", want: "warn memory"},
		{name: "no limit of memory", key: "limit", value: "max"},
		{name: "few watches", key: "watches", value: "8192", want: "warn inotify"},
		{name: "no inotify", key: "watches", want: "skip inotify"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			facts := map[string]string{}
			for k, v := range good {
				facts[k] = v
			}
			if tt.key != "" {
				facts[tt.key] = tt.value
			}
			d := &diagnosis{OK: true}
			inspect(d, facts, tt.noise)
			var got []string
			for _, f := range d.Findings {
				if f.Status != gradeOK {
					got = append(got, string(f.Status)+" "+f.Check)
					if f.Hint == "" && f.Status != gradeSkip {
						t.Errorf("%s: nothing to do about it", f.Check)
					}
				}
			}
			if s := strings.Join(got, ", "); s != tt.want || d.OK != !strings.Contains(tt.want, "fail") {
				t.Errorf("got %q, %v; want %q", s, d.OK, tt.want)
			}
		})
	}
}

// TestInsideScript runs the script by every sh there is, with and without tools, behind something that prints.
func TestInsideScript(t *testing.T) {
	home := t.TempDir()
	for _, shell := range [][]string{{"dash"}, {"bash"}, {"busybox", "sh"}, {"zsh"}, {"ksh"}, {"mksh"}} {
		path, err := exec.LookPath(shell[0])
		if err != nil {
			continue
		}
		for _, tools := range []string{"PATH=/usr/bin:/bin", "PATH=/nosuch"} {
			t.Run(shell[0]+" "+tools, func(t *testing.T) {
				c := exec.Command(path, append(shell[1:], "-s")...)
				c.Env = []string{"HOME=" + home, tools, "TMPDIR=" + t.TempDir()}
				c.Stdin = strings.NewReader(insideScript)
				out, err := c.CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				facts, noise := parseInside("Welcome\n" + string(out))
				if noise != "Welcome" || facts["home"] != home || facts["home.write"] != "yes" || facts["memory"] == "" || facts["end"] != "1" {
					t.Errorf("got %q, %q", facts, noise)
				}
				if tools == "PATH=/nosuch" {
					return
				}
				if facts["home.exec"] != "yes" || facts["tmp.exec"] != "yes" || facts["disk"] == "" || facts["tool.tar"] == "" || facts["libc"] == "" {
					t.Errorf("got %q", facts)
				}
			})
		}
	}
	if left, err := os.ReadDir(home); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
