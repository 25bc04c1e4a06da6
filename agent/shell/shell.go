// Package shell finds the workspace's user, learns the environment that a login of theirs gives, and starts
// commands as them: in a session and process group of its own, with or without a terminal.
//
// It owns the user database's parsing (no cgo, so that one static binary works on glibc and musl alike) and the
// processes' ends of pipes and terminals. It knows nothing of SSH and keeps no list of what it started.
package shell

import (
	"path/filepath"
)

// LoginShell is the command that a login without a command of its own runs: the user's shell with a dash before its
// name, which makes it read the profile.
func (u *User) LoginShell(env []string) Command {
	return Command{
		Path: u.Shell,
		Args: []string{"-" + filepath.Base(u.Shell)},
		Env:  env,
		User: u,
	}
}

// Exec is the command that runs line by the user's shell, as sshd does it: no profile is read.
func (u *User) Exec(line string, env []string) Command {
	return Command{
		Path: u.Shell,
		Args: []string{filepath.Base(u.Shell), "-c", line},
		Env:  env,
		User: u,
	}
}
