package api

import (
	"maps"
	"strings"
	"testing"

	"berth/coordinator"
)

func ptr[T any](v T) *T { return &v }

func TestChoose(t *testing.T) {
	declared := []coordinator.Parameter{
		{Name: "cpu", Type: "number", Default: ptr("2"), Mutable: true, Min: ptr(1.0), Max: ptr(8.0)},
		{Name: "zone", Type: "string", Default: ptr("a"), Options: []coordinator.ParameterOption{{Value: "a"}, {Value: "b"}}},
		{Name: "gpu", Type: "bool", Default: ptr("false"), Mutable: true},
		{Name: "repo", Type: "string", Mutable: true, Description: "what to clone", Regex: "^https://", Error: "begin with https"},
		{Name: "tools", Type: "list(string)", Default: ptr("[]"), Mutable: true, Options: []coordinator.ParameterOption{{Value: "go"}, {Value: "node"}}},
	}
	repo := map[string]string{"repo": "https://x"}
	with := func(name, value string) map[string]string {
		m := maps.Clone(repo)
		m[name] = value
		return m
	}
	for _, tt := range []struct {
		name    string
		before  choice
		changes map[string]string
		want    string // in the error; empty: none
	}{
		{"only what is required", choice{}, repo, ""},
		{"required missing", choice{}, nil, "parameter repo is required: what to clone"},
		{"unknown", choice{}, with("cpus", "3"), `no parameter "cpus"`},
		{"number", choice{}, with("cpu", "3.5"), ""},
		{"no number", choice{}, with("cpu", "many"), `parameter cpu: "many" is not a number`},
		{"infinity", choice{}, with("cpu", "Inf"), "parameter cpu: "},
		{"NaN", choice{}, with("cpu", "NaN"), "parameter cpu: "},
		{"too little", choice{}, with("cpu", "0"), "is less than 1"},
		{"too much", choice{}, with("cpu", "9"), "is more than 8"},
		{"option", choice{}, with("zone", "b"), ""},
		{"no option", choice{}, with("zone", "c"), `parameter zone: "c" is not possible: choose one of a, b`},
		{"bool", choice{}, with("gpu", "true"), ""},
		{"no bool", choice{}, with("gpu", "yes"), "parameter gpu: "},
		{"regex", choice{}, map[string]string{"repo": "git@x"}, "begin with https"},
		{"list", choice{}, with("tools", `["go","node"]`), ""},
		{"no list", choice{}, with("tools", "go"), "parameter tools: "},
		{"null", choice{}, with("tools", "null"), "parameter tools: "},
		{"no option in list", choice{}, with("tools", `["go","perl"]`), "parameter tools: "},
		{"long", choice{}, with("repo", "https://"+strings.Repeat("x", coordinator.MaxParameter)), "parameter repo has at most 8 KiB"},
		{"mutable", choice{declared, with("cpu", "2")}, map[string]string{"cpu": "4"}, ""},
		{"immutable", choice{declared, with("zone", "a")}, map[string]string{"zone": "b"}, "parameter zone cannot be changed"},
		{"immutable by default", choice{declared, repo}, map[string]string{"zone": "b"}, "parameter zone cannot be changed"},
		{"immutable, the same", choice{declared, repo}, map[string]string{"zone": "a"}, ""},
		{"immutable, new in this version", choice{declared[3:], repo}, map[string]string{"zone": "b"}, ""},
		{"no longer declared", choice{declared, with("old", "1")}, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := choose(tt.before, declared, tt.changes)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v", err)
			case err == nil && got["repo"] == "":
				t.Errorf("got %v", got)
			}
			if _, ok := got["old"]; ok {
				t.Error("a value that is no longer declared is kept")
			}
		})
	}
}
