package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"berth/cli/client"
	"berth/coordinator"
)

const (
	copyBuffer = 256 << 10       // bytes that are copied at once
	lastWords  = 2 * time.Second // for an SSH client to read why it is refused
	halfClosed = 10 * time.Second
	maxWords   = 380 // bytes of a refusal: OpenSSH shows 400
)

func (a *app) connectCommand() *cobra.Command {
	var noStart bool
	cmd := &cobra.Command{
		Use:   "connect NAME",
		Short: "Carry SSH to a workspace: the ProxyCommand that ssh-config writes",
		Long: `Carry the bytes of an SSH connection to a workspace, over stdin and stdout. "berth ssh-config" writes it as ProxyCommand.
A stopped workspace is started first, unless --no-start is given; the progress is on stderr, and the client is greeted at
once, so that no connect timeout of it runs meanwhile.`,
		Example: `  ssh -o 'ProxyCommand berth connect %n' dev.berth
  berth connect alice/dev.tools`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.connect(cmd.Context(), args[0], noStart)
		},
	}
	cmd.Flags().BoolVar(&noStart, "no-start", false, "do not start a stopped workspace")
	return cmd
}

// connect greets the SSH client before anything else is done.
func (a *app) connect(ctx context.Context, name string, noStart bool) error {
	if _, terminal := fd(a.out); terminal {
		return usage("berth connect speaks to a program, not to a person").WithHint("berth ssh " + name)
	}
	if _, err := io.WriteString(a.out, client.Greeting); err != nil {
		return fmt.Errorf("greet the ssh client: %w", err)
	}
	in := &greeted{r: a.in}
	s, err := a.dial(ctx, name, noStart)
	if err != nil {
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			in.drain()
		}()
		return a.refuse(err, in, gone)
	}
	defer func() { _ = s.Close() }() // both directions have ended
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := a.splice(s, in); ctx.Err() == nil {
		return err
	}
	return exitCode(exitInterrupt)
}

// dial opens the stream, with progress if it takes a while.
func (a *app) dial(ctx context.Context, name string, noStart bool) (*client.Stream, error) {
	c, srv, err := a.client()
	if err != nil {
		return nil, err
	}
	t, err := a.target(ctx, c, srv, name)
	if err != nil {
		return nil, err
	}
	p := a.progress(t.String()+": ", hesitate)
	defer p.stop()
	build := 0
	s, err := c.Connect(ctx, client.Connect{Target: t, NoStart: noStart, Progress: func(now coordinator.Progress) {
		build = max(build, now.Build)
		p.set(now)
	}})
	return s, interrupted(coordinator.Target{Owner: t.Owner, Workspace: t.Workspace}, build, err)
}

// splice copies both ways. The client's greeting to the workspace goes ahead while the workspace's own is awaited,
// which the client has had already.
func (a *app) splice(s *client.Stream, in *greeted) error {
	up, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		// An error in this direction is the end of the other, which reports it.
		_, _ = io.CopyBuffer(onlyWriter{s}, in, make([]byte, copyBuffer))
		_ = s.CloseWrite()
		close(up)
		in.drain() // a client that is refused is listened to until it has gone
	}()
	if err := client.SkipGreeting(s); err != nil {
		_ = s.Close() // ends the copy, which then hears the client out
		return a.refuse(err, in, gone)
	}
	_, err := io.CopyBuffer(onlyWriter{a.out}, onlyReader{s}, make([]byte, copyBuffer))
	if err != nil {
		return coordinator.Errorf(coordinator.CodeUnavailable, "the connection to the workspace was lost").
			WithHint("connect again").WithCause(err)
	}
	if f, ok := a.out.(*os.File); ok {
		f.Close() // tells the client that nothing more comes
	}
	t := time.NewTimer(halfClosed)
	defer t.Stop()
	select {
	case <-up:
	case <-t.C:
	}
	return nil
}

// The copies go through one buffer of ours: what the streams offer instead is made for other sizes.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)

// refuse ends the SSH connection with words that the client shows to its user: a disconnect in clear text, before the
// key exchange. Whether there is a client is told by its greeting; without one, the error is printed as usual. gone is
// closed at the end of what the client sends: one that finds its proxy gone too early never reads why.
func (a *app) refuse(err error, in *greeted, gone <-chan struct{}) error {
	if _, werr := a.out.Write(client.Disconnect(words(err))); werr != nil {
		return err
	}
	t := time.NewTimer(lastWords)
	defer t.Stop()
	select {
	case <-gone:
	case <-t.C:
	}
	var cut *interruption
	if !in.bySSH() || errors.As(err, &cut) {
		return err
	}
	return exitCode(codeOf(err))
}

// greeted reads what an SSH client sends, and keeps its first bytes.
type greeted struct {
	r io.Reader

	mu   sync.Mutex // guards head
	head []byte
}

// Read reads from the client.
func (g *greeted) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	g.mu.Lock()
	defer g.mu.Unlock()
	if more := 4 - len(g.head); more > 0 && n > 0 {
		g.head = append(g.head, p[:min(more, n)]...)
	}
	return n, err
}

// drain reads to the end.
func (g *greeted) drain() { _, _ = io.Copy(io.Discard, g) } // an error is an end as well

func (g *greeted) bySSH() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return bytes.Equal(g.head, []byte("SSH-"))
}

// words is an error and its hint in one line that an SSH client shows whole.
func words(err error) string {
	msg := oneLine(err.Error())
	var e *coordinator.Error
	if errors.As(err, &e) {
		msg = oneLine(e.Msg)
		if hint := oneLine(e.Hint); hint != "" && len(msg)+len(hint)+4 <= maxWords {
			msg += " - " + hint
		}
	}
	return coordinator.Clip(msg, maxWords)
}
