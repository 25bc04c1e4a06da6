package provider

import (
	"runtime"

	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"berth/coordinator"
)

var ownerType = tftypes.Object{AttributeTypes: map[string]tftypes.Type{
	"id": text, "name": text, "full_name": text, "email": text, "groups": texts,
}}

var templateType = tftypes.Object{AttributeTypes: map[string]tftypes.Type{
	"name": text, "version": number,
}}

var workspaceKind = &kind{
	name: "berth_workspace",
	data: true,
	doc:  "The workspace that the template is used for, and what is done with it.",
	attrs: []attr{
		{name: "id", typ: text, doc: "Stable id of the workspace."},
		{name: "name", typ: text, doc: "Name of the workspace, unique among its owner's."},
		{name: "owner", typ: ownerType, doc: "The owner: id, name, full_name, email and groups."},
		{name: "transition", typ: text, doc: "What the build does: start, stop or delete."},
		{name: "start_count", typ: number, doc: "1 while the workspace is to run, 0 while it is not. For the count of whatever does not outlive a stop."},
		{name: "template", typ: templateType, doc: "The template: name and version, a number."},
		{name: "parameters", typ: textMap, doc: "The values that were chosen for parameters, by name."},
		{name: "access_url", typ: text, doc: "URL of the coordinator, as people reach it."},
		{name: "host_arch", typ: text, doc: "Architecture of the coordinator's own host, for the agent of a berth_process."},
		{name: "tags", typ: textMap, doc: "Tags of the workspace."},
	},
	fetch: fetchWorkspace,
}

func fetchWorkspace(s *Session, v values) error {
	j := s.job
	count := s.count()
	transition := j.Transition
	if j.Import { // nobody's workspace: words that a template can work with
		j.WorkspaceID, j.Workspace = "import", "workspace"
		j.Owner = coordinator.JobOwner{ID: "import", Name: "owner", FullName: "Owner", Email: "owner@example.com"}
		if transition = coordinator.Stop; count > 0 {
			transition = coordinator.Start
		}
	}
	for name, x := range map[string]any{
		"id":   string(j.WorkspaceID),
		"name": j.Workspace,
		"owner": map[string]any{
			"id": string(j.Owner.ID), "name": j.Owner.Name, "full_name": j.Owner.FullName, "email": j.Owner.Email, "groups": j.Owner.Groups,
		},
		"transition":  string(transition),
		"start_count": float64(count),
		"template":    map[string]any{"name": j.Template, "version": float64(j.Version)},
		"parameters":  j.Params,
		"access_url":  j.AccessURL,
		"host_arch":   runtime.GOARCH,
		"tags":        map[string]string{},
	} {
		v.set(name, x)
	}
	return nil
}
