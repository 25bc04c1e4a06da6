package api

import (
	"net/http"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/rest"
)

// routes is the table of contents of everything that the coordinator serves.
func (s *server) routes() []route {
	const (
		public    = coordinator.PermPublic
		read      = coordinator.PermRead
		stopSelf  = coordinator.PermStopSelf
		account   = coordinator.PermAccount
		work      = coordinator.PermWorkspace
		connect   = coordinator.PermConnect
		templates = coordinator.PermTemplateAdmin
		users     = coordinator.PermUserAdmin

		v1        = rest.Prefix
		template  = v1 + "/templates/{template}"
		version   = template + "/versions/{version}"
		workspace = v1 + "/workspaces/{owner}/{name}"
		build     = workspace + "/builds/{build}"
	)
	created, accepted := status(http.StatusCreated), status(http.StatusAccepted)
	return []route{
		typed("GET", v1+"/server", public, "Describe the installation", s.describe),
		typed("POST", v1+"/setup", public, "Make the first owner", s.setup, created),
		typed("GET", v1+"/whoami", read, "Tell who the caller is", s.whoami),

		typed("GET", v1+"/tokens", account, "List API tokens", s.listTokens),
		typed("POST", v1+"/tokens", account, "Make an API token", s.createToken, created),
		typed("DELETE", v1+"/tokens/{id}", account, "Revoke an API token", s.deleteToken),
		typed("GET", v1+"/keys", account, "List SSH public keys", s.listKeys),
		typed("POST", v1+"/keys", account, "Register an SSH public key", s.addKey, created),
		typed("DELETE", v1+"/keys/{id}", account, "Remove an SSH public key", s.deleteKey),
		typed("GET", v1+"/keys/git", account, "Show the Git key's public half", s.gitKey),
		typed("GET", v1+"/secrets", account, "List secrets, without their values", s.listSecrets),
		typed("PUT", v1+"/secrets/{name}", account, "Store a secret", s.putSecret),
		typed("DELETE", v1+"/secrets/{name}", account, "Remove a secret", s.deleteSecret),
		typed("GET", v1+"/dotfiles", account, "Show the dotfiles repository", s.dotfiles),
		typed("PUT", v1+"/dotfiles", account, "Set the dotfiles repository", s.putDotfiles),
		typed("GET", v1+"/personalize", account, "Show the stored ~/personalize", s.personalize),
		typed("PUT", v1+"/personalize", account, "Store or forget ~/personalize", s.putPersonalize),

		typed("GET", v1+"/users", users, "List users", s.listUsers),
		typed("POST", v1+"/users", users, "Make a user", s.createUser, created),
		typed("DELETE", v1+"/users/{name}", users, "Delete a user", s.deleteUser),

		typed("GET", v1+"/templates", read, "List templates", s.listTemplates),
		typed("GET", template, read, "Show a template", s.showTemplate),
		typed("DELETE", template, templates, "Delete a template", s.deleteTemplate),
		typed("GET", template+"/versions", read, "List the versions of a template", s.listVersions),
		typed("POST", template+"/versions", templates, "Push a version of a template", s.pushVersion, created, consumes("application/x-tar")),
		typed("GET", version, read, "Show a version of a template", s.showVersion),
		typed("GET", version+"/archive", templates, "Download a version", s.versionArchive, produces("application/x-tar")),
		typed("GET", version+"/log", templates, "Stream the log of a version's import", s.versionLog, produces(ndjson)),
		typed("POST", version+"/activate", templates, "Make a version the active one", s.activateVersion),

		typed("GET", v1+"/workspaces", read, "List workspaces", s.listWorkspaces),
		typed("POST", v1+"/workspaces", work, "Make a workspace and start it", s.createWorkspace, created),
		typed("GET", workspace, read, "Show a workspace", s.showWorkspace),
		typed("DELETE", workspace, work, "Delete a workspace and all that it is made of", s.deleteWorkspace, accepted),
		typed("POST", workspace+"/start", work, "Start or update a workspace", s.startWorkspace, accepted),
		typed("POST", workspace+"/restart", work, "Stop a workspace, then start it", s.restartWorkspace, accepted),
		typed("POST", workspace+"/stop", stopSelf, "Stop a workspace", s.stopWorkspace, accepted),
		typed("GET", workspace+"/builds", read, "List the builds of a workspace", s.listBuilds),
		typed("GET", build, read, "Show a build", s.showBuild),
		typed("POST", build+"/cancel", work, "Cancel a build", s.cancelBuild, accepted),
		typed("GET", build+"/log", read, "Stream the log of a build", s.buildLog, produces(ndjson)),
		typed("GET", workspace+"/connect", connect, "Open a stream into a workspace (Upgrade: "+agent.StreamUpgrade+")", s.connect, upgrades),
		typed("GET", workspace+"/ping", connect, "Measure the way to a workspace's agent", s.ping),

		typed("GET", agent.LinkPath, public, "Open an agent's link; the agent's token is checked there", s.agentLink, upgrades),
		typed("GET", "/healthz", public, "Tell that the coordinator answers", s.health, produces("text/plain")),
		typed("GET", "/ssh/known_hosts", public, "The line for known_hosts", s.knownHosts, produces("text/plain")),
		typed("GET", "/init.sh", public, "The bootstrap script of an agent", s.initScript, produces("text/x-shellscript")),
		typed("GET", "/dist/{sha256}/{name}", public, "Download a program by its digest", s.download, produces("application/octet-stream")),
	}
}
