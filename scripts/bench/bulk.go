package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// bulkBytes is what one transfer moves.
const bulkBytes = 256 << 20

// A transfer moves bulkBytes through one ssh connection, one way, and returns how long that took.
type transfer struct {
	config, host string
	down         bool
}

func (b *bed) move(ctx context.Context, t transfer) (time.Duration, error) {
	args := []string{"-F", t.config, t.host, "cat > /dev/null"}
	if t.down {
		args[3] = fmt.Sprintf("head -c %d /dev/zero", bulkBytes)
	}
	c := exec.CommandContext(ctx, "ssh", args...)
	c.Env = b.env
	null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	c.Stdout, c.Stderr = null, os.Stderr
	if !t.down {
		head := exec.CommandContext(ctx, "head", "-c", fmt.Sprint(bulkBytes), "/dev/zero")
		if c.Stdin, err = head.StdoutPipe(); err != nil {
			return 0, err
		}
		if err := head.Start(); err != nil {
			return 0, err
		}
		defer func() { _ = head.Wait() }()
	}
	begun := time.Now()
	err = c.Run()
	return time.Since(begun), err
}

// bulk pairs transfers through berth connect with transfers through OpenSSH's reverse tunnel, and transfers straight
// to the agent's server with transfers straight to sshd, both ways, and counts the CPU time of what is in the middle.
func (b *bed) bulk(ctx context.Context) ([]figure, error) {
	if err := b.ensureDev(ctx); err != nil {
		return nil, err
	}
	config, err := b.sshConfig(ctx)
	if err != nil {
		return nil, err
	}
	o, err := b.startOpenSSH(ctx)
	if o != nil {
		defer o.close()
	}
	if err != nil {
		return nil, err
	}
	straight, stop, err := b.straightAgent()
	if err != nil {
		return nil, err
	}
	defer stop()
	var figures []figure
	var ours, theirs time.Duration // CPU
	n := max(3, *pairs/2)
	for _, way := range []struct {
		name string
		down bool
	}{{"up", false}, {"down", true}} {
		var tunnel, connect, sshd, agent []time.Duration
		for range n {
			before := cpu(o.bastion)
			d, err := b.move(ctx, transfer{o.config, "behind", way.down})
			if err != nil {
				return nil, err
			}
			theirs += cpu(o.bastion) - before
			tunnel = append(tunnel, d)
			before = cpu(b.daemon.Process.Pid)
			if d, err = b.move(ctx, transfer{config, "dev.berth", way.down}); err != nil {
				return nil, err
			}
			ours += cpu(b.daemon.Process.Pid) - before
			connect = append(connect, d)
			if d, err = b.move(ctx, transfer{o.config, "target", way.down}); err != nil {
				return nil, err
			}
			sshd = append(sshd, d)
			if d, err = b.move(ctx, transfer{straight, "straight", way.down}); err != nil {
				return nil, err
			}
			agent = append(agent, d)
		}
		figures = append(figures,
			speed("bulk "+way.name+" through berth connect", "OpenSSH's reverse tunnel", tunnel, connect, 1.0),
			speed("bulk "+way.name+" straight to the agent", "sshd", sshd, agent, 0.9))
	}
	gib := float64(2*n) * bulkBytes / (1 << 30)
	return append(figures, figure{
		name: "CPU of berthd for each GiB", got: fmt.Sprintf("%.2f s = %.2f x", ours.Seconds()/gib, float64(ours)/float64(theirs)),
		limit: "1.0 x", baseline: fmt.Sprintf("bastion sshd %.2f s", theirs.Seconds()/gib), pass: ours <= theirs,
	}), nil
}

// speed is the figure of a transfer that has to reach a share of its baseline's speed.
func speed(name, of string, base, got []time.Duration, share float64) figure {
	m, noise := median(base)
	g, _ := median(got)
	rate := func(d time.Duration) float64 { return bulkBytes / (1 << 20) / d.Seconds() }
	return figure{
		name: name, pass: float64(m)/float64(g) >= share,
		got:      fmt.Sprintf("%.0f MiB/s = %.2f x", rate(g), float64(m)/float64(g)),
		limit:    fmt.Sprintf("%.1f x", share),
		baseline: fmt.Sprintf("%s %.0f MiB/s ± %.0f %%", of, rate(m), 100*float64(noise)/float64(m)),
	}
}

// ensureDev creates the workspace dev where no measurement before has.
func (b *bed) ensureDev(ctx context.Context) error {
	if _, err := b.berth(ctx, "show", "dev"); err == nil {
		return nil
	}
	_, err := b.berth(ctx, "create", "dev", "--template", "local")
	return err
}
