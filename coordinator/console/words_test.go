package console

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWords(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want []string
		bad  bool
	}{
		{"", nil, false},
		{"  ls\t--json\n", []string{"ls", "--json"}, false},
		{`create dev --set 'a=b c' --set "d=\"e\" \f"`, []string{"create", "dev", "--set", "a=b c", "--set", `d="e" \f`}, false},
		{`'' ""`, []string{"", ""}, false},
		{`a\ b c\'d`, []string{"a b", "c'd"}, false},
		{"a\\\nb", []string{"ab"}, false},
		{`$(rm) ; | * ~ ` + "`x`", []string{"$(rm)", ";", "|", "*", "~", "`x`"}, false},
		{`a"b`, nil, true},
		{`a'b`, nil, true},
		{`a\`, nil, true},
		{"a\x00b", nil, true},
		{strings.Repeat("a", maxCommand+1), nil, true},
		{strings.Repeat("a ", maxWords+1), nil, true},
	} {
		got, err := words(tt.in)
		if (err != nil) != tt.bad || !tt.bad && !cmp.Equal(got, tt.want) {
			t.Errorf("words(%.40q) = %q, %v", tt.in, got, err)
		}
	}
}

func FuzzWords(f *testing.F) {
	for _, s := range []string{"ls --json", `a 'b c' "d\"e"`, `\`, "'", "\xff\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		all, err := words(s)
		if err == nil && len(all) > maxWords+1 {
			t.Errorf("%d words", len(all))
		}
	})
}

func TestLineReader(t *testing.T) {
	for _, tt := range []struct {
		name, in, want, echo string
		err                  error
	}{
		{"plain", "abc\r", "abc", "abc\r\n", nil},
		{"erase", "ab\x7fc\r", "ac", "ab\b \bc\r\n", nil},
		{"erase a letter of two bytes", "aé\x7f\r", "a", "aé\b \b\r\n", nil},
		{"erase the line", "ab\x15c\n", "c", "ab\b \b\b \bc\r\n", nil},
		{"control characters", "a\x1bb\x01\r", "ab", "ab\r\n", nil},
		{"interrupt", "ab\x03", "", "ab^C\r\n", errInterrupted},
		{"end", "\x04", "", "", io.EOF},
		{"gone", "ab", "", "ab", io.EOF},
	} {
		var out bytes.Buffer
		l := &lineReader{in: strings.NewReader(tt.in), out: &out}
		got, err := l.line(true)
		if got != tt.want || !errors.Is(err, tt.err) || out.String() != tt.echo {
			t.Errorf("%s: %q, %v, echo %q", tt.name, got, err, out.String())
		}
	}
}

// What one reader has not read is the next one's, and one that is closed takes nothing.
func TestKeyboard(t *testing.T) {
	k := newKeyboard()
	first := k.open()
	read := make(chan error)
	go func() {
		_, err := first.Read(make([]byte, 8))
		read <- err
	}()
	first.close()
	if err := <-read; !errors.Is(err, io.EOF) {
		t.Errorf("the closed reader: %v", err)
	}
	k.pump(strings.NewReader("abc"))
	b := make([]byte, 2)
	for _, want := range []string{"ab", "c"} {
		n, err := k.open().Read(b)
		if err != nil || string(b[:n]) != want {
			t.Errorf("read %q, %v", b[:n], err)
		}
	}
	interrupted := 0
	k.onInterrupt(func() { interrupted++ })
	k.mu.Lock()
	k.take([]byte("typed\x03after"))
	k.mu.Unlock()
	if string(k.typed) != "after" || interrupted != 1 {
		t.Errorf("after Ctrl-C: %q, %d", k.typed, interrupted)
	}
}
