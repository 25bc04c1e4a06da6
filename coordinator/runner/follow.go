package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"berth/coordinator"
	"berth/coordinator/terraform"
)

// How often a job's files are looked at.
const (
	followPoll = 100 * time.Millisecond
	lockPoll   = 50 * time.Millisecond // where the runner's end cannot be waited for
	maxResult  = 64 << 20
)

// A follower reads one job's files. It belongs to one call of Follow.
type follower struct {
	dir     dir
	each    func(coordinator.Update)
	log     *os.File
	reader  *terraform.LogReader
	outcome terraform.Outcome
	state   fileID
	sent    string // digest of the state that was delivered last, or began with
	watch   *exitWatch
}

// Follow calls each with what a job's files hold more than before, from the start of its log, until the job has
// ended, and returns how. It does not matter who started the runner. When ctx ends it returns ctx.Err(), and the
// runner goes on. Where the runner died without a result, a terraform that still lives is ended first, and the last
// good state delivered.
func (s *Supervisor) Follow(ctx context.Context, id string, each func(coordinator.Update)) (coordinator.Result, error) {
	d, err := s.dir(id)
	if err != nil {
		return coordinator.Result{}, err
	}
	f := &follower{dir: d, each: each}
	defer f.close()
	if first, err := d.read(firstState, 128); err == nil {
		f.sent = string(first)
	}
	for {
		if err := ctx.Err(); err != nil {
			return coordinator.Result{}, err
		}
		lock, err := d.lockIfThere()
		if err == nil {
			defer lock.Close() // nothing was written
			if cmd := s.child(id); cmd != nil {
				_ = cmd.Wait() // its result tells how it ended
			}
			return s.conclude(ctx, f)
		}
		if !errors.Is(err, errHeld) {
			return coordinator.Result{}, err
		}
		if err := f.deliver(); err != nil {
			return coordinator.Result{}, err
		}
		f.await(s, id)
	}
}

// lockIfThere takes the lock of a job that began.
func (d dir) lockIfThere() (*os.File, error) {
	if !d.has(lockFile) {
		return nil, ErrNeverBegan
	}
	return d.lock(nil)
}

// await returns when the runner has ended, or after a while.
func (f *follower) await(s *Supervisor, id string) {
	if f.watch == nil {
		if pid, ok := s.childPID(id); ok {
			f.watch = watchExit(process{pid, startTime(pid)})
		} else if p, ok := f.dir.readPID(runnerPID); ok {
			f.watch = watchExit(p)
		}
	}
	if f.watch == nil {
		time.Sleep(lockPoll)
		return
	}
	if f.watch.wait(followPoll) {
		// The lock is free now, or soon.
		f.watch.close()
		f.watch = nil
	}
}

func (f *follower) close() {
	if f.watch != nil {
		f.watch.close()
	}
	if f.log != nil {
		f.log.Close() // read only
	}
}

// deliver calls each with what is new.
func (f *follower) deliver() error {
	lines, err := f.lines(false)
	if err != nil {
		return err
	}
	u := coordinator.Update{Lines: lines}
	if id := f.dir.id(lastState); id != f.state {
		data, err := f.dir.state()
		if err != nil {
			return fmt.Errorf("read state: %w", err)
		}
		f.state = id
		if sum := digest(data); len(data) > 0 && sum != f.sent {
			if s, err := terraform.ParseState(data); err == nil {
				u.State, u.Serial, u.Agents = coordinator.Secret(data), s.Serial, terraform.Agents(data)
				f.sent = sum
			}
		}
	}
	if len(u.Lines) > 0 || u.State != "" {
		f.each(u)
	}
	return nil
}

// lines returns the log's new lines; at the end also one that was cut off.
func (f *follower) lines(end bool) ([]coordinator.LogLine, error) {
	if f.log == nil {
		log, err := os.Open(f.dir.path(logFile))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("open log: %w", err)
		}
		f.log, f.reader = log, terraform.NewLogReader(log)
	}
	var lines []coordinator.LogLine
	each := func(e terraform.Event) {
		f.outcome.Add(e)
		if e.Shown {
			lines = append(lines, e.Line)
		}
	}
	if err := f.reader.Next(each); err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	if end {
		f.reader.End(each)
	}
	return lines, nil
}

