package coordinator

import "strings"

// A Target names a workspace, and perhaps one of its agents, as a person typed it.
type Target struct {
	Owner     string // empty: the caller
	Workspace string
	Agent     string // empty: the only one, or main
}

// String returns owner/workspace.agent with what is empty left out.
func (t Target) String() string {
	s := t.Workspace
	if t.Owner != "" {
		s = t.Owner + "/" + s
	}
	if t.Agent != "" {
		s += "." + t.Agent
	}
	return s
}

// HostName returns the long host name of the target: [agent.]workspace.owner.suffix.
func (t Target) HostName(owner, suffix string) string {
	if t.Owner != "" {
		owner = t.Owner
	}
	s := t.Workspace + "." + owner + "." + suffix
	if t.Agent != "" {
		s = t.Agent + "." + s
	}
	return s
}

// ParseTarget reads [owner/]workspace[.agent], the form of the CLI and of the door's login name, and host names that
// end in the suffix: workspace.suffix, workspace.owner.suffix, agent.workspace.owner.suffix. IsHost tells which.
func ParseTarget(s, suffix string) (t Target, isHost bool, err error) {
	bad := func() (Target, bool, error) {
		return Target{}, isHost, Errorf(CodeNotFound, "%q does not name a workspace", Clip(s, 80)).
			WithHint("write [owner/]workspace[.agent], or workspace." + suffix)
	}
	name := strings.ToLower(s)
	var host string
	host, isHost = strings.CutSuffix(name, "."+suffix)
	if isHost {
		switch p := strings.Split(host, "."); len(p) {
		case 1:
			t = Target{Workspace: p[0]}
		case 2:
			t = Target{Owner: p[1], Workspace: p[0]}
		case 3:
			t = Target{Owner: p[2], Workspace: p[1], Agent: p[0]}
		default:
			return bad()
		}
		if strings.HasPrefix(host, ".") || strings.HasSuffix(host, ".") {
			return bad()
		}
	} else {
		if owner, rest, ok := strings.Cut(name, "/"); ok {
			if !nameRE().MatchString(owner) {
				return bad()
			}
			t.Owner, name = owner, rest
		}
		t.Workspace, t.Agent, _ = strings.Cut(name, ".")
		if strings.HasSuffix(name, ".") {
			return bad()
		}
	}
	for _, part := range []string{t.Owner, t.Workspace, t.Agent} {
		if part != "" && !nameRE().MatchString(part) {
			return bad()
		}
	}
	if t.Workspace == "" {
		return bad()
	}
	return t, isHost, nil
}
