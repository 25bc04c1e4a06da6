package runner

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/coordinator"
)

func (w *world) importing(files map[string]string) (coordinator.Job, ending) {
	w.Helper()
	w.n++
	job := w.job(strings.Repeat("v", w.n))
	job.Import, job.Archive = true, w.put(files)
	return job, w.do(job, "")
}

func TestImportRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const runs = "\nresource \"terraform_data\" \"dev\" {\n  input = berth_agent.main.token\n}\n"
	for _, tt := range []struct{ name, config, want string }{
		{"backend", header + runs + "terraform {\n  backend \"local\" {}\n}", "declares a backend or cloud block"},
		{"cloud", header + runs + "terraform {\n  cloud {}\n}", "declares a backend or cloud block"},
		{"syntax", header + runs + `resource "x" {`, "Unclosed configuration block"},
		{"unknown reference", header + runs + "output \"x\" {\n value = terraform_data.nope.id\n}", "Reference to undeclared resource"},
		{"no agent", `resource "terraform_data" "a" {}`, "has no agent"},
		{"nothing runs the agent", header + `resource "terraform_data" "a" { input = data.berth_workspace.me.name }`, "no resource runs the agent berth_agent.main"},
		{"two agents of one name", header + runs + "resource \"berth_agent\" \"two\" {\n  os = \"linux\"\n  arch = \"amd64\"\n}\n" +
			"resource \"terraform_data\" \"b\" {\n  input = berth_agent.two.id\n}", "two agents are named main: berth_agent.main and berth_agent.two"},
		{"bad only while stopped", header + runs + "resource \"terraform_data\" \"b\" {\n  input = 1 / data.berth_workspace.me.start_count\n}", "with start count 0: "},
		{"bad agent name", strings.Replace(header, `arch = "amd64"`, "arch = \"amd64\"\n  name = \"Not Good\"", 1) + runs, "agent name"},
		{"module that is not there", header + runs + "module \"m\" {\n  source = \"./nope\"\n}", "terraform init: "},
	} {
		job, e := w.importing(map[string]string{"main.tf": tt.config})
		if e.Status != coordinator.BuildFailed || !strings.Contains(e.Error, tt.want) || strings.Contains(e.Error, "\n") || e.Imported != nil {
			t.Errorf("%s: %s: %s\nwant …%s…\n%s", tt.name, e.Status, e.Error, tt.want, e.log())
		}
		if _, err := os.Stat(job.ModuleDir); err == nil {
			t.Errorf("%s: a version was kept", tt.name)
		}
	}
	job := w.job("gone")
	job.Import, job.Archive = true, strings.Repeat("0", 64)
	var e *coordinator.Error
	if err := w.Begin(job, ""); !errors.As(err, &e) || e.Code != coordinator.CodeNotFound {
		t.Errorf("Begin without an archive = %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(w.data, "versions")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestImportModules checks that init runs where modules need it, that references are followed through them, and that
// builds use what it fetched.
func TestImportModules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	files := map[string]string{
		"main.tf": header + `
module "vm" {
  source = "./vm"
  token  = berth_agent.main.token
  on     = data.berth_workspace.me.start_count
}
resource "berth_home" "home" {}
`,
		"vm/main.tf": `
variable "token" {}
variable "on" {}
locals { secret = var.token }
resource "terraform_data" "disk" { for_each = toset(["a", "b"]) }
resource "terraform_data" "vm" {
  count = var.on
  input = sha256(var.token)
}`,
	}
	job, e := w.importing(files)
	w.want(e, coordinator.BuildSucceeded, "")
	want := coordinator.Import{
		Parameters: []coordinator.Parameter{},
		Agents:     []coordinator.TemplateAgent{{Name: "main", Address: "berth_agent.main"}},
		Persistent: []string{"berth_agent.main", "berth_home.home", "module.vm.terraform_data.disk"},
		Ephemeral:  []string{"module.vm.terraform_data.vm[0]"},
	}
	got := *e.Imported
	got.Parameters = append([]coordinator.Parameter{}, got.Parameters...)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("imported (-want +got):\n%s", d)
	}
	if log := e.log(); !strings.Contains(log, "fetching modules") || strings.Contains(log, "not installed") {
		t.Errorf("log:\n%s", log)
	}
	build := w.job(filepath.Base(job.ModuleDir))
	build.Transition, build.Persistent = coordinator.Start, want.Persistent
	started := w.do(build, "")
	w.want(started, coordinator.BuildSucceeded, "")
	if len(started.Agents) != 1 || started.Agents[0].Resource != "module.vm.terraform_data.vm[0]" {
		t.Errorf("agents %+v", started.Agents)
	}
	// A version without the home: the guard names it, and lets it go when it is told to.
	files["main.tf"] = strings.Replace(files["main.tf"], `resource "berth_home" "home" {}`, "", 1)
	job, e = w.importing(files)
	w.want(e, coordinator.BuildSucceeded, "")
	update := w.job(filepath.Base(job.ModuleDir))
	update.Transition, update.Persistent = coordinator.Start, want.Persistent
	refused := w.do(update, started.state)
	w.want(refused, coordinator.BuildFailed, "the plan would delete berth_home.home, which is persistent; nothing was changed; allow it with --allow-destroy berth_home.home")
	update.ID, update.AllowDestroy = "allowed", []string{"berth_home.home"}
	w.want(w.do(update, started.state), coordinator.BuildSucceeded, "")
}

// TestImportWithoutCredentials checks that the count expressions tell what is persistent where a plan fails for want
// of credentials.
func TestImportWithoutCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, e := w.importing(map[string]string{"main.tf": header + `
data "terraform_remote_state" "org" {
  backend = "credentials-of-${data.berth_workspace.me.name}" # an error of a provider that names what is missing
}
locals { n = data.berth_workspace.me.start_count }
resource "terraform_data" "disk" { input = data.terraform_remote_state.org.outputs }
resource "terraform_data" "vm" {
  count = data.berth_workspace.me.start_count
  input = [data.terraform_remote_state.org.outputs, berth_agent.main.id]
}
resource "terraform_data" "hidden" { count = local.n }
`})
	w.want(e, coordinator.BuildSucceeded, "")
	got := strings.Join(e.Imported.Persistent, " ") + " | " + strings.Join(e.Imported.Ephemeral, " ")
	if got != "berth_agent.main terraform_data.disk terraform_data.hidden | terraform_data.vm" {
		t.Errorf("persistent | ephemeral = %s", got)
	}
	if w := strings.Join(e.Imported.Warnings, "\n"); !strings.Contains(w, "without credentials") || !strings.Contains(w, "terraform_data.hidden") {
		t.Errorf("warnings: %s", w)
	}
}
