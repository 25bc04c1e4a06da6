package startup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode/utf8"

	"berth/agent"
)

// Caps of one step's log. What comes after them is dropped, never waited for.
const (
	maxStepLines = 10_000
	maxStepText  = 2 << 20
)

// A job is one step's log: told to the coordinator, and kept as text in the runtime directory for whoever looks.
type job struct {
	r    *Runner
	step string

	mu    sync.Mutex
	file  *os.File // guarded by mu; nil where it cannot be kept
	lines int      // guarded by mu
	size  int      // guarded by mu
}

func (r *Runner) logFile(step string) string { return r.path("log", step+".log") }

func (r *Runner) openJob(step string) *job {
	j := &job{r: r, step: step}
	if err := r.write("log/"+step+".log", nil, 0o600); err != nil {
		r.log.Warn("cannot keep a step's log", "step", step, "error", err)
		return j
	}
	f, err := os.OpenFile(r.logFile(step), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		j.file = f
	}
	return j
}

func (j *job) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file != nil {
		j.file.Close()
		j.file = nil
	}
}

func (j *job) logf(format string, args ...any) { j.line(fmt.Sprintf(format, args...)) }

// line logs one line.
func (j *job) line(text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.lines > maxStepLines || j.size > maxStepText {
		return
	}
	text = clean(text)
	j.lines++
	j.size += len(text)
	if j.lines > maxStepLines || j.size > maxStepText {
		text = "[the rest of this log is left out]"
	}
	j.r.Outbox.Log(j.r.record.line(j.step, text))
	if j.file != nil {
		_, _ = io.WriteString(j.file, text+"\n")
	}
}

// clean makes text what a LogReport may hold. Of a line that was drawn over itself, as progress bars are, the last
// state is kept.
func clean(text string) string {
	text = strings.TrimRight(text, "\r\n")
	if i := strings.LastIndexByte(text, '\r'); i >= 0 {
		text = text[i+1:]
	}
	text = strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "\uFFFD")
	if len(text) > agent.MaxLogText {
		text = text[:agent.MaxLogText]
		for !utf8.ValidString(text) {
			text = text[:len(text)-1]
		}
	}
	return text
}

// read logs lines from in until it ends or its deadline passes. A line beyond the cap is logged in pieces.
func (j *job) read(in io.Reader) error {
	b := bufio.NewReaderSize(in, agent.MaxLogText/2) // bytes that are not UTF-8 grow threefold
	for {
		line, err := b.ReadSlice('\n')
		if len(line) > 0 {
			j.line(string(line))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}
