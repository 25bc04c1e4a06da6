package terraform

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"berth/coordinator"
)

// A State is terraform's state, as far as Berth reads it.
type State struct {
	Version   int             `json:"version"`
	Serial    int64           `json:"serial"`
	Lineage   string          `json:"lineage"`
	Resources []StateResource `json:"resources"`
}

// A StateResource is a resource in a state, with its instances.
type StateResource struct {
	Module    string          `json:"module"`
	Mode      string          `json:"mode"`
	Type      string          `json:"type"`
	Name      string          `json:"name"`
	Instances []StateInstance `json:"instances"`
}

// A StateInstance is one instance of a resource in a state.
type StateInstance struct {
	IndexKey     any             `json:"index_key"` // nil, a number or a string
	Deposed      string          `json:"deposed"`
	Status       string          `json:"status"` // "tainted", or empty
	Attributes   json.RawMessage `json:"attributes"`
	Dependencies []string        `json:"dependencies"`
}

// MaxState is the size of the largest state that is read, in bytes.
const MaxState = 64 << 20

// ParseState reads a state. It fails for one that is cut off, for terraform writes its file in place.
func ParseState(data []byte) (State, error) {
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, fmt.Errorf("parse state: %w", err)
	}
	if s.Version != 4 {
		return State{}, fmt.Errorf("parse state: version %d is not known", s.Version)
	}
	if s.Lineage == "" {
		return State{}, errors.New("parse state: no lineage")
	}
	return s, nil
}

// Empty reports whether there is nothing to destroy.
func (s State) Empty() bool { return len(s.Addresses()) == 0 }

// Addresses returns the managed resources' instances in the state, sorted.
func (s State) Addresses() []string {
	var addrs []string
	for _, r := range s.Resources {
		if r.Mode != "managed" {
			continue
		}
		for _, i := range r.Instances {
			addrs = append(addrs, r.address(i))
		}
	}
	sort.Strings(addrs)
	return addrs
}

// Resources returns the addresses of the managed resources in a state; nil for one that is empty or unreadable.
func Resources(data []byte) []string {
	s, err := ParseState(data)
	if err != nil {
		return nil
	}
	return s.Addresses()
}

func (r StateResource) config() string {
	a := r.Type + "." + r.Name
	if r.Module != "" {
		a = Base(r.Module) + "." + a
	}
	return a
}

func (r StateResource) address(i StateInstance) string {
	a := r.Type + "." + r.Name
	if r.Module != "" {
		a = r.Module + "." + a
	}
	switch k := i.IndexKey.(type) {
	case string:
		a += "[" + strconv.Quote(k) + "]"
	case float64:
		a += "[" + strconv.FormatInt(int64(k), 10) + "]"
	}
	if i.Deposed != "" {
		a += " (deposed " + i.Deposed + ")"
	}
	return a
}

// IsAgent reports whether a resource type is an agent.
func IsAgent(resourceType string) bool {
	return resourceType == "berth_agent" || resourceType == "coder_agent"
}

// runs reports whether a resource of this type can run an agent: everything but our own types that only describe.
func runs(resourceType string) bool {
	return resourceType == "berth_process" || resourceType != "berth_home" && !Exempt(resourceType)
}

// Agents returns the agents of a state, each with the resource that runs it: the one that depends on the agent and on
// the fewest things besides.
func Agents(data []byte) []coordinator.AgentRecord {
	s, err := ParseState(data)
	if err != nil {
		return nil
	}
	var agents []coordinator.AgentRecord
	for _, r := range s.Resources {
		if r.Mode != "managed" || !IsAgent(r.Type) {
			continue
		}
		for _, i := range r.Instances {
			a, ok := agentRecord(r, i)
			if !ok || i.Deposed != "" {
				continue
			}
			a.Resource = s.compute(r, i)
			agents = append(agents, a)
		}
	}
	sort.Slice(agents, func(i, j int) bool { return agents[i].Address < agents[j].Address })
	return agents
}

// compute returns the address of the resource that runs an agent, or "". Dependencies in a state are the transitive
// closure, without instance keys; so the resource with the fewest is the closest, and of several instances the one
// with the agent's own key is meant.
func (s State) compute(agent StateResource, of StateInstance) string {
	type candidate struct {
		addr  string
		other bool // has another key than the agent
		deps  int
	}
	var best *candidate
	for _, r := range s.Resources {
		if r.Mode != "managed" || !runs(r.Type) {
			continue
		}
		for _, i := range r.Instances {
			if i.Deposed != "" || !contains(i.Dependencies, agent.config()) {
				continue
			}
			sibling := r.Module != agent.Module && Base(r.Module) == Base(agent.Module)
			c := candidate{r.address(i), sibling || of.IndexKey != nil && i.IndexKey != of.IndexKey, len(i.Dependencies)}
			switch {
			case best == nil,
				!c.other && best.other,
				c.other == best.other && c.deps < best.deps,
				c.other == best.other && c.deps == best.deps && c.addr < best.addr:
				best = &c
			}
		}
	}
	if best == nil {
		return ""
	}
	return best.addr
}

func contains(deps []string, config string) bool {
	for _, d := range deps {
		if Base(d) == config {
			return true
		}
	}
	return false
}

// agentRecord reads the attributes of an agent.
func agentRecord(r StateResource, i StateInstance) (coordinator.AgentRecord, bool) {
	var at struct {
		ID      string            `json:"id"`
		Name    string            `json:"name"`
		OS      string            `json:"os"`
		Arch    string            `json:"arch"`
		Env     map[string]string `json:"env"`
		User    string            `json:"user"`
		Dir     string            `json:"dir"`
		MOTD    string            `json:"motd"`
		Timeout any               `json:"connection_timeout"`
	}
	if err := json.Unmarshal(i.Attributes, &at); err != nil || at.ID == "" {
		return coordinator.AgentRecord{}, false
	}
	a := coordinator.AgentRecord{
		ID: at.ID, Name: agentName(r.Type, r.Name, at.Name), Address: r.address(i), OS: at.OS, Arch: at.Arch,
		Env: at.Env, User: at.User, Dir: at.Dir, MOTD: at.MOTD, ConnectionTimeout: timeout(at.Timeout),
	}
	return a, true
}

// agentName is the name under which an agent is reached: the attribute, else main, or for coder_agent, which has no
// such attribute, the resource's label.
func agentName(resourceType, label, attribute string) string {
	switch {
	case attribute != "":
		return attribute
	case resourceType == "coder_agent":
		return strings.ToLower(strings.ReplaceAll(label, "_", "-"))
	default:
		return "main"
	}
}

// timeout reads seconds, or a duration's text.
func timeout(v any) time.Duration {
	var d time.Duration
	switch v := v.(type) {
	case float64:
		d = time.Duration(v * float64(time.Second))
	case string:
		if n, err := strconv.ParseFloat(v, 64); err == nil {
			d = time.Duration(n * float64(time.Second))
		} else if p, err := time.ParseDuration(v); err == nil {
			d = p
		}
	}
	if d <= 0 {
		return coordinator.DefaultConnectionTimeout
	}
	return d
}
