package terraform

import (
	"fmt"
	"slices"
	"sort"
	"time"

	"berth/coordinator"
)

// An Outcome is what the events of a job add up to.
type Outcome struct {
	Problem string // the first error, on one line
	Address string // the resource that it is about
	More    int    // further errors
	Last    string // the last line that is no message of terraform's: what it says when it breaks down
	Changes []Change
	Timings []coordinator.Timing // of single resources
	started map[string]started
}

type started struct {
	action string
	at     time.Time
}

// Add takes in the next event.
func (o *Outcome) Add(e Event) {
	if o.started == nil {
		o.started = map[string]started{}
	}
	addr := e.Line.Address
	switch {
	case e.Change != nil:
		o.Changes = append(o.Changes, *e.Change)
	case e.Problem != "":
		o.problem(e)
	case e.Type == eventText:
		o.Last = OneLine(e.Line.Text)
	case e.Type == eventStart && e.Action != "read":
		o.started[addr] = started{e.Action, e.Line.Time}
	case e.Type == eventComplete || e.Type == eventErrored:
		s, ok := o.started[addr]
		if !ok {
			return
		}
		delete(o.started, addr)
		o.Timings = append(o.Timings, coordinator.Timing{
			Stage: StageApply, Name: addr, Start: s.at, Duration: e.Line.Time.Sub(s.at),
		})
	}
}

func (o *Outcome) problem(e Event) {
	if o.Problem != "" {
		o.More++
		return
	}
	o.Problem, o.Address = e.Problem, e.Line.Address
}

// Error returns the first problem and how many followed, or "".
func (o *Outcome) Error() string {
	switch {
	case o.More == 1:
		return o.Problem + " (and one more error)"
	case o.More > 1:
		return fmt.Sprintf("%s (and %d more errors)", o.Problem, o.More)
	default:
		return o.Problem
	}
}

// InFlight returns the resources that terraform had begun to work on and never told the end of.
func (o *Outcome) InFlight() []string {
	var addrs []string
	for a := range o.started {
		addrs = append(addrs, a)
	}
	sort.Strings(addrs)
	return slices.Compact(addrs)
}
