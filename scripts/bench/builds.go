package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"berth/coordinator"
	"berth/coordinator/host"
	"berth/coordinator/provider"
)

// A raw is the baseline of builds: terraform on a copy of the module, against the same provider held resident in this
// process.
type raw struct {
	bed        *bed
	dir        string
	bubblewrap string // as in the coordinator: the module's process is isolated where that works
	n          int
}

// session serves the provider for one start count.
func (r *raw) session(ctx context.Context, t coordinator.Transition) (*provider.Session, error) {
	socket, err := os.MkdirTemp("", "bb")
	if err != nil {
		return nil, err
	}
	ws := coordinator.WorkspaceID(fmt.Sprintf("benchraw%d", r.n))
	return provider.Serve(ctx, coordinator.Job{
		ID: string(ws), Transition: t, Workspace: "raw", WorkspaceID: ws,
		Owner: coordinator.JobOwner{ID: "benchowner", Name: "bench"}, Template: "local", VersionID: "v", Version: 1,
		ModuleDir: r.version(), AccessURL: "http://" + r.bed.http, AgentURL: "http://" + r.bed.http, AgentKey: make([]byte, 32),
		Host: coordinator.HostGrant{
			Homes: filepath.Join(r.bed.dir, "rawhomes"), Run: filepath.Join(r.bed.dir, "rawrun"),
			Agent: filepath.Join(r.bed.bin, "berth-agent"), Bubblewrap: r.bubblewrap, UID: coordinator.HostUIDBase + 9_999, Insecure: true,
		},
	}, socket)
}

// version is what the directory of a template version is to the coordinator, and module the module in it.
func (r *raw) version() string { return filepath.Join(r.dir, fmt.Sprintf("m%d", r.n)) }

func (r *raw) module() string { return filepath.Join(r.version(), "module") }

// fresh makes a new copy of the module with no state.
func (r *raw) fresh() error {
	r.n++
	return os.CopyFS(r.module(), os.DirFS(filepath.Join(r.bed.root, "scripts/demo/local")))
}

// terraform runs the given commands in a row against one session and returns how long they took.
func (r *raw) terraform(ctx context.Context, t coordinator.Transition, commands ...[]string) (time.Duration, error) {
	s, err := r.session(ctx, t)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	begun := time.Now()
	for _, args := range commands {
		c := exec.CommandContext(ctx, "terraform", args...)
		c.Dir = r.module()
		c.Env = []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + r.dir, "CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1",
			"TF_REATTACH_PROVIDERS=" + s.Reattach(),
		}
		var out strings.Builder
		c.Stdout, c.Stderr = &out, &out
		if err := c.Start(); err != nil {
			return 0, err
		}
		s.AllowPeer(c.Process.Pid)
		if err := c.Wait(); err != nil {
			return 0, fmt.Errorf("terraform %s: %w: %s", strings.Join(args, " "), err, out.String())
		}
	}
	return time.Since(begun), nil
}

var (
	apply   = []string{"apply", "-json", "-auto-approve", "-input=false"}
	plan    = []string{"plan", "-json", "-input=false", "-out=p"}
	planned = []string{"apply", "-json", "-input=false", "p"}
	destroy = []string{"apply", "-destroy", "-json", "-auto-approve", "-input=false"}
)

