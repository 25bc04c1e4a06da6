package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"berth/cli/client"
	"berth/cli/sshconfig"
	"berth/coordinator"
	"berth/coordinator/rest"
)

func (a *app) sshCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ssh NAME [ARGUMENT...]",
		Short: "Enter a workspace with the system's ssh",
		Long: `Enter a workspace with the system's ssh, set up as "berth ssh-config" would. What follows the name goes to ssh: its
options, then a command. The exit code is that of ssh: the command's own, or 255 where the connection was lost. Where
there is no ssh program, berth opens a shell or runs a command itself, without ssh's options.`,
		Example: `  berth ssh dev
  berth ssh dev -- make test
  berth ssh dev -L 8080:localhost:80 -N`,
		Args: func(cmd *cobra.Command, args []string) error {
			return arguments(1, max(1, len(args)))(cmd, args)
		},
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ssh(cmd.Context(), args[0], args[1:])
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func (a *app) ssh(ctx context.Context, name string, more []string) error {
	program, err := exec.LookPath("ssh")
	if err != nil {
		return a.builtin(ctx, name, more)
	}
	c, srv, err := a.client()
	if err != nil {
		return err
	}
	t, err := a.target(ctx, c, srv, name)
	if err != nil {
		return err
	}
	facts, err := c.Server(ctx)
	if err != nil {
		return err
	}
	w, err := c.Workspace(ctx, t)
	if err != nil {
		return err
	}
	if err := a.writeKnownHosts(facts); err != nil {
		return err
	}
	cfg, err := a.sshSettings(facts, nil)
	if err != nil {
		return err
	}
	options, err := cfg.Options()
	if err != nil {
		return err
	}
	args := []string{"ssh"}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	host := t.HostName(w.Owner, facts.Suffix)
	alias := coordinator.Target{Workspace: t.Workspace}.HostName(w.Owner, facts.Suffix)
	if err := (sshconfig.Host{Name: host, Alias: alias}).Check(facts.Suffix); err != nil {
		return err
	}
	args = append(args, "-o", "HostKeyAlias "+alias, host)
	if len(more) > 0 && more[0] == "--" {
		more = more[1:]
	}
	return replace(program, append(args, more...))
}

func (a *app) sshConfigCommand() *cobra.Command {
	var stdout, remove, check bool
	cmd := &cobra.Command{
		Use:   "ssh-config",
		Short: "Let ssh and every IDE reach your workspaces by name",
		Long: `Write an ssh_config file of our own, and one Include line at the top of ~/.ssh/config that reads it; nothing else there
is touched. It names your workspaces, so that IDEs list them, and everything that ends in the suffix. Host keys are checked
against the installation's certificate authority, in a known_hosts file of our own.

Afterwards ssh itself is asked, by ssh -G, what it would do for a workspace and for the door: where a line of your own
configuration comes first, it is named with its file and number. --check does only that, and exits with 1 on a problem.`,
		Example: "  berth ssh-config\n  berth ssh-config --check\n  berth ssh-config --stdout > ssh_config\n  berth ssh-config --remove",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case stdout && remove, stdout && check, remove && check:
				return usage("give only one of --stdout, --check and --remove")
			case check:
				return a.checkSSHConfig(cmd.Context())
			}
			return a.sshConfig(cmd.Context(), stdout, remove)
		},
	}
	cmd.Flags().BoolVar(&stdout, "stdout", false, "print the file instead of writing it")
	cmd.Flags().BoolVar(&check, "check", false, "change nothing; look whether ssh does what our file says")
	cmd.Flags().BoolVar(&remove, "remove", false, "take the Include line and our file away")
	return cmd
}

func (a *app) sshConfig(ctx context.Context, stdout, remove bool) error {
	if a.console != nil {
		return a.sshConfigHere(ctx)
	}
	user, own, err := a.sshFiles()
	if err != nil {
		return err
	}
	if remove {
		changed, err := sshconfig.Remove(user, own)
		if err != nil {
			return err
		}
		if changed {
			a.printf("Took our line out of %s\n", user)
		} else {
			a.printf("%s does not include our file\n", user)
		}
		return nil
	}
	c, _, err := a.client()
	if err != nil {
		return err
	}
	data, facts, list, err := a.renderSSHConfig(ctx, c)
	if err != nil {
		return err
	}
	if stdout {
		_, err := a.out.Write(data)
		return err
	}
	if err := a.installSSHConfig(user, own, data); err != nil {
		return err
	}
	example := "dev." + facts.Suffix
	if len(list) > 0 {
		example = list[0].Name
	}
	a.printf("ssh knows your workspaces now: ssh %s\n", example)
	a.warnSSHConfig(ctx, facts, list)
	return nil
}

