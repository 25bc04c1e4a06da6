package terraform

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// Actions of a Change that the guard looks at.
const (
	ActionDelete  = "delete"
	ActionReplace = "replace"
	ActionForget  = "forget" // dropped from the state, not destroyed
)

// ReasonTainted is the reason of a replacement whose object was never made whole.
const ReasonTainted = "tainted"

// A Change is one planned change of a managed resource's instance.
type Change struct {
	Address    string
	Previous   string // its address before, where it was renamed
	Action     string // delete, replace, forget, or another word of terraform's
	Reason     string
	Attributes []string // that force a replacement
	Deposed    bool     // a left-over of an earlier replacement, not the current object
}

// streamAction brings the words of terraform's stream to those above.
func streamAction(s string) string {
	if s == "remove" {
		return ActionForget
	}
	return s
}

// MaxPlanFile is the size of the largest plan file that is read, in bytes.
const MaxPlanFile = 64 << 20

const (
	planVersion = 3 // of the message in it; unchanged since terraform 0.12, and in OpenTofu
)

// ErrPlanFormat is returned for a plan file that this package does not understand. The guard then judges by
// terraform's stream alone and cannot name attributes.
var ErrPlanFormat = errors.New("unknown plan format")

// ReadPlan returns the changes in a plan file. The file is a zip; its member tfplan is a protobuf message. Only what
// names a change is read:
//
//	Plan { version = 1; repeated ResourceInstanceChange resource_changes = 3 }
//	ResourceInstanceChange { deposed_key = 7; Change change = 9; repeated Path required_replace = 11;
//	    action_reason = 12; addr = 13; prev_run_addr = 14 }
//	Change { action = 1 }      Path { repeated Step steps = 1 }      Step { attribute_name = 1; DynamicValue element_key = 2 }
//	DynamicValue { msgpack = 1 }
func ReadPlan(file []byte) ([]Change, error) {
	b, err := planMember(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPlanFormat, err)
	}
	var changes []Change
	var version uint64
	err = fields(b, func(num protowire.Number, v uint64, b []byte) error {
		switch num {
		case 1:
			version = v
		case 3:
			c, err := planChange(b)
			if err != nil {
				return err
			}
			changes = append(changes, c)
		}
		return nil
	})
	if err == nil && version != planVersion {
		err = fmt.Errorf("version %d", version)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPlanFormat, err)
	}
	return changes, nil
}

func planMember(file []byte) ([]byte, error) {
	z, err := zip.NewReader(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return nil, err
	}
	f, err := z.Open("tfplan")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	b, err := io.ReadAll(io.LimitReader(f, MaxPlanFile+1))
	if err == nil && len(b) > MaxPlanFile {
		err = errors.New("too large")
	}
	return b, err
}

// fields calls each for every field of a message: v holds a varint, b a length-delimited one.
func fields(m []byte, each func(num protowire.Number, v uint64, b []byte) error) error {
	for len(m) > 0 {
		num, typ, n := protowire.ConsumeTag(m)
		if n < 0 {
			return protowire.ParseError(n)
		}
		m = m[n:]
		var v uint64
		var b []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(m)
		case protowire.BytesType:
			b, n = protowire.ConsumeBytes(m)
		default:
			n = protowire.ConsumeFieldValue(num, typ, m)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		m = m[n:]
		if err := each(num, v, b); err != nil {
			return err
		}
	}
	return nil
}

var planActions = map[uint64]string{
	0: "noop", 1: "create", 2: "read", 3: "update", 5: ActionDelete, 6: ActionReplace, 7: ActionReplace,
	8: ActionForget, 9: ActionForget,
}

func planChange(m []byte) (Change, error) {
	var c Change
	err := fields(m, func(num protowire.Number, v uint64, b []byte) error {
		switch num {
		case 7:
			c.Deposed = len(b) > 0
		case 9:
			return fields(b, func(num protowire.Number, v uint64, _ []byte) error {
				if num == 1 {
					c.Action = planActions[v]
				}
				return nil
			})
		case 11:
			p, err := attributePath(b)
			if p != "" && !slices.Contains(c.Attributes, p) {
				c.Attributes = append(c.Attributes, p)
			}
			return err
		case 12:
			if v == 1 {
				c.Reason = ReasonTainted
			}
		case 13:
			c.Address = string(b)
		case 14:
			c.Previous = string(b)
		}
		return nil
	})
	if c.Action == "" { // the enumeration's zero is not on the wire
		c.Action = "noop"
	}
	if err == nil && c.Address == "" {
		err = errors.New("a change without an address")
	}
	return c, err
}

// attributePath renders a path as a template's author writes it: network[0].name.
func attributePath(m []byte) (string, error) {
	var s strings.Builder
	err := fields(m, func(num protowire.Number, _ uint64, step []byte) error {
		if num != 1 {
			return nil
		}
		return fields(step, func(num protowire.Number, _ uint64, b []byte) error {
			switch num {
			case 1:
				if s.Len() > 0 {
					s.WriteByte('.')
				}
				s.Write(b)
			case 2:
				return fields(b, func(num protowire.Number, _ uint64, b []byte) error {
					if num == 1 {
						s.WriteString("[" + msgpackKey(b) + "]")
					}
					return nil
				})
			}
			return nil
		})
	})
	return s.String(), err
}

// msgpackKey renders the key of an element: a short string or a small integer; anything else is a set's element.
func msgpackKey(b []byte) string {
	switch {
	case len(b) == 1 && b[0] < 0x80:
		return strconv.Itoa(int(b[0]))
	case len(b) > 0 && b[0]&0xe0 == 0xa0 && int(b[0]&0x1f) == len(b)-1:
		return strconv.Quote(string(b[1:]))
	case len(b) > 1 && b[0] == 0xd9 && int(b[1]) == len(b)-2:
		return strconv.Quote(string(b[2:]))
	case len(b) == 2 && b[0] == 0xcc:
		return strconv.Itoa(int(b[1]))
	default:
		return "…"
	}
}
