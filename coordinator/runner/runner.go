// Package runner is the process that carries one build or one import, and the supervisor's side of it. The runner
// outlives the coordinator: it has a session of its own, no pipe to anybody, and speaks through the files of its
// directory. The supervisor starts it, follows it, also when an earlier coordinator started it, and clears up after
// one that died. Neither knows the database.
package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"berth/coordinator"
	"berth/coordinator/terraform"
)

// The runner's inherited files.
const (
	jobFD  = 3 // the job, JSON, on an unlinked file
	lockFD = 4 // the directory's lock, held already
)

// maxJob is the size of the largest job that is read, in bytes.
const maxJob = 64 << 20

var errCanceled = errors.New("canceled")

// Main is the program "berthd build DIR" and returns its exit status: 0 also where another runner has the job, or has
// done it.
func Main(args []string) int {
	if len(args) > 0 && args[0] == execFlag {
		return execAs(args[1:])
	}
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: berthd build DIR, with the job on descriptor 3 (the coordinator does this)")
		return 2
	}
	if err := work(args[0]); err != nil {
		fmt.Fprintln(os.Stderr, "berthd build:", err)
		return 1
	}
	return 0
}

func work(path string) error {
	begun := time.Now()
	// Templates' code may run as this very user; it shall not read the job in this process's memory.
	if err := undumpable(); err != nil {
		return err
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	d := dir{path}
	lock, err := d.lock(inheritedLock(d))
	if errors.Is(err, errHeld) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close() // frees the lock
	if d.has(resultFile) {
		return nil
	}
	job, err := readJob()
	if err != nil {
		return err
	}
	ctx, stop := canceling(context.Background())
	defer stop()
	if err := errors.Join(d.mark(begunFile), d.writePID(runnerPID, os.Getpid())); err != nil {
		return err
	}
	r, err := newRun(d, job)
	if err != nil {
		return err
	}
	defer r.close()
	if d.has(cancelFile) { // it was asked for before the signal could be taken
		stop()
	}
	result := r.do(ctx)
	r.logTime(begun)
	return r.patiently("the result", func() error { return d.writeJSON(resultFile, result) })
}

// canceling returns a context that the first SIGINT or SIGTERM, or stop, ends. Later signals are ignored: one
// interrupt ends terraform in order, two do not.
func canceling(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	signal.Ignore(syscall.SIGHUP)
	go func() {
		select {
		case <-signals:
			cancel(errCanceled)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(errCanceled) }
}

// readJob reads the job from its descriptor and closes it.
func readJob() (coordinator.Job, error) {
	var job coordinator.Job
	f := inherited(jobFD, "job")
	if f == nil {
		return job, errors.New("no job on descriptor 3")
	}
	defer f.Close() // read only
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return job, fmt.Errorf("read job: %w", err)
	}
	if err := json.NewDecoder(io.LimitReader(f, maxJob)).Decode(&job); err != nil {
		return job, fmt.Errorf("read job: %w", err)
	}
	return job, nil
}

// inherited returns a regular file that was handed down at this descriptor, closed in whatever is started from here:
// a terraform that held the lock would pass for the runner.
func inherited(fd uintptr, name string) *os.File {
	var st syscall.Stat_t
	if syscall.Fstat(int(fd), &st) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return nil
	}
	syscall.CloseOnExec(int(fd))
	return os.NewFile(fd, name)
}

// inheritedLock returns the lock's file as the supervisor handed it down, or nil.
func inheritedLock(d dir) *os.File {
	f := inherited(lockFD, "lock")
	if f == nil {
		return nil
	}
	a, err := f.Stat()
	if err != nil {
		return nil
	}
	if b, err := os.Stat(d.path(lockFile)); err != nil || !os.SameFile(a, b) {
		return nil
	}
	return f
}

// A run is one job under way.
type run struct {
	dir     dir
	job     coordinator.Job
	log     *os.File // raw log, append only
	reader  *terraform.LogReader
	outcome terraform.Outcome
	timings []coordinator.Timing
	lean    bool // terraform starts nothing that would inherit its GOGC
}

func newRun(d dir, job coordinator.Job) (*run, error) {
	log, err := os.OpenFile(d.path(logFile), os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &run{dir: d, job: job, log: log, reader: terraform.NewLogReader(log)}, nil
}

func (r *run) close() { r.log.Close() } // every write was one call

// do carries the job and returns how it ended. What goes wrong on the way is part of the result.
func (r *run) do(ctx context.Context) coordinator.Result {
	var res coordinator.Result
	var err error
	if r.job.Import {
		res, err = r.importVersion(ctx)
	} else {
		res, err = r.build(ctx)
	}
	var refusal *terraform.Refusal
	switch {
	case err == nil:
	case errors.Is(context.Cause(ctx), errCanceled):
		res.Status, res.Error = coordinator.BuildCanceled, "canceled"
	case errors.As(err, &refusal):
		res.Status, res.Error, res.Address = coordinator.BuildFailed, refusal.Msg, refusal.Address
	default:
		res.Status, res.Error = coordinator.BuildFailed, terraform.OneLine(err.Error())
	}
	if res.Status == coordinator.BuildFailed {
		r.write(coordinator.LogLine{Level: "error", Text: "failed: " + res.Error, Address: res.Address})
	}
	r.end()
	res.Timings = append(r.timings, r.outcome.Timings...)
	return res
}

// note writes a line of the runner's own to the log and makes stage the current one.
func (r *run) note(stage, text string) {
	r.write(coordinator.LogLine{Stage: stage, Level: "info", Text: text})
}

func (r *run) write(l coordinator.LogLine) {
	l.Time = time.Now().UTC()
	if l.Stage == "" && len(r.timings) > 0 {
		l.Stage = r.timings[len(r.timings)-1].Stage
	}
	_, _ = r.log.Write(terraform.OwnLine(l)) // a full disk must not end the build; its result tells
}

// begin ends the stage before and begins the next.
func (r *run) begin(stage, text string) {
	r.end()
	r.timings = append(r.timings, coordinator.Timing{Stage: stage, Start: time.Now().UTC()})
	r.note(stage, text)
}

// end notes how long the stage took that goes on.
func (r *run) end() {
	if n := len(r.timings); n > 0 && r.timings[n-1].Duration == 0 {
		r.timings[n-1].Duration = time.Since(r.timings[n-1].Start)
	}
}

// logTime tells the runner's own log how long all took, for whoever looks for lost time.
func (r *run) logTime(since time.Time) {
	fmt.Fprintf(os.Stderr, "job %s took %s\n", r.job.ID, time.Since(since).Round(time.Millisecond))
}