// conclude tells how a job ended whose lock is ours now, which keeps others off.
func (s *Supervisor) conclude(ctx context.Context, f *follower) (coordinator.Result, error) {
	data, err := f.dir.read(resultFile, maxResult)
	if errors.Is(err, fs.ErrNotExist) {
		if !f.dir.has(begunFile) {
			return coordinator.Result{}, ErrNeverBegan
		}
		return s.bury(ctx, f)
	}
	if err != nil {
		return coordinator.Result{}, fmt.Errorf("read result: %w", err)
	}
	var res coordinator.Result
	if err := json.Unmarshal(data, &res); err != nil {
		return coordinator.Result{}, fmt.Errorf("read result: %w", err)
	}
	return res, f.last()
}

// last delivers what came at the very end.
func (f *follower) last() error {
	if err := f.deliver(); err != nil {
		return err
	}
	lines, err := f.lines(true)
	if err == nil && len(lines) > 0 {
		f.each(coordinator.Update{Lines: lines})
	}
	return err
}

// bury clears up after a runner that died: terraform is ended in order, its last good state is kept and delivered, and
// what it was at work on is named.
func (s *Supervisor) bury(ctx context.Context, f *follower) (coordinator.Result, error) {
	if err := s.endTerraform(ctx, f); err != nil {
		return coordinator.Result{}, err
	}
	f.dir.release()
	if err := f.dir.salvage(); full(err) {
		return coordinator.Result{}, fmt.Errorf("keep state: %w", err) // tried again: it is in no other place
	} else if err != nil {
		s.config.Logger.Error("state of a dead build could not be read", "dir", f.dir.root, "err", err)
	}
	if err := f.last(); err != nil {
		return coordinator.Result{}, err
	}
	res := coordinator.Result{Status: coordinator.BuildFailed, Timings: f.outcome.Timings}
	res.Error = "the build's runner died"
	if why := f.runnerSaid(); why != "" {
		res.Error += " (" + why + ")"
	}
	if flight := f.outcome.InFlight(); len(flight) > 0 {
		res.Address = flight[0]
		res.Error += ": terraform was at work on " + strings.Join(flight, ", ") + "; look whether it exists"
	} else {
		res.Error += ": nothing was in flight; build again"
	}
	data, err := f.dir.state()
	if err != nil {
		return res, fmt.Errorf("read state: %w", err)
	}
	if st, err := terraform.ParseState(data); err == nil {
		res.Serial, res.Resources, res.Agents = st.Serial, st.Addresses(), terraform.Agents(data)
	}
	return res, nil
}

// runnerSaid returns the last line that the runner printed, if it is its reason.
func (f *follower) runnerSaid() string {
	b, err := f.dir.read(runnerLog, maxResult)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	_, why, ok := strings.Cut(lines[len(lines)-1], "berthd build: ")
	if !ok {
		return ""
	}
	return terraform.OneLine(why)
}

// endTerraform ends a terraform whose runner died: one interrupt, then, after the grace, its whole process group.
func (s *Supervisor) endTerraform(ctx context.Context, f *follower) error {
	p, lives := f.dir.readPID(terraformPID)
	if !lives {
		if other, ok := terraformIn(f.dir.path(moduleDir)); ok {
			p, lives = other, true
		}
	}
	if p.pid == 0 {
		return nil
	}
	if lives {
		if err := s.interrupt(ctx, f, p); err != nil {
			return err
		}
	}
	runner, _ := f.dir.readPID(runnerPID)
	for _, stray := range strays(p, runner.pid) {
		stray.signal(os.Kill)
	}
	return nil
}

// interrupt ends a terraform in order, and after the grace by force.
func (s *Supervisor) interrupt(ctx context.Context, f *follower, p process) error {
	s.config.Logger.Warn("a build's runner died; its terraform is ended", "dir", f.dir.root, "pid", p.pid)
	p.signal(os.Interrupt)
	deadline := time.Now().Add(s.config.Grace)
	for p.lives() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Now().After(deadline) && p.lives() {
			terraform.KillGroup(p.pid)
		}
		if err := f.deliver(); err != nil {
			return err
		}
		time.Sleep(lockPoll)
	}
	return nil
}
