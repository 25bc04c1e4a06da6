package terraform

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"berth/coordinator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFind(t *testing.T) {
	real, err := lookReal()
	if err != nil {
		t.Fatal(err)
	}
	fake := func(name, version string) string {
		dir := t.TempDir()
		script := "#!/bin/sh\necho '{\"terraform_version\":\"" + version + "\"}'\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for _, tt := range []struct {
		name, path string
		want       string // of the error, or of the warning
		tofu, ok   bool
	}{
		{"real", filepath.Dir(real), "", false, true},
		{"missing", t.TempDir(), "not on PATH", false, false},
		{"too old", fake("terraform", "1.4.7"), "too old", false, false},
		{"oldest", fake("terraform", "1.5.0"), "", false, true},
		{"speaks no version", fake("terraform", "what?"), "does not tell", false, false},
		{"tofu", fake("tofu", "1.9.1"), "OpenTofu", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("PATH", tt.path+":/usr/bin:/bin")
			if tt.name == "missing" {
				t.Setenv("PATH", tt.path)
			}
			got, warning, err := Find(t.Context(), t.TempDir())
			if (err == nil) != tt.ok || got.Tofu != tt.tofu {
				t.Fatalf("Find = %+v, %v", got, err)
			}
			said := warning
			var e *coordinator.Error
			if err != nil {
				if !errors.As(err, &e) || !strings.Contains(e.Hint, "install terraform") {
					t.Fatalf("Find = %#v, want an Error that says what to install", err)
				}
				said = e.Msg
			}
			if !strings.Contains(said, tt.want) || tt.want == "" && said != "" {
				t.Errorf("said %q, want %q", said, tt.want)
			}
		})
	}
}

func lookReal() (string, error) {
	p, _, err := lookPath()
	return p, err
}

// module writes a module and returns its directory; run runs terraform there and returns what its log says.
func module(t *testing.T, config string) (dir string, run func(args ...string) (*Outcome, int)) {
	t.Helper()
	top := t.TempDir()
	dir = filepath.Join(top, "module")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Mkdir(filepath.Join(top, "data"), 0o755)); err != nil {
		t.Fatal(err)
	}
	rc := filepath.Join(top, "rc")
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "main.tf"), []byte(config), 0o600), os.WriteFile(rc, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	path, err := lookReal()
	if err != nil {
		t.Fatal(err)
	}
	env := Environment{Home: top, Tmp: top, CLIConfig: rc, Lean: true}.List()
	return dir, func(args ...string) (*Outcome, int) {
		t.Helper()
		log, err := os.Create(filepath.Join(top, "log"))
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close() // a test's
		c := Command{Path: path, Args: args, Dir: dir, Env: env, Stdout: log, Stderr: log, Grace: 10 * time.Second}
		status, err := c.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var o Outcome
		r := NewLogReader(log)
		if err := r.Next(o.Add); err != nil {
			t.Fatal(err)
		}
		r.End(o.Add)
		return &o, status
	}
}

