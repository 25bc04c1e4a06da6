package coordinator

import (
	"errors"
	"fmt"
)

// A Code classes an Error for machines: it decides HTTP status, exit status and whether to try again.
type Code string

// Codes.
const (
	CodeInvalid         Code = "invalid"         // the request makes no sense as it stands
	CodeUnauthenticated Code = "unauthenticated" // no token, or one that is not known
	CodeDenied          Code = "denied"
	CodeNotFound        Code = "not-found"
	CodeConflict        Code = "conflict" // with what is there, or with what runs
	CodeTooLarge        Code = "too-large"
	CodeFailed          Code = "failed"      // a build, an import or a remote step ended badly
	CodeUnavailable     Code = "unavailable" // try again
	CodeInternal        Code = "internal"
)

// An Error is a failure that a user may see.
type Error struct {
	Code Code
	Msg  string // what failed, in the user's words
	Hint string // what to do next; may be empty
	Err  error  // cause, for the log; never leaves the coordinator
}

// Errorf returns an Error with a formatted message. A %w argument becomes its cause as well.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Msg: err.Error(), Err: errors.Unwrap(err)}
}

// WithHint returns e with its hint set.
func (e *Error) WithHint(hint string) *Error { e.Hint = hint; return e }

// WithCause returns e with its cause set.
func (e *Error) WithCause(err error) *Error { e.Err = err; return e }

// Error returns the message.
func (e *Error) Error() string { return e.Msg }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of the first Error in err's chain, CodeInternal if there is none, and "" for nil.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	default:
		return CodeInternal
	}
}

// codes is the one table from a code to what machines see.
var codes = map[Code]struct{ status, exit int }{
	CodeInvalid:         {422, 2},
	CodeUnauthenticated: {401, 4},
	CodeDenied:          {403, 4},
	CodeNotFound:        {404, 3},
	CodeConflict:        {409, 5},
	CodeTooLarge:        {413, 1},
	CodeFailed:          {422, 1},
	CodeUnavailable:     {503, 6},
	CodeInternal:        {500, 1},
}

// Status returns the HTTP status of c; 500 for a code that it does not know.
func (c Code) Status() int {
	if s, ok := codes[c]; ok {
		return s.status
	}
	return 500
}

// Exit returns the exit status of the CLI for c; 1 for a code that it does not know.
func (c Code) Exit() int {
	if s, ok := codes[c]; ok {
		return s.exit
	}
	return 1
}
