package coordinator

import "errors"

// A BuildRequest asks for a build of a workspace. Its zero values mean: what the workspace uses already.
type BuildRequest struct {
	Transition   Transition
	Restart      bool // stop, then start, as one request; Transition is Start
	VersionID    VersionID
	Params       map[string]string // all of them; nil leaves them as they are
	AllowDestroy []string
	Reason       Reason
}

// ErrNeverBegan says that a job's runner has not begun, so that it can be begun now.
var ErrNeverBegan = errors.New("the job's runner never began")
