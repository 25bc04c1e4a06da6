package provider

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"berth/coordinator"
)

const parameters = header + `
data "berth_parameter" "cpu" {
  name    = "cpu"
  type    = "number"
  default = 2
  mutable = true
  validation {
    min = 1
    max = 8
  }
}
data "berth_parameter" "size" {
  name         = "size"
  display_name = "Size"
  description  = "How large"
  option {
    name  = "Small"
    value = "small"
  }
  option {
    name        = "Large"
    value       = "large"
    description = "costs more"
  }
}
data "berth_parameter" "branch" {
  name = "branch"
  default = "main"
  validation {
    regex = "^[a-z]+$"
    error = "lower-case letters only"
  }
}
data "berth_parameter" "count" {
  name = "count"
  type = "number"
}
output "values" {
  value = [data.berth_parameter.cpu.value, data.berth_parameter.size.value, data.berth_parameter.branch.value, data.berth_parameter.count.value * 2]
}
output "me" {
  value = data.berth_workspace.me
}
`

func TestParameters(t *testing.T) {
	t.Parallel()
	b := newBuild(t, parameters)
	for _, tt := range []struct {
		name   string
		params map[string]string
		want   []string
	}{
		{"required", map[string]string{"size": "small"}, []string{`parameter "count" has no default and needs a value`, "--set count=VALUE"}},
		{"option", map[string]string{"size": "huge", "count": "1"}, []string{`parameter "size": "huge" is not one of small, large`}},
		{"range", map[string]string{"size": "small", "count": "1", "cpu": "9"}, []string{`parameter "cpu": 9 is not allowed: it has to be from 1 to 8`}},
		{"type", map[string]string{"size": "small", "count": "one"}, []string{`parameter "count": "one" is not a number`}},
		{"regex", map[string]string{"size": "small", "count": "1", "branch": "X"}, []string{`parameter "branch": "X" is not allowed: lower-case letters only`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.t, b.job.Params = t, tt.params
			b.refused(coordinator.Start, tt.want...)
		})
	}
	b.t, b.job.Params = t, map[string]string{"size": "large", "count": "3"}
	b.apply(coordinator.Start)
	raw, err := os.ReadFile(filepath.Join(b.dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	var st struct {
		Outputs map[string]struct{ Value any }
	}
	if err := json.Unmarshal(raw, &st); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(st.Outputs["values"].Value), "[2 large main 6]"; got != want {
		t.Errorf("values = %s, want %s", got, want)
	}
	me := fmt.Sprint(st.Outputs["me"].Value)
	want := "map[access_url:http://127.0.0.1:7080 host_arch:" + runtime.GOARCH + " id:wsa name:dev owner:map[email:a@example.com full_name:Alice groups:[dev] id:u1 name:alice] " +
		"parameters:map[count:3 size:large] start_count:1 tags:map[] template:map[name:local version:3] transition:start]"
	if me != want {
		t.Errorf("me = %s\nwant %s", me, want)
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	b := newBuild(t, parameters+strings.TrimPrefix(example, header))
	b.job = coordinator.Job{ID: "v1", Import: true, Template: "local", Version: 1, ModuleDir: b.job.ModuleDir, Terraform: b.job.Terraform}
	s := b.serve()
	defer s.Close()
	for count, want := range map[int]string{1: "Plan: 3 to add", 0: "Plan: 2 to add"} {
		s.SetStartCount(count)
		out, err := b.terraform(s, "plan", "-input=false", "-no-color", "-refresh=false")
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("start count %d: %v\n%s", count, err, out)
		}
	}
	got := s.Parameters()
	if len(got) != 4 {
		t.Fatalf("parameters: %+v", got)
	}
	branch, cpu, size := got[0], got[2], got[3]
	if branch.Name != "branch" || *branch.Default != "main" || branch.Regex != "^[a-z]+$" || branch.Error != "lower-case letters only" || branch.Type != "string" {
		t.Errorf("branch = %+v", branch)
	}
	if cpu.Name != "cpu" || *cpu.Min != 1 || *cpu.Max != 8 || !cpu.Mutable || *cpu.Default != "2" || cpu.Type != "number" {
		t.Errorf("cpu = %+v", cpu)
	}
	if size.Default != nil || len(size.Options) != 2 || size.Options[1].Value != "large" || size.Options[1].Description != "costs more" || size.DisplayName != "Size" {
		t.Errorf("size = %+v", size)
	}
	if out, err := b.terraform(s, "apply", "-auto-approve", "-input=false", "-no-color", "-state="+filepath.Join(b.dir, "state")); err == nil || !strings.Contains(out, "an import changes nothing") {
		t.Errorf("apply: %v\n%s", err, out)
	}
}

func TestImportRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, main, want string }{
		{"one name twice", header + "data \"berth_parameter\" \"a\" {\n  name = \"x\"\n}\ndata \"berth_parameter\" \"b\" {\n  name = \"x\"\n  default = \"y\"\n}\n", `declares parameter "x" twice`},
		{"bad default", header + "data \"berth_parameter\" \"a\" {\n  name = \"x\"\n  type = \"bool\"\n  default = \"maybe\"\n}\n", `the default of parameter "x"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBuild(t, tt.main)
			b.job.Import = true
			s := b.serve()
			defer s.Close()
			out, err := b.terraform(s, "plan", "-input=false", "-no-color")
			if flat := strings.Join(strings.Fields(strings.ReplaceAll(out, "│", "")), " "); err == nil || !strings.Contains(flat, tt.want) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	t.Run("not gated", func(t *testing.T) {
		b := newBuild(t, strings.Replace(example, "data.berth_workspace.me.start_count", "1", 1))
		b.job.Import = true
		s := b.serve()
		defer s.Close()
		s.SetStartCount(0)
		if out, err := b.terraform(s, "plan", "-input=false", "-no-color"); err == nil || !strings.Contains(out, "while the workspace is stopped") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}
