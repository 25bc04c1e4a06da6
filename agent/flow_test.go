package agent

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// chunks returns its data in reads of at most the given sizes in turn, and then err.
type chunks struct {
	data  []byte
	sizes []int
	turn  int
	err   error
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, c.err
	}
	n := copy(p, c.data[:min(len(c.data), c.sizes[c.turn%len(c.sizes)])])
	c.turn++
	c.data = c.data[n:]
	if len(c.data) == 0 && c.turn%2 == 0 {
		return n, c.err // with the last bytes, as readers may
	}
	return n, nil
}

func data(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

func TestFlow(t *testing.T) {
	broken := errors.New("broken")
	for _, sizes := range [][]int{{1}, {4096}, {100, 4096, 1 << 20}, {1 << 20}, {5000, 70000, 3}} {
		want := data(1 << 19)
		for _, end := range []error{io.EOF, broken} {
			var out bytes.Buffer
			n, err := Copy(&out, &chunks{data: want, sizes: sizes, err: end})
			if (end == io.EOF) != (err == nil) || n != int64(len(want)) || !bytes.Equal(out.Bytes(), want) {
				t.Errorf("Copy of %v, %v: %d bytes, %v", sizes, end, n, err)
			}
			a := &ReadAhead{R: &chunks{data: want, sizes: sizes, err: end}}
			got, err := io.ReadAll(iotest.OneByteReader(a))
			if (end == io.EOF) != (err == nil) || !bytes.Equal(got, want) {
				t.Errorf("ReadAhead one by one of %v, %v: %d bytes, %v", sizes, end, len(got), err)
			}
			a = &ReadAhead{R: &chunks{data: want, sizes: sizes, err: end}}
			got, err = io.ReadAll(a)
			if (end == io.EOF) != (err == nil) || !bytes.Equal(got, want) {
				t.Errorf("ReadAhead of %v, %v: %d bytes, %v", sizes, end, len(got), err)
			}
		}
	}
}

// A quiet stream costs no buffer.
func TestReadAheadHoldsNothingWhileQuiet(t *testing.T) {
	a := &ReadAhead{R: &chunks{data: data(300 << 10), sizes: []int{64 << 10, 64 << 10, 64 << 10, 64 << 10, 100}, err: io.EOF}}
	p := make([]byte, 4<<10)
	held := false
	for {
		n, err := a.Read(p)
		held = held || a.buf != nil
		if err != nil {
			break
		}
		if n == 100 && a.buf != nil {
			t.Error("a quiet stream holds a buffer")
		}
	}
	if !held {
		t.Error("a busy stream read in small pieces")
	}
}

func TestCopyStopsAtAFailedWrite(t *testing.T) {
	broken := errors.New("broken")
	r, w := io.Pipe()
	r.CloseWithError(broken)
	if _, err := Copy(w, bytes.NewReader(data(100))); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}
