package terraform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/terraform-exec/tfexec"
	tfjson "github.com/hashicorp/terraform-json"

	"berth/coordinator"
)

// An Importer finds out what a template version is made of: it fetches what the module needs and plans it with start
// count 1 and 0.
type Importer struct {
	Dir         string // of the version: module/ and data/
	Exec        string // the program that terraform-exec starts
	Environment Environment
	Granted     map[string]coordinator.Secret // to the plans; init runs without
	StartCount  func(n int)                   // tells the provider
	Log         io.Writer                     // raw log; its errors are ignored
	Begin       func(stage, text string)      // called at the beginning of each stage
	Ended       func()                        // called after each command
	Limits      coordinator.JobLimits
}

// A Refusal is why a template is not accepted.
type Refusal struct {
	Msg     string
	Address string
}

// Error returns the reason.
func (r *Refusal) Error() string { return r.Msg }

func refuse(format string, args ...any) error { return &Refusal{Msg: fmt.Sprintf(format, args...)} }

// Run imports the version. A *Refusal is an error of the template's author.
func (i *Importer) Run(ctx context.Context) (*coordinator.Import, error) {
	i.StartCount(1)
	i.Begin(StagePlan, "planning with start count 1")
	full, err := i.plan(ctx, "plan-1", io.Discard)
	if full.needsInit() {
		i.Begin(StageInit, "fetching modules and providers")
		if err := i.init(ctx); err != nil {
			return nil, err
		}
		i.Begin(StagePlan, "planning with start count 1")
		full, err = i.plan(ctx, "plan-1", i.Log)
	} else {
		_, _ = i.Log.Write(full.raw) // see sink
	}
	if err != nil && !full.outside() {
		return nil, full.refusal(err)
	}
	shown, showErr := i.show(ctx, "plan-1")
	if showErr != nil {
		return nil, full.refusal(errors.Join(err, showErr))
	}
	found, refused := analyse(shown)
	if err != nil {
		if refused != nil {
			return nil, refused
		}
		found.Warnings = append([]string{"it could not be planned without credentials (" + full.outcome.Problem +
			"); what is persistent was taken from the count expressions"}, found.Warnings...)
		byExpressions(shown.Config, found)
		return found, nil
	}
	if refused != nil {
		return nil, refused
	}
	i.StartCount(0)
	i.Begin(StagePlan, "planning with start count 0")
	none, err := i.plan(ctx, "plan-0", i.Log)
	if err != nil {
		r := none.refusal(err)
		var refusal *Refusal
		if errors.As(r, &refusal) {
			refusal.Msg = "with start count 0: " + refusal.Msg
		}
		return nil, r
	}
	compare(full.created(), none.created(), found)
	return found, nil
}

// exec returns a terraform-exec object for one command. Its version check is answered by terraform once for each.
func (i *Importer) exec(granted map[string]coordinator.Secret) (*tfexec.Terraform, error) {
	tf, err := tfexec.NewTerraform(filepath.Join(i.Dir, ModuleDir), i.Exec)
	if err != nil {
		return nil, fmt.Errorf("prepare terraform: %w", err)
	}
	e := i.Environment
	e.Granted = granted
	if err := tf.SetEnv(e.Map()); err != nil {
		return nil, fmt.Errorf("prepare terraform: %w", err)
	}
	return tf, nil
}

func (i *Importer) reattach() (tfexec.ReattachInfo, error) {
	var info tfexec.ReattachInfo
	if err := json.Unmarshal([]byte(i.Environment.Reattach), &info); err != nil {
		return nil, fmt.Errorf("read reattach information: %w", err)
	}
	return info, nil
}

// A planned is what the stream of one plan said.
type planned struct {
	outcome Outcome
	events  []Event
	raw     []byte
}

func (i *Importer) plan(ctx context.Context, name string, log io.Writer) (planned, error) {
	var p planned
	tf, err := i.exec(i.Granted)
	if err != nil {
		return p, err
	}
	info, err := i.reattach()
	if err != nil {
		return p, err
	}
	ctx, cancel := Limit(ctx, i.Limits.Plan, coordinator.DefaultPlanLimit, StagePlan)
	defer cancel()
	var out bytes.Buffer
	_, err = tf.PlanJSON(ctx, sink{&out, log}, tfexec.Reattach(info), tfexec.Lock(false), tfexec.Out(i.planFile(name)))
	i.Ended()
	p.raw = out.Bytes()
	r := NewLogReader(bytes.NewReader(p.raw))
	if e := r.Next(p.add); e != nil {
		err = errors.Join(err, e)
	}
	r.End(p.add)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return p, err
}

