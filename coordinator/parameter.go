package coordinator

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// Types of parameters.
const (
	TypeString = "string"
	TypeNumber = "number"
	TypeBool   = "bool"
	TypeList   = "list(string)" // a JSON array of strings
)

// maxShownValues is how many allowed values a message lists.
const maxShownValues = 20

var parameterRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,63}$`) })

// Validate returns an Error unless the parameter makes sense as a template declares it.
func (p Parameter) Validate() error {
	if !parameterRE().MatchString(p.Name) {
		return Errorf(CodeInvalid, "%q is not a valid parameter name", Clip(p.Name, 40)).
			WithHint("use 1 to 64 letters, digits, dots, hyphens and underscores, beginning with a letter")
	}
	switch p.Type {
	case TypeString, TypeNumber, TypeBool, TypeList:
	default:
		return p.errorf("%q is not a type", Clip(p.Type, 40)).WithHint("use string, number, bool or list(string)")
	}
	if p.Regex != "" && p.Type != TypeString {
		return p.errorf("a regex is for parameters of type string")
	}
	if _, err := regexp.Compile(p.Regex); err != nil || len(p.Regex) > 1000 {
		return p.errorf("the regex %q does not parse", Clip(p.Regex, 80)).WithCause(err)
	}
	if (p.Min != nil || p.Max != nil) && p.Type != TypeNumber {
		return p.errorf("min and max are for parameters of type number")
	}
	if p.Min != nil && p.Max != nil && *p.Min > *p.Max {
		return p.errorf("min is greater than max")
	}
	seen := map[string]bool{}
	for _, o := range p.Options {
		if seen[o.Value] {
			return p.errorf("the option %q is there twice", Clip(o.Value, 80))
		}
		seen[o.Value] = true
		if err := p.checkType(o.Value); err != nil && p.Type != TypeList { // an option of a list is one of its strings
			return err
		}
	}
	if p.Default != nil {
		if err := p.Check(*p.Default); err != nil {
			return Errorf(CodeInvalid, "the default of %v", err)
		}
	}
	return nil
}

// Check returns an Error that names the parameter and what it allows unless value is one that it allows.
func (p Parameter) Check(value string) error {
	if len(value) > MaxParameter || !utf8.ValidString(value) {
		return p.errorf("the value is longer than %d bytes or not UTF-8", MaxParameter)
	}
	if err := p.checkType(value); err != nil {
		return err
	}
	if len(p.Options) > 0 {
		return p.checkOptions(value)
	}
	if p.Regex != "" {
		if re, err := regexp.Compile(p.Regex); err != nil || !re.MatchString(value) {
			why := p.Error
			if why == "" {
				why = "it has to match " + p.Regex
			}
			return p.errorf("%q is not allowed: %s", Clip(value, 80), why)
		}
	}
	if p.Type != TypeNumber {
		return nil
	}
	n, _ := number(value)
	if p.Min != nil && n < *p.Min || p.Max != nil && n > *p.Max {
		why := p.Error
		if why == "" {
			why = "it has to be " + p.bounds()
		}
		return p.errorf("%s is not allowed: %s", value, why)
	}
	return nil
}

// Placeholder returns a value of the parameter's type for looking at a template without anybody's choice.
func (p Parameter) Placeholder() string {
	switch {
	case p.Type == TypeList:
		return "[]"
	case len(p.Options) > 0:
		return p.Options[0].Value
	case p.Type == TypeNumber && p.Min != nil:
		return formatNumber(*p.Min)
	case p.Type == TypeNumber && p.Max != nil && *p.Max < 1:
		return formatNumber(*p.Max)
	case p.Type == TypeNumber:
		return "1"
	case p.Type == TypeBool:
		return "false"
	default:
		return "placeholder"
	}
}

func (p Parameter) errorf(format string, args ...any) *Error {
	return Errorf(CodeInvalid, "parameter %q: "+format, append([]any{p.Name}, args...)...)
}

func (p Parameter) checkType(value string) error {
	switch p.Type {
	case TypeNumber:
		if _, ok := number(value); !ok {
			return p.errorf("%q is not a number", Clip(value, 80))
		}
	case TypeBool:
		if value != "true" && value != "false" {
			return p.errorf("%q is not true or false", Clip(value, 80))
		}
	case TypeList:
		if _, ok := list(value); !ok {
			return p.errorf("%q is not a list of strings", Clip(value, 80)).WithHint(`write it as JSON: ["a","b"]`)
		}
	}
	return nil
}

func (p Parameter) checkOptions(value string) error {
	values := []string{value}
	if p.Type == TypeList {
		values, _ = list(value)
	}
	for _, v := range values {
		if !p.offers(v) {
			return p.errorf("%q is not one of %s", Clip(v, 80), p.allowed())
		}
	}
	return nil
}

func (p Parameter) offers(value string) bool {
	for _, o := range p.Options {
		if o.Value == value {
			return true
		}
	}
	return false
}

func (p Parameter) allowed() string {
	var all []string
	for i, o := range p.Options {
		if i == maxShownValues {
			all = append(all, "…")
			break
		}
		all = append(all, Clip(o.Value, 80))
	}
	return strings.Join(all, ", ")
}

func (p Parameter) bounds() string {
	switch {
	case p.Max == nil:
		return "at least " + formatNumber(*p.Min)
	case p.Min == nil:
		return "at most " + formatNumber(*p.Max)
	default:
		return "from " + formatNumber(*p.Min) + " to " + formatNumber(*p.Max)
	}
}

var numberRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?$`) })

func number(s string) (float64, bool) {
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil && numberRE().MatchString(s)
}

func formatNumber(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

func list(s string) ([]string, bool) {
	var l []*string
	if err := json.Unmarshal([]byte(s), &l); err != nil || l == nil {
		return nil, false
	}
	out := make([]string, len(l))
	for i, v := range l {
		if v == nil {
			return nil, false
		}
		out[i] = *v
	}
	return out, true
}
