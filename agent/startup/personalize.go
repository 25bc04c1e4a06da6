package startup

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"berth/agent/shell"
)

// personalize writes ~/personalize where the user stored one, and runs it if it is there. Berth writes the stored
// script over the file; without a stored one the file is the user's own business.
func (r *Runner) personalize(ctx context.Context, j *job, stored *string) outcome {
	if r.who.Refuse != "" {
		return skipped("%s", r.who.Refuse)
	}
	path := filepath.Join(r.who.User.Home, "personalize")
	there := false
	err := shell.As(r.who.User, func() error {
		if stored != nil {
			if err := writeFile(path, []byte(*stored), 0o700, -1, -1); err != nil {
				return err
			}
		}
		fi, err := os.Stat(path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !fi.Mode().IsRegular():
			return errors.New("~/personalize is not a file")
		}
		there = true
		return nil
	})
	switch {
	case err != nil:
		return failed("%s", oneLine(err))
	case !there:
		return skipped("there is no ~/personalize")
	}
	if stored != nil {
		j.logf("wrote ~/personalize")
	}
	return r.runFile(ctx, j, path, r.who.User.Home)
}
