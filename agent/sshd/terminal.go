package sshd

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"berth/agent/shell"
)

// A terminal is what a client asked for with pty-req.
type terminal struct {
	name  string // of its kind: xterm-256color
	size  shell.Size
	modes []mode
}

// A mode is one of RFC 4254's encoded terminal modes (section 8).
type mode struct {
	op    byte
	value uint32
}

// parseTerminal reads a pty-req: string TERM, uint32 columns, rows, width, height, string modes.
func parseTerminal(payload []byte) (*terminal, error) {
	var msg struct {
		Term             string
		Cols, Rows, X, Y uint32
		Modes            string
	}
	if err := ssh.Unmarshal(payload, &msg); err != nil {
		return nil, fmt.Errorf("parse terminal: %w", err)
	}
	if len(msg.Term) > 128 || len(msg.Modes) > 4096 {
		return nil, errors.New("parse terminal: too long")
	}
	t := &terminal{name: msg.Term, size: size(msg.Cols, msg.Rows, msg.X, msg.Y)}
	for b := []byte(msg.Modes); len(b) >= 5 && b[0] != 0 && b[0] < 160; b = b[5:] {
		t.modes = append(t.modes, mode{b[0], uint32(b[1])<<24 | uint32(b[2])<<16 | uint32(b[3])<<8 | uint32(b[4])})
	}
	return t, nil
}

// parseSize reads a window-change: uint32 columns, rows, width, height.
func parseSize(payload []byte) (shell.Size, error) {
	var msg struct{ Cols, Rows, X, Y uint32 }
	if err := ssh.Unmarshal(payload, &msg); err != nil {
		return shell.Size{}, fmt.Errorf("parse size: %w", err)
	}
	return size(msg.Cols, msg.Rows, msg.X, msg.Y), nil
}

func size(cols, rows, x, y uint32) shell.Size {
	clip := func(n uint32) uint16 { return uint16(min(n, 0xffff)) }
	return shell.Size{Cols: clip(cols), Rows: clip(rows), X: clip(x), Y: clip(y)}
}

// setModes applies a client's modes to a terminal before its command starts.
func setModes(tty *os.File, modes []mode) error {
	return control(tty, func(fd int) error {
		t, err := unix.IoctlGetTermios(fd, getTermios)
		if err != nil {
			return fmt.Errorf("read terminal modes: %w", err)
		}
		for _, m := range modes {
			m.apply(t)
		}
		if err := unix.IoctlSetTermios(fd, setTermios, t); err != nil {
			return fmt.Errorf("set terminal modes: %w", err)
		}
		return nil
	})
}

// control runs f on a file's descriptor without making it blocking, as File.Fd would.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// apply sets one mode. Unknown ones are left alone, as the RFC asks.
func (m mode) apply(t *unix.Termios) {
	switch {
	case m.op == opInSpeed || m.op == opOutSpeed:
		setSpeed(t, m.value)
		return
	case m.op == opCS7 || m.op == opCS8:
		if m.value != 0 {
			bits := tcflag(unix.CS7)
			if m.op == opCS8 {
				bits = unix.CS8
			}
			t.Cflag = t.Cflag&^unix.CSIZE | bits
		}
		return
	}
	if i, ok := modeChars[m.op]; ok {
		t.Cc[i] = byte(m.value)
		if m.value == 255 { // the RFC's "disabled"
			t.Cc[i] = disabled
		}
		return
	}
	f, ok := modeFlags[m.op]
	if !ok {
		f, ok = systemFlags[m.op]
	}
	if !ok {
		return
	}
	word := f.word(t)
	if m.value != 0 {
		*word |= f.bit
	} else {
		*word &^= f.bit
	}
}

const (
	opCS7      = 90
	opCS8      = 91
	opInSpeed  = 128
	opOutSpeed = 129
)

var modeChars = map[byte]int{
	1: unix.VINTR, 2: unix.VQUIT, 3: unix.VERASE, 4: unix.VKILL, 5: unix.VEOF, 6: unix.VEOL, 7: unix.VEOL2,
	8: unix.VSTART, 9: unix.VSTOP, 10: unix.VSUSP, 12: unix.VREPRINT, 13: unix.VWERASE, 14: unix.VLNEXT, 18: unix.VDISCARD,
}

type modeFlag struct {
	word func(*unix.Termios) *tcflag
	bit  tcflag
}

func iflag(t *unix.Termios) *tcflag { return &t.Iflag }
func oflag(t *unix.Termios) *tcflag { return &t.Oflag }
func cflag(t *unix.Termios) *tcflag { return &t.Cflag }
func lflag(t *unix.Termios) *tcflag { return &t.Lflag }

var modeFlags = map[byte]modeFlag{
	30: {iflag, unix.IGNPAR}, 31: {iflag, unix.PARMRK}, 32: {iflag, unix.INPCK}, 33: {iflag, unix.ISTRIP},
	34: {iflag, unix.INLCR}, 35: {iflag, unix.IGNCR}, 36: {iflag, unix.ICRNL},
	38: {iflag, unix.IXON}, 39: {iflag, unix.IXANY}, 40: {iflag, unix.IXOFF}, 41: {iflag, unix.IMAXBEL}, 42: {iflag, unix.IUTF8},
	50: {lflag, unix.ISIG}, 51: {lflag, unix.ICANON}, 53: {lflag, unix.ECHO},
	54: {lflag, unix.ECHOE}, 55: {lflag, unix.ECHOK}, 56: {lflag, unix.ECHONL}, 57: {lflag, unix.NOFLSH},
	58: {lflag, unix.TOSTOP}, 59: {lflag, unix.IEXTEN}, 60: {lflag, unix.ECHOCTL}, 61: {lflag, unix.ECHOKE}, 62: {lflag, unix.PENDIN},
	70: {oflag, unix.OPOST}, 72: {oflag, unix.ONLCR}, 73: {oflag, unix.OCRNL},
	74: {oflag, unix.ONOCR}, 75: {oflag, unix.ONLRET},
	92: {cflag, unix.PARENB}, 93: {cflag, unix.PARODD},
}
