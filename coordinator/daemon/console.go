package daemon

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"

	"golang.org/x/crypto/ssh"

	"berth/coordinator"
	"berth/coordinator/api"
	"berth/coordinator/console"
	"berth/coordinator/door"
	"berth/coordinator/sqlite"
)

// viaConsole is the way in as it stands in the audit log.
const viaConsole = "ssh console"

// newConsole makes the console, which asks the API in the name of whoever came with a key.
func newConsole(web http.Handler, store *sqlite.Store, url string, name doorName, done <-chan struct{}, log *slog.Logger) atDoor {
	return atDoor{console.New(console.Config{
		API: web, Identify: insider{store}.context, URL: url, Name: name.consoleName(), Done: done, Logger: log,
	})}
}

// consoleName is how one calls the console. The port comes last, where ssh takes it as well, so that what stands before
// it is the same for every login name.
func (d doorName) consoleName() string {
	name := "ssh " + door.ConsoleUser + "@" + d.host
	if d.port != 22 {
		name += " -p " + strconv.Itoa(d.port)
	}
	return name
}

// An insider knows who a request of the console is for.
type insider struct{ store *sqlite.Store }

// context returns a context in which the API takes requests for a user, for as long as their key is registered.
func (i insider) context(ctx context.Context, user coordinator.UserID, key string) context.Context {
	return api.Inside(ctx, func(ctx context.Context) (coordinator.Actor, error) {
		u, _, err := i.store.UserByFingerprint(ctx, key)
		gone := coordinator.Errorf(coordinator.CodeUnauthenticated, "the key that you came with is no longer registered")
		switch {
		case coordinator.CodeOf(err) == coordinator.CodeNotFound:
			return coordinator.Actor{}, gone
		case err != nil:
			return coordinator.Actor{}, err
		case u.ID != user: // somebody else has registered it since
			return coordinator.Actor{}, gone
		}
		return coordinator.Actor{User: u, Via: viaConsole}, nil
	})
}

// atDoor is the console as the door sees it.
type atDoor struct{ *console.Console }

// Serve serves one connection.
func (a atDoor) Serve(ctx context.Context, v door.Visitor, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	a.Console.Serve(ctx, console.Visitor(v), chans, reqs)
}
