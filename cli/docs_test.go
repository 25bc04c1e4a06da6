package cli

import (
	"bytes"
	"flag"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

var rewrite = flag.Bool("update", false, "write docs/cli.md anew")

func testApp() *app {
	return &app{in: strings.NewReader(""), out: io.Discard, err: io.Discard, env: func(string) string { return "" }, now: time.Now}
}

// reference is what berth docs prints.
func reference(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	a := testApp()
	a.out = &b
	if code := a.run(t.Context(), []string{"docs"}); code != 0 {
		t.Fatalf("berth docs exits with %d", code)
	}
	return b.Bytes()
}

// TestReference keeps docs/cli.md true. Write it anew with: go test ./cli -run TestReference -update
func TestReference(t *testing.T) {
	const file = "../docs/cli.md"
	want := reference(t)
	if *rewrite {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the commands say; go test ./cli -run TestReference -update writes it", file)
	}
}

// TestCommands holds every command to what people need of its help.
func TestCommands(t *testing.T) {
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		switch c.Name() {
		case "help", "completion":
			return
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || c.Example == "" {
			t.Errorf("%s: short %q, example %q", c.CommandPath(), c.Short, c.Example)
		}
		for line := range strings.Lines(c.Long + "\n" + c.Example) {
			if len(line) > 130 {
				t.Errorf("%s: a line of %d bytes", c.CommandPath(), len(line))
			}
		}
		if c.Args == nil || c.RunE == nil {
			t.Errorf("%s takes any arguments, or does nothing", c.CommandPath())
		}
		if c.HasParent() && !c.Parent().HasParent() && c.GroupID == "" {
			t.Errorf("%s is in no group", c.CommandPath())
		}
		for _, s := range c.Commands() {
			check(s)
		}
	}
	check(testApp().root())
	if !strings.Contains(string(reference(t)), "### berth template push\n") {
		t.Error("the reference lacks a command")
	}
}
