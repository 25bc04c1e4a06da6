package agent

import (
	"io"
	"sync"
)

// Sizes of the buffers by which bulk data moves, in bytes: small while a stream is quiet, for there are many of those,
// and large while it is busy, for each system call and each switch to another goroutine costs as much as copying tens
// of kilobytes.
const (
	quietBuffer = 4 << 10
	busyBuffer  = 64 << 10
	busyMin     = 1 << 10 // a read of less means that the stream is quiet again: what a program writes in turn is a few KiB
)

var busyBuffers = sync.Pool{New: func() any { return new([busyBuffer]byte) }}

// A ReadAhead reads from R in large pieces while there is much to read, and holds no buffer while there is little. It
// is for one goroutine.
type ReadAhead struct {
	R io.Reader

	buf  *[busyBuffer]byte // nil while the stream is quiet
	r, w int               // what of buf is to be delivered
	busy bool
	err  error // that came with the last bytes
}

// Read is part of io.Reader.
func (a *ReadAhead) Read(p []byte) (int, error) {
	if a.r < a.w {
		return a.deliver(p), nil
	}
	if a.err != nil {
		return 0, a.err
	}
	if !a.busy || len(p) >= busyBuffer {
		n, err := a.R.Read(p)
		a.busy = n > 0 && n == len(p)
		return n, err
	}
	if a.buf == nil {
		a.buf = busyBuffers.Get().(*[busyBuffer]byte)
	}
	a.r = 0
	a.w, a.err = a.R.Read(a.buf[:])
	a.busy = a.w >= busyMin
	if a.w == 0 {
		a.release()
		return 0, a.err
	}
	return a.deliver(p), nil
}

func (a *ReadAhead) deliver(p []byte) int {
	n := copy(p, a.buf[a.r:a.w])
	a.r += n
	if a.r == a.w && !a.busy {
		a.release()
	}
	return n
}

func (a *ReadAhead) release() {
	busyBuffers.Put(a.buf)
	a.buf, a.r, a.w = nil, 0, 0
}

// Copy copies from src to dst until src ends, which is no error, as io.Copy does, by Read and Write alone.
func Copy(dst io.Writer, src io.Reader) (moved int64, err error) {
	quiet := make([]byte, quietBuffer)
	var busy *[busyBuffer]byte
	defer func() {
		if busy != nil {
			busyBuffers.Put(busy)
		}
	}()
	for {
		buf := quiet
		if busy != nil {
			buf = busy[:]
		}
		n, rerr := src.Read(buf)
		if n > 0 {
			w, err := dst.Write(buf[:n])
			moved += int64(w)
			if err != nil {
				return moved, err
			}
			if w < n {
				return moved, io.ErrShortWrite
			}
		}
		if rerr == io.EOF { //nolint:errorlint // as io.Copy does: a wrapped one is an error
			return moved, nil
		}
		if rerr != nil {
			return moved, rerr
		}
		switch {
		case busy == nil && n == len(buf):
			busy = busyBuffers.Get().(*[busyBuffer]byte)
		case busy != nil && n < busyMin:
			busyBuffers.Put(busy)
			busy = nil
		}
	}
}
