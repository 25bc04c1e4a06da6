package startup

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"berth/agent"
)

const (
	maxRecord = 1 << 20
	maxLines  = 16 << 20 // of the lines' file
)

// A record is what a start build's startup has done, kept in the runtime directory so that an agent that restarts
// neither runs a step twice nor forgets how it ended.
//
//	startup/record.json   this struct
//	startup/lines.jsonl   an agent.LogReport a line
type record struct {
	StartBuild string             `json:"start_build"`
	Steps      []agent.StepReport `json:"steps"`
	Hook       *hookProcess       `json:"hook,omitempty"` // the one that runs

	dir string
	log *slog.Logger

	mu    sync.Mutex
	lines *os.File // guarded by mu
	seq   int      // guarded by mu: of the next line
}

// A hookProcess names a process for certain: a pid alone may be somebody else's by now.
type hookProcess struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in the kernel's ticks since boot
}

// loadRecord reads the record; what cannot be read counts as none.
func loadRecord(dir string, log *slog.Logger) *record {
	rec := &record{dir: filepath.Join(dir, "startup"), log: log}
	f, err := os.Open(filepath.Join(rec.dir, "record.json"))
	if errors.Is(err, os.ErrNotExist) {
		return rec
	}
	if err == nil {
		defer f.Close()
		err = json.NewDecoder(io.LimitReader(f, maxRecord)).Decode(rec)
	}
	if err != nil {
		log.Warn("cannot read the record of startup, beginning anew", "error", err)
		return &record{dir: rec.dir, log: log}
	}
	return rec
}

// save writes the record. A full disk costs no more than the memory of what was run.
func (rec *record) save() {
	b, err := json.Marshal(rec)
	if err == nil {
		err = writeFile(filepath.Join(rec.dir, "record.json"), b, 0o600, -1, -1)
	}
	if err != nil {
		rec.log.Warn("cannot write the record of startup", "error", err)
	}
}

// openRecord makes the record one of build. If it is already, an earlier agent ran a part of it: what it told is told
// again, and what it left running has failed.
func (r *Runner) openRecord(build string) {
	rec := r.record
	r.mu.Lock()
	r.reports = nil
	r.mu.Unlock()
	r.Outbox.Reset()
	if rec.StartBuild != build {
		rec.StartBuild, rec.Steps, rec.Hook = build, nil, nil
		rec.openLines(true)
		rec.save()
		return
	}
	for _, l := range rec.openLines(false) {
		r.Outbox.Log(l)
	}
	if rec.Hook != nil {
		rec.Hook.end()
		rec.Hook = nil
	}
	for _, s := range slices.Clone(rec.Steps) {
		if s.Outcome == agent.OutcomeRunning {
			s.Outcome, s.Error = agent.OutcomeFailed, "interrupted by an agent restart"
		}
		r.report(s)
	}
}

// openLines opens the lines' file for more, and returns what it held unless it is to be emptied.
func (rec *record) openLines(empty bool) (old []agent.LogReport) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.seq = 0
	flags := os.O_RDWR | os.O_CREATE | os.O_APPEND
	if empty {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(filepath.Join(rec.dir, "lines.jsonl"), flags, 0o600)
	if err != nil {
		rec.log.Warn("cannot keep the log of startup", "error", err)
		return nil
	}
	rec.lines = f
	in := bufio.NewReader(io.LimitReader(f, maxLines))
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			if len(line) > 0 { // cut by a crash
				_, _ = f.WriteString("\n")
			}
			return old
		}
		var l agent.LogReport
		if json.Unmarshal(line, &l) == nil {
			old = append(old, l)
			rec.seq = max(rec.seq, l.Seq+1)
		}
	}
}

// line numbers and keeps a line of a step's log.
func (rec *record) line(step, text string) agent.LogReport {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	l := agent.LogReport{Step: step, Seq: rec.seq, Time: time.Now().UTC().Truncate(time.Millisecond), Text: text}
	rec.seq++
	if rec.lines != nil {
		if b, err := json.Marshal(l); err == nil {
			_, _ = rec.lines.Write(append(b, '\n')) // the coordinator gets it in any case
		}
	}
	return l
}

func (rec *record) close() {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.lines != nil {
		rec.lines.Close()
		rec.lines = nil
	}
}

// report records and tells the state of a step.
func (r *Runner) report(s agent.StepReport) {
	put := func(to []agent.StepReport) []agent.StepReport {
		if i := slices.IndexFunc(to, func(o agent.StepReport) bool { return o.Name == s.Name }); i >= 0 {
			to[i] = s
			return to
		}
		return append(to, s)
	}
	r.record.Steps = put(r.record.Steps)
	r.record.save()
	r.mu.Lock()
	r.reports = put(r.reports)
	r.mu.Unlock()
	r.Outbox.Step(s)
}

// begun reports whether a step of this start build was begun before. The secrets step may be run again until it has
// gone well: it runs nothing of the user's.
func (r *Runner) begun(name string) bool {
	return slices.ContainsFunc(r.record.Steps, func(s agent.StepReport) bool {
		return s.Name == name && (name != agent.StepSecrets || s.Outcome == agent.OutcomeOK)
	})
}

// hook records the process of the hook that runs, nil when it has ended.
func (r *Runner) hook(pid int) {
	r.record.Hook = nil
	if pid != 0 {
		if start, ok := startTime(pid); ok {
			r.record.Hook = &hookProcess{PID: pid, Start: start}
		}
	}
	r.record.save()
}

// end kills the process group if the process is still the one that was recorded.
func (h *hookProcess) end() {
	if start, ok := startTime(h.PID); ok && start == h.Start && h.PID > 1 {
		_ = syscall.Kill(-h.PID, syscall.SIGKILL)
	}
}

// startTime returns when a process was started: field 22 of /proc/PID/stat, counted after the command's name, which
// may hold anything.
func startTime(pid int) (uint64, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return 0, false
	}
	t, err := strconv.ParseUint(f[19], 10, 64)
	return t, err == nil
}
