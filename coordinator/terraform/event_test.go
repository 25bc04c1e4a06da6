package terraform

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"berth/coordinator"
)

func TestDecode(t *testing.T) {
	hook := func(typ, action string) string {
		return `{"@level":"info","@message":"m","@timestamp":"2026-01-02T03:04:05Z","type":"` + typ + `","hook":{"resource":{"addr":"t.a"},"action":"` + action + `","elapsed_seconds":10,"output":"out"}}`
	}
	diag := func(rest string) string {
		return `{"@level":"error","@message":"Error: x","type":"diagnostic","diagnostic":{"severity":"error",` + rest + `}}`
	}
	for _, tt := range []struct{ raw, want string }{
		{`{"type":"version","@message":"Terraform 1.11.4"}`, ""},
		{`{"type":"outputs","@message":"Outputs: 1","outputs":{"x":{"value":"secret"}}}`, ""},
		{hook("apply_start", "create"), "info plan t.a creating 0s"},
		{hook("apply_progress", "delete"), "info plan t.a still destroying 10s"},
		{hook("apply_complete", "update"), "info plan t.a updated 10s"},
		{hook("apply_errored", "create"), "error plan t.a creating failed 10s"},
		{hook("provision_progress", ""), "info plan t.a out 0s"},
		{hook("refresh_complete", ""), ""},
		{`{"type":"planned_change","@level":"info","change":{"resource":{"addr":"t.a"},"action":"replace"}}`, "info plan t.a will be replaced 0s"},
		{`{"type":"planned_change","@level":"info","change":{"resource":{"addr":"t.a"},"action":"noop"}}`, ""},
		{`{"type":"resource_drift","@level":"info","change":{"resource":{"addr":"t.a"},"action":"delete"}}`, "info plan t.a is gone; it was not Berth that removed it 0s"},
		{diag(`"summary":"S","detail":"D\nE","address":"t.a","range":{"filename":"m.tf","start":{"line":3}}`), "error plan t.a S: D\nE (m.tf line 3) 0s"},
		{diag(`"summary":"S","snippet":{"context":"x","values":[{"traversal":"var.password","statement":"is \"hunter2\""}]}`), "error plan  S 0s"},
		{diag(`"summary":"bad token ba1_ws_agent_AAAABBBBCCCC refused"`), "error plan  bad token [redacted] refused 0s"},
		{diag(`"summary":"\u001b[31mred\u0007"`), "error plan  [31mred 0s"},
		{`panic: oh`, "info plan  panic: oh 0s"},
		{`{"no":"type"}`, `info plan  {"no":"type"} 0s`},
		{"  ", ""},
	} {
		e, ok := Decode([]byte(tt.raw), "plan")
		got := ""
		if ok {
			got = fmt.Sprint(e.Line.Level, " ", e.Line.Stage, " ", e.Line.Address, " ", e.Line.Text, " ", e.Line.Elapsed)
		}
		if got != tt.want {
			t.Errorf("%s\n got %q\nwant %q", tt.raw, got, tt.want)
		}
	}
}

// TestLogReader checks that lines have the same numbers however the log grows, and that no line is too long for it.
func TestLogReader(t *testing.T) {
	var log []byte
	own := func(stage, text string) {
		log = append(log, OwnLine(coordinator.LogLine{Time: time.Now(), Stage: stage, Text: text})...)
	}
	own("plan", "one")
	log = append(log, "\n{\"type\":\"version\"}\ntext in plan\n"...)
	own("apply", "two")
	log = append(log, strings.Repeat("x", 3<<20)+"\ntext in apply\ncut off"...)
	want := []string{"0 plan one", "1 plan text in plan", "2 apply two", "3 apply (a line that is too long was left out)", "4 apply text in apply", "5 apply cut off"}
	for _, step := range []int{1 << 20, 100_001, len(log)} {
		var got []string
		each := func(e Event) {
			got = append(got, fmt.Sprint(e.Line.Seq, " ", e.Line.Stage, " ", e.Line.Text))
			if e.Line.Source != coordinator.SourceBuild || !e.Shown {
				t.Errorf("line %+v", e)
			}
		}
		grown := &growing{}
		r := NewLogReader(grown)
		for i := 0; i < len(log); i += step {
			grown.b = log[:min(len(log), i+step)]
			if err := r.Next(each); err != nil {
				t.Fatal(err)
			}
		}
		r.End(each)
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("by %d:\n%s", step, strings.Join(got, "\n"))
		}
	}
}

type growing struct{ b []byte }

func (g *growing) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(g.b).ReadAt(p, off)
}

func TestInFlight(t *testing.T) {
	log := `{"type":"apply_start","hook":{"resource":{"addr":"t.a"},"action":"create"}}
{"type":"apply_start","hook":{"resource":{"addr":"t.b"},"action":"create"}}
{"type":"apply_start","hook":{"resource":{"addr":"data.c.d"},"action":"read"}}
{"type":"apply_complete","hook":{"resource":{"addr":"t.a"},"action":"create"}}
`
	var o Outcome
	if err := NewLogReader(strings.NewReader(log)).Next(o.Add); err != nil {
		t.Fatal(err)
	}
	if f := o.InFlight(); len(f) != 1 || f[0] != "t.b" || len(o.Timings) != 1 {
		t.Errorf("in flight %v, timings %v", f, o.Timings)
	}
}
