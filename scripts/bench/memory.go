package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// coordinatorBack measures from the start of a coordinator that was killed to the first remote command.
func (b *bed) coordinatorBack(ctx context.Context) ([]figure, error) {
	config, err := b.sshConfig(ctx)
	if err != nil {
		return nil, err
	}
	var got []time.Duration
	for range 3 {
		_ = b.daemon.Process.Signal(syscall.SIGKILL)
		_ = b.daemon.Wait()
		begun := time.Now()
		if err := b.serve(ctx); err != nil {
			return nil, err
		}
		if err := poll(ctx, time.Minute, func() bool {
			_, err := b.command(ctx, "ssh", "-F", config, "dev.berth", "true")
			return err == nil
		}); err != nil {
			return nil, err
		}
		got = append(got, time.Since(begun))
	}
	g, noise := median(got)
	return []figure{{
		name: "coordinator killed, agent back", got: fmt.Sprintf("%s ± %s", ms(g), ms(noise)), limit: "5000 ms",
		pass: g <= 5*time.Second,
	}}, nil
}

// memory measures agents a minute after their startup, supervisor included, and the coordinator with ten workspaces.
func (b *bed) memory(ctx context.Context) ([]figure, error) {
	for i := range 9 { // dev is the tenth
		if _, err := b.berth(ctx, "create", fmt.Sprintf("idle%d", i), "--template", "local"); err != nil {
			return nil, err
		}
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(time.Minute):
	}
	agents, err := b.agentMemory()
	if err != nil {
		return nil, err
	}
	worst := int64(0)
	for _, m := range agents {
		worst = max(worst, m)
	}
	daemon, err := rss(b.daemon.Process.Pid)
	if err != nil {
		return nil, err
	}
	mb := func(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
	return []figure{
		{name: fmt.Sprintf("resident memory of an agent (worst of %d)", len(agents)), got: mb(worst), limit: "15 MB", pass: worst <= 15e6 && len(agents) == 10},
		{name: "resident memory of berthd, ten workspaces", got: mb(daemon), limit: "60 MB", pass: daemon <= 60e6},
	}, nil
}

// agentMemory sums the resident memory of each workspace's agent processes, found by the executable's name, told apart
// by the token file or home in their environment.
func (b *bed) agentMemory() (map[string]int64, error) {
	sum := map[string]int64{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		exe, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil || !strings.HasSuffix(strings.Split(string(exe), "\x00")[0], "berth-agent") {
			continue
		}
		env, err := os.ReadFile(filepath.Join(d, "environ"))
		if err != nil || !strings.Contains(string(env), "http://"+b.http) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil {
			continue
		}
		m, err := rss(pid)
		if err != nil {
			continue
		}
		id := ""
		for v := range strings.SplitSeq(string(env), "\x00") {
			if s, ok := strings.CutPrefix(v, "BERTH_PROCESS_ID="); ok {
				id = s
			}
		}
		sum[id] += m
	}
	return sum, nil
}
