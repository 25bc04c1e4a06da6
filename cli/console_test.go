package cli

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"berth/cli/client"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// testConsole is a console without a server, and what it writes.
func testConsole(t *testing.T, stdin string) (c Console, stdout, stderr *bytes.Buffer) {
	t.Helper()
	none := roundTrip(func(*http.Request) (*http.Response, error) { return nil, errors.New("no server here") })
	cl, err := client.Open("https://berth.example.com", client.Config{Transport: none})
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	return Console{Client: cl, Name: "ssh berth@berth.example.com", In: strings.NewReader(stdin), Out: stdout, Err: stderr}, stdout, stderr
}

// leaves calls f for every command that does something.
func leaves(cmd *cobra.Command, path string, f func(path string, cmd *cobra.Command)) {
	for _, sub := range cmd.Commands() {
		below := strings.TrimSpace(path + " " + sub.Name())
		if !sub.HasSubCommands() {
			f(below, sub)
		}
		leaves(sub, below, f)
	}
}

// What a console offers is the list, command by command and flag by flag: a new command or flag of the CLI is not there
// until somebody has thought about it.
func TestConsoleOffersTheListOnly(t *testing.T) {
	c, _, _ := testConsole(t, "")
	root := c.app().root()
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) { t.Errorf("the console has --%s on every command", f.Name) })
	var found []string
	leaves(root, "", func(path string, cmd *cobra.Command) {
		found = append(found, path)
		want, listed := consoleCommands[path]
		if !listed {
			t.Errorf("the console has %q", path)
			return
		}
		if slices.Contains(want, "output") {
			want = append(slices.Clone(want), "json")
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !slices.Contains(want, f.Name) {
				t.Errorf("the console has %s --%s", path, f.Name)
			}
			// cobra keeps what completes a flag for ever, and a console is made for every command.
			if _, has := cmd.GetFlagCompletionFunc(f.Name); has {
				t.Errorf("%s --%s is kept by cobra", path, f.Name)
			}
		})
		for _, name := range want {
			if cmd.Flags().Lookup(name) == nil {
				t.Errorf("%s has no --%s", path, name)
			}
		}
	})
	for path := range consoleCommands {
		if !slices.Contains(found, path) {
			t.Errorf("there is no command %q", path)
		}
	}
}

func TestConsoleRefuses(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	secret := filepath.Join(home, "secret")
	if err := os.WriteFile(secret, []byte("the-secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"connect", "dev"},
		{"ssh", "dev"},
		{"login", "https://x.example"},
		{"logout"},
		{"completion", "bash"},
		{"docs"},
		{"ready"},
		{"template", "push", home},
		{"template", "pull", "x"},
		{"tokens", "create", "x"},
		{"keys", "add", secret},
		{"users", "create", "bob", "--ssh-key", secret},
		{"personalize", secret},
		{"personalize", "-"},
		{"personalize", "--none"},
		{"dotfiles", "https://git.example.com/x"},
		{"dotfiles", "--none"},
		{"secrets", "set", "npm", "--env", "NPM_TOKEN"},
		{"ssh-config", "--remove"},
		{"list", "--config-dir", home},
		{"list", "--url", "http://127.0.0.1:1"},
		{"list", "--insecure-http"},
		{"__complete", "show", ""},
		{"__completeNoDesc", "show", ""},
		{"nothing"},
		{"keys", "nothing"},
		{"list", "--json=maybe"},
		{"delete", "a b"},
	} {
		c, stdout, stderr := testConsole(t, "")
		code := c.Run(context.Background(), args)
		if code != 2 && code != 3 {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
		if strings.Contains(stdout.String()+stderr.String(), "the-secret") {
			t.Errorf("%q shows a file", args)
		}
	}
	if left, err := os.ReadDir(home); err != nil || len(left) != 1 {
		t.Errorf("the home directory has %v, %v", left, err)
	}
}

func TestConsoleHelps(t *testing.T) {
	for _, args := range [][]string{{"help"}, {"--help"}, nil, {"help", "start"}, {"list", "--help"}} {
		c, stdout, stderr := testConsole(t, "")
		if code := c.Run(context.Background(), args); code != 0 || !strings.Contains(stdout.String(), "ssh berth@berth.example.com") {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}

// Deleting needs a person or --yes: what a script's stdin happens to hold is neither.
func TestConsoleDeleteNeedsYes(t *testing.T) {
	c, _, stderr := testConsole(t, "bob\n")
	if code := c.Run(context.Background(), []string{"users", "delete", "bob"}); code != 2 || !strings.Contains(stderr.String(), "--yes") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}
