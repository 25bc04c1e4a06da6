package cli

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	maxInside     = 64 << 10 // bytes of what the script prints
	insideMarker  = "berth-doctor-1"
	diskFail      = 256 << 10 // KiB
	diskWarn      = 2 << 20
	memoryWarn    = 2 << 20
	watchesWarn   = 65536
	instancesWarn = 128
	inodesWarn    = 20_000
)

// insideScript prints what it finds as lines "name value". It is POSIX sh, takes no tool for granted, and removes the two
// files that it makes. What login and startup files print comes before its first line.
const insideScript = insideFirst + insideLibs + insideFiles + insideLimits + "say end 1\nexit 0\n"

const insideFirst = `exec 2>/dev/null
printf '%s\n' ` + insideMarker + `
say() { printf '%s %s\n' "$1" "$2"; }
for t in tar gzip curl wget bash python3 python git; do
	p=$(command -v "$t") && say "tool.$t" "$p"
done
say arch "$(uname -m)"
say shell "$SHELL"
py=$(command -v python3 || command -v python) && say python "$("$py" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
`

const insideLibs = `libc=$(getconf GNU_LIBC_VERSION) || libc=
if [ -z "$libc" ]; then
	for f in /lib/ld-musl-*; do [ -e "$f" ] && libc=musl; done
fi
if [ -z "$libc" ]; then
	for f in /lib*/*/libc-2.*.so /lib*/libc-2.*.so /usr/lib*/libc-2.*.so; do
		[ -e "$f" ] && v=${f##*/libc-} && libc="glibc ${v%.so}"
	done
fi
if [ -z "$libc" ]; then
	for f in /lib64/ld-linux-*.so.* /lib/ld-linux-*.so.*; do [ -e "$f" ] && libc=glibc; done
fi
say libc "$libc"
for f in /usr/lib/*/libstdc++.so.6.0.* /lib/*/libstdc++.so.6.0.* /usr/lib64/libstdc++.so.6.0.* /usr/lib/libstdc++.so.6.0.* /usr/local/lib*/libstdc++.so.6.0.*; do
	case $f in *.py | *'*') ;; *) say libstdcxx "${f##*.so.}" ;; esac
done
`

const insideFiles = `cd || say nohome 1
say home "$HOME"
try() {
	if ! command -v rm >/dev/null; then # nothing is to be left behind
		[ -w "$2" ] && say "$1.write" yes && say "$1.exec" unknown
		return
	fi
	f=$2/.berth-doctor.$$
	if (umask 077; printf '#!/bin/sh\nexit 0\n' >"$f"); then
		say "$1.write" yes
		chmod 700 "$f" && "$f" && say "$1.exec" yes
		rm -f "$f"
	fi
}
try home "$HOME"
try tmp "${TMPDIR:-/tmp}"
df -Pk "$HOME" | while read -r fs size used free rest; do
	case $free in *[!0-9]* | '') ;; *) say disk "$free" ;; esac
done
df -Pi "$HOME" | while read -r fs size used free rest; do
	case $free in *[!0-9]* | '') ;; *) say inodes "$size $free" ;; esac
done
`

const insideLimits = `first() { [ -r "$2" ] && read -r v <"$2" && say "$1" "$v"; }
first watches /proc/sys/fs/inotify/max_user_watches
first instances /proc/sys/fs/inotify/max_user_instances
first limit /sys/fs/cgroup/memory.max
[ -r /proc/meminfo ] && while read -r k v rest; do
	[ "$k" = MemTotal: ] && say memory "$v"
done </proc/meminfo
`

// parseInside reads what the script has printed, and what was printed before it.
func parseInside(out string) (facts map[string]string, noise string) {
	noise, out, found := strings.Cut(out, insideMarker+"\n")
	if !found {
		return nil, noise
	}
	facts = map[string]string{}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimRight(line, "\n"), " ")
		if old, ok := facts[name]; !ok || name != "libstdcxx" || newer(value, old) {
			facts[name] = strings.TrimSpace(value)
		}
	}
	return facts, strings.TrimSpace(noise)
}

// newer reports whether a dotted version is higher than another. What is no number counts as 0.
func newer(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(x), len(y)) {
		m, n := 0, 0
		if i < len(x) {
			m, _ = strconv.Atoi(x[i])
		}
		if i < len(y) {
			n, _ = strconv.Atoi(y[i])
		}
		if m != n {
			return m > n
		}
	}
	return false
}

// inspect judges what the script has found.
func inspect(d *diagnosis, facts map[string]string, noise string) {
	if noise != "" {
		d.add("quiet shell", gradeWarn, "let ~/.bashrc or ~/.profile print only where a person reads it: [ -t 1 ]", "startup files print text before every command, which breaks scp, rsync and VS Code: %.60q", noise)
	}
	inspectTools(d, facts)
	inspectLibs(d, facts)
	inspectFiles(d, facts)
	inspectLimits(d, facts)
}

const inImage = "install it in the template's image"

