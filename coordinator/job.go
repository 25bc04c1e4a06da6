package coordinator

import "time"

// A Job is everything that a runner needs for one build or one import. It reaches the runner on an inherited,
// unlinked file, so that a build needs no coordinator and no secret stands on a disk or in an environment.
type Job struct {
	ID         string     `json:"id"` // the build's or the version's id
	Import     bool       `json:"import,omitempty"`
	Transition Transition `json:"transition,omitempty"`

	Workspace   string      `json:"workspace,omitempty"`
	WorkspaceID WorkspaceID `json:"workspace_id,omitempty"`
	Owner       JobOwner    `json:"owner,omitzero"`

	Template  string            `json:"template"`
	VersionID VersionID         `json:"version_id"`
	Version   int               `json:"version"`
	Archive   string            `json:"archive"`    // SHA-256 of the template's tar
	ModuleDir string            `json:"module_dir"` // the version's directory: module/ and terraform's data, shared read-only
	Params    map[string]string `json:"params,omitempty"`

	AccessURL  string `json:"access_url"`            // the coordinator, as people reach it
	AgentURL   string `json:"agent_url"`             // the coordinator, as agents reach it
	InitScript string `json:"init_script,omitempty"` // the bootstrap script, with URL and digests filled in
	AgentKey   []byte `json:"agent_key,omitempty"`   // HMAC key of the workspace's agents' tokens
	Generation int    `json:"generation,omitempty"`

	Env          map[string]Secret `json:"env,omitempty"`        // granted to the template by an admin
	Persistent   []string          `json:"persistent,omitempty"` // addresses that the guard protects
	AllowDestroy []string          `json:"allow_destroy,omitempty"`

	Terraform Terraform `json:"terraform"`
	Host      HostGrant `json:"host,omitzero"`
	Limits    JobLimits `json:"limits,omitzero"`
}

// String keeps a job, which carries keys, out of logs.
func (Job) String() string { return "[redacted]" }

// JobOwner is the workspace's owner, as templates see them.
type JobOwner struct {
	ID        UserID   `json:"id"`
	Name      string   `json:"name"`
	FullName  string   `json:"full_name,omitempty"`
	Email     string   `json:"email,omitempty"`
	Groups    []string `json:"groups,omitempty"`
	Roles     []string `json:"roles,omitempty"`
	PublicKey string   `json:"public_key,omitempty"` // the Git key's public half
}

// Terraform is the terraform that builds use.
type Terraform struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	Tofu    bool   `json:"tofu,omitempty"` // OpenTofu, which writes no state during an apply
}

// A HostGrant is what a build may do on the coordinator's own machine.
type HostGrant struct {
	Homes      string `json:"homes"`      // directory of persistent homes; one directory below it for each home's id
	Run        string `json:"run"`        // directory of processes' records
	Agent      string `json:"agent"`      // path of the agent's binary
	UID        int    `json:"uid"`        // the owner's uid, used where the coordinator is root and isolation works
	BuildUID   int    `json:"build_uid"`  // terraform's uid, where the coordinator is root; 0: the coordinator's own
	Insecure   bool   `json:"insecure"`   // berthd --insecure-host-processes
	Bubblewrap string `json:"bubblewrap"` // path of a bubblewrap that works here, or empty
}

// JobLimits are the time limits of a job's stages. Zero means the default.
type JobLimits struct {
	Init  time.Duration `json:"init,omitempty"`
	Plan  time.Duration `json:"plan,omitempty"`
	Apply time.Duration `json:"apply,omitempty"`
	// Cancel is how long an interrupted terraform may take to end in order, before it is killed.
	Cancel time.Duration `json:"cancel,omitempty"`
}

// Default limits of a job's stages.
const (
	DefaultInitLimit  = 10 * time.Minute
	DefaultPlanLimit  = 10 * time.Minute
	DefaultApplyLimit = 2 * time.Hour

	DefaultCancelLimit = 5 * time.Minute
)

// A Result is how a job ended.
type Result struct {
	Status    BuildStatus   `json:"status"` // succeeded, failed or canceled
	Error     string        `json:"error,omitempty"`
	Address   string        `json:"address,omitempty"` // the resource at which it failed
	Guard     []Violation   `json:"guard,omitempty"`   // what the guard stopped
	Timings   []Timing      `json:"timings,omitempty"`
	Agents    []AgentRecord `json:"agents,omitempty"`    // of the final state
	Resources []string      `json:"resources,omitempty"` // managed resources in the final state
	Serial    int64         `json:"serial"`
	Imported  *Import       `json:"imported,omitempty"`
}

// A Violation is one persistent resource that a plan would destroy or replace.
type Violation struct {
	Address    string   `json:"address"`
	Action     string   `json:"action"`               // delete or replace
	Attributes []string `json:"attributes,omitempty"` // that force the replacement
}
