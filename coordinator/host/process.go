package host

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"berth/agent"
	"berth/coordinator"
)

// Isolation is how a process is kept apart from the host and from others.
type Isolation string

// Isolations. A template may ask for Auto, which stands for one of the others.
const (
	Auto       Isolation = "auto"
	Bubblewrap Isolation = "bubblewrap" // namespaces, and a uid per owner where the coordinator is root
	None       Isolation = "none"       // the coordinator's own user on the host itself
)

// A Spec is what to run as a process.
type Spec struct {
	ID        string            // of the process
	AgentID   string            // an agent has one process at a time
	Home      string            // id of the home; empty: the host user's own, unisolated only
	CoderDir  string            // directory that stands at /coder; may be empty
	Isolation Isolation         // what the template asks for
	Env       map[string]string // besides what every agent gets
	URL       string            // of the coordinator
	Token     coordinator.Secret
}

// A Process is the record of an agent that runs on the host: Run/<id>.json. It is written before the process is
// started, without pids, and again when they are known.
type Process struct {
	ID          string                  `json:"id"`
	WorkspaceID coordinator.WorkspaceID `json:"workspace_id"`
	AgentID     string                  `json:"agent_id"`
	Isolation   Isolation               `json:"isolation"`
	PID         int                     `json:"pid,omitempty"`        // of the agent, as the host sees it
	StartTime   uint64                  `json:"start_time,omitempty"` // of the agent, in the kernel's ticks since Boot
	Init        int                     `json:"init,omitempty"`       // of its pid namespace's init, where it has one
	InitStart   uint64                  `json:"init_start,omitempty"`
	Boot        string                  `json:"boot,omitempty"`        // the kernel's boot id
	RuntimeDir  string                  `json:"runtime_dir,omitempty"` // removed with the process
	Started     time.Time               `json:"started"`
}

// Where things are inside of the isolation.
const (
	insideAgent   = "/run/berth-agent"
	insideToken   = "/run/berth-token"
	insideRuntime = "/run/berth"
	insideCoder   = "/coder"
)

// marker is the environment variable by which every process that descends from a workspace's process is found.
const marker = "BERTH_PROCESS_ID"

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// MaxLog is how much of a process's output is kept.
const MaxLog = 1 << 20

func (h *Host) processRecord(id string) string { return filepath.Join(h.grant.Run, id+".json") }
func (h *Host) processLog(id string) string    { return filepath.Join(h.grant.Run, id+".log") }

// Resolve returns how a process would be isolated here, given what the template asks for and whether it names a
// home, or an error that says what is missing.
func (h *Host) Resolve(asked Isolation, home bool) (Isolation, error) {
	works, allowed := h.grant.Bubblewrap != "", h.grant.Insecure
	switch {
	case asked == None && allowed, asked == Auto && allowed && (!works || !home):
		return None, nil
	case asked == None:
		return "", coordinator.Errorf(coordinator.CodeDenied, "isolation \"none\" is not allowed on this coordinator").
			WithHint("use isolation \"auto\", or start berthd with --insecure-host-processes on a machine of your own")
	case asked != Auto && asked != Bubblewrap:
		return "", coordinator.Errorf(coordinator.CodeInvalid, "%q is not an isolation", coordinator.Clip(string(asked), 40)).
			WithHint("use auto, bubblewrap or none")
	case !home:
		return "", coordinator.Errorf(coordinator.CodeInvalid, "a process in isolation needs a home").
			WithHint("declare a berth_home and give its id to the process: home = berth_home.home.id")
	case !works && asked == Auto:
		return "", coordinator.Errorf(coordinator.CodeUnavailable, "processes cannot be isolated on this host: bubblewrap is missing or does not work here").
			WithHint("install it (apt-get install bubblewrap) and start berthd again, or start berthd with --insecure-host-processes on a machine of your own")
	case !works:
		return "", coordinator.Errorf(coordinator.CodeUnavailable, "isolation \"bubblewrap\" does not work on this host").
			WithHint("install it (apt-get install bubblewrap) and start berthd again")
	}
	return Bubblewrap, nil
}

var envRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// CheckEnv refuses variables that a template may not set for a process.
func CheckEnv(env map[string]string) error {
	for k, v := range env {
		reserved := strings.HasPrefix(k, "BERTH_") || k == "HOME" || k == "USER" || k == "LOGNAME"
		if !envRE.MatchString(k) || reserved || strings.ContainsRune(v, 0) {
			return coordinator.Errorf(coordinator.CodeInvalid, "env: %q cannot be set for a process", coordinator.Clip(k, 40)).
				WithHint("names are letters, digits and underscores; HOME, USER, LOGNAME and BERTH_* are given by Berth")
		}
	}
	return nil
}

