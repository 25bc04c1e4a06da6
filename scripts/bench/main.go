// Command bench measures the figures that Berth promises, each against a baseline in the same run, and prints PASS or
// FAIL for each with the machine's noise beside it. It exits 1 where one is missed.
//
//	go run ./scripts/bench [-pairs 10] [-only name]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A figure is one promise and what was measured of it.
type figure struct {
	name     string
	got      string
	limit    string
	baseline string // with its noise: the median absolute deviation
	pass     bool
}

var (
	pairs = flag.Int("pairs", 10, "pairs for each figure, at least 10 for a result that counts")
	only  = flag.String("only", "", "run the measurements whose name contains this")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ok, err := run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if err != nil || !ok {
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) (bool, error) {
	b, err := newBed(ctx)
	if err != nil {
		return false, err
	}
	defer b.close()
	measurements := []struct {
		name string
		run  func(context.Context) ([]figure, error)
	}{
		{"sizes", b.sizes},
		{"first start", b.firstStart},
		{"guarded restart", b.restart},
		{"start to first command", b.firstCommand},
		{"straight", b.direct},
		{"login", b.login},
		{"far login", b.farLogin},
		{"first byte", b.firstByte},
		{"bulk", b.bulk},
		{"echo", b.echo},
		{"shells", b.shells},
		{"progress at the door", b.doorProgress},
		{"coordinator back", b.coordinatorBack},
		{"memory", b.memory},
	}
	ok := true
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "\tfigure\tmeasured\tlimit\tbaseline")
	for _, m := range measurements {
		if !strings.Contains(m.name, *only) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s\n", m.name)
		figures, err := m.run(ctx)
		if err != nil {
			return false, fmt.Errorf("%s: %w", m.name, err)
		}
		for _, f := range figures {
			verdict := "PASS"
			if !f.pass {
				verdict, ok = "FAIL", false
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", verdict, f.name, f.got, f.limit, f.baseline)
		}
	}
	return ok, w.Flush()
}

// median returns the middle of d and the median absolute deviation from it, the noise.
func median(d []time.Duration) (mid, noise time.Duration) {
	if len(d) == 0 {
		return 0, 0
	}
	s := slices.Sorted(slices.Values(d))
	mid = s[len(s)/2]
	dev := make([]time.Duration, len(d))
	for i, v := range d {
		dev[i] = (v - mid).Abs()
	}
	slices.Sort(dev)
	return mid, dev[len(dev)/2]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }

// over is the figure of a measurement that may take at most extra longer than its baseline: the median of the pairs'
// differences counts.
func over(name string, base, got []time.Duration, extra time.Duration) figure {
	diff := make([]time.Duration, len(got))
	for i := range got {
		diff[i] = got[i] - base[i]
	}
	d, _ := median(diff)
	g, _ := median(got)
	m, noise := median(base)
	return figure{
		name: name, pass: d <= extra,
		got:      fmt.Sprintf("%s = %.2f x, %s over", ms(g), float64(g)/float64(m), ms(d)),
		limit:    ms(extra) + " over",
		baseline: fmt.Sprintf("%s ± %s", ms(m), ms(noise)),
	}
}

func (b *bed) sizes(context.Context) ([]figure, error) {
	st, err := os.Stat(filepath.Join(b.bin, "berth-agent"))
	if err != nil {
		return nil, err
	}
	mb := float64(st.Size()) / 1e6
	return []figure{{name: "agent binary", got: fmt.Sprintf("%.2f MB", mb), limit: "9 MB", pass: mb <= 9}}, nil
}
