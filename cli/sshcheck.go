package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"berth/cli/sshconfig"
	"berth/coordinator"
	"berth/coordinator/rest"
)

// sshFiles are the user's own ssh_config and ours.
func (a *app) sshFiles() (user, own string, err error) {
	if own, err = a.path(sshConfigFile); err != nil {
		return "", "", err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", "", fmt.Errorf("find the home directory: %w", err)
	}
	return filepath.Join(home, ".ssh", "config"), own, nil
}

// verifySSHConfig asks ssh what it makes of the configuration.
func (a *app) verifySSHConfig(ctx context.Context, facts rest.Server, hosts []sshconfig.Host) ([]sshconfig.Problem, error) {
	program, err := exec.LookPath("ssh")
	if err != nil {
		return []sshconfig.Problem{{
			Text: "there is no ssh program on this machine", Fail: true, Hint: "install OpenSSH's client; berth ssh works without, IDEs do not",
		}}, nil
	}
	user, own, err := a.sshFiles()
	if err != nil {
		return nil, err
	}
	cfg, err := a.sshSettings(facts, hosts)
	if err != nil {
		return nil, err
	}
	return cfg.Verify(ctx, sshconfig.Verification{SSH: program, User: user, Own: own})
}

// warnSSHConfig tells what ssh would do differently. The configuration is written all the same.
func (a *app) warnSSHConfig(ctx context.Context, facts rest.Server, hosts []sshconfig.Host) {
	problems, err := a.verifySSHConfig(ctx, facts, hosts)
	if err != nil {
		a.hintf("warning: what ssh makes of it cannot be told: %s", oneLine(err.Error()))
		return
	}
	a.printProblems(problems)
}

func (a *app) printProblems(problems []sshconfig.Problem) {
	for _, p := range problems {
		a.hintf("warning: %s", oneLine(p.String()))
		if p.Hint != "" {
			a.hintf("  %s", oneLine(p.Hint))
		}
	}
}

// checkSSHConfig is berth ssh-config --check.
func (a *app) checkSSHConfig(ctx context.Context) error {
	c, _, err := a.client()
	if err != nil {
		return err
	}
	facts, err := c.Server(ctx)
	if err != nil {
		return err
	}
	list, err := c.Workspaces(ctx, false)
	if err != nil {
		return err
	}
	problems, err := a.verifySSHConfig(ctx, facts, sshHosts(list, facts.Suffix))
	if err != nil {
		return err
	}
	if len(problems) == 0 {
		a.printf("ssh does what berth ssh-config says, for workspaces and for the door\n")
		return nil
	}
	a.printProblems(problems)
	return coordinator.Errorf(coordinator.CodeFailed, "ssh does not do all that berth ssh-config says")
}
