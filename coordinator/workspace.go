package coordinator

import (
	"time"

	"berth/agent"
)

// A Workspace is one user's instance of a template.
type Workspace struct {
	ID         WorkspaceID
	Name       string
	OwnerID    UserID
	OwnerName  string // joined
	TemplateID TemplateID
	Template   string // joined: the template's name
	// VersionID and Params are what the next start uses; the version of the state is the latest build's.
	VersionID  VersionID
	Params     map[string]string
	Generation int // of the agents' tokens; raising it revokes them
	Created    time.Time
	LastUsed   time.Time
}

// A WorkspaceAgent is an agent of a workspace as its latest start build recorded it, with what it told since.
type WorkspaceAgent struct {
	WorkspaceID WorkspaceID
	ID          string // the agent's id in terraform's state
	BuildID     BuildID
	AgentRecord
	PinnedKey      []byte    // Ed25519 public key, pinned for the start build
	FirstConnected time.Time // within the start build; zero: never
	LastSeen       time.Time // written at most once a minute
	Ready          bool      // startup has ended
	Steps          []agent.StepReport
}

// An AgentRecord is an agent as it stands in terraform's state. The builder stores it.
type AgentRecord struct {
	ID                string            `json:"id"`
	Name              string            `json:"name"`
	Address           string            `json:"address"`  // of the agent resource
	Resource          string            `json:"resource"` // address of the resource that runs it
	OS                string            `json:"os"`
	Arch              string            `json:"arch"`
	Env               map[string]string `json:"env,omitempty"`
	User              string            `json:"user,omitempty"`
	Dir               string            `json:"dir,omitempty"`
	MOTD              string            `json:"motd,omitempty"`
	ConnectionTimeout time.Duration     `json:"connection_timeout"`
}

// A HostIdentity is the stable SSH identity of a workspace, kept by the coordinator.
type HostIdentity struct {
	Ed25519 Secret // OpenSSH PEM
	ECDSA   Secret // OpenSSH PEM
}

// DefaultConnectionTimeout is how long a fresh agent may take to connect before its workspace is unhealthy.
const DefaultConnectionTimeout = 2 * time.Minute

// StartupGrace is how long after the coordinator's start nobody counts as disconnected.
const StartupGrace = 300 * time.Second
