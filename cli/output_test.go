package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"

	"berth/coordinator"
)

func TestSafe(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"plain text, ünï and 世界", "plain text, ünï and 世界"},
		{"a\tb", "a\tb"},
		{"\x1b[31mred", `\x1b[31mred`},
		{"\x1b]0;title\x07", `\x1b]0;title\x07`},
		{"a\rb\nc", `a\x0db\x0ac`},
		{"\u009b31m", `\u009b31m`},
		{"\u202egnp", `\u202egnp`},
		{"\x7f\xff", `\x7f\xff`},
		{"line\u2028separator", `line\u2028separator`},
	} {
		if got := safe(tt.in); got != tt.want {
			t.Errorf("%q is %q, want %q", tt.in, got, tt.want)
		}
	}
	if got := oneLine(" a\r\nb\tc\x1b "); got != `a b c\x1b` {
		t.Errorf("%q", got)
	}
}

func FuzzSafe(f *testing.F) {
	for _, s := range []string{"plain", "\x1b[2J", "\u009b", "\xff\xfe", "\u202e", "世界"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range safe(s) {
			if r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
				t.Fatalf("%q lets %q through", s, r)
			}
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var was, is string
		if json.Unmarshal(b, &was) != nil || json.Unmarshal(safeJSON(b), &is) != nil || was != is {
			t.Fatalf("%q is %q in JSON", s, safeJSON(b))
		}
	})
}

func TestTimes(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a := testApp()
	a.now = func() time.Time { return now }
	for _, tt := range []struct {
		t    time.Time
		want string
	}{
		{time.Time{}, "never"},
		{now, "just now"},
		{now.Add(30 * time.Second), "just now"}, // the server's clock is ahead
		{now.Add(-5 * time.Minute), "5 min ago"},
		{now.Add(-47 * time.Hour), "47 h ago"},
		{now.Add(-72 * time.Hour), "3 d ago"},
		{now.Add(90 * 24 * time.Hour), "in 90 d"},
	} {
		if got := a.ago(tt.t); got != tt.want {
			t.Errorf("%v is %q, want %q", tt.t, got, tt.want)
		}
	}
	for d, want := range map[time.Duration]string{
		1500 * time.Microsecond: "2 ms", 1234 * time.Millisecond: "1.2 s", 90 * time.Second: "1m30s",
	} {
		if got := took(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

func TestBar(t *testing.T) {
	for _, tt := range []struct{ start, length, total time.Duration }{
		{0, 10, 10}, {0, 0, 10}, {10, 0, 10}, {9, 1, 10}, {-5, 3, 10}, {20, 5, 10}, {0, 1, 1000}, {5, 100, 10},
	} {
		b := bar(tt.start, tt.length, tt.total)
		if n := strings.Count(b, "█"); n < 1 || n+strings.Count(b, "·") != chartWidth {
			t.Errorf("%v: %q", tt, b)
		}
	}
	if got := bar(5, 5, 10); got != strings.Repeat("·", 20)+strings.Repeat("█", 20) {
		t.Errorf("the second half is %q", got)
	}
}

func TestSpans(t *testing.T) {
	for s, want := range map[string]time.Duration{"": 0, "30d": 720 * time.Hour, "12h": 12 * time.Hour, "90m": 90 * time.Minute} {
		if got, err := parseSpan(s); err != nil || got != want {
			t.Errorf("%q is %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"0d", "-3d", "d", "1", "1ms", "-1h", "99999999999d", "soon"} {
		if got, err := parseSpan(s); err == nil {
			t.Errorf("%q is %v", s, got)
		}
	}
}

// TestPlainProgress writes a line for each change, and none for what may be over in no time.
func TestPlainProgress(t *testing.T) {
	var b bytes.Buffer
	a := testApp()
	a.err = &b
	p := a.progress("dev: ", time.Hour)
	p.set(coordinator.Progress{Stage: "connect", Text: "agent main"})
	p.set(coordinator.Progress{Stage: "apply", Address: "x.y", Text: "Creating"})
	p.set(coordinator.Progress{Stage: "apply", Address: "x.y", Text: "Creating", Elapsed: 3 * time.Second})
	p.set(coordinator.Progress{Stage: "apply", Address: "x.y", Text: "still\x1b[2J", Elapsed: 4 * time.Second})
	p.say("warning: %s", "w")
	p.stop()
	p.stop()
	want := "dev: apply: x.y: Creating\ndev: apply: x.y: still\\x1b[2J (4 s)\nwarning: w\n"
	if b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}
