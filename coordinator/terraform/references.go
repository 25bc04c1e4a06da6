package terraform

import (
	"strings"

	tfjson "github.com/hashicorp/terraform-json"
)

// A scope is one module of a configuration.
type scope struct {
	path   string // module.a.module.b, or "" for the root
	name   string // of its call in the parent
	parent *scope
	module *tfjson.ConfigModule
}

// references follows a configuration's references to the resources behind them. What a local value stands for is not
// part of terraform's description; such a reference is noted as opaque.
type references struct {
	scopes map[string]*scope
	seen   map[string]bool
	hits   map[string]bool // config addresses of managed resources that are reached
	opaque bool            // a local value is on the way
}

// resourceIn is a resource of a configuration with its module.
type resourceIn struct {
	*tfjson.ConfigResource
	scope *scope
}

func (r resourceIn) config() string { return r.scope.join(r.Type + "." + r.Name) }

func (s *scope) join(addr string) string {
	if s.path == "" {
		return addr
	}
	return s.path + "." + addr
}

// configuration lists the modules and the managed resources of a configuration.
func configuration(c *tfjson.Config) (map[string]*scope, []resourceIn) {
	scopes := map[string]*scope{}
	var all []resourceIn
	var visit func(s *scope)
	visit = func(s *scope) {
		scopes[s.path] = s
		for _, r := range s.module.Resources {
			if r.Mode == tfjson.ManagedResourceMode {
				all = append(all, resourceIn{r, s})
			}
		}
		for name, call := range s.module.ModuleCalls {
			if call.Module != nil {
				visit(&scope{path: s.join("module." + name), name: name, parent: s, module: call.Module})
			}
		}
	}
	if c != nil && c.RootModule != nil {
		visit(&scope{module: c.RootModule})
	}
	return scopes, all
}

// of returns the managed resources that r refers to, directly and through others, and whether a local value is among
// the references.
func of(scopes map[string]*scope, r resourceIn) (hits map[string]bool, opaque bool) {
	w := &references{scopes: scopes, seen: map[string]bool{}, hits: map[string]bool{}}
	w.resource(r.scope, r.ConfigResource)
	return w.hits, w.opaque
}

func (w *references) resource(s *scope, r *tfjson.ConfigResource) {
	w.expressions(s, r.Expressions)
	w.expression(s, r.CountExpression)
	w.expression(s, r.ForEachExpression)
	w.names(s, r.DependsOn)
	for _, p := range r.Provisioners {
		w.expressions(s, p.Expressions)
	}
	for at := s; at.parent != nil; at = at.parent { // what a module call depends on, all in it does
		if call := at.parent.module.ModuleCalls[at.name]; call != nil {
			w.names(at.parent, call.DependsOn)
		}
	}
}

func (w *references) expressions(s *scope, m map[string]*tfjson.Expression) {
	for _, e := range m {
		w.expression(s, e)
	}
}

func (w *references) expression(s *scope, e *tfjson.Expression) {
	if e == nil || e.ExpressionData == nil {
		return
	}
	w.names(s, e.References)
	for _, b := range e.NestedBlocks {
		w.expressions(s, b)
	}
}

func (w *references) names(s *scope, refs []string) {
	for _, ref := range refs {
		if key := s.path + "\x00" + ref; !w.seen[key] {
			w.seen[key] = true
			w.name(s, strings.Split(Base(ref), "."))
		}
	}
}

func (w *references) name(s *scope, p []string) {
	if len(p) < 2 {
		return
	}
	switch p[0] {
	case "local":
		w.opaque = true
	case "var":
		if s.parent != nil {
			if call := s.parent.module.ModuleCalls[s.name]; call != nil {
				w.expression(s.parent, call.Expressions[p[1]])
			}
		}
	case "module":
		child := w.scopes[s.join("module."+p[1])]
		if child == nil {
			return
		}
		for name, out := range child.module.Outputs {
			if len(p) < 3 || p[2] == name {
				w.expression(child, out.Expression)
				w.names(child, out.DependsOn)
			}
		}
	case "data":
		if len(p) > 2 {
			w.follow(s, tfjson.DataResourceMode, p[1], p[2])
		}
	default:
		w.follow(s, tfjson.ManagedResourceMode, p[0], p[1])
	}
}

func (w *references) follow(s *scope, mode tfjson.ResourceMode, typ, name string) {
	for _, r := range s.module.Resources {
		if r.Mode != mode || r.Type != typ || r.Name != name {
			continue
		}
		if mode == tfjson.ManagedResourceMode {
			w.hits[resourceIn{r, s}.config()] = true
		}
		key := s.path + "\x00\x00" + string(mode) + typ + "." + name
		if !w.seen[key] {
			w.seen[key] = true
			w.resource(s, r)
		}
	}
}

// gated reports whether how many there are of a resource follows the workspace's start count, and whether that cannot
// be told because a local value stands between.
func gated(scopes map[string]*scope, r resourceIn) (yes, opaque bool) {
	look := func(s *scope, e *tfjson.Expression) {
		if e == nil || e.ExpressionData == nil {
			return
		}
		y, o := mentionsStart(scopes, s, e.References, map[string]bool{})
		yes, opaque = yes || y, opaque || o
	}
	look(r.scope, r.CountExpression)
	look(r.scope, r.ForEachExpression)
	for at := r.scope; at.parent != nil; at = at.parent {
		if call := at.parent.module.ModuleCalls[at.name]; call != nil {
			look(at.parent, call.CountExpression)
			look(at.parent, call.ForEachExpression)
		}
	}
	return yes, opaque
}

func mentionsStart(scopes map[string]*scope, s *scope, refs []string, seen map[string]bool) (yes, opaque bool) {
	for _, ref := range refs {
		if key := s.path + "\x00" + ref; seen[key] {
			continue
		} else {
			seen[key] = true
		}
		p := strings.Split(Base(ref), ".")
		switch {
		case p[0] == "data" && len(p) > 3 && (p[1] == "berth_workspace" || p[1] == "coder_workspace"):
			yes = yes || p[3] == "start_count" || p[3] == "transition"
		case p[0] == "local":
			opaque = true
		case p[0] == "var" && len(p) > 1 && s.parent != nil:
			call := s.parent.module.ModuleCalls[s.name]
			if call == nil || call.Expressions[p[1]] == nil || call.Expressions[p[1]].ExpressionData == nil {
				continue
			}
			y, o := mentionsStart(scopes, s.parent, call.Expressions[p[1]].References, seen)
			yes, opaque = yes || y, opaque || o
		}
	}
	return yes, opaque
}
