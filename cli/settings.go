package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"berth/agent"
	"berth/cli/client"
	"berth/cli/sshconfig"
	"berth/coordinator"
)

// Files below the settings directory.
const (
	configFile     = "config.json"
	tokenFile      = "token"      // 0600
	identityFile   = "id_ed25519" // the device key, 0600; .pub beside it
	knownHostsFile = "known_hosts"
	sshConfigFile  = "ssh_config"
)

const maxSettings = 64 << 10 // bytes of a settings file

// settings are what berth login remembers, beside the token.
type settings struct {
	URL          string `json:"url"`
	User         string `json:"user,omitempty"`
	Suffix       string `json:"suffix,omitempty"` // of host names there
	InsecureHTTP bool   `json:"insecure_http,omitempty"`
}

// path returns the path of a settings file.
func (a *app) path(name string) (string, error) {
	if a.console != nil {
		return "", noSettings()
	}
	dir := a.configDir
	if dir == "" {
		dir = a.env("BERTH_CONFIG_DIR")
	}
	if dir == "" {
		if base := a.env("XDG_CONFIG_HOME"); filepath.IsAbs(base) {
			dir = filepath.Join(base, "berth")
		}
	}
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the home directory: %w", err)
		}
		dir = filepath.Join(home, ".config", "berth")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find the settings directory: %w", err)
	}
	return filepath.Join(dir, name), nil
}

// customDir reports whether the settings directory was named, so that what we write must name it too.
func (a *app) customDir() bool { return a.configDir != "" || a.env("BERTH_CONFIG_DIR") != "" }

// readSetting returns the content of a settings file, "" if it is not there.
func (a *app) readSetting(name string) (string, error) {
	path, err := a.path(name)
	if err != nil {
		return "", err
	}
	return readSmall(path)
}

func readSmall(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read settings: %w", err)
	case !info.Mode().IsRegular() || info.Size() > maxSettings:
		return "", fmt.Errorf("read settings: %s is no file of at most %d KiB", path, maxSettings>>10)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read settings: %w", err)
	}
	return string(b), nil
}

func (a *app) writeSetting(name, data string, mode fs.FileMode) error {
	path, err := a.path(name)
	if err != nil {
		return err
	}
	return sshconfig.WriteFile(path, []byte(data), mode)
}

func (a *app) removeSettings(names ...string) error {
	for _, name := range names {
		path, err := a.path(name)
		if err != nil {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove settings: %w", err)
		}
	}
	return nil
}

func (a *app) load() (settings, error) {
	var s settings
	text, err := a.readSetting(configFile)
	if err != nil || text == "" {
		return s, err
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, fmt.Errorf("read settings: %s: %w", configFile, err)
	}
	return s, nil
}

func (a *app) save(s settings) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode settings: %w", err)
	}
	return a.writeSetting(configFile, string(b)+"\n", 0o600)
}

// insecureHTTP reports whether plain HTTP to another machine was allowed for this command.
func (a *app) insecureHTTP() bool {
	return a.insecure || a.env("BERTH_INSECURE_HTTP") == "1" || a.env("BERTH_INSECURE_HTTP") == "true"
}

// A server is where a command goes and as whom.
type server struct {
	settings
	token  coordinator.Secret
	stored bool // the token is the one that berth login stored
}

// server finds the server and the token. A flag goes before the environment, which goes before what login stored.
// The stored token is used with the server that gave it, and no other.
func (a *app) server() (server, error) {
	var s server
	if a.console != nil {
		_, s = a.console.here()
		return s, nil
	}
	stored, err := a.load()
	if err != nil {
		return s, err
	}
	s.URL, s.InsecureHTTP = a.url, a.insecureHTTP()
	if s.URL == "" {
		s.URL = a.env("BERTH_URL")
	}
	same := s.URL == "" || sameServer(s.URL, stored.URL)
	if same {
		s.settings = stored
		s.InsecureHTTP = stored.InsecureHTTP || a.insecureHTTP()
	}
	if s.URL == "" {
		return s, coordinator.Errorf(coordinator.CodeUnauthenticated, "you are not signed in").
			WithHint("berth login https://berth.example.com")
	}
	s.token = coordinator.Secret(strings.TrimSpace(a.env("BERTH_TOKEN")))
	if file := a.env("BERTH_TOKEN_FILE"); s.token == "" && file != "" {
		text, err := readSmall(file)
		if err != nil {
			return s, err
		}
		s.token = coordinator.Secret(strings.TrimSpace(text))
	}
	if s.token == "" && same {
		text, err := a.readSetting(tokenFile)
		if err != nil {
			return s, err
		}
		s.token, s.stored = coordinator.Secret(strings.TrimSpace(text)), true
	} else {
		s.User = "" // who that is has to be asked
	}
	if s.token == "" {
		return s, coordinator.Errorf(coordinator.CodeUnauthenticated, "you are not signed in to %s", s.URL).
			WithHint("berth login " + s.URL)
	}
	return s, nil
}

func sameServer(a, b string) bool {
	x, err := client.ParseURL(a, true)
	if err != nil {
		return false
	}
	y, err := client.ParseURL(b, true)
	return err == nil && *x == *y
}

// client returns a client of the server, signed in.
func (a *app) client() (*client.Client, server, error) {
	if a.console != nil {
		c, s := a.console.here()
		return c, s, nil
	}
	s, err := a.server()
	if err != nil {
		return nil, s, err
	}
	c, err := a.open(s.URL, s.token, s.InsecureHTTP)
	return c, s, err
}

func (a *app) open(url string, token coordinator.Secret, insecure bool) (*client.Client, error) {
	if a.console != nil {
		return nil, noSettings()
	}
	return client.Open(url, client.Config{Token: token, InsecureHTTP: insecure, UserAgent: "berth/" + agent.Version})
}

// target reads the name of a workspace as it was typed. Only a host name needs the installation's suffix.
func (a *app) target(ctx context.Context, c *client.Client, s server, name string) (coordinator.Target, error) {
	suffix := s.Suffix
	if suffix == "" && strings.Contains(name, ".") {
		facts, err := c.Server(ctx)
		if err != nil {
			return coordinator.Target{}, err
		}
		suffix = facts.Suffix
	}
	if suffix == "" {
		suffix = coordinator.Suffix
	}
	t, _, err := coordinator.ParseTarget(name, suffix)
	return t, err
}

// workspace is target for commands that are about a whole workspace.
func (a *app) workspace(ctx context.Context, name string) (*client.Client, coordinator.Target, error) {
	c, s, err := a.client()
	if err != nil {
		return nil, coordinator.Target{}, err
	}
	t, err := a.target(ctx, c, s, name)
	if err == nil && t.Agent != "" {
		err = usage("%q names an agent, and this is about a whole workspace", name).WithHint("write " + coordinator.Target{Owner: t.Owner, Workspace: t.Workspace}.String())
	}
	return c, t, err
}
