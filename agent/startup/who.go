package startup

import (
	"errors"
	"fmt"
	"os"

	"berth/agent/shell"
)

// Who says whom a workspace's processes run as.
type Who struct {
	User   *shell.User
	Refuse string // why no hook may run; empty: they may
	Note   string // for the log: what a template asked for and did not get
}

// FindUser decides whom everything runs as. An agent that starts as root uses the user that the template names, else
// the image's only ordinary user with a home; where there is neither, sessions are root's and no hook runs, for what
// a home directory says must never run with all rights. Any other agent uses its own user. Where the agent is a plain
// process on the coordinator's host, the host's ordinary users are people who have nothing to do with the workspace.
func FindUser(name string, host bool, a shell.Accounts) (Who, error) {
	own, err := a.Current()
	if err != nil {
		return Who{}, fmt.Errorf("find the workspace's user: %w", err)
	}
	if os.Geteuid() != 0 {
		w := Who{User: own}
		if name != "" && name != own.Name {
			w.Note = fmt.Sprintf("the template asks for user %q, but the agent was not started as root: everything runs as %q", name, own.Name)
		}
		return w, nil
	}
	if host {
		return Who{User: own, Refuse: "the workspace is a plain process of root's on the coordinator's host, and hooks never run as root"}, nil
	}
	w := Who{}
	if name != "" {
		u, err := a.Lookup(name)
		switch {
		case err == nil && u.UID != 0:
			return Who{User: u}, nil
		case err == nil:
			return Who{User: u, Refuse: "the template's user is root, and hooks never run as root: set berth_agent.user to an ordinary user"}, nil
		case !errors.Is(err, shell.ErrNoUser):
			return Who{}, err
		}
		w.Note = fmt.Sprintf("the template asks for user %q, whom the image does not have", name)
	}
	u, err := a.Ordinary()
	if err == nil && w.Note == "" {
		return Who{User: u}, nil
	}
	w.User = own
	switch {
	case w.Note != "":
		w.Refuse = w.Note + ": no hook runs"
	default:
		w.Refuse = "the agent runs as root and the image has no single ordinary user with a home: set berth_agent.user"
		w.Note = w.Refuse
	}
	return w, nil
}
