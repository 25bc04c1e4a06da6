package terraform

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"berth/coordinator"
)

// Stages of a job, as they stand in log lines and timings.
const (
	StageInit  = "init"
	StagePlan  = "plan"
	StageApply = "apply"
)

// An Event is what one line of a build's raw log says: a line of terraform's machine-readable output, or one that the
// runner wrote itself.
type Event struct {
	Line    coordinator.LogLine // without Source and Seq
	Type    string              // terraform's type of the message; "berth" for the runner's own, "text" for what is no JSON
	Change  *Change             // of planned_change
	Action  string              // of apply_*: create, update, delete, read ...
	Problem string              // of a diagnostic of severity error: the message on one line
	Outside bool                // the problem is a third-party provider's and smells of missing credentials
	Shown   bool                // Line is part of the log; set by a LogReader
}

// Types of events that are looked at.
const (
	eventOwn      = "berth"
	eventText     = "text"
	eventPlanned  = "planned_change"
	eventStart    = "apply_start"
	eventComplete = "apply_complete"
	eventErrored  = "apply_errored"
)

// message is a line of terraform's -json output, as far as it is read.
// See https://developer.hashicorp.com/terraform/internals/machine-readable-ui
type message struct {
	Level   string    `json:"@level"`
	Message string    `json:"@message"`
	Time    time.Time `json:"@timestamp"`
	Type    string    `json:"type"`
	Change  *struct {
		Resource resource  `json:"resource"`
		Previous *resource `json:"previous_resource"`
		Action   string    `json:"action"`
		Reason   string    `json:"reason"`
	} `json:"change"`
	Hook *struct {
		Resource resource `json:"resource"`
		Action   string   `json:"action"`
		Elapsed  float64  `json:"elapsed_seconds"`
		Output   string   `json:"output"`
	} `json:"hook"`
	Changes *struct {
		Operation string `json:"operation"`
	} `json:"changes"`
	Diagnostic *diagnostic          `json:"diagnostic"`
	Own        *coordinator.LogLine `json:"berth"` // the runner's own line
}

type resource struct {
	Addr string `json:"addr"`
	Type string `json:"resource_type"`
}

// diagnostic leaves the snippet's values out on purpose: they may be anything.
type diagnostic struct {
	Severity string `json:"severity"`
	Summary  string `json:"summary"`
	Detail   string `json:"detail"`
	Address  string `json:"address"`
	Range    *struct {
		Filename string `json:"filename"`
		Start    struct {
			Line int `json:"line"`
		} `json:"start"`
	} `json:"range"`
	Snippet *struct {
		Context string `json:"context"`
	} `json:"snippet"`
}

// OwnLine encodes a line of the runner's own for the raw log, newline included.
func OwnLine(l coordinator.LogLine) []byte {
	b, err := json.Marshal(map[string]any{"@timestamp": l.Time, "type": eventOwn, "berth": l})
	if err != nil { // a LogLine has no value that cannot be encoded
		return nil
	}
	return append(b, '\n')
}

// Decode reads one raw line that was written in the given stage. It reports false for noise.
func Decode(raw []byte, stage string) (Event, bool) {
	raw = trimLine(raw)
	if len(raw) == 0 {
		return Event{}, false
	}
	var m message
	if raw[0] != '{' || json.Unmarshal(raw, &m) != nil || m.Type == "" {
		return text(raw, stage)
	}
	e := Event{Type: m.Type, Line: coordinator.LogLine{Time: m.Time, Stage: stage, Level: m.Level}}
	keep := true
	switch {
	case m.Type == eventOwn && m.Own != nil:
		e.Line = *m.Own
	case m.Diagnostic != nil:
		keep = e.diagnose(m.Diagnostic)
	case m.Change != nil:
		keep = e.change(&m)
	case m.Hook != nil:
		keep = e.hook(&m)
	case m.Type == "change_summary" || m.Type == "log":
		e.Line.Text = m.Message
		if m.Changes != nil && m.Changes.Operation == "plan" {
			e.Line.Stage = StagePlan
		}
	default: // version, outputs, init_output and what is to come
		keep = false
	}
	e.Line.Text = Clean(e.Line.Text)
	e.Line.Seq, e.Line.Source = 0, ""
	return e, keep && e.Line.Text != ""
}

func text(raw []byte, stage string) (Event, bool) {
	s := Clean(string(raw))
	return Event{Type: eventText, Line: coordinator.LogLine{Stage: stage, Level: "info", Text: s}}, s != ""
}

func trimLine(raw []byte) []byte { return []byte(strings.TrimRight(string(raw), "\r\n \t")) }

func (e *Event) diagnose(d *diagnostic) bool {
	if strings.Contains(d.Summary, "development overrides are in effect") {
		return false // by our own doing
	}
	e.Line.Level = "warn"
	e.Line.Address = d.address()
	text := d.Summary
	if d.Detail != "" {
		text += ": " + d.Detail
	}
	if d.Range != nil && d.Range.Filename != "" {
		text += fmt.Sprintf(" (%s line %d)", d.Range.Filename, d.Range.Start.Line)
	}
	e.Line.Text = text
	if d.Severity == "error" {
		e.Line.Level = "error"
		e.Problem = OneLine(text)
		e.Outside = d.outside()
	}
	return true
}

