package provider

import (
	"reflect"

	"berth/coordinator"
)

var parameterKind = &kind{
	name: "berth_parameter",
	data: true,
	doc:  "A value that is chosen for each workspace.",
	attrs: []attr{
		{name: "name", typ: text, role: required, doc: "Name by which the value is set: berth create --set NAME=VALUE."},
		{name: "display_name", typ: text, role: optional, doc: "Name that people are shown."},
		{name: "description", typ: text, role: optional, doc: "What the value is for."},
		{name: "type", typ: text, role: optional, def: coordinator.TypeString, doc: "string, number, bool or list(string); a list is written as JSON."},
		{name: "default", typ: text, role: optional, doc: "Value where none is chosen. Without it one must be."},
		{name: "mutable", typ: boolean, role: optional, def: false, doc: "Whether the value may be changed later."},
		{name: "value", typ: text, doc: "The value."},
	},
	blocks: []block{
		{name: "option", doc: "One allowed value. Without options any is allowed.", attrs: []attr{
			{name: "name", typ: text, role: required, doc: "Name that people are shown."},
			{name: "value", typ: text, role: required, doc: "The value."},
			{name: "description", typ: text, role: optional, doc: "What choosing it means."},
		}},
		{name: "validation", max: 1, doc: "What values have to be like.", attrs: []attr{
			{name: "regex", typ: text, role: optional, doc: "Regular expression (RE2) that a string has to match."},
			{name: "error", typ: text, role: optional, doc: "What people are told where a value is refused."},
			{name: "min", typ: number, role: optional, doc: "Least allowed number."},
			{name: "max", typ: number, role: optional, doc: "Greatest allowed number."},
		}},
	},
	fetch: fetchParameter,
}

// parameter returns the parameter as the template declares it.
func parameter(v values) coordinator.Parameter {
	p := coordinator.Parameter{
		Name: v.text("name"), DisplayName: v.text("display_name"), Description: v.text("description"),
		Type: v.text("type"), Mutable: v.bool("mutable"),
	}
	if v.has("default") {
		d := v.text("default")
		p.Default = &d
	}
	for _, o := range v.list("option") {
		p.Options = append(p.Options, coordinator.ParameterOption{Name: o.text("name"), Value: o.text("value"), Description: o.text("description")})
	}
	for _, r := range v.list("validation") {
		p.Regex, p.Error, p.Min, p.Max = r.text("regex"), r.text("error"), r.number("min"), r.number("max")
	}
	return p
}

func fetchParameter(s *Session, v values) error {
	p := parameter(v)
	if err := p.Validate(); err != nil {
		return err
	}
	if err := s.asks(p); err != nil {
		return err
	}
	value, chosen := s.job.Params[p.Name]
	switch {
	case chosen && s.job.Import:
	case chosen:
		if err := p.Check(value); err != nil {
			return err
		}
	case p.Default != nil:
		value = *p.Default
	case s.job.Import:
		value = p.Placeholder()
	default:
		return coordinator.Errorf(coordinator.CodeInvalid, "parameter %q has no default and needs a value", p.Name).
			WithHint("give it with --set " + p.Name + "=VALUE")
	}
	v.set("value", value)
	return nil
}

// asks remembers that the template asks for p. Two parameters of one name are refused where they differ; a template
// is evaluated more than once, so that the same one comes again.
func (s *Session) asks(p coordinator.Parameter) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, ok := s.asked[p.Name]
	if ok && s.job.Import && !reflect.DeepEqual(before, p) {
		return coordinator.Errorf(coordinator.CodeInvalid, "the template declares parameter %q twice", p.Name).
			WithHint("give each berth_parameter a name of its own")
	}
	if !ok && len(s.asked) >= coordinator.MaxParameters {
		return coordinator.Errorf(coordinator.CodeTooLarge, "the template has more than %d parameters", coordinator.MaxParameters)
	}
	s.asked[p.Name] = p
	return nil
}
