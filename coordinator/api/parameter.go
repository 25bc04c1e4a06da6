package api

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"berth/coordinator"
)

// Types of parameters.
const (
	typeNumber = "number"
	typeBool   = "bool"
	typeList   = "list(string)"
)

// A choice is what a workspace uses: the parameters that a version declares, and the values that were given.
type choice struct {
	declared []coordinator.Parameter
	values   map[string]string
}

func (c choice) find(name string) (coordinator.Parameter, bool) {
	i := slices.IndexFunc(c.declared, func(p coordinator.Parameter) bool { return p.Name == name })
	if i < 0 {
		return coordinator.Parameter{}, false
	}
	return c.declared[i], true
}

// value is what the template sees for a parameter.
func (c choice) value(name string) (string, bool) {
	p, ok := c.find(name)
	if !ok {
		return "", false
	}
	if v, ok := c.values[name]; ok {
		return v, true
	}
	if p.Default != nil {
		return *p.Default, true
	}
	return "", false
}

// choose checks the values of a workspace that moves from before to a version with the declared parameters, where
// changes are what the user asks to set. Values that the version no longer declares are dropped.
func choose(before choice, declared []coordinator.Parameter, changes map[string]string) (map[string]string, error) {
	after := choice{declared, map[string]string{}}
	for name, v := range before.values {
		if _, ok := after.find(name); ok {
			after.values[name] = v
		}
	}
	for name, v := range changes {
		p, ok := after.find(name)
		if !ok {
			return nil, unknownParameter(name, declared)
		}
		if old, ok := before.value(name); ok && old != v && !p.Mutable {
			return nil, coordinator.Errorf(coordinator.CodeInvalid, "parameter %s cannot be changed once the workspace is made (it is %q)", name, coordinator.Clip(oneLine(old), 80)).
				WithHint("make a new workspace with another value")
		}
		after.values[name] = v
	}
	for _, p := range declared {
		v, given := after.values[p.Name]
		if !given {
			if p.Default == nil {
				return nil, coordinator.Errorf(coordinator.CodeInvalid, "parameter %s is required: %s", p.Name, describe(p)).
					WithHint("give it with --set " + p.Name + "=VALUE")
			}
			continue
		}
		if err := checkValue(p, v); err != nil {
			return nil, err
		}
	}
	return after.values, nil
}

func unknownParameter(name string, declared []coordinator.Parameter) error {
	e := coordinator.Errorf(coordinator.CodeInvalid, "the template has no parameter %q", coordinator.Clip(oneLine(name), 64))
	if len(declared) == 0 {
		return e.WithHint("it has none at all")
	}
	var names []string
	for _, p := range declared {
		names = append(names, p.Name)
	}
	return e.WithHint("it has " + strings.Join(names, ", "))
}

// describe says what a value of p may be.
func describe(p coordinator.Parameter) string {
	if len(p.Options) > 0 {
		var values []string
		for _, o := range p.Options {
			values = append(values, o.Value)
		}
		return "one of " + strings.Join(values, ", ")
	}
	if d := oneLine(p.Description); d != "" {
		return coordinator.Clip(d, 200)
	}
	return "a " + typeName(p)
}

func typeName(p coordinator.Parameter) string {
	if p.Type == "" {
		return "string"
	}
	return p.Type
}

// checkValue checks one value against its declaration.
func checkValue(p coordinator.Parameter, v string) error {
	bad := func(why string) error {
		return coordinator.Errorf(coordinator.CodeInvalid, "parameter %s: %q %s", p.Name, coordinator.Clip(oneLine(v), 80), why)
	}
	if len(v) > coordinator.MaxParameter {
		return coordinator.Errorf(coordinator.CodeTooLarge, "parameter %s has at most %s", p.Name, size(coordinator.MaxParameter))
	}
	items := []string{v}
	switch p.Type {
	case typeNumber:
		if why := checkNumber(p, v); why != "" {
			return bad(why)
		}
	case typeBool:
		if v != "true" && v != "false" {
			return bad("is neither true nor false")
		}
	case typeList:
		items = nil
		if err := json.Unmarshal([]byte(v), &items); err != nil || items == nil {
			return bad(`is not a list of strings like ["a","b"]`)
		}
	}
	if len(p.Options) > 0 {
		for _, item := range items {
			if !slices.ContainsFunc(p.Options, func(o coordinator.ParameterOption) bool { return o.Value == item }) {
				return bad("is not possible: choose " + describe(p))
			}
		}
	}
	if p.Regex == "" {
		return nil
	}
	re, err := regexp.Compile(p.Regex)
	if err != nil {
		return coordinator.Errorf(coordinator.CodeInvalid, "parameter %s: the template's regular expression is not valid", p.Name).WithCause(err)
	}
	if !re.MatchString(v) {
		if p.Error != "" {
			return bad("is not possible: " + oneLine(p.Error))
		}
		return bad("does not match " + p.Regex)
	}
	return nil
}

// checkNumber returns what is wrong with a number; "" if nothing is.
func checkNumber(p coordinator.Parameter, v string) string {
	n, err := strconv.ParseFloat(v, 64)
	text := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	switch {
	case err != nil || n != n || n-n != 0: // neither NaN nor an infinity
		return "is not a number"
	case p.Min != nil && n < *p.Min:
		return "is less than " + text(*p.Min)
	case p.Max != nil && n > *p.Max:
		return "is more than " + text(*p.Max)
	}
	return ""
}
