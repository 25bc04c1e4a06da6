package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"berth/coordinator"
)

const (
	speedRounds = 20        // round trips for the latency
	speedBlock  = 64 << 10  // bytes; what is sent is a multiple
	speedFirst  = 256 << 10 // bytes of the first attempt
	speedMost   = 16 << 30  // bytes of the last
	speedGrowth = 8         // at most, from one attempt to the next
)

func (a *app) speedtestCommand() *cobra.Command {
	var f format
	var noStart bool
	var span time.Duration
	cmd := &cobra.Command{
		Use:   "speedtest NAME",
		Short: "Measure how fast a workspace is reached",
		Long: `Measure the way that ssh takes into a workspace: through the coordinator, encrypted end to end, to a process inside.

  latency  a request on the SSH connection and its answer by the agent, 20 times: the median, the least and the most
  down     bytes that a process in the workspace writes, until the last has arrived here
  up       bytes that are sent from here, until a process in the workspace has read the last and said so

Each direction is measured with more and more bytes until that takes about as long as --time says.`,
		Example:           "  berth speedtest dev\n  berth speedtest dev --time 10s -o json",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			if span < 100*time.Millisecond || span > time.Minute {
				return usage("--time takes 100ms to 1m")
			}
			return a.speedtest(cmd.Context(), args[0], span, noStart, f)
		},
	}
	cmd.Flags().DurationVar(&span, "time", 3*time.Second, "about how long each direction is measured")
	cmd.Flags().BoolVar(&noStart, "no-start", false, "do not start a stopped workspace")
	outputFlag(cmd, &f)
	return cmd
}

// A speed is what a speedtest has found.
type speed struct {
	Workspace string  `json:"workspace"`
	Via       string  `json:"via"` // the coordinator
	Latency   latency `json:"latency"`
	Down      rate    `json:"down"`
	Up        rate    `json:"up"`
}

// A latency is of several round trips, in nanoseconds.
type latency struct {
	Rounds   int   `json:"rounds"`
	MedianNS int64 `json:"median_ns"`
	MinNS    int64 `json:"min_ns"`
	MaxNS    int64 `json:"max_ns"`
}

// A rate is a number of bytes and the time they took.
type rate struct {
	Bytes         int64 `json:"bytes"`
	NS            int64 `json:"ns"`
	BitsPerSecond int64 `json:"bits_per_second"`
}

func (r rate) String() string {
	return fmt.Sprintf("%.1f Mbit/s (%.1f MiB in %s)", float64(r.BitsPerSecond)/1e6, float64(r.Bytes)/(1<<20), took(time.Duration(r.NS)))
}

func (a *app) speedtest(ctx context.Context, name string, span time.Duration, noStart bool, f format) error {
	p, err := a.passage(ctx, name)
	if err != nil {
		return err
	}
	c, err := p.open(ctx, noStart)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // all is measured
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	s := speed{Workspace: p.target.String(), Via: p.client.URL()}
	if s.Latency, err = roundTrips(c, speedRounds); err == nil {
		if s.Down, err = measure(span, func(n int64) error { return speedDown(c, n) }); err == nil {
			s.Up, err = measure(span, func(n int64) error { return speedUp(c, n) })
		}
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return coordinator.Errorf(coordinator.CodeFailed, "the way to %s could not be measured: %s", s.Workspace, coordinator.Clip(err.Error(), 200)).
			WithHint("berth doctor " + s.Workspace + " looks closer").WithCause(err)
	}
	return a.show(f, s, func() {
		ms := func(ns int64) string { return fine(time.Duration(ns)) }
		a.fields(
			"latency", fmt.Sprintf("%s (%d round trips, %s to %s)", ms(s.Latency.MedianNS), s.Latency.Rounds, ms(s.Latency.MinNS), ms(s.Latency.MaxNS)),
			"down", s.Down.String(), "up", s.Up.String())
		a.hintf("Measured as ssh has it: through %s, encrypted end to end, to a process in %s.", oneLine(s.Via), s.Workspace)
	})
}

// roundTrips measures how long the agent takes to answer on an SSH connection.
func roundTrips(c *ssh.Client, n int) (latency, error) {
	var all []time.Duration
	for range n {
		begin := time.Now()
		if _, _, err := c.SendRequest("keepalive@openssh.com", true, nil); err != nil {
			return latency{}, fmt.Errorf("measure latency: %w", err)
		}
		all = append(all, time.Since(begin))
	}
	slices.Sort(all)
	return latency{n, int64(all[n/2]), int64(all[0]), int64(all[n-1])}, nil
}

// measure moves more and more bytes until that takes about as long as it should.
func measure(span time.Duration, move func(n int64) error) (rate, error) {
	for n := int64(speedFirst); ; {
		begin := time.Now()
		if err := move(n); err != nil {
			return rate{}, err
		}
		d := max(time.Since(begin), time.Microsecond)
		if d >= span/2 || n >= speedMost {
			return rate{n, int64(d), int64(float64(n) * 8 / d.Seconds())}, nil
		}
		grow := min(speedGrowth, max(2, float64(span)*0.9/float64(d)))
		n = min(int64(float64(n)*grow)/speedBlock*speedBlock, speedMost)
	}
}

// speedDown reads n bytes, a multiple of speedBlock, that a process in the workspace writes.
func speedDown(c *ssh.Client, n int64) error {
	s, err := c.NewSession()
	if err != nil {
		return fmt.Errorf("open session: %w", err)
	}
	defer func() { _ = s.Close() }() // it has ended
	out, err := s.StdoutPipe()
	if err != nil {
		return fmt.Errorf("open session: %w", err)
	}
	if err := s.Start("dd if=/dev/zero bs=" + strconv.Itoa(speedBlock) + " count=" + strconv.FormatInt(n/speedBlock, 10) + " 2>/dev/null"); err != nil {
		return fmt.Errorf("start dd: %w", err)
	}
	got, err := io.CopyBuffer(io.Discard, onlyReader{out}, make([]byte, copyBuffer))
	if waitErr := s.Wait(); err == nil {
		err = waitErr
	}
	if err == nil && got != n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("read from dd in the workspace: %w", err)
	}
	return nil
}

// speedUp writes n bytes to a process in the workspace, which says when it has read them.
func speedUp(c *ssh.Client, n int64) error {
	s, err := c.NewSession()
	if err != nil {
		return fmt.Errorf("open session: %w", err)
	}
	defer func() { _ = s.Close() }() // it has ended
	in, err := s.StdinPipe()
	if err != nil {
		return fmt.Errorf("open session: %w", err)
	}
	var said strings.Builder
	s.Stdout = &said
	if err := s.Start("cat >/dev/null && echo read"); err != nil {
		return fmt.Errorf("start cat: %w", err)
	}
	_, err = io.CopyBuffer(onlyWriter{in}, io.LimitReader(zeroes{}, n), make([]byte, copyBuffer))
	if closeErr := in.Close(); err == nil {
		err = closeErr
	}
	if waitErr := s.Wait(); err == nil {
		err = waitErr
	}
	if err == nil && strings.TrimSpace(said.String()) != "read" {
		err = errors.New("it did not read to the end")
	}
	if err != nil {
		return fmt.Errorf("write to cat in the workspace: %w", err)
	}
	return nil
}

// zeroes never ends. Nothing on the way compresses: what is encrypted looks random.
type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
