package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"berth/coordinator"
	"berth/coordinator/provider"
	"berth/coordinator/terraform"
)

// importVersion carries an import: the archive is unpacked into a fresh directory, terraform fetches what it needs
// and plans twice, and the directory becomes the version's by rename, once all of it is known to be good.
func (r *run) importVersion(ctx context.Context) (coordinator.Result, error) {
	var res coordinator.Result
	fresh := filepath.Join(filepath.Dir(r.job.ModuleDir), terraform.ImportPrefix+filepath.Base(r.job.ModuleDir))
	if err := os.RemoveAll(fresh); err != nil {
		return res, fmt.Errorf("clear directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(fresh) }() // renamed where it counts; else the next import clears it
	r.begin(terraform.StageInit, "unpacking")
	if err := r.unpack(fresh); err != nil {
		return res, err
	}
	found, err := r.examine(ctx, fresh)
	if e := r.readLog(); err == nil {
		err = e
	}
	if err != nil {
		return res, err
	}
	if err := r.publish(fresh); err != nil {
		return res, err
	}
	res.Status, res.Imported = coordinator.BuildSucceeded, found
	return res, nil
}

// unpack lays out the fresh directory and terraform's own.
func (r *run) unpack(fresh string) error {
	f, err := os.Open(r.dir.path(archiveFile))
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("the template's archive is not there: push it again")
	}
	if err != nil {
		return fmt.Errorf("open archive: %w", err)
	}
	defer f.Close() // read only
	if err := os.MkdirAll(filepath.Join(fresh, terraform.DataDir), 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	module := filepath.Join(fresh, terraform.ModuleDir)
	if err := terraform.ExtractTar(f, module); err != nil {
		return err
	}
	if err := terraform.Disown(module); err != nil {
		return err
	}
	if err := r.makeDirs(); err != nil {
		return err
	}
	if err := r.own([]byte("disable_checkpoint = true\n")); err != nil {
		return err
	}
	uid := r.job.Host.BuildUID
	if uid == 0 {
		return nil
	}
	if err := terraform.Chown(fresh, uid); err != nil {
		return err
	}
	return reachable(filepath.Dir(fresh), uid)
}

// examine runs terraform on the fresh directory, with the provider beside it.
func (r *run) examine(ctx context.Context, fresh string) (*coordinator.Import, error) {
	job := r.job
	job.ModuleDir = fresh
	session, err := provider.Serve(context.WithoutCancel(ctx), job, r.dir.root)
	if err != nil {
		return nil, fmt.Errorf("serve provider: %w", err)
	}
	defer func() { _ = session.Close() }() // the process ends next
	s, err := r.newShim()
	if err != nil {
		return nil, err
	}
	var group lastGroup
	var reading sync.WaitGroup
	reading.Go(func() {
		s.read(func(pid int) {
			group.set(pid)
			session.AllowPeer(pid)
		})
	})
	defer reading.Wait()
	defer s.close()
	i := terraform.Importer{
		Dir: fresh, Exec: s.path, Environment: r.baseEnvironment(session.Reattach()), Granted: r.job.Env,
		StartCount: session.SetStartCount, Log: r.log, Begin: r.begin, Ended: group.end, Limits: r.job.Limits,
	}
	found, err := i.Run(ctx)
	if err != nil {
		return nil, err
	}
	found.Parameters = session.Parameters()
	if n := len(found.Parameters); n > coordinator.MaxParameters {
		return nil, &terraform.Refusal{Msg: fmt.Sprintf("the template has %d parameters, more than %d", n, coordinator.MaxParameters)}
	}
	return found, nil
}

// publish makes the fresh directory the version's.
func (r *run) publish(fresh string) error {
	if r.job.Host.BuildUID != 0 {
		// Builds of all templates run as that user; none shall change another's version.
		if err := terraform.Seal(fresh); err != nil {
			return err
		}
	}
	if err := syncAll(fresh); err != nil {
		return fmt.Errorf("sync version: %w", err)
	}
	if err := os.RemoveAll(r.job.ModuleDir); err != nil { // of a runner that died between rename and result
		return fmt.Errorf("clear version: %w", err)
	}
	if err := os.Rename(fresh, r.job.ModuleDir); err != nil {
		return fmt.Errorf("keep version: %w", err)
	}
	return nil
}

// A lastGroup is the process group of the terraform that was started last.
type lastGroup struct {
	mu   sync.Mutex
	pgid int // guarded by mu
}

func (g *lastGroup) set(pgid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pgid = pgid
}

// end kills what an ended terraform has left behind in its group.
func (g *lastGroup) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	terraform.KillGroup(g.pgid)
	g.pgid = 0
}
