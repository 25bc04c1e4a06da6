// Package daemon is one running agent: it reads the settings, opens the runtime directory, supervises itself where it
// is PID 1, and wires link, startup, keyring and SSH server together.
package daemon

import (
	"context"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"berth/agent"
	"berth/agent/sshd"
)

// Exit statuses besides 0 and agent.ExitReplaced.
const (
	exitFailed = 1
	exitUsage  = 64 // settings that cannot work: starting again is of no use. Not 2, which is that of Go's panics.
)

const usage = `berth-agent connects a workspace to its coordinator, sets it up and serves SSH.

Usage:
  berth-agent [flags]
  berth-agent version

Flags (and the variables that stand for them):
  --url URL          the coordinator (` + agent.EnvURL + `)
  --token-file FILE  file with the agent's token (` + agent.EnvTokenFile + `; ` + agent.EnvToken + ` holds the token itself)
  --runtime-dir DIR  instead of /run/berth and its substitutes (` + agent.EnvRuntimeDir + `)
  --coder-dir DIR    instead of /coder (` + agent.EnvCoderDir + `)
  --ca-file FILE     certificates to trust for the coordinator, and no others (` + agent.EnvCAFile + `)
  --insecure-http    allow plain HTTP beyond this machine (` + agent.EnvInsecure + `=1)
  --supervise        start again what fails, as the agent does by itself where it is PID 1

It exits with 64 where its settings cannot work: starting it again is of no use then.
`

// settings are what flags and environment say.
type settings struct {
	url, tokenFile, runtimeDir, coderDir, caFile string
	insecureHTTP                                 bool
	supervise, worker                            bool

	token agent.Secret
}

// Main runs the agent with its arguments and returns the exit status.
func Main(args []string) int {
	if len(args) > 0 {
		switch args[0] {
		case "version", "--version", "-version":
			fmt.Println("berth-agent", agent.Version)
			return 0
		case "sftp", "scp":
			return sshd.Main(args)
		case "help", "--help", "-help", "-h":
			fmt.Print(usage)
			return 0
		}
	}
	// Hooks and sessions inherit it: whoever starts the agent, as its bootstrap script does, may have set a tighter one.
	syscall.Umask(0o022)
	s, err := readSettings(args, os.Getenv)
	if err != nil {
		fmt.Fprintf(os.Stderr, "berth-agent: %v\n", err)
		return exitUsage
	}
	undumpable()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if (os.Getpid() == 1 || s.supervise) && !s.worker {
		return supervise(append([]string{"--worker"}, args...), log)
	}
	return serve(s, log)
}

// serve is Main of the process that works: it runs until a signal ends it.
func serve(s settings, log *slog.Logger) int {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	// An agent that was started with SIGHUP ignored, as nohup does, would hand that on to every terminal.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	return work(ctx, s, log)
}

func readSettings(args []string, env func(string) string) (settings, error) {
	var s settings
	f := flag.NewFlagSet("berth-agent", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&s.url, "url", env(agent.EnvURL), "")
	f.StringVar(&s.tokenFile, "token-file", env(agent.EnvTokenFile), "")
	f.StringVar(&s.runtimeDir, "runtime-dir", env(agent.EnvRuntimeDir), "")
	f.StringVar(&s.coderDir, "coder-dir", env(agent.EnvCoderDir), "")
	f.StringVar(&s.caFile, "ca-file", env(agent.EnvCAFile), "")
	f.BoolVar(&s.insecureHTTP, "insecure-http", isTrue(env(agent.EnvInsecure)), "")
	f.BoolVar(&s.supervise, "supervise", false, "")
	f.BoolVar(&s.worker, "worker", false, "")
	if err := f.Parse(args); err != nil {
		return s, fmt.Errorf("%w (berth-agent help tells the flags)", err)
	}
	if f.NArg() > 0 {
		return s, fmt.Errorf("unknown command %q (berth-agent help tells what there is)", f.Arg(0))
	}
	return s, s.readToken(env)
}

func isTrue(v string) bool { return v != "" && v != "0" && !strings.EqualFold(v, "false") }

// readToken takes the token from its variable, or else from its file.
func (s *settings) readToken(env func(string) string) error {
	if s.token = agent.Secret(strings.TrimSpace(env(agent.EnvToken))); s.token != "" {
		return nil
	}
	if s.tokenFile == "" {
		return errors.New("no token: set " + agent.EnvToken + " or " + agent.EnvTokenFile)
	}
	f, err := os.Open(s.tokenFile)
	if err != nil {
		return fmt.Errorf("read token: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4<<10))
	if err != nil {
		return fmt.Errorf("read token: %w", err)
	}
	if s.token = agent.Secret(strings.TrimSpace(string(b))); s.token == "" {
		return fmt.Errorf("read token: %s is empty", s.tokenFile)
	}
	return nil
}

// loadKey returns the agent's key, which is made at the first start: dir/agent.key, the seed in hexadecimal.
func loadKey(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, "agent.key")
	if seed, err := readSeed(path); err == nil {
		return ed25519.NewKeyFromSeed(seed), nil
	} else if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, errSeed) {
		return nil, fmt.Errorf("read the agent's key: %w", err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("make the agent's key: %w", err)
	}
	if err := writeSeed(path, key.Seed()); err != nil {
		return nil, fmt.Errorf("keep the agent's key: %w", err)
	}
	return key, nil
}