func (i *Importer) planFile(name string) string { return filepath.Join(i.Environment.Tmp, name) }

func (p *planned) add(e Event) {
	p.outcome.Add(e)
	p.events = append(p.events, e)
}

// sink is a writer that never fails and never blocks: an error would make terraform-exec stop reading.
type sink struct {
	kept *bytes.Buffer
	log  io.Writer
}

func (s sink) Write(b []byte) (int, error) {
	if s.kept.Len()+len(b) <= MaxState {
		s.kept.Write(b) // a buffer's never fails
	}
	_, _ = s.log.Write(b) // a full disk must not stop terraform
	return len(b), nil
}

func (i *Importer) init(ctx context.Context) error {
	tf, err := i.exec(nil)
	if err != nil {
		return err
	}
	info, err := i.reattach()
	if err != nil {
		return err
	}
	ctx, cancel := Limit(ctx, i.Limits.Init, coordinator.DefaultInitLimit, StageInit)
	defer cancel()
	var out bytes.Buffer
	tf.SetStdout(sink{&out, i.Log})
	err = tf.Init(ctx, tfexec.Backend(false), tfexec.Upgrade(false), tfexec.Reattach(info))
	i.Ended()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		return refuse("terraform init: %s", initProblem(err))
	}
	return nil
}

// initProblem finds the error's text in what init wrote to its standard error.
func initProblem(err error) string {
	_, s, ok := strings.Cut(err.Error(), "Error: ")
	if !ok {
		s = err.Error()
	}
	return OneLine(strings.NewReplacer("│", " ", "╵", " ", "╷", " ").Replace(s))
}

func (i *Importer) show(ctx context.Context, name string) (*tfjson.Plan, error) {
	tf, err := i.exec(i.Granted)
	if err != nil {
		return nil, err
	}
	info, err := i.reattach()
	if err != nil {
		return nil, err
	}
	ctx, cancel := Limit(ctx, i.Limits.Plan, coordinator.DefaultPlanLimit, StagePlan)
	defer cancel()
	plan, err := tf.ShowPlanFile(ctx, i.planFile(name), tfexec.Reattach(info))
	i.Ended()
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	if err != nil {
		return nil, fmt.Errorf("read plan: %w", err)
	}
	return plan, nil
}

var (
	initRE    = regexp.MustCompile(`\b(terraform|tofu) init\b`)
	backendRE = regexp.MustCompile(`^(Backend|HCP Terraform|Terraform Cloud|Cloud backend|Terraform Enterprise)\b.* initialization required`)
)

// needsInit reports whether the plan failed for want of modules or providers. A backend says the same words, but init
// would not help: it is refused.
func (p *planned) needsInit() bool {
	return initRE.MatchString(p.outcome.Problem) && !p.backend()
}

func (p *planned) backend() bool { return backendRE.MatchString(p.outcome.Problem) }

// outside reports whether all that failed lies beyond the template: third-party providers and what they read, which
// may want credentials that an import does not have.
func (p *planned) outside() bool {
	n := 0
	for _, e := range p.events {
		if e.Problem == "" {
			continue
		}
		n++
		if !e.Outside {
			return false
		}
	}
	return n > 0
}

// created returns the addresses that the plan makes.
func (p *planned) created() []string {
	var addrs []string
	for _, c := range p.outcome.Changes {
		if c.Action == "create" {
			addrs = append(addrs, c.Address)
		}
	}
	return addrs
}

// refusal turns a failed plan into what its author is told; what is not theirs passes.
func (p *planned) refusal(err error) error {
	switch {
	case errors.Is(err, context.Canceled), IsTimeout(err):
		return err
	case p.backend():
		return refuse("the template declares a backend or cloud block: Berth keeps the state of every workspace itself; remove the block")
	case p.outcome.Problem != "":
		return &Refusal{Msg: p.outcome.Error(), Address: p.outcome.Address}
	default:
		return err
	}
}

// A timeoutError says that a stage took longer than it may.
type timeoutError struct {
	stage string
	limit time.Duration
}

func (e *timeoutError) Error() string { return fmt.Sprintf("%s took longer than %s", e.stage, e.limit) }

// IsTimeout reports whether a stage was ended because of its limit.
func IsTimeout(err error) bool {
	var t *timeoutError
	return errors.As(err, &t)
}

// Limit returns a context that ends with an error for which IsTimeout holds. A d of zero means byDefault.
func Limit(ctx context.Context, d, byDefault time.Duration, stage string) (context.Context, context.CancelFunc) {
	if d <= 0 {
		d = byDefault
	}
	return context.WithTimeoutCause(ctx, d, &timeoutError{stage, d})
}
