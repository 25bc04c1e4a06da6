// Package shell finds the workspace's user, learns the environment that a login of theirs gives, and starts
// commands as them: in a session and process group of its own, with or without a terminal.
//
// It owns the user database's parsing (no cgo, so that one static binary works on glibc and musl alike) and the
// processes' ends of pipes and terminals. It knows nothing of SSH and keeps no list of what it started.
package shell

import (
	"fmt"
	"path/filepath"
	"strings"
)

// LoginShell is the command that a login without a command of its own runs: the user's shell with a dash before its
// name, which makes it read the profile.
func (u *User) LoginShell(env []string) Command {
	return Command{Path: u.Shell, Args: []string{"-" + filepath.Base(u.Shell)}, Env: env, User: u}
}

// environment returns the command's environment. A login shell whose profile sets PATH anew, as Debian's does, is told
// of the file that gives it back.
func (c Command) environment() []string {
	env := c.Env
	if env == nil {
		env = []string{} // nil would be this process's own
	}
	if len(c.Args) == 0 || !strings.HasPrefix(c.Args[0], "-") || c.User.PathFile == "" {
		return env
	}
	switch name := c.Args[0][1:]; {
	case name == "bash" && Value(env, "PROMPT_COMMAND") == "":
		return Merge(env, []string{"PROMPT_COMMAND=. " + Quote(c.User.PathFile)}) // the file takes it away again
	case (name == "sh" || name == "dash" || name == "ash") && Value(env, "ENV") == "":
		return Merge(env, []string{"ENV=" + c.User.PathFile})
	}
	return env
}

// PathScript is the text of a PathFile for the given file name: it puts directories of path that are missing from
// PATH back, the first of them in front. It may be read any number of times.
func PathScript(file, path string) string {
	var b strings.Builder
	b.WriteString("# Written by the Berth agent: gives back to PATH what the system's profile took from it.\n")
	for i, dir := range filepath.SplitList(path) {
		d := Quote(dir)
		put := `"$PATH":` + d
		if i == 0 {
			put = d + `:"$PATH"`
		}
		fmt.Fprintf(&b, "case :\"$PATH\": in *:%s:*) ;; *) PATH=%s ;; esac\n", d, put)
	}
	fmt.Fprintf(&b, "if [ \"${PROMPT_COMMAND-}\" = %s ]; then unset PROMPT_COMMAND; fi\n", Quote(". "+Quote(file)))
	return b.String()
}

// Quote quotes s for a POSIX shell.
func Quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Exec is the command that runs line by the user's shell, as sshd does it: no profile is read.
func (u *User) Exec(line string, env []string) Command {
	return Command{
		Path: u.Shell,
		Args: []string{filepath.Base(u.Shell), "-c", line},
		Env:  env,
		User: u,
	}
}
