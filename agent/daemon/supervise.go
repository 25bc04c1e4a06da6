package daemon

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"berth/agent"
)

const (
	restartMin  = 250 * time.Millisecond
	restartMax  = 30 * time.Second
	steadyAfter = time.Minute     // a child that lived so long begins with the shortest wait again
	killAfter   = 3 * time.Second // from the signal to end, until the child is killed
)

// A supervisor is the parent: it starts the child that works, starts it again where it fails, and reaps whatever
// orphans it inherits. It waits with wait4(-1), beside which os/exec loses exit codes: so nothing else in this
// process starts a process.
type supervisor struct {
	args []string
	log  *slog.Logger

	child   int // pid; 0: none runs
	started time.Time
	wait    time.Duration // before the next start
	stop    bool          // a signal asked for the end
	final   bool          // the child is not to be started again
}

// supervise runs the agent as a child with args until a signal ends both, and returns the child's exit status.
func supervise(args []string, log *slog.Logger) int {
	runtime.LockOSThread() // the child is told of the death of the thread that started it
	debug.SetGCPercent(10)
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGCHLD)
	defer signal.Stop(signals)
	s := &supervisor{args: args, log: log, wait: restartMin}
	timer := time.NewTimer(0) // the next start; while stopping, the kill
	defer timer.Stop()
	for {
		select {
		case sig := <-signals:
			if sig == syscall.SIGTERM || sig == syscall.SIGINT {
				if s.end(); s.child == 0 {
					return 0
				}
				timer.Reset(killAfter)
			}
		case <-timer.C:
			switch {
			case s.stop && s.child != 0:
				_ = syscall.Kill(s.child, syscall.SIGKILL)
			case s.child == 0 && !s.final:
				if s.start(); s.child == 0 {
					timer.Reset(s.backoff())
				}
				release() // this process does next to nothing from here on
			}
		}
		status, exited := s.reap()
		switch {
		case !exited:
		case s.stop || status == exitUsage:
			return status
		case status == agent.ExitReplaced:
			s.final = true
			log.Warn("the agent was replaced by another instance; not starting it again")
		default:
			wait := s.backoff()
			log.Warn("the agent ended, starting it again", "status", status, "wait", wait)
			timer.Reset(wait)
		}
	}
}

// start starts the child, which is told to end when this process does.
func (s *supervisor) start() {
	exe, err := os.Executable()
	if err == nil {
		s.child, err = syscall.ForkExec(self(exe), append([]string{exe}, s.args...), &syscall.ProcAttr{
			Env:   os.Environ(),
			Files: []uintptr{0, 1, 2},
			Sys:   withParent(),
		})
	}
	s.started = time.Now()
	if err != nil {
		s.child = 0
		s.log.Error("cannot start the agent", "error", err)
	}
}

// end asks the child to end.
func (s *supervisor) end() {
	s.stop = true
	if s.child != 0 {
		_ = syscall.Kill(s.child, syscall.SIGTERM)
	}
}

// reap takes in every process that has ended, and tells whether the child was among them.
func (s *supervisor) reap() (status int, exited bool) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil || pid == 0:
			return status, exited
		case pid == s.child:
			s.child, exited = 0, true
			if status = ws.ExitStatus(); ws.Signaled() {
				status = 128 + int(ws.Signal())
			}
		}
	}
}

// backoff returns the wait before the next start.
func (s *supervisor) backoff() time.Duration {
	if time.Since(s.started) > steadyAfter {
		s.wait = restartMin
	}
	wait := s.wait
	s.wait = min(2*s.wait, restartMax)
	return wait/2 + rand.N(wait/2)
}