func (b *bed) newRaw(ctx context.Context) (*raw, error) {
	r := &raw{bed: b, dir: filepath.Join(b.dir, "raw"), bubblewrap: host.ProbeBubblewrap(ctx)}
	for _, d := range []string{r.dir, filepath.Join(b.dir, "rawhomes"), filepath.Join(b.dir, "rawrun")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// firstStart pairs `terraform apply` of the module with the first start of a new workspace.
func (b *bed) firstStart(ctx context.Context) ([]figure, error) {
	r, err := b.newRaw(ctx)
	if err != nil {
		return nil, err
	}
	var base, got []time.Duration
	for i := range *pairs {
		if err := r.fresh(); err != nil {
			return nil, err
		}
		d, err := r.terraform(ctx, coordinator.Start, apply)
		if err != nil {
			return nil, err
		}
		base = append(base, d)
		if _, err := r.terraform(ctx, coordinator.Delete, destroy); err != nil {
			return nil, err
		}
		name := fmt.Sprintf("first%d", i)
		if _, err := b.berth(ctx, "create", name, "--template", "local"); err != nil {
			return nil, err
		}
		builds, err := b.builds(ctx, name)
		if err != nil {
			return nil, err
		}
		got = append(got, builds[0].Ended.Sub(builds[0].Created))
		if _, err := b.berth(ctx, "delete", name, "--yes"); err != nil {
			return nil, err
		}
	}
	return []figure{over("first start over terraform apply", base, got, 100*time.Millisecond)}, nil
}

// restart pairs plan and apply with each build of a guarded restart.
func (b *bed) restart(ctx context.Context) ([]figure, error) {
	r, err := b.newRaw(ctx)
	if err != nil {
		return nil, err
	}
	r.n = 1000
	if err := r.fresh(); err != nil {
		return nil, err
	}
	if _, err := r.terraform(ctx, coordinator.Start, apply); err != nil {
		return nil, err
	}
	if _, err := b.berth(ctx, "create", "again", "--template", "local"); err != nil {
		return nil, err
	}
	var stopBase, stopGot, startBase, startGot []time.Duration
	for range *pairs {
		stop, err := r.terraform(ctx, coordinator.Stop, plan, planned)
		if err != nil {
			return nil, err
		}
		start, err := r.terraform(ctx, coordinator.Start, plan, planned)
		if err != nil {
			return nil, err
		}
		if _, err := b.berth(ctx, "restart", "again"); err != nil {
			return nil, err
		}
		builds, err := b.builds(ctx, "again")
		if err != nil {
			return nil, err
		}
		stopBase, startBase = append(stopBase, stop), append(startBase, start)
		stopGot = append(stopGot, builds[1].Ended.Sub(builds[1].Created))
		startGot = append(startGot, builds[0].Ended.Sub(builds[0].Created))
	}
	if _, err := r.terraform(ctx, coordinator.Delete, destroy); err != nil {
		return nil, err
	}
	_, err = b.berth(ctx, "delete", "again", "--yes")
	return []figure{
		over("restart's stop over plan and apply", stopBase, stopGot, 200*time.Millisecond),
		over("restart's start over plan and apply", startBase, startGot, 200*time.Millisecond),
	}, err
}

// firstCommand measures from `berth start` of a stopped workspace to the end of the first remote command, beside raw
// plan and apply of the same module.
func (b *bed) firstCommand(ctx context.Context) ([]figure, error) {
	r, err := b.newRaw(ctx)
	if err != nil {
		return nil, err
	}
	r.n = 2000
	if err := r.fresh(); err != nil {
		return nil, err
	}
	if _, err := b.berth(ctx, "create", "cmd", "--template", "local"); err != nil {
		return nil, err
	}
	config, err := b.sshConfig(ctx)
	if err != nil {
		return nil, err
	}
	var base, got []time.Duration
	for i := range *pairs {
		first := [][]string{plan, planned}
		if i == 0 {
			first = [][]string{apply}
		}
		d, err := r.terraform(ctx, coordinator.Start, first...)
		if err != nil {
			return nil, err
		}
		if _, err := r.terraform(ctx, coordinator.Stop, plan, planned); err != nil {
			return nil, err
		}
		base = append(base, d)
		if _, err := b.berth(ctx, "stop", "cmd"); err != nil {
			return nil, err
		}
		begun := time.Now()
		if _, err := b.berth(ctx, "start", "cmd"); err != nil {
			return nil, err
		}
		if _, err := b.command(ctx, "ssh", "-F", config, "cmd.berth", "true"); err != nil {
			return nil, err
		}
		got = append(got, time.Since(begun))
	}
	if _, err := r.terraform(ctx, coordinator.Delete, destroy); err != nil {
		return nil, err
	}
	if _, err := b.berth(ctx, "delete", "cmd", "--yes"); err != nil {
		return nil, err
	}
	g, _ := median(got)
	m, noise := median(base)
	return []figure{{
		name: "berth start to the first command's end", pass: g <= time.Second,
		got: fmt.Sprintf("%s = %.2f x", ms(g), float64(g)/float64(m)), limit: "1000 ms",
		baseline: fmt.Sprintf("%s ± %s", ms(m), ms(noise)),
	}}, nil
}
