package console

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"unicode/utf8"
)

const (
	maxTyped = 64 << 10 // bytes that were typed ahead
	maxLine  = 8 << 10  // bytes of one line that is asked for
)

const (
	keyInterrupt = 0x03
	keyEOF       = 0x04
	keyErase     = 0x15 // the line
)

// A keyboard holds what was typed until somebody reads it: a screen, then a workspace's shell, then the screen again.
// What one of them has not read is the next one's.
type keyboard struct {
	mu        sync.Mutex
	changed   *sync.Cond
	typed     []byte // guarded by mu
	ended     bool   // guarded by mu
	interrupt func() // guarded by mu: Ctrl-C; nil: it is a key like any other
}

func newKeyboard() *keyboard {
	k := &keyboard{}
	k.changed = sync.NewCond(&k.mu)
	return k
}

// pump takes in what r brings, until its end.
func (k *keyboard) pump(r io.Reader) {
	buf := make([]byte, 4<<10)
	for {
		n, err := r.Read(buf)
		k.mu.Lock()
		k.take(buf[:n])
		for len(k.typed) > maxTyped && !k.ended {
			k.changed.Wait()
		}
		k.ended = k.ended || err != nil
		k.changed.Broadcast()
		ended := k.ended
		k.mu.Unlock()
		if ended {
			return
		}
	}
}

// take takes bytes in. Called with mu held.
func (k *keyboard) take(b []byte) {
	if i := bytes.LastIndexByte(b, keyInterrupt); i >= 0 && k.interrupt != nil {
		k.interrupt()
		k.typed, b = nil, b[i+1:] // as a terminal flushes
	}
	k.typed = append(k.typed, b...)
	k.changed.Broadcast()
}

// onInterrupt has Ctrl-C call f, or be a key if f is nil.
func (k *keyboard) onInterrupt(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.interrupt = f
}

// end ends reads.
func (k *keyboard) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	k.changed.Broadcast()
}

// open returns a reader of what is typed.
func (k *keyboard) open() *keys { return &keys{k: k} }

// keys reads a keyboard until it is closed; a read that waits takes nothing away then.
type keys struct {
	k      *keyboard
	closed bool // guarded by k.mu
}

// Read reads what was typed.
func (x *keys) Read(p []byte) (int, error) {
	x.k.mu.Lock()
	defer x.k.mu.Unlock()
	for len(x.k.typed) == 0 && !x.closed && !x.k.ended {
		x.k.changed.Wait()
	}
	if x.closed || len(x.k.typed) == 0 {
		return 0, io.EOF
	}
	n := copy(p, x.k.typed)
	x.k.typed = x.k.typed[n:]
	x.k.changed.Broadcast()
	return n, nil
}

// close ends reads.
func (x *keys) close() {
	x.k.mu.Lock()
	defer x.k.mu.Unlock()
	x.closed = true
	x.k.changed.Broadcast()
}

// errInterrupted is a line that was ended by Ctrl-C.
var errInterrupted = errors.New("interrupted")

// A lineReader reads lines as a terminal's driver does: with an echo, erasing, and Ctrl-D for the end.
type lineReader struct {
	in      io.Reader
	out     io.Writer
	width   func() int
	pending []byte // of the line that Read hands out
	skipLF  bool   // of a line end that was CR
}

// Width returns the width of the terminal, in columns.
func (l *lineReader) Width() int { return l.width() }

// Read hands out lines, each with its end.
func (l *lineReader) Read(p []byte) (int, error) {
	if len(l.pending) == 0 {
		s, err := l.line(true)
		if errors.Is(err, errInterrupted) {
			err = context.Canceled
		}
		if err != nil {
			return 0, err
		}
		l.pending = append([]byte(s), '\n')
	}
	n := copy(p, l.pending)
	l.pending = l.pending[n:]
	return n, nil
}

// ReadPassword asks for a line and does not echo it.
func (l *lineReader) ReadPassword(prompt string) (string, error) {
	_, _ = io.WriteString(l.out, prompt) // the read fails as well, where nobody is there
	s, err := l.line(false)
	if errors.Is(err, errInterrupted) {
		err = io.EOF
	}
	return s, err
}

// line reads a line.
func (l *lineReader) line(echo bool) (string, error) {
	show := func(s string) {
		if echo {
			_, _ = io.WriteString(l.out, s) // likewise
		}
	}
	var b []byte
	erase := func() {
		_, n := utf8.DecodeLastRune(b)
		b = b[:len(b)-n]
		show("\b \b")
	}
	var one [1]byte
	for {
		if _, err := io.ReadFull(l.in, one[:]); err != nil {
			return "", io.EOF
		}
		skip := l.skipLF && one[0] == '\n'
		l.skipLF = one[0] == '\r'
		switch c := one[0]; {
		case skip:
		case c == '\r' || c == '\n':
			_, _ = io.WriteString(l.out, "\r\n") // likewise
			return string(b), nil
		case c == keyInterrupt:
			_, _ = io.WriteString(l.out, "^C\r\n") // likewise
			return "", errInterrupted
		case c == keyEOF && len(b) == 0:
			return "", io.EOF
		case c == 0x7f || c == '\b':
			if len(b) > 0 {
				erase()
			}
		case c == keyErase:
			for len(b) > 0 {
				erase()
			}
		case c < ' ' || len(b) >= maxLine: // an arrow, say: nothing here moves
		default:
			b = append(b, c)
			show(string([]byte{c}))
		}
	}
}

// A crlf writes lines for a terminal, whose driver would do this.
type crlf struct{ w io.Writer }

// Write writes p with CR LF for LF.
func (c crlf) Write(p []byte) (int, error) {
	if _, err := c.w.Write(bytes.ReplaceAll(p, []byte("\n"), []byte("\r\n"))); err != nil {
		return 0, err
	}
	return len(p), nil
}
