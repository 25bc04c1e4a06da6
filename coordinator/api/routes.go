package api

import (
	"net/http"
	"slices"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/rest"
)

// routes is the table of contents of everything that the coordinator serves.
func (s *server) routes() []route {
	return slices.Concat(s.accountRoutes(), s.templateRoutes(), s.workspaceRoutes(), s.recordRoutes(), s.publicRoutes())
}

func (s *server) accountRoutes() []route {
	return []route{
		typed("GET", rest.Prefix+"/server", coordinator.PermPublic, "Describe the installation", s.describe),
		typed("POST", rest.Prefix+"/setup", coordinator.PermPublic, "Make the first owner", s.setup, status(http.StatusCreated)),
		typed("GET", rest.Prefix+"/whoami", coordinator.PermRead, "Tell who the caller is", s.whoami),

		typed("GET", rest.Prefix+"/tokens", coordinator.PermAccount, "List API tokens", s.listTokens),
		typed("POST", rest.Prefix+"/tokens", coordinator.PermAccount, "Make an API token", s.createToken, status(http.StatusCreated)),
		typed("DELETE", rest.Prefix+"/tokens/{id}", coordinator.PermAccount, "Revoke an API token", s.deleteToken),
		typed("GET", rest.Prefix+"/keys", coordinator.PermAccount, "List SSH public keys", s.listKeys),
		typed("POST", rest.Prefix+"/keys", coordinator.PermAccount, "Register an SSH public key", s.addKey, status(http.StatusCreated)),
		typed("DELETE", rest.Prefix+"/keys/{id}", coordinator.PermAccount, "Remove an SSH public key", s.deleteKey),
		typed("GET", rest.Prefix+"/keys/git", coordinator.PermAccount, "Show the Git key's public half", s.gitKey),
		typed("GET", rest.Prefix+"/secrets", coordinator.PermAccount, "List secrets, without their values", s.listSecrets),
		typed("PUT", rest.Prefix+"/secrets/{name}", coordinator.PermAccount, "Store a secret", s.putSecret),
		typed("DELETE", rest.Prefix+"/secrets/{name}", coordinator.PermAccount, "Remove a secret", s.deleteSecret),
		typed("GET", rest.Prefix+"/dotfiles", coordinator.PermAccount, "Show the dotfiles repository", s.dotfiles),
		typed("PUT", rest.Prefix+"/dotfiles", coordinator.PermAccount, "Set the dotfiles repository", s.putDotfiles),
		typed("GET", rest.Prefix+"/personalize", coordinator.PermAccount, "Show the stored ~/personalize", s.personalize),
		typed("PUT", rest.Prefix+"/personalize", coordinator.PermAccount, "Store or forget ~/personalize", s.putPersonalize),

		typed("GET", rest.Prefix+"/users", coordinator.PermUserAdmin, "List users", s.listUsers),
		typed("POST", rest.Prefix+"/users", coordinator.PermUserAdmin, "Make a user", s.createUser, status(http.StatusCreated)),
		typed("DELETE", rest.Prefix+"/users/{name}", coordinator.PermUserAdmin, "Delete a user", s.deleteUser),
	}
}

func (s *server) templateRoutes() []route {
	const template = rest.Prefix + "/templates/{template}"
	const version = template + "/versions/{version}"
	return []route{
		typed("GET", rest.Prefix+"/templates", coordinator.PermRead, "List templates", s.listTemplates),
		typed("GET", template, coordinator.PermRead, "Show a template", s.showTemplate),
		typed("DELETE", template, coordinator.PermTemplateAdmin, "Delete a template", s.deleteTemplate),
		typed("GET", template+"/versions", coordinator.PermRead, "List the versions of a template", s.listVersions),
		typed("POST", template+"/versions", coordinator.PermTemplateAdmin, "Push a version of a template", s.pushVersion, status(http.StatusCreated), consumes("application/x-tar")),
		typed("GET", version, coordinator.PermRead, "Show a version of a template", s.showVersion),
		typed("GET", version+"/archive", coordinator.PermTemplateAdmin, "Download a version", s.versionArchive, produces("application/x-tar")),
		typed("GET", version+"/log", coordinator.PermTemplateAdmin, "Stream the log of a version's import", s.versionLog, produces(ndjson)),
		typed("POST", version+"/activate", coordinator.PermTemplateAdmin, "Make a version the active one", s.activateVersion),
	}
}

func (s *server) workspaceRoutes() []route {
	const workspace = rest.Prefix + "/workspaces/{owner}/{name}"
	const build = workspace + "/builds/{build}"
	return []route{
		typed("GET", rest.Prefix+"/workspaces", coordinator.PermRead, "List workspaces", s.listWorkspaces),
		typed("POST", rest.Prefix+"/workspaces", coordinator.PermWorkspace, "Make a workspace and start it", s.createWorkspace, status(http.StatusCreated)),
		typed("GET", workspace, coordinator.PermRead, "Show a workspace", s.showWorkspace),
		typed("DELETE", workspace, coordinator.PermWorkspace, "Delete a workspace and all that it is made of", s.deleteWorkspace, status(http.StatusAccepted)),
		typed("POST", workspace+"/start", coordinator.PermWorkspace, "Start or update a workspace", s.startWorkspace, status(http.StatusAccepted)),
		typed("POST", workspace+"/restart", coordinator.PermWorkspace, "Stop a workspace, then start it", s.restartWorkspace, status(http.StatusAccepted)),
		typed("POST", workspace+"/stop", coordinator.PermStopSelf, "Stop a workspace", s.stopWorkspace, status(http.StatusAccepted)),
		typed("GET", workspace+"/builds", coordinator.PermRead, "List the builds of a workspace", s.listBuilds),
		typed("GET", build, coordinator.PermRead, "Show a build", s.showBuild),
		typed("POST", build+"/cancel", coordinator.PermWorkspace, "Cancel a build", s.cancelBuild, status(http.StatusAccepted)),
		typed("GET", build+"/log", coordinator.PermRead, "Stream the log of a build", s.buildLog, produces(ndjson)),
		typed("GET", workspace+"/connect", coordinator.PermConnect, "Open a stream into a workspace (Upgrade: "+agent.StreamUpgrade+")", s.connect, upgrades),
		typed("GET", workspace+"/ping", coordinator.PermConnect, "Measure the way to a workspace's agent", s.ping),
	}
}

func (s *server) recordRoutes() []route {
	return []route{
		typed("GET", rest.Prefix+"/sessions", coordinator.PermAccount, "List sessions, newest first: one's own, an owner's reach goes over all", s.listSessions),
		typed("GET", rest.Prefix+"/audit", coordinator.PermAudit, "List the audit log, newest first", s.listAudit),
	}
}

func (s *server) publicRoutes() []route {
	return []route{
		typed("GET", agent.LinkPath, coordinator.PermPublic, "Open an agent's link; the agent's token is checked there", s.agentLink, upgrades),
		typed("GET", "/healthz", coordinator.PermPublic, "Tell that the coordinator answers", s.health, produces("text/plain")),
		typed("GET", "/ssh/known_hosts", coordinator.PermPublic, "The line for known_hosts", s.knownHosts, produces("text/plain")),
		typed("GET", "/init.sh", coordinator.PermPublic, "The bootstrap script of an agent", s.initScript, produces("text/x-shellscript")),
		typed("GET", "/dist/{sha256}/{name}", coordinator.PermPublic, "Download a program by its digest", s.download, produces("application/octet-stream")),
	}
}
