package sshd

import (
	"strings"
	"syscall"
)

// signals are those that RFC 4254 (section 6.10) names, by their name without SIG.
var signals = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP,
	"ILL": syscall.SIGILL, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE,
	"QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV, "TERM": syscall.SIGTERM,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
}

// moreSignals have no name in the RFC: those that some clients send, and those that end a process, which are told with
// OpenSSH's suffix.
var moreSignals = map[string]syscall.Signal{
	"BUS": syscall.SIGBUS, "SYS": syscall.SIGSYS, "TRAP": syscall.SIGTRAP, "XCPU": syscall.SIGXCPU, "XFSZ": syscall.SIGXFSZ,
	"WINCH": syscall.SIGWINCH, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT, "TSTP": syscall.SIGTSTP,
}

func signalNumber(name string) (syscall.Signal, bool) {
	name, _ = strings.CutPrefix(name, "SIG")
	name, _ = strings.CutSuffix(name, "@openssh.com")
	if sig, ok := signals[name]; ok {
		return sig, true
	}
	sig, ok := moreSignals[name]
	return sig, ok
}

func signalName(sig syscall.Signal) string {
	for name, s := range signals {
		if s == sig {
			return name
		}
	}
	for name, s := range moreSignals {
		if s == sig {
			return name + "@openssh.com"
		}
	}
	return "SIG@openssh.com"
}