// TestPlanAndGuard plans what deletes and replaces with the real terraform, and reads the plan's file.
func TestPlanAndGuard(t *testing.T) {
	dir, run := module(t, `
variable "v" { default = "a" }
variable "n" { default = 1 }
resource "terraform_data" "home" { triggers_replace = { name = var.v } }
resource "terraform_data" "disk" {
  for_each         = toset(["x y", "z"])
  triggers_replace = var.v
}
resource "terraform_data" "gone" { count = var.n }
resource "terraform_data" "same" { input = var.v }`)
	if o, status := run("apply", "-json", "-auto-approve"); status != 0 {
		t.Fatal(o.Error())
	}
	o, status := run("plan", "-json", "-out=p", "-var", "v=b", "-var", "n=0")
	if status != 0 {
		t.Fatal(o.Error())
	}
	file, err := os.ReadFile(filepath.Join(dir, "p"))
	if err != nil {
		t.Fatal(err)
	}
	changes, err := ReadPlan(file)
	if err != nil {
		t.Fatal(err)
	}
	force := []string{"triggers_replace"}
	want := []coordinator.Violation{
		{Address: `terraform_data.disk["x y"]`, Action: "replace", Attributes: force},
		{Address: `terraform_data.disk["z"]`, Action: "replace", Attributes: force},
		{Address: "terraform_data.gone[0]", Action: "delete"},
		{Address: "terraform_data.home", Action: "replace", Attributes: force},
	}
	persistent := []string{"terraform_data.home", "terraform_data.disk", "terraform_data.gone[0]", "terraform_data.same"}
	judge := func(c []Change, allow ...string) []coordinator.Violation {
		v := Guard(c, persistent, allow)
		slices.SortFunc(v, func(a, b coordinator.Violation) int { return strings.Compare(a.Address, b.Address) })
		return v
	}
	got := judge(Merge(changes, o.Changes))
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Guard (-want +got):\n%s", d)
	}
	said := `the plan would replace terraform_data.disk["x y"] (forced by: triggers_replace), terraform_data.disk["z"] (forced by: triggers_replace), ` +
		`delete terraform_data.gone[0], replace terraform_data.home (forced by: triggers_replace), which are persistent; nothing was changed; ` +
		`allow it with --allow-destroy 'terraform_data.disk["x y"]' --allow-destroy 'terraform_data.disk["z"]' --allow-destroy 'terraform_data.gone[0]' --allow-destroy terraform_data.home`
	if s := GuardError(got); s != said {
		t.Errorf("GuardError = %s\nwant %s", s, said)
	}
	if v := judge(changes, "terraform_data.disk", "terraform_data.gone[0]"); len(v) != 1 || v[0].Address != "terraform_data.home" {
		t.Errorf("with two allowed: %v", v)
	}
	if v := judge(o.Changes); len(v) != 4 || v[0].Attributes != nil {
		t.Errorf("by the stream alone: %v", v)
	}
	for _, bad := range [][]byte{nil, []byte("PK"), file[:len(file)/2]} {
		if _, err := ReadPlan(bad); !errors.Is(err, ErrPlanFormat) {
			t.Errorf("ReadPlan of %d bytes = %v", len(bad), err)
		}
	}
}

func TestGuardLetsGo(t *testing.T) {
	persistent := []string{"t.a", "module.m.t.b", "berth_home.h", "berth_process.p", "berth_agent.x"}
	for _, tt := range []struct {
		name string
		c    Change
		want int
	}{
		{"update", Change{Address: "t.a", Action: "update"}, 0},
		{"create", Change{Address: "t.a", Action: "create"}, 0},
		{"delete", Change{Address: "t.a", Action: "delete"}, 1},
		{"forget", Change{Address: "t.a", Action: "forget"}, 1},
		{"instance", Change{Address: `t.a["k"]`, Action: "delete"}, 1},
		{"in a module's instance", Change{Address: `module.m["a.b[0]"].t.b[1]`, Action: "replace"}, 1},
		{"renamed", Change{Address: "t.new", Previous: "t.a", Action: "replace"}, 1},
		{"tainted", Change{Address: "t.a", Action: "replace", Reason: ReasonTainted}, 0},
		{"left-over", Change{Address: "t.a", Action: "delete", Deposed: true}, 0},
		{"ephemeral", Change{Address: "t.other", Action: "delete"}, 0},
		{"home", Change{Address: "berth_home.h", Action: "replace"}, 1},
		{"process", Change{Address: "berth_process.p", Action: "replace"}, 0},
		{"agent", Change{Address: "berth_agent.x", Action: "delete"}, 0},
	} {
		if got := Guard([]Change{tt.c}, persistent, nil); len(got) != tt.want {
			t.Errorf("%s: %v, want %d", tt.name, got, tt.want)
		}
	}
	v := []coordinator.Violation{{Address: "berth_home.home", Action: "replace", Attributes: []string{"name"}}}
	want := "the plan would replace berth_home.home (forced by: name), which is persistent; nothing was changed; allow it with --allow-destroy berth_home.home"
	if got := GuardError(v); got != want {
		t.Errorf("GuardError = %s", got)
	}
}