// check refuses a spec that cannot be run, and returns how it is isolated.
func (h *Host) check(s Spec) (Isolation, error) {
	if err := checkID("process", s.ID); err != nil {
		return "", err
	}
	if err := checkID("agent", s.AgentID); err != nil {
		return "", err
	}
	if err := CheckEnv(s.Env); err != nil {
		return "", err
	}
	if s.Home != "" {
		ok, err := h.HomeExists(s.Home)
		if err != nil {
			return "", err
		}
		if !ok {
			return "", coordinator.Errorf(coordinator.CodeNotFound, "home %s is not there", s.Home)
		}
	}
	if s.CoderDir != "" {
		if info, err := os.Stat(s.CoderDir); err != nil || !info.IsDir() {
			return "", coordinator.Errorf(coordinator.CodeInvalid, "coder_dir %s is not a directory", s.CoderDir)
		}
	}
	if _, err := os.Stat(h.grant.Agent); err != nil {
		return "", coordinator.Errorf(coordinator.CodeUnavailable, "this coordinator has no agent for its own host").
			WithHint("build berthd with make build").WithCause(err)
	}
	return h.Resolve(s.Isolation, s.Home != "")
}

// process returns the record of a process of this workspace. It reports false if there is none.
func (h *Host) process(id string) (Process, bool, error) {
	var p Process
	if err := checkID("process", id); err != nil {
		return p, false, err
	}
	ok, err := readRecord(h.processRecord(id), &p)
	if err != nil || !ok {
		return p, false, err
	}
	if p.WorkspaceID != h.ws.ID || p.ID != id {
		return p, false, foreign("process", id)
	}
	return p, true, nil
}

// processes returns the records of every process of this workspace.
func (h *Host) processes() ([]Process, error) {
	paths, err := filepath.Glob(filepath.Join(globQuote(h.grant.Run), "*.json"))
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var out []Process
	for _, path := range paths {
		var p Process
		ok, err := readRecord(path, &p)
		if err != nil {
			return nil, err
		}
		if ok && p.WorkspaceID == h.ws.ID && p.ID+".json" == filepath.Base(path) {
			out = append(out, p)
		}
	}
	return out, nil
}

func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// forget removes what is left of a process that has ended, its record last.
func (h *Host) forget(p Process) error {
	if p.RuntimeDir != "" {
		if err := os.RemoveAll(p.RuntimeDir); err != nil {
			return fmt.Errorf("remove runtime directory: %w", err)
		}
	}
	if err := remove(h.processLog(p.ID), h.processRecord(p.ID)); err != nil {
		return fmt.Errorf("remove process record: %w", err)
	}
	return nil
}

// environ puts together an agent's whole environment: the host's, then what the template sets, then ours.
func environ(s Spec, base, own map[string]string) []string {
	all := map[string]string{
		"PATH": defaultPath,
		"LANG": "C.UTF-8",
	}
	for _, m := range []map[string]string{base, s.Env, own} {
		for k, v := range m {
			all[k] = v
		}
	}
	all[agent.EnvURL] = s.URL
	all[marker] = s.ID
	env := make([]string, 0, len(all))
	for k, v := range all {
		env = append(env, k+"="+v)
	}
	slices.Sort(env)
	return env
}

// trimLog cuts the log back to its newer half once it has outgrown MaxLog. Its writer appends, and goes on behind
// what is kept.
func trimLog(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() <= MaxLog {
		return nil //nolint:nilerr // no log, nothing to cut
	}
	tail, err := logTail(path, MaxLog/2)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("cut log: %w", err)
	}
	_, err = f.Write(tail)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// logTail returns the last n bytes of the file.
func logTail(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	from := max(0, info.Size()-n)
	b := make([]byte, info.Size()-from)
	read, err := f.ReadAt(b, from)
	if read == len(b) {
		err = nil
	}
	return b[:read], err
}

// Log returns the end of what the process wrote to stdout and stderr, at most 64 KiB.
func (h *Host) Log(id string) ([]byte, error) {
	if _, ok, err := h.process(id); err != nil || !ok {
		return nil, err
	}
	return logTail(h.processLog(id), 64<<10)
}