// installSSHConfig writes our file and makes sure that the user's own includes it.
func (a *app) installSSHConfig(user, own string, data []byte) error {
	changed, err := sshconfig.Install(user, own, data)
	if err == nil && changed {
		a.hintf("%s now begins with a line that includes %s", user, own)
	}
	return err
}

// ensureSSHConfig does what berth ssh-config does, and says nothing where nothing is wrong.
func (a *app) ensureSSHConfig(ctx context.Context, c *client.Client) error {
	user, own, err := a.sshFiles()
	if err != nil {
		return err
	}
	data, facts, hosts, err := a.renderSSHConfig(ctx, c)
	if err != nil {
		return err
	}
	if err := a.installSSHConfig(user, own, data); err != nil {
		return err
	}
	a.warnSSHConfig(ctx, facts, hosts)
	return nil
}

// renderSSHConfig makes our file of what the server says now, and writes the known_hosts file that it names.
func (a *app) renderSSHConfig(ctx context.Context, c *client.Client) ([]byte, rest.Server, []sshconfig.Host, error) {
	facts, err := c.Server(ctx)
	if err != nil {
		return nil, facts, nil, err
	}
	list, err := c.Workspaces(ctx, false)
	if err != nil {
		return nil, facts, nil, err
	}
	if err := a.writeKnownHosts(facts); err != nil {
		return nil, facts, nil, err
	}
	hosts := sshHosts(list, facts.Suffix)
	cfg, err := a.sshSettings(facts, hosts)
	if err != nil {
		return nil, facts, nil, err
	}
	data, err := cfg.Render()
	return data, facts, hosts, err
}

// sshHosts are the concrete names: each workspace, and each agent of one that has several.
func sshHosts(list []rest.Workspace, suffix string) []sshconfig.Host {
	var hosts []sshconfig.Host
	for _, w := range list {
		alias := coordinator.Target{Workspace: w.Name}.HostName(w.Owner, suffix)
		hosts = append(hosts, sshconfig.Host{Name: w.Name + "." + suffix, Alias: alias})
		if len(w.Agents) < 2 {
			continue
		}
		for _, g := range w.Agents {
			hosts = append(hosts, sshconfig.Host{Name: g.Name + "." + alias, Alias: alias})
		}
	}
	return hosts
}

// sshSettings is what our ssh_config says on this machine.
func (a *app) sshSettings(facts rest.Server, hosts []sshconfig.Host) (sshconfig.Config, error) {
	cfg := sshconfig.Config{
		Suffix: facts.Suffix, Hosts: hosts, Door: sshconfig.Door{Host: facts.SSHHost, Port: facts.SSHPort},
		Windows: runtime.GOOS == "windows",
	}
	var err error
	if cfg.Berth, err = os.Executable(); err != nil {
		return cfg, fmt.Errorf("find the berth command: %w", err)
	}
	if cfg.KnownHosts, err = a.path(knownHostsFile); err != nil {
		return cfg, err
	}
	if a.customDir() {
		cfg.Args = append(cfg.Args, "--config-dir", filepath.Dir(cfg.KnownHosts))
	}
	srv, err := a.server()
	if err != nil {
		return cfg, err
	}
	stored, err := a.load()
	if err != nil {
		return cfg, err
	}
	if !sameServer(srv.URL, stored.URL) { // the settings alone would not lead there
		cfg.Args = append(cfg.Args, "--url", srv.URL)
		if srv.InsecureHTTP {
			cfg.Args = append(cfg.Args, "--insecure-http")
		}
	}
	identity, err := a.path(identityFile)
	if err != nil {
		return cfg, err
	}
	switch _, err := os.Stat(identity); {
	case err == nil:
		cfg.Identity = identity
	case !errors.Is(err, fs.ErrNotExist):
		return cfg, fmt.Errorf("look for the device key: %w", err)
	}
	return cfg, nil
}

// sshConfigured reports whether berth ssh-config has written our file.
func (a *app) sshConfigured() bool {
	path, err := a.path(sshConfigFile)
	return err == nil && exists(path)
}

// refreshSSHConfig writes our file anew, where there is one, so that IDEs list what there is now. What goes wrong is
// told, and fails nothing: the wildcard in it still leads to every workspace.
func (a *app) refreshSSHConfig(ctx context.Context, c *client.Client) {
	if !a.sshConfigured() {
		return
	}
	data, _, _, err := a.renderSSHConfig(ctx, c)
	if err == nil {
		err = a.writeSetting(sshConfigFile, string(data), 0o600)
	}
	if err != nil {
		a.hintf("The list of workspaces for ssh is not up to date (%s); berth ssh-config writes it.", oneLine(strings.TrimSpace(err.Error())))
	}
}
