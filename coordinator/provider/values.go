package provider

import (
	"fmt"
	"math/big"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// values are the attributes of one resource or data source. Its zero value is one that is not there.
type values struct {
	typ tftypes.Object
	m   map[string]tftypes.Value
}

var (
	text     = tftypes.String
	number   = tftypes.Number
	boolean  = tftypes.Bool
	texts    = tftypes.List{ElementType: tftypes.String}
	textMap  = tftypes.Map{ElementType: tftypes.String}
	unknown  = tftypes.UnknownValue
	badValue = "decode value: %w"
)

// decode reads a value off the wire. It returns no values for null.
func decode(d *tfprotov5.DynamicValue, t tftypes.Object) (values, error) {
	if d == nil {
		return values{}, nil
	}
	v, err := d.Unmarshal(t)
	if err != nil {
		return values{}, fmt.Errorf(badValue, err)
	}
	return fromValue(v, t)
}

func fromValue(v tftypes.Value, t tftypes.Object) (values, error) {
	if v.IsNull() || !v.IsKnown() {
		return values{}, nil
	}
	m := map[string]tftypes.Value{}
	if err := v.As(&m); err != nil {
		return values{}, fmt.Errorf(badValue, err)
	}
	return values{t, m}, nil
}

// encode is the way back.
func (v values) encode() (*tfprotov5.DynamicValue, error) {
	d, err := tfprotov5.NewDynamicValue(v.typ, tftypes.NewValue(v.typ, v.m))
	if err != nil {
		return nil, fmt.Errorf("encode value: %w", err)
	}
	return &d, nil
}

// null encodes that there is nothing.
func null(t tftypes.Object) (*tfprotov5.DynamicValue, error) {
	d, err := tfprotov5.NewDynamicValue(t, tftypes.NewValue(t, nil))
	if err != nil {
		return nil, fmt.Errorf("encode value: %w", err)
	}
	return &d, nil
}

// there reports whether there are values at all.
func (v values) there() bool { return v.m != nil }

// has reports whether the attribute is set and known.
func (v values) has(name string) bool {
	a, ok := v.m[name]
	return ok && a.IsFullyKnown() && !a.IsNull()
}

// known reports whether the attribute is known, be it null.
func (v values) known(name string) bool { return v.m[name].IsFullyKnown() }

// as decodes an attribute that is set and known. The types are the table's, so that it cannot fail otherwise.
func (v values) as(name string, target any) bool {
	return v.has(name) && v.m[name].As(target) == nil
}

func (v values) text(name string) (s string) {
	v.as(name, &s)
	return s
}

func (v values) bool(name string) (b bool) {
	v.as(name, &b)
	return b
}

// number returns nil for one that is not set.
func (v values) number(name string) *float64 {
	var n big.Float
	if !v.as(name, &n) {
		return nil
	}
	f, _ := n.Float64()
	return &f
}

func (v values) textMap(name string) map[string]string {
	var m map[string]tftypes.Value
	if !v.as(name, &m) {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, e := range m {
		var s string
		if !e.IsNull() && e.As(&s) == nil {
			out[k] = s
		}
	}
	return out
}

// list returns the blocks of that name.
func (v values) list(name string) []values {
	t, ok := v.typ.AttributeTypes[name].(tftypes.List)
	if !ok || v.m[name].IsNull() || !v.m[name].IsKnown() {
		return nil
	}
	var l []tftypes.Value
	if v.m[name].As(&l) != nil {
		return nil
	}
	out := make([]values, 0, len(l))
	for _, e := range l {
		if b, err := fromValue(e, t.ElementType.(tftypes.Object)); err == nil {
			out = append(out, b)
		}
	}
	return out
}

// set sets an attribute from a Go value that suits its type: string, bool, float64, []string, map[string]string,
// map[string]any for an object, nil or unknown.
func (v values) set(name string, x any) {
	v.m[name] = toValue(v.typ.AttributeTypes[name], x)
}

func toValue(t tftypes.Type, x any) tftypes.Value {
	switch x := x.(type) {
	case []string:
		l := make([]tftypes.Value, len(x))
		for i, s := range x {
			l[i] = tftypes.NewValue(text, s)
		}
		return tftypes.NewValue(t, l)
	case map[string]string:
		m := make(map[string]tftypes.Value, len(x))
		for k, s := range x {
			m[k] = tftypes.NewValue(text, s)
		}
		return tftypes.NewValue(t, m)
	case map[string]any:
		m := make(map[string]tftypes.Value, len(x))
		for k, e := range x {
			m[k] = toValue(t.(tftypes.Object).AttributeTypes[k], e)
		}
		return tftypes.NewValue(t, m)
	default:
		return tftypes.NewValue(t, x)
	}
}
