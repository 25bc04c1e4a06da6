package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"berth/coordinator"
)

// fd returns the descriptor of a stream that is a terminal.
func fd(stream any) (int, bool) {
	f, ok := stream.(*os.File)
	if !ok {
		return 0, false
	}
	n := int(f.Fd())
	return n, term.IsTerminal(n)
}

// isTerminal reports whether somebody sits at a stream of the command.
func (a *app) isTerminal(stream any) bool {
	if a.console != nil {
		return a.console.Terminal != nil
	}
	_, ok := fd(stream)
	return ok
}

// interactive reports whether there is a person to ask.
func (a *app) interactive() bool { return a.isTerminal(a.in) && a.isTerminal(a.err) }

// ask prints a question and reads a line.
func (a *app) ask(ctx context.Context, question string) (string, error) {
	fmt.Fprint(a.err, question) // nowhere else to ask
	return a.readLine(ctx)
}

// readLine reads a line of stdin. A read that ctx cuts short goes on in the background and is never used again: the
// command ends.
func (a *app) readLine(ctx context.Context) (string, error) {
	if a.lines == nil {
		a.lines = bufio.NewReaderSize(io.LimitReader(a.in, maxSettings), 4<<10)
	}
	return interruptible(ctx, func() (string, error) {
		line, err := a.lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return strings.TrimRight(line, "\r\n"), err
	})
}

// askHidden is ask without an echo. The echo is off before the question is seen.
func (a *app) askHidden(ctx context.Context, question string) (coordinator.Secret, error) {
	if a.console != nil && a.console.Terminal != nil {
		line, err := interruptible(ctx, func() (string, error) { return a.console.Terminal.ReadPassword(question) })
		if errors.Is(err, io.EOF) {
			err = context.Canceled
		}
		return coordinator.Secret(line), err
	}
	n, ok := fd(a.in)
	if !ok {
		line, err := a.readLine(ctx)
		return coordinator.Secret(line), err
	}
	state, err := term.MakeRaw(n)
	if err != nil {
		return "", fmt.Errorf("set the terminal up: %w", err)
	}
	defer func() { _ = term.Restore(n, state) }() // there is nobody else to tell
	line, err := interruptible(ctx, func() (string, error) {
		return term.NewTerminal(readWriter{onlyReader{a.in}, onlyWriter{a.err}}, "").ReadPassword(question)
	})
	if errors.Is(err, io.EOF) { // Ctrl-C and Ctrl-D are keys here
		fmt.Fprint(a.err, "\r\n")
		err = context.Canceled
	}
	return coordinator.Secret(line), err
}

type readWriter struct {
	io.Reader
	io.Writer
}

func interruptible(ctx context.Context, read func() (string, error)) (string, error) {
	type result struct {
		line string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		line, err := read()
		done <- result{line, err}
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case r := <-done:
		return r.line, r.err
	}
}

// confirm has the name of what is to be deleted typed, unless yes.
func (a *app) confirm(ctx context.Context, yes bool, what, name string) error {
	if yes {
		return nil
	}
	if a.console != nil && a.console.Terminal == nil {
		return usage("this deletes %s, and there is no terminal to ask at", what).WithHint("give --yes, or ssh -t")
	}
	typed, err := a.ask(ctx, fmt.Sprintf("This deletes %s, which cannot be undone. Type %s to go on: ", what, name))
	if err != nil {
		return err
	}
	if !a.isTerminal(a.in) {
		fmt.Fprintln(a.err) // ends the question's line
	}
	if strings.TrimSpace(typed) != name {
		return usage("nothing was deleted: the name was not typed").WithHint("type " + name + ", or give --yes")
	}
	return nil
}

// readAll reads stdin up to limit bytes.
func (a *app) readAll(limit int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(a.in, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("read stdin: %w", err)
	}
	if len(b) > limit {
		return nil, coordinator.Errorf(coordinator.CodeTooLarge, "stdin is longer than %d bytes", limit)
	}
	return b, nil
}
