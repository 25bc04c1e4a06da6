package cli

import (
	"context"
	"errors"
	"fmt"

	"berth/coordinator"
)

// An interruption is a wait that was cut short by the person who waited: what they waited for goes on.
type interruption struct {
	t     coordinator.Target
	build int // 0: the startup after it
}

// Error says what happened.
func (i *interruption) Error() string { return "interrupted" }

// interrupted makes an interruption of the end of a wait, where it was one.
func interrupted(t coordinator.Target, build int, err error) error {
	if !errors.Is(err, context.Canceled) {
		return err
	}
	return &interruption{t, build}
}

// explain says what goes on, and how to follow or to cancel it.
func (i *interruption) explain() *coordinator.Error {
	if i.build == 0 {
		return &coordinator.Error{Msg: fmt.Sprintf("interrupted; the startup of %s goes on", i.t), Hint: "follow it: berth logs -f " + i.t.String()}
	}
	return &coordinator.Error{
		Msg:  fmt.Sprintf("interrupted; build %d of %s goes on", i.build, i.t),
		Hint: fmt.Sprintf("follow it: berth logs -f %s; end it: berth cancel %s", i.t, i.t),
	}
}
