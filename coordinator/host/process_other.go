//go:build !linux

package host

import (
	"context"

	"berth/coordinator"
)

func errLinux() error {
	return coordinator.Errorf(coordinator.CodeUnavailable, "processes on the coordinator's own host need Linux").
		WithHint("use a template that runs its agents elsewhere")
}

// ProbeBubblewrap returns "": bubblewrap is for Linux.
func ProbeBubblewrap(context.Context) string { return "" }

// StartProcess is for Linux.
func (h *Host) StartProcess(_ context.Context, s Spec) (Process, error) {
	if _, err := h.check(s); err != nil {
		return Process{}, err
	}
	return Process{}, errLinux()
}

// ProcessAlive is for Linux.
func (h *Host) ProcessAlive(context.Context, string) (bool, error) { return false, errLinux() }

// StopProcess is for Linux.
func (h *Host) StopProcess(context.Context, string) error { return errLinux() }
