package sshd

import "golang.org/x/sys/unix"

// A tcflag is a word of flags in Termios.
type tcflag = uint64

const (
	getTermios = unix.TIOCGETA
	setTermios = unix.TIOCSETA
	disabled   = 0xff // _POSIX_VDISABLE
)

// systemFlags are modes that not every system has; this one has none of them.
var systemFlags map[byte]modeFlag

// setSpeed sets a terminal's speed in bits per second.
func setSpeed(t *unix.Termios, baud uint32) { t.Ispeed, t.Ospeed = uint64(baud), uint64(baud) }

// breakTerminal sends a break.
func breakTerminal(fd int) error {
	if err := unix.IoctlSetInt(fd, unix.TIOCSBRK, 0); err != nil {
		return err
	}
	return unix.IoctlSetInt(fd, unix.TIOCCBRK, 0)
}
