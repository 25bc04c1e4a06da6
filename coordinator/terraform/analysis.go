package terraform

import (
	"fmt"
	"slices"
	"sort"

	tfjson "github.com/hashicorp/terraform-json"

	"berth/coordinator"
)

// analyse reads a plan with start count 1: the agents, and whether something runs each of them. A refusal is an error
// of the template's author.
func analyse(p *tfjson.Plan) (*coordinator.Import, error) {
	scopes, resources := configuration(p.Config)
	found := &coordinator.Import{Agents: plannedAgents(p)}
	if len(found.Agents) == 0 {
		found.Agents = configuredAgents(resources)
	}
	if len(found.Agents) == 0 {
		return found, refuse("the template has no agent: add a berth_agent and a resource that runs it")
	}
	byName := map[string]string{}
	for _, a := range found.Agents {
		if other, ok := byName[a.Name]; ok {
			return found, &Refusal{
				Msg:     fmt.Sprintf("two agents are named %s: %s and %s; give one another name", a.Name, other, a.Address),
				Address: a.Address,
			}
		}
		byName[a.Name] = a.Address
		if err := coordinator.CheckName("agent", a.Name); err != nil {
			return found, &Refusal{Msg: err.Error(), Address: a.Address}
		}
	}
	run, opaque := agentsRun(scopes, resources)
	for _, a := range found.Agents {
		switch config := Base(a.Address); {
		case run[config]:
		case opaque:
			found.Warnings = append(found.Warnings, a.Address+": what runs this agent is hidden behind a local value")
		default:
			return found, &Refusal{
				Msg:     fmt.Sprintf("no resource runs the agent %s: refer to its token, id or init script in the resource that is to run it", a.Address),
				Address: a.Address,
			}
		}
	}
	return found, nil
}

// agentsRun returns the config addresses that resources able to run an agent refer to, and whether a local value hides
// what one of them refers to.
func agentsRun(scopes map[string]*scope, resources []resourceIn) (run map[string]bool, opaque bool) {
	run = map[string]bool{}
	for _, r := range resources {
		if !runs(r.Type) {
			continue
		}
		hits, o := of(scopes, r)
		opaque = opaque || o
		for a := range hits {
			run[a] = true
		}
	}
	return run, opaque
}

// plannedAgents returns the agents that a plan makes.
func plannedAgents(p *tfjson.Plan) []coordinator.TemplateAgent {
	var agents []coordinator.TemplateAgent
	for _, c := range p.ResourceChanges {
		if c.Mode != tfjson.ManagedResourceMode || !IsAgent(c.Type) || c.Change == nil {
			continue
		}
		after, _ := c.Change.After.(map[string]any)
		name, _ := after["name"].(string)
		agents = append(agents, coordinator.TemplateAgent{Name: agentName(c.Type, c.Name, name), Address: c.Address})
	}
	sort.Slice(agents, func(i, j int) bool { return agents[i].Address < agents[j].Address })
	return agents
}

// configuredAgents returns the agents of a configuration that could not be planned.
func configuredAgents(resources []resourceIn) []coordinator.TemplateAgent {
	var agents []coordinator.TemplateAgent
	for _, r := range resources {
		if !IsAgent(r.Type) {
			continue
		}
		name := ""
		if e := r.Expressions["name"]; e != nil && e.ExpressionData != nil {
			name, _ = e.ConstantValue.(string)
		}
		agents = append(agents, coordinator.TemplateAgent{Name: agentName(r.Type, r.Name, name), Address: r.config()})
	}
	sort.Slice(agents, func(i, j int) bool { return agents[i].Address < agents[j].Address })
	return agents
}

// compare fills in what is persistent and what is ephemeral from the addresses at start count 1 and 0. Instances of a
// resource that are all persistent are listed as the resource, so that an instance with another key, which only a
// workspace's own parameters make, is protected too.
func compare(full, none []string, found *coordinator.Import) {
	mixed := map[string]bool{} // resources some of whose instances vanish
	for _, a := range full {
		if !slices.Contains(none, a) {
			found.Ephemeral = append(found.Ephemeral, a)
			mixed[Base(a)] = true
		}
	}
	for _, a := range none {
		if !mixed[Base(a)] {
			a = Base(a)
		}
		found.Persistent = append(found.Persistent, a)
	}
	sort.Strings(found.Ephemeral)
	sort.Strings(found.Persistent)
	found.Ephemeral = slices.Compact(found.Ephemeral)
	found.Persistent = slices.Compact(found.Persistent)
}

// byExpressions is compare for a template that cannot be planned: a resource whose count or for_each follows the
// workspace's start count is ephemeral.
func byExpressions(c *tfjson.Config, found *coordinator.Import) {
	scopes, resources := configuration(c)
	for _, r := range resources {
		yes, opaque := gated(scopes, r)
		switch {
		case yes:
			found.Ephemeral = append(found.Ephemeral, r.config())
			continue
		case opaque:
			found.Warnings = append(found.Warnings, r.config()+": its count hides behind a local value; it is taken as persistent")
		}
		found.Persistent = append(found.Persistent, r.config())
	}
	sort.Strings(found.Ephemeral)
	sort.Strings(found.Persistent)
}
