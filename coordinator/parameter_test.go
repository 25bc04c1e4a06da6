package coordinator

import (
	"strings"
	"testing"
)

func ptr[T any](v T) *T { return &v }

func TestParameterCheck(t *testing.T) {
	cpu := Parameter{Name: "cpu", Type: TypeNumber, Min: ptr(1.0), Max: ptr(8.0)}
	size := Parameter{Name: "size", Type: TypeString, Options: []ParameterOption{{Value: "small"}, {Value: "large"}}}
	tools := Parameter{Name: "tools", Type: TypeList, Options: []ParameterOption{{Value: "go"}, {Value: "node"}}}
	for _, tt := range []struct {
		name  string
		p     Parameter
		value string
		want  string // a part of the message; empty: allowed
	}{
		{"in range", cpu, "8", ""},
		{"fraction", cpu, "1.5", ""},
		{"beyond", cpu, "9", `parameter "cpu": 9 is not allowed: it has to be from 1 to 8`},
		{"below", cpu, "0.9", "from 1 to 8"},
		{"no number", cpu, "many", `"many" is not a number`},
		{"NaN", cpu, "NaN", "not a number"},
		{"hexadecimal", cpu, "0x4", "not a number"},
		{"empty number", cpu, "", "not a number"},
		{"at least", Parameter{Name: "n", Type: TypeNumber, Min: ptr(2.0)}, "1", "at least 2"},
		{"option", size, "large", ""},
		{"no option", size, "huge", `parameter "size": "huge" is not one of small, large`},
		{"list", tools, `["go"]`, ""},
		{"empty list", tools, `[]`, ""},
		{"no list", tools, `go`, "not a list"},
		{"null list", tools, `null`, "not a list"},
		{"null in list", tools, `[null]`, "not a list"},
		{"list with another", tools, `["go","rust"]`, `"rust" is not one of go, node`},
		{"bool", Parameter{Name: "b", Type: TypeBool}, "true", ""},
		{"no bool", Parameter{Name: "b", Type: TypeBool}, "yes", "not true or false"},
		{"regex", Parameter{Name: "s", Type: TypeString, Regex: "^a+$"}, "aa", ""},
		{"regex fails", Parameter{Name: "s", Type: TypeString, Regex: "^a+$"}, "ab", "match ^a+$"},
		{"regex with a word", Parameter{Name: "s", Type: TypeString, Regex: "^a+$", Error: "only a"}, "b", "only a"},
		{"too long", Parameter{Name: "s", Type: TypeString}, strings.Repeat("x", MaxParameter+1), "longer"},
		{"not UTF-8", Parameter{Name: "s", Type: TypeString}, "\xff", "UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.p.Check(tt.value)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestParameterValidate(t *testing.T) {
	for _, tt := range []struct {
		name string
		p    Parameter
		want string
	}{
		{"fine", Parameter{Name: "cpu", Type: TypeNumber, Default: ptr("2")}, ""},
		{"name", Parameter{Name: "a b", Type: TypeString}, "not a valid parameter name"},
		{"type", Parameter{Name: "a", Type: "map"}, "not a type"},
		{"default", Parameter{Name: "a", Type: TypeNumber, Default: ptr("x")}, "the default of parameter \"a\""},
		{"default beyond", Parameter{Name: "a", Type: TypeNumber, Max: ptr(1.0), Default: ptr("2")}, "at most 1"},
		{"regex", Parameter{Name: "a", Type: TypeString, Regex: "("}, "does not parse"},
		{"regex for numbers", Parameter{Name: "a", Type: TypeNumber, Regex: "x"}, "type string"},
		{"min for strings", Parameter{Name: "a", Type: TypeString, Min: ptr(1.0)}, "type number"},
		{"min over max", Parameter{Name: "a", Type: TypeNumber, Min: ptr(2.0), Max: ptr(1.0)}, "greater"},
		{"option twice", Parameter{Name: "a", Type: TypeString, Options: []ParameterOption{{Value: "x"}, {Value: "x"}}}, "twice"},
		{"option of another type", Parameter{Name: "a", Type: TypeBool, Options: []ParameterOption{{Value: "x"}}}, "true or false"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.p.Validate()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestParameterPlaceholder(t *testing.T) {
	for _, p := range []Parameter{
		{Type: TypeString},
		{Type: TypeNumber},
		{Type: TypeNumber, Min: ptr(4.0)},
		{Type: TypeNumber, Max: ptr(-2.0)},
		{Type: TypeBool},
		{Type: TypeList},
		{Type: TypeString, Options: []ParameterOption{{Value: "x"}}},
		{Type: TypeList, Options: []ParameterOption{{Value: "x"}}},
	} {
		if err := p.Check(p.Placeholder()); err != nil {
			t.Error(err)
		}
	}
}