func inspectTools(d *diagnosis, facts map[string]string) {
	for _, t := range []struct {
		check, needed string
		names         []string
		missing       grade
	}{
		{"tar", "VS Code, Cursor, Windsurf and JetBrains unpack their servers with it", []string{"tar"}, gradeFail},
		{"gzip", "VS Code's and Cursor's servers come packed by it", []string{"gzip"}, gradeWarn},
		{"download", "without curl or wget, IDEs upload their servers, which is slower", []string{"curl", "wget"}, gradeWarn},
		{"bash", "VS Code, Cursor and Windsurf set their servers up with it", []string{"bash"}, gradeWarn},
		{"python", "Ansible needs it", []string{"python3", "python"}, gradeWarn},
	} {
		found := ""
		for _, n := range t.names {
			if p := facts["tool."+n]; p != "" && found == "" {
				found = p
			}
		}
		switch {
		case found == "":
			d.add(t.check, t.missing, inImage, "there is no %s: %s", strings.Join(t.names, " or "), t.needed)
		case t.check == "python" && facts["python"] != "":
			d.add(t.check, gradeOK, "", "%s, version %s", found, facts["python"])
		default:
			d.add(t.check, gradeOK, "", "%s", found)
		}
	}
}

func inspectLibs(d *diagnosis, facts map[string]string) {
	kind, version, _ := strings.Cut(facts["libc"], " ")
	const want, wantCXX = "2.28", "6.0.25"
	switch {
	case kind == "glibc" && version == "":
		d.add("libc", gradeOK, "", "glibc of unknown version; VS Code since 1.86 needs %s", want)
	case kind == "glibc" && newer(want, version):
		d.add("libc", gradeWarn, "a template of a newer system", "glibc %s; VS Code since 1.86, and what is made of it, needs %s", version, want)
	case kind == "glibc":
		d.add("libc", gradeOK, "", "glibc %s", version)
	case kind == "musl":
		d.add("libc", gradeWarn, "a template with glibc (Debian, Ubuntu, Fedora) runs every IDE", "musl: VS Code has a server for it, JetBrains has none")
	default:
		d.add("libc", gradeWarn, "a template with glibc (Debian, Ubuntu, Fedora) runs every IDE", "neither glibc nor musl is to be found; the servers of IDEs need one")
	}
	switch cxx := facts["libstdcxx"]; {
	case cxx == "":
		d.add("libstdc++", gradeWarn, inImage, "there is no libstdc++.so.6: the servers of VS Code, Cursor and Windsurf need it")
	case newer(wantCXX, cxx):
		d.add("libstdc++", gradeWarn, "a template of a newer system", "%s; VS Code since 1.86 needs %s (GLIBCXX_3.4.25)", cxx, wantCXX)
	default:
		d.add("libstdc++", gradeOK, "", "%s", cxx)
	}
}

func inspectFiles(d *diagnosis, facts map[string]string) {
	home := facts["home"]
	switch {
	case facts["nohome"] != "" || home == "":
		d.add("home", gradeFail, "the template's home has to be there for the user", "the home directory %q is not there", home)
	case facts["home.write"] == "":
		d.add("home", gradeFail, "a full disk, a read-only one, or another owner: look at it with berth ssh", "%s cannot be written to; every IDE keeps its server there", home)
	case facts["home.exec"] == "":
		d.add("home", gradeFail, "mount it without noexec", "programs in %s do not start; every IDE starts its server from there", home)
	default:
		d.add("home", gradeOK, "", "%s can be written to, and programs start from it", home)
	}
	switch {
	case facts["tmp.write"] == "":
		d.add("tmp", gradeWarn, "give the workspace a /tmp of mode 1777", "there is no temporary directory to write to; VS Code, Ansible and many others need one")
	case facts["tmp.exec"] == "":
		d.add("tmp", gradeWarn, "mount it without noexec, or set TMPDIR", "programs in the temporary directory do not start; Ansible, JetBrains and installers want that")
	default:
		d.add("tmp", gradeOK, "", "programs start from it")
	}
	if free, ok := number(facts["disk"]); ok {
		g, hint := gradeOK, ""
		switch {
		case free < diskFail:
			g, hint = gradeFail, "free some, or enlarge the template's home: du -xh ~ | sort -h"
		case free < diskWarn:
			g, hint = gradeWarn, "an IDE's server and its extensions take hundreds of MiB; JetBrains recommends 5 GiB"
		}
		d.add("disk", g, hint, "%s are free in the home directory", kib(free))
	} else {
		d.add("disk", gradeSkip, "", "there is no df to tell")
	}
	size, left, _ := strings.Cut(facts["inodes"], " ")
	if n, ok := number(left); ok && size != "0" && n < inodesWarn { // some file systems count none
		d.add("inodes", gradeWarn, "remove what has many small files, such as old node_modules", "%d files more fit into the home directory", n)
	}
}

func inspectLimits(d *diagnosis, facts map[string]string) {
	memory, ok := number(facts["memory"])
	if limit, limited := number(facts["limit"]); limited && (!ok || limit>>10 < memory) {
		memory, ok = limit>>10, true
	}
	switch {
	case !ok:
		d.add("memory", gradeSkip, "", "there is no /proc to tell")
	case memory < memoryWarn:
		d.add("memory", gradeWarn, "give the workspace more", "%s: little for an IDE's server; JetBrains recommends 4 GiB", kib(memory))
	default:
		d.add("memory", gradeOK, "", "%s", kib(memory))
	}
	watches, known := number(facts["watches"])
	instances, both := number(facts["instances"])
	switch {
	case !known || !both:
		d.add("inotify", gradeSkip, "", "there is no /proc/sys/fs/inotify to tell")
	case watches < watchesWarn || instances < instancesWarn:
		d.add("inotify", gradeWarn, "on the machine that runs it: sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512",
			"%d watches, %d instances: IDEs do not see every change in a large folder", watches, instances)
	default:
		d.add("inotify", gradeOK, "", "%d watches, %d instances", watches, instances)
	}
}

func number(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 0
}

// kib is a size given in KiB.
func kib(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d MiB", n>>10)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<20))
}
