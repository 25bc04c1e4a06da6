package terraform

import (
	"fmt"
	"slices"
	"strings"

	"berth/coordinator"
)

// Exempt reports whether the guard lets a resource of this type go: our own types hold no data of anybody, but for
// berth_home.
func Exempt(resourceType string) bool {
	return resourceType != "berth_home" &&
		(strings.HasPrefix(resourceType, "berth_") || strings.HasPrefix(resourceType, "coder_"))
}

// Guard returns what a plan would delete or replace of what is persistent and not allowed. An address without an
// instance key in either list stands for all instances. A tainted resource may be replaced: its making failed, so
// nobody has put anything into it. So may a left-over of an earlier, allowed replacement.
func Guard(changes []Change, persistent, allow []string) []coordinator.Violation {
	var found []coordinator.Violation
	for _, c := range changes {
		switch c.Action {
		case ActionDelete, ActionReplace, ActionForget:
		default:
			continue
		}
		if c.Deposed || c.Reason == ReasonTainted || Exempt(TypeOf(c.Address)) {
			continue
		}
		names := []string{c.Address}
		if c.Previous != "" {
			names = append(names, c.Previous)
		}
		if !listed(persistent, names) || listed(allow, names) {
			continue
		}
		found = append(found, coordinator.Violation{Address: c.Address, Action: c.Action, Attributes: c.Attributes})
	}
	return found
}

func listed(list, names []string) bool {
	for _, n := range names {
		if slices.Contains(list, n) || slices.Contains(list, Base(n)) {
			return true
		}
	}
	return false
}

// Merge joins what a plan file says with what terraform's stream said of the same plan. The file tells left-overs and
// attributes; a change that only the stream told is kept, so that a file that is read wrong hides nothing.
func Merge(file, stream []Change) []Change {
	all := slices.Clone(file)
	for _, s := range stream {
		known := slices.ContainsFunc(file, func(f Change) bool { return f.Address == s.Address && f.Action == s.Action })
		if !known {
			all = append(all, s)
		}
	}
	return all
}

// GuardError says in one line what the guard stopped, and what allows it.
func GuardError(v []coordinator.Violation) string {
	var what, allow []string
	action := ""
	for _, v := range v {
		s := v.Address
		if v.Action != action {
			s = v.Action + " " + s
			action = v.Action
		}
		if len(v.Attributes) > 0 {
			s += " (forced by: " + strings.Join(v.Attributes, ", ") + ")"
		}
		what = append(what, s)
		allow = append(allow, "--allow-destroy "+shellWord(v.Address))
	}
	verb := "is"
	if len(v) > 1 {
		verb = "are"
	}
	return fmt.Sprintf("the plan would %s, which %s persistent; nothing was changed; allow it with %s",
		strings.Join(what, ", "), verb, strings.Join(allow, " "))
}

// shellWord quotes an address that a shell would take apart.
func shellWord(s string) string {
	if strings.ContainsAny(s, "[]\"' *") {
		return "'" + s + "'"
	}
	return s
}

// Base returns an address without the keys of instances, of modules too: module.a["x"].t.n[0] is module.a.t.n.
func Base(addr string) string {
	var b strings.Builder
	quoted, depth := false, 0
	for i := 0; i < len(addr); i++ {
		switch c := addr[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[':
			depth++
		case c == ']':
			depth--
		case depth == 0:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// TypeOf returns the resource type in an address: t of module.a["x"].t.n[0].
func TypeOf(addr string) string {
	p := strings.Split(Base(addr), ".")
	if len(p) < 2 {
		return ""
	}
	return p[len(p)-2]
}
