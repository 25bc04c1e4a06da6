package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// safe escapes what could move a cursor, change a title or reverse the reading order on a terminal: control
// characters, also the eight-bit ones, direction marks, and bytes that are no UTF-8. Tabs stay.
func safe(s string) string {
	clean := true
	for i := 0; i < len(s) && clean; i++ {
		clean = s[i] >= ' ' && s[i] < 0x7f || s[i] == '\t'
	}
	if clean {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r == '\t' || !dangerous(r):
			b.WriteString(s[:n])
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		s = s[n:]
	}
	return b.String()
}

func dangerous(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}

// oneLine is safe for a message or a cell: line breaks and tabs become blanks.
func oneLine(s string) string {
	return safe(strings.NewReplacer("\r\n", " ", "\n", " ", "\t", " ").Replace(strings.TrimSpace(s)))
}

// printf writes to stdout. Whatever came from the server must have gone through safe or oneLine.
func (a *app) printf(format string, args ...any) {
	fmt.Fprintf(a.out, format, args...) // a reader that went away is told by SIGPIPE
}

// hintf writes a line to stderr.
func (a *app) hintf(format string, args ...any) {
	fmt.Fprintf(a.err, format+"\n", args...) // likewise
}

// A format is how a listing is printed.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
)

// outputFlag adds -o to a command.
func outputFlag(cmd *cobra.Command, f *format) {
	*f = formatTable
	cmd.Flags().VarP((*formatValue)(f), "output", "o", "how to print: table or json")
}

// completeFormats lets the shell complete every -o. It is not for trees that are made again and again: cobra keeps what
// completes a flag for ever.
func completeFormats(cmd *cobra.Command) {
	if f := cmd.Flags().Lookup("output"); f != nil && f.Value.Type() == "format" {
		_ = cmd.RegisterFlagCompletionFunc("output", // the flag is there
			cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	}
	for _, sub := range cmd.Commands() {
		completeFormats(sub)
	}
}

type formatValue format

func (f *formatValue) String() string { return string(*f) }
func (f *formatValue) Type() string   { return "format" }
func (f *formatValue) Set(s string) error {
	switch format(s) {
	case formatTable, formatJSON:
		*f = formatValue(s)
		return nil
	}
	return fmt.Errorf("it is table or json")
}

// show prints v as JSON, or calls text.
func (a *app) show(f format, v any, text func()) error {
	if f == formatJSON {
		return a.printJSON(v)
	}
	text()
	return nil
}

func (a *app) printJSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	_, err = a.out.Write(append(safeJSON(b), '\n'))
	return err
}

// safeJSON escapes what safe escapes and JSON leaves: it can stand in strings only.
func safeJSON(b []byte) []byte {
	var out bytes.Buffer
	for _, r := range string(b) {
		if r >= 0x7f && dangerous(r) {
			fmt.Fprintf(&out, `\u%04x`, r)
		} else {
			out.WriteRune(r)
		}
	}
	return out.Bytes()
}

// A table is rows of cells, aligned when they are printed.
type table struct {
	w *tabwriter.Writer
}

func (a *app) table(head ...string) *table { return newTable(a.out, head...) }

func newTable(out io.Writer, head ...string) *table {
	t := &table{tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)}
	t.row(head...)
	return t
}

func (t *table) row(cells ...string) {
	for i, c := range cells {
		if cells[i] = oneLine(c); cells[i] == "" {
			cells[i] = "-"
		}
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t")) // flush reports
}

func (t *table) print() { _ = t.w.Flush() } // a reader that went away is told by SIGPIPE

// fields prints names and values, aligned; a value that is empty is left out.
func (a *app) fields(pairs ...string) {
	w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if v := oneLine(pairs[i+1]); v != "" {
			fmt.Fprintf(w, "%s\t%s\n", pairs[i], v) // flush reports
		}
	}
	_ = w.Flush() // a reader that went away is told by SIGPIPE
}

// ago is a time relative to now, as people say it.
func (a *app) ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	switch d := a.now().Sub(t); {
	case d < -time.Minute:
		return "in " + span(-d)
	case d < time.Minute:
		return "just now"
	default:
		return span(d) + " ago"
	}
}

// span is a duration in its largest unit.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(d/time.Second)) + " s"
	case d < time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + " min"
	case d < 2*day:
		return strconv.Itoa(int(d/time.Hour)) + " h"
	default:
		return strconv.Itoa(int(d/day)) + " d"
	}
}

// took is a duration to the precision that people care for.
func took(d time.Duration) string {
	switch {
	case d < time.Second:
		return strconv.Itoa(int(d.Round(time.Millisecond)/time.Millisecond)) + " ms"
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	default:
		return d.Round(time.Second).String()
	}
}

// safeLines is safe for text of several lines.
func safeLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = safe(strings.TrimSuffix(l, "\r"))
	}
	return strings.Join(lines, "\n")
}

// fine is a duration in milliseconds to a tenth.
func fine(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 1, 64) + " ms"
}
