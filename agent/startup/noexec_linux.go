package startup

import "golang.org/x/sys/unix"

// mountNoExec is the flag of a filesystem from which no program can be run.
const mountNoExec = unix.ST_NOEXEC
