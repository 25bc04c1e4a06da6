package sshd

import "golang.org/x/sys/unix"

// A tcflag is a word of flags in Termios.
type tcflag = uint32

const (
	getTermios = unix.TCGETS
	setTermios = unix.TCSETS
	disabled   = 0 // _POSIX_VDISABLE
)

// systemFlags are modes that not every system has.
var systemFlags = map[byte]modeFlag{37: {iflag, unix.IUCLC}, 52: {lflag, unix.XCASE}, 71: {oflag, unix.OLCUC}}

// setSpeed sets a terminal's speed in bits per second. One that the system does not have is left out.
func setSpeed(t *unix.Termios, baud uint32) {
	if s, ok := speeds[baud]; ok {
		t.Cflag = t.Cflag&^unix.CBAUD | s
		t.Ispeed, t.Ospeed = baud, baud
	}
}

// breakTerminal sends a break.
func breakTerminal(fd int) error { return unix.IoctlSetInt(fd, unix.TCSBRKP, 0) }

var speeds = map[uint32]uint32{
	50: unix.B50, 75: unix.B75, 110: unix.B110, 134: unix.B134, 150: unix.B150, 200: unix.B200, 300: unix.B300,
	600: unix.B600, 1200: unix.B1200, 1800: unix.B1800, 2400: unix.B2400, 4800: unix.B4800, 9600: unix.B9600,
	19200: unix.B19200, 38400: unix.B38400, 57600: unix.B57600, 115200: unix.B115200, 230400: unix.B230400,
}