func TestAddresses(t *testing.T) {
	for _, tt := range []struct{ addr, base, typ string }{
		{"a.b", "a.b", "a"},
		{"a.b[0]", "a.b", "a"},
		{`a.b["x.y[\"]"]`, "a.b", "a"},
		{`module.m["]"].a.b[1]`, "module.m.a.b", "a"},
		{"data.d.e", "data.d.e", "d"},
		{"x", "x", ""},
	} {
		if b, typ := Base(tt.addr), TypeOf(tt.addr); b != tt.base || typ != tt.typ {
			t.Errorf("%s: %s, %s, want %s, %s", tt.addr, b, typ, tt.base, tt.typ)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct{ name, config, want, address string }{
		{"syntax", `resource "x" {`, "Unclosed configuration block", ""},
		{"unknown argument", `resource "terraform_data" "a" { nope = 1 }`, "Unsupported argument: An argument named \"nope\" is not expected here. (main.tf line 1)", "terraform_data.a"},
		{"reference", "output \"x\" {\n value = terraform_data.b.id\n}", "Reference to undeclared resource", ""},
		{"provisioner", `resource "terraform_data" "a" {
  provisioner "local-exec" { command = "exit 3" }
}`, "local-exec provisioner error", "terraform_data.a"},
		{"condition", `variable "x" { default = 1 }
resource "terraform_data" "a" {
  lifecycle {
    precondition {
      condition     = var.x > 1
      error_message = "no space left"
    }
  }
}`, "no space left", "terraform_data.a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, run := module(t, tt.config)
			o, status := run("apply", "-json", "-auto-approve", "-input=false")
			if status == 0 || !strings.Contains(o.Error(), tt.want) || o.Address != tt.address {
				t.Errorf("status %d: %s at %q", status, o.Error(), o.Address)
			}
			if strings.Contains(o.Error(), "\n") {
				t.Error("more than one line")
			}
		})
	}
}

// TestInterrupt checks that the end of the context is one interrupt: the state is kept, what was under way is told.
func TestInterrupt(t *testing.T) {
	dir, _ := module(t, `
resource "terraform_data" "quick" {}
resource "terraform_data" "slow" {
  input = terraform_data.quick.id
  provisioner "local-exec" { command = "sleep 60 & echo $! > pid; wait" }
}`)
	path, err := lookReal()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	top := filepath.Dir(dir)
	log, err := os.Create(filepath.Join(top, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // a test's
	c := Command{
		Path: path, Args: []string{"apply", "-json", "-auto-approve"}, Dir: dir, Stdout: log, Stderr: log, Grace: 20 * time.Second,
		Env: Environment{Home: top, Tmp: top, CLIConfig: filepath.Join(top, "rc")}.List(),
		Began: func(int) error {
			go func() {
				for ctx.Err() == nil {
					if _, err := os.Stat(filepath.Join(dir, "pid")); err == nil {
						cancel()
					}
					time.Sleep(time.Millisecond)
				}
			}()
			return nil
		},
	}
	begun := time.Now()
	status, err := c.Run(ctx)
	if err != nil || status == 0 || time.Since(begun) > 15*time.Second {
		t.Fatalf("Run = %d, %v after %s", status, err, time.Since(begun))
	}
	data, err := os.ReadFile(filepath.Join(dir, StateFile))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"terraform_data.quick", "terraform_data.slow"}, Resources(data)); d != "" {
		t.Error(d)
	}
	pid, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range strings.TrimSpace(string(pid)) {
		n = n*10 + int(c-'0')
	}
	deadline := time.Now().Add(5 * time.Second)
	for syscall.Kill(n, 0) == nil {
		if b, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat"); err == nil && bytes.Contains(b, []byte(") Z ")) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a stray lives on")
		}
		time.Sleep(5 * time.Millisecond)
	}
}
