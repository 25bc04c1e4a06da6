// Package ide finds the servers of IDEs that run in a workspace and that no session of ours holds any more. An IDE leaves
// its server behind on purpose, to find it again; one that nobody comes back to takes memory until the workspace stops.
//
// It reads /proc and keeps nothing.
package ide

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"berth/agent"
)

const (
	maxProcesses = 20000
	maxCommand   = 4 << 10 // bytes of a command line that are looked at
	ticks        = 100     // USER_HZ, the same everywhere
)

// products are parts of paths by which IDEs' servers are known, as their installers lay them out.
var products = []struct{ part, name string }{
	{"/.vscode-server", "VS Code"}, // -insiders as well
	{"/.vscodium-server", "VSCodium"},
	{"/.cursor-server", "Cursor"},
	{"/.windsurf-server", "Windsurf"},
	{"/.positron-server", "Positron"},
	{"/JetBrains/RemoteDev", "JetBrains"},
	{"/remote-dev-server", "JetBrains"},
	{"/JetBrains/Fleet", "JetBrains Fleet"},
	{"/zed-remote-server", "Zed"},
}

// A Scanner says whose processes are looked at. Proc is "/proc" unless a test says otherwise.
type Scanner struct {
	Proc string
	UID  uint32
	Self int // the agent's process
}

// A process is one of the user's.
type process struct {
	pid, parent int
	uid         uint32
	args        []string
	started     int64 // ticks since the boot
	rss         int64 // bytes
}

// Scan returns the servers of IDEs, the oldest first, at most agent.MaxIDEServers. Where connected, what descends from
// the agent itself belongs to a session that may be alive, and is left out.
func (s Scanner) Scan(connected bool) []agent.IDEServer {
	all := s.processes()
	boot := s.boot()
	var found []agent.IDEServer
	for _, p := range all {
		name := product(p.args)
		if name == "" || p.uid != s.UID || product(all[p.parent].args) == name || connected && descends(all, p, s.Self) {
			continue
		}
		found = append(found, agent.IDEServer{
			PID: p.pid, Product: name, Command: command(p.args),
			Started: boot.Add(time.Duration(p.started) * time.Second / ticks), Memory: memory(all, p.pid),
		})
	}
	slices.SortFunc(found, func(a, b agent.IDEServer) int {
		if c := a.Started.Compare(b.Started); c != 0 {
			return c
		}
		return a.PID - b.PID
	})
	return found[:min(len(found), agent.MaxIDEServers)]
}

// product names the IDE to which a process belongs: by its program, or by what an interpreter was given.
func product(args []string) string {
	for i, arg := range args {
		if i > 2 || i > 0 && strings.HasPrefix(arg, "-") {
			break // what comes later may be a file that somebody edits
		}
		for _, p := range products {
			if strings.Contains(arg, p.part) {
				return p.name
			}
		}
	}
	return ""
}

// command is what to show of a command line.
func command(args []string) string {
	words := []string{filepath.Base(args[0])}
	if len(args) > 1 && strings.HasPrefix(args[1], "/") {
		words = append(words, filepath.Base(args[1]))
	}
	c := strings.ToValidUTF8(strings.Join(words, " "), "?")
	return c[:min(len(c), 80)]
}

func descends(all map[int]process, p process, from int) bool {
	for range 64 { // a circle cannot be, but numbers are used again while they are read
		if p.parent == from {
			return true
		}
		parent, ok := all[p.parent]
		if !ok {
			return false
		}
		p = parent
	}
	return false
}

// memory is that of a process and all that descend from it.
func memory(all map[int]process, root int) (sum int64) {
	for _, p := range all {
		if p.pid == root || descends(all, p, root) {
			sum += p.rss
		}
	}
	return sum
}

func (s Scanner) processes() map[int]process {
	all := make(map[int]process)
	dir, err := os.Open(s.Proc)
	if err != nil {
		return all
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(maxProcesses)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid <= 0 {
			continue
		}
		if p, ok := s.process(pid); ok {
			all[pid] = p
		}
	}
	return all
}

// process reads /proc/PID/stat, "pid (name) state ppid ...", in which the name may hold anything.
func (s Scanner) process(pid int) (process, bool) {
	dir := filepath.Join(s.Proc, strconv.Itoa(pid))
	fi, err := os.Stat(dir)
	if err != nil {
		return process{}, false
	}
	p := process{pid: pid}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		p.uid = st.Uid
	}
	text := read(filepath.Join(dir, "stat"))
	end := bytes.LastIndexByte(text, ')')
	f := strings.Fields(string(text[end+1:]))
	if end < 0 || len(f) < 22 {
		return process{}, false
	}
	p.parent, _ = strconv.Atoi(f[1])
	p.started, _ = strconv.ParseInt(f[19], 10, 64)
	pages, _ := strconv.ParseInt(f[21], 10, 64)
	p.rss = pages * int64(os.Getpagesize())
	if p.uid != s.UID {
		return p, true
	}
	line := strings.TrimRight(string(read(filepath.Join(dir, "cmdline"))), "\x00")
	if line != "" {
		p.args = strings.Split(line, "\x00")
	}
	return p, true
}

func (s Scanner) boot() time.Time {
	for line := range strings.Lines(string(readAll(filepath.Join(s.Proc, "stat"), 1<<20))) {
		if sec, ok := strings.CutPrefix(line, "btime "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(sec), 10, 64)
			return time.Unix(n, 0)
		}
	}
	return time.Time{}
}

func read(path string) []byte { return readAll(path, maxCommand) }

func readAll(path string, limit int64) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, limit))
	return b
}