var (
	credentialRE = regexp.MustCompile(`(?i)credential|authenti|authoriz|unauthor|forbidden|denied|token|password|api.?key|log ?in|access key|connect|dial |no such host|unable to configure|configur\w* provider`)
	resourceRE   = regexp.MustCompile(`^resource "([^"]+)" "([^"]+)"`)
	providerRE   = regexp.MustCompile(`^provider "([^"]+)"`)
)

// address returns the resource that a diagnostic is about: the one that it names, else the block of the root module
// that it points to.
func (d *diagnostic) address() string {
	if d.Address != "" || d.Snippet == nil || d.Range == nil || strings.Contains(d.Range.Filename, "/") {
		return d.Address
	}
	if m := resourceRE.FindStringSubmatch(d.Snippet.Context); m != nil {
		return m[1] + "." + m[2]
	}
	return ""
}

// outside reports whether a diagnostic comes from a provider that is not ours and may come from missing credentials.
func (d *diagnostic) outside() bool {
	if d.Snippet != nil {
		if m := providerRE.FindStringSubmatch(d.Snippet.Context); m != nil {
			return m[1] != "berth" && m[1] != "coder"
		}
	}
	t := TypeOf(d.address())
	return t != "" && t != "terraform_data" && t != "berth_home" && !Exempt(t) && credentialRE.MatchString(d.Summary+" "+d.Detail)
}

var changeWords = map[string]string{
	"create": "will be created", "update": "will be updated", "delete": "will be destroyed",
	"replace": "will be replaced", "move": "was renamed", "remove": "will be forgotten", "forget": "will be forgotten",
	"import": "will be imported",
}

func (e *Event) change(m *message) bool {
	c := m.Change
	e.Line.Stage = StagePlan
	e.Line.Address = c.Resource.Addr
	if m.Type == eventPlanned {
		e.Change = &Change{Address: c.Resource.Addr, Action: streamAction(c.Action), Reason: c.Reason}
		if c.Previous != nil {
			e.Change.Previous = c.Previous.Addr
		}
		e.Line.Text = changeWords[c.Action]
		return e.Line.Text != "" // else noop or read
	}
	if m.Type == "resource_drift" && c.Action == "delete" {
		e.Line.Text = "is gone; it was not Berth that removed it"
	} else if m.Type == "resource_drift" && c.Action == "update" {
		e.Line.Text = "has changed by itself"
	}
	return e.Line.Text != ""
}

var actionWords = map[string][2]string{ // while it goes on, and done
	"create": {"creating", "created"}, "update": {"updating", "updated"}, "delete": {"destroying", "destroyed"},
	"read": {"reading", "read"}, "replace": {"replacing", "replaced"},
}

func (e *Event) hook(m *message) bool {
	h := m.Hook
	e.Action = h.Action
	e.Line.Address = h.Resource.Addr
	if e.Line.Stage == "" {
		e.Line.Stage = StageApply
	}
	words, ok := actionWords[h.Action]
	if !ok {
		words = [2]string{"working on it", "done"}
	}
	elapsed := time.Duration(h.Elapsed * float64(time.Second))
	switch m.Type {
	case eventStart:
		e.Line.Text = words[0]
	case "apply_progress":
		e.Line.Text, e.Line.Elapsed = "still "+words[0], elapsed
	case eventComplete:
		e.Line.Text, e.Line.Elapsed = words[1], elapsed
	case eventErrored:
		e.Line.Text, e.Line.Elapsed, e.Line.Level = words[0]+" failed", elapsed, "error"
	case "refresh_start":
		e.Line.Text, e.Line.Level = "refreshing", "debug"
	case "provision_start":
		e.Line.Text = "provisioning"
	case "provision_progress":
		e.Line.Text = h.Output
	case "provision_errored":
		e.Line.Text, e.Line.Level = "provisioning failed", "error"
	}
	return e.Line.Text != ""
}

// tokenRE finds Berth's own tokens, which a provider's message may quote.
var tokenRE = regexp.MustCompile(`\bb[ats]1_[A-Za-z0-9_-]{8,}`)

// Clean makes a text fit for a log that is shown on a terminal and on pages: valid UTF-8, no control characters but
// newlines and tabs, no tokens, at most MaxLogLine bytes.
func Clean(s string) string {
	s = strings.ToValidUTF8(s, "�")
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r == utf8.RuneError || !unicode.IsControl(r) {
			return r
		}
		return -1
	}, s)
	s = tokenRE.ReplaceAllString(s, "[redacted]")
	return coordinator.Clip(strings.TrimRight(s, "\n\t "), coordinator.MaxLogLine-4)
}

// OneLine joins the lines of a message, and cuts it where nobody reads on.
func OneLine(s string) string {
	s = strings.Join(strings.Fields(Clean(s)), " ")
	return coordinator.Clip(s, 1000)
}
