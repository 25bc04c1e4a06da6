package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// A kind is one row of a table: a resource or a data source. Functions that a row leaves out do nothing.
type kind struct {
	name    string
	data    bool // a data source
	version int64
	doc     string
	attrs   []attr
	blocks  []block

	check   func(values) error                                    // a configuration by itself; what is unknown yet is left out
	plan    func(s *Session, prior, next values) error            // prior is empty on create
	create  func(context.Context, *Session, values) error         // sets what was unknown
	read    func(context.Context, *Session, values) (bool, error) // false: it is gone
	destroy func(context.Context, *Session, values) error
	fetch   func(*Session, values) error // of a data source
}

// A role says who sets an attribute.
type role int

const (
	computed role = iota
	optional
	required
)

// An attr is an attribute of a kind or a block.
type attr struct {
	name      string
	typ       tftypes.Type
	role      role
	def       any  // of an optional one
	sensitive bool // its value is kept out of terraform's output
	replace   bool // a change makes a new resource
	doc       string
}

// A block is a nested block, a list.
type block struct {
	name  string
	max   int64 // 0: any number
	doc   string
	attrs []attr
}

func (k *kind) schema() *tfprotov5.Schema {
	b := &tfprotov5.SchemaBlock{Description: k.doc, Attributes: schemaAttrs(k.attrs)}
	for _, n := range k.blocks {
		b.BlockTypes = append(b.BlockTypes, &tfprotov5.SchemaNestedBlock{
			TypeName: n.name,
			Nesting:  tfprotov5.SchemaNestedBlockNestingModeList,
			MaxItems: n.max,
			Block:    &tfprotov5.SchemaBlock{Description: n.doc, Attributes: schemaAttrs(n.attrs)},
		})
	}
	return &tfprotov5.Schema{Version: k.version, Block: b}
}

func schemaAttrs(attrs []attr) []*tfprotov5.SchemaAttribute {
	out := make([]*tfprotov5.SchemaAttribute, len(attrs))
	for i, a := range attrs {
		out[i] = &tfprotov5.SchemaAttribute{
			Name: a.name, Type: a.typ, Description: a.doc, Sensitive: a.sensitive,
			Required: a.role == required, Optional: a.role == optional, Computed: a.role == computed,
		}
	}
	return out
}

// typ returns the type of the kind's values.
func (k *kind) typ() tftypes.Object {
	t := tftypes.Object{AttributeTypes: map[string]tftypes.Type{}}
	for _, a := range k.attrs {
		t.AttributeTypes[a.name] = a.typ
	}
	for _, b := range k.blocks {
		e := tftypes.Object{AttributeTypes: map[string]tftypes.Type{}}
		for _, a := range b.attrs {
			e.AttributeTypes[a.name] = a.typ
		}
		t.AttributeTypes[b.name] = tftypes.List{ElementType: e}
	}
	return t
}

// berth is the table of the provider "berth/berth".
var berth = []*kind{workspaceKind, parameterKind, agentKind, homeKind, processKind}
