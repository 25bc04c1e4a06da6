// Package terraform handles one Terraform module: archives and the per-build copy, the environment and the process of
// one terraform run, its plan and the guard's judgement of it, its log, and what its state says. It knows nothing of
// queues, databases and networks.
package terraform

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/hashicorp/go-version"
	"github.com/hashicorp/terraform-exec/tfexec"

	"berth/coordinator"
)

// MinVersion is the oldest version of terraform and OpenTofu that is accepted.
const MinVersion = "1.5.0"

const installHint = "install terraform 1.5 or newer (https://developer.hashicorp.com/terraform/install) and put it on PATH"

// Find returns the terraform on PATH, else OpenTofu's tofu with a warning. A missing or too old one is a
// *coordinator.Error that says what to install. dir is where its version is asked for: in an empty directory of one name,
// so that what a process that was killed left is used again.
func Find(ctx context.Context, dir string) (t coordinator.Terraform, warning string, err error) {
	path, tofu, err := lookPath()
	if err != nil {
		return t, "", err
	}
	dir = filepath.Join(dir, ".terraform-version")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return t, "", fmt.Errorf("make terraform's directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // the next call's is the same
	v, err := versionOf(ctx, dir, path)
	if err != nil {
		return t, "", coordinator.Errorf(coordinator.CodeUnavailable, "%s does not tell its version", path).
			WithHint(installHint).WithCause(err)
	}
	if v.Core().LessThan(version.Must(version.NewVersion(MinVersion))) {
		return t, "", coordinator.Errorf(coordinator.CodeUnavailable, "%s is version %s, which is too old", path, v).
			WithHint(installHint)
	}
	t = coordinator.Terraform{Path: path, Version: v.String(), Tofu: tofu}
	if tofu {
		warning = "OpenTofu writes no state during an apply: what a build was creating when its machine fails may be lost; terraform does better"
	}
	return t, warning, nil
}

func lookPath() (path string, tofu bool, err error) {
	for _, name := range []string{"terraform", "tofu"} {
		p, err := exec.LookPath(name)
		if err != nil && !errors.Is(err, exec.ErrDot) {
			continue
		}
		if p, err = filepath.Abs(p); err != nil {
			continue
		}
		return p, name == "tofu", nil
	}
	return "", false, coordinator.Errorf(coordinator.CodeUnavailable, "terraform is not on PATH").WithHint(installHint)
}

// versionOf asks the terraform at path for its version. The empty directory is its home too, so that neither a
// template's nor the host's configuration is read.
func versionOf(ctx context.Context, dir, path string) (*version.Version, error) {
	tf, err := tfexec.NewTerraform(dir, path)
	if err != nil {
		return nil, err
	}
	env := map[string]string{"PATH": os.Getenv("PATH"), "HOME": dir, "CHECKPOINT_DISABLE": "1", "TF_CLI_CONFIG_FILE": os.DevNull}
	if err := tf.SetEnv(env); err != nil {
		return nil, err
	}
	v, _, err := tf.Version(ctx, true)
	return v, err
}
