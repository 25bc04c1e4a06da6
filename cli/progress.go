package cli

import (
	"fmt"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"berth/coordinator"
)

const (
	redraw   = 200 * time.Millisecond // of a line drawn in place
	reprint  = 10 * time.Second       // of a plain line that has not changed
	hesitate = 250 * time.Millisecond // before a wait is worth a word, where most waits are shorter
)

// A progress shows how far something is: on a terminal one line, drawn in place, elsewhere a line for each change.
type progress struct {
	w      io.Writer
	tty    int  // descriptor, where live
	live   bool // drawn in place
	width  func() int
	prefix string
	done   chan struct{}
	ended  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	current coordinator.Progress
	since   time.Time // when current came
	quiet   time.Time // nothing is shown before
	shown   string    // the line that was written last
	wrote   time.Time
}

// progress begins to show; end it with stop. What may be over in no time is not
// shown for the first delay.
func (a *app) progress(prefix string, delay time.Duration) *progress {
	p := &progress{w: a.err, prefix: prefix, done: make(chan struct{}), quiet: time.Now().Add(delay)}
	p.tty, p.live = fd(a.err)
	p.width = p.fileWidth
	if a.console != nil && a.console.Terminal != nil {
		p.live, p.width = true, a.console.Terminal.Width
	}
	p.live = p.live && a.env("TERM") != "dumb"
	p.ended.Go(p.run)
	return p
}

// run redraws until stop.
func (p *progress) run() {
	t := time.NewTicker(redraw)
	defer t.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-t.C:
			p.mu.Lock()
			p.draw()
			p.mu.Unlock()
		}
	}
}

// set says what is going on now.
func (p *progress) set(now coordinator.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current, p.since = now, time.Now()
	p.draw()
}

// draw shows what is new. Called with mu held.
func (p *progress) draw() {
	now := time.Now()
	if p.current.Stage == "" || now.Before(p.quiet) && !building(p.current.Stage) {
		return
	}
	at := p.current
	at.Elapsed += now.Sub(p.since)
	line := p.prefix + oneLine(at.String())
	if p.live {
		if line = p.fit(line); line != p.shown {
			fmt.Fprintf(p.w, "\r%s\x1b[K", line) // a picture, no result
			p.shown = line
		}
		return
	}
	at.Elapsed = 0
	what := at.String()
	if what == p.shown && now.Sub(p.wrote) < reprint {
		return
	}
	p.shown, p.wrote = what, now
	fmt.Fprintln(p.w, line) // likewise
}

// building reports whether a stage is one of a build, which is never over in no time.
func building(stage string) bool {
	return stage != "connect" && stage != "startup"
}

// fileWidth is the width of a terminal that is a file, in columns; 0: not known.
func (p *progress) fileWidth() int {
	width, _, err := term.GetSize(p.tty)
	if err != nil {
		return 0
	}
	return width
}

// fit cuts a line to the terminal's width, so that it can be drawn over.
func (p *progress) fit(line string) string {
	width := p.width()
	if width < 20 {
		width = 80
	}
	for n := utf8.RuneCountInString(line); n >= width; n-- {
		_, size := utf8.DecodeLastRuneInString(line)
		line = line[:len(line)-size]
	}
	return line
}

// say writes a line that stays.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.w, format+"\n", args...) // likewise
	if p.live {
		p.shown = ""
		p.draw()
	}
}

// clear takes the line away. Called with mu held.
func (p *progress) clear() {
	if p.live && p.shown != "" {
		fmt.Fprint(p.w, "\r\x1b[K") // likewise
	}
}

// stop takes the line away and shows nothing more. It may be called twice.
func (p *progress) stop() {
	p.mu.Lock()
	select {
	case <-p.done:
	default:
		p.clear()
		p.current = coordinator.Progress{}
		close(p.done)
	}
	p.mu.Unlock()
	p.ended.Wait()
}
