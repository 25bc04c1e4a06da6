package terraform

import (
	"bytes"
	"errors"
	"io"

	"berth/coordinator"
)

// maxRawLine is the longest line of a raw log that is decoded; of a longer one only the fact is told.
const maxRawLine = 1 << 20

// A LogReader reads a raw log as it grows. A line's Seq is its index among the lines that are kept, which is the same
// at every reading from the start.
type LogReader struct {
	r     io.ReaderAt
	off   int64
	part  []byte // of a line whose end is not written yet
	skip  bool   // in a line beyond maxRawLine
	stage string
	seq   int
	chunk []byte
}

// NewLogReader returns a reader of a raw log from its start.
func NewLogReader(r io.ReaderAt) *LogReader {
	return &LogReader{r: r, chunk: make([]byte, 64<<10)}
}

// Next calls each for every event that was written since the last call. Lines beyond MaxLogLines are counted only.
func (l *LogReader) Next(each func(Event)) error {
	for {
		n, err := l.r.ReadAt(l.chunk, l.off)
		l.off += int64(n)
		l.feed(l.chunk[:n], each)
		if errors.Is(err, io.EOF) || err == nil && n == 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// End takes what follows the last newline as a line: whoever wrote it was killed.
func (l *LogReader) End(each func(Event)) {
	if len(l.part) > 0 && !l.skip {
		l.line(l.part, each)
	}
	l.part, l.skip = nil, false
}

func (l *LogReader) feed(b []byte, each func(Event)) {
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		piece := b
		if i >= 0 {
			piece = b[:i]
		}
		if !l.skip {
			l.part = append(l.part, piece...)
		}
		if len(l.part) > maxRawLine {
			l.part, l.skip = nil, true
		}
		if i < 0 {
			return
		}
		if l.skip {
			l.part = []byte("(a line that is too long was left out)")
		}
		l.line(l.part, each)
		l.part, l.skip = l.part[:0], false
		b = b[i+1:]
	}
}

func (l *LogReader) line(raw []byte, each func(Event)) {
	e, ok := Decode(raw, l.stage)
	if !ok {
		if e.Change != nil { // nothing to show, but part of the plan
			each(e)
		}
		return
	}
	if e.Type == eventOwn && e.Line.Stage != "" {
		l.stage = e.Line.Stage
	}
	e.Line.Source, e.Line.Seq = coordinator.SourceBuild, l.seq
	l.seq++
	e.Shown = l.seq <= coordinator.MaxLogLines
	each(e)
}
