// Package rest holds the bodies of requests and answers of the REST API. The API makes them, the client reads them;
// the OpenAPI document is made from them.
package rest

import (
	"time"

	"berth/agent"
	"berth/coordinator"
)

// Prefix is where the API begins.
const Prefix = "/api/v1"

// A Problem is an error as RFC 9457 lays it down, with a stable code and a hint.
type Problem struct {
	Type   string           `json:"type,omitempty"`
	Title  string           `json:"title,omitempty"`
	Status int              `json:"status"`
	Detail string           `json:"detail"` // the message, in the user's words
	Code   coordinator.Code `json:"code"`
	Hint   string           `json:"hint,omitempty"`
}

// A Server describes the installation to its clients. It is public.
type Server struct {
	Version    string `json:"version"`
	URL        string `json:"url"`         // as people reach it
	SSHHost    string `json:"ssh_host"`    // the door
	SSHPort    int    `json:"ssh_port"`    // the door
	Suffix     string `json:"suffix"`      // of host names
	KnownHosts string `json:"known_hosts"` // the one line for known_hosts
	SetUp      bool   `json:"set_up"`      // the first owner is there
}

// A Page is one page of a listing.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"` // cursor of the next page; empty at the end
}

// Setup makes the first owner.
type Setup struct {
	Token    string `json:"token" maxLength:"100" doc:"the one-time setup token that berthd printed"`
	Name     string `json:"name" maxLength:"32"`
	FullName string `json:"full_name,omitempty" maxLength:"200"`
	Email    string `json:"email,omitempty" maxLength:"200"`
	Device   string `json:"device,omitempty" maxLength:"100" doc:"name of the token that is made"`
}

// A User is a person who signs in.
type User struct {
	ID       coordinator.UserID `json:"id"`
	Name     string             `json:"name"`
	FullName string             `json:"full_name,omitempty"`
	Email    string             `json:"email,omitempty"`
	Role     coordinator.Role   `json:"role"`
	Created  time.Time          `json:"created"`
}

// Whoami is the caller and how far their token goes.
type Whoami struct {
	User
	Workspace string `json:"workspace,omitempty"` // set for a workspace's own token: owner/name
}

// CreateUser makes a user.
type CreateUser struct {
	Name     string           `json:"name" maxLength:"32"`
	FullName string           `json:"full_name,omitempty" maxLength:"200"`
	Email    string           `json:"email,omitempty" maxLength:"200"`
	Role     coordinator.Role `json:"role,omitempty" enum:"owner,member" doc:"member by default"`
	SSHKeys  []string         `json:"ssh_keys,omitempty" maxItems:"20" doc:"public keys in authorized_keys form"`
}

// CreatedUser is a new user and the token with which they sign in first.
type CreatedUser struct {
	User  User   `json:"user"`
	Token string `json:"token"`
}

// A Token is an API token without its secret.
type Token struct {
	ID       coordinator.TokenID `json:"id"`
	Name     string              `json:"name"`
	Created  time.Time           `json:"created"`
	Expires  time.Time           `json:"expires,omitzero"`
	LastUsed time.Time           `json:"last_used,omitzero"`
	Current  bool                `json:"current,omitempty"` // the one that asks
}

// CreateToken makes an API token.
type CreateToken struct {
	Name     string `json:"name" minLength:"1" maxLength:"100"`
	Lifetime int64  `json:"lifetime,omitempty" minimum:"0" doc:"seconds; 90 days by default"`
}

// CreatedToken is a new token; its secret is shown once.
type CreatedToken struct {
	Token
	Secret string `json:"secret"`
}

// A Key is a registered SSH public key.
type Key struct {
	ID          coordinator.KeyID `json:"id"`
	Name        string            `json:"name"`
	PublicKey   string            `json:"public_key"`
	Fingerprint string            `json:"fingerprint"`
	Device      bool              `json:"device,omitempty"` // made by berth login, revoked with its token
	Created     time.Time         `json:"created"`
	LastUsed    time.Time         `json:"last_used,omitzero"`
}

// AddKey registers an SSH public key.
type AddKey struct {
	Name      string `json:"name,omitempty" maxLength:"100" doc:"the key's comment by default"`
	PublicKey string `json:"public_key" maxLength:"16384" doc:"authorized_keys form"`
	// Proof is a signature of KeyProof by the private key, in the SSH wire format and standard base64: a registered
	// public key belongs to one user, after proof of possession.
	Proof  string `json:"proof,omitempty" maxLength:"16384"`
	Device bool   `json:"device,omitempty" doc:"revoke it with the token that registers it"`
}

// GitKey is the public half of the key that workspaces present to Git hosts.
type GitKey struct {
	PublicKey   string `json:"public_key"`
	Fingerprint string `json:"fingerprint"`
}

// A Secret is a user's secret without its value.
type Secret struct {
	Name    string    `json:"name"`
	Env     string    `json:"env,omitempty"`
	File    string    `json:"file,omitempty"`
	Updated time.Time `json:"updated"`
}

// PutSecret stores a secret under the name in the path.
type PutSecret struct {
	Env   string `json:"env,omitempty" maxLength:"100" doc:"environment variable to set"`
	File  string `json:"file,omitempty" maxLength:"100" doc:"file to write, mode 0600, below the runtime directory"`
	Value string `json:"value" maxLength:"65536"`
}

// Dotfiles is the repository that is cloned at startup; empty for none.
type Dotfiles struct {
	URL string `json:"url" maxLength:"500"`
}

// Personalize is the ~/personalize script; null where none is stored.
type Personalize struct {
	Script *string `json:"script" maxLength:"262144"`
}

// A Template is a template.
type Template struct {
	ID            coordinator.TemplateID `json:"id"`
	Name          string                 `json:"name"`
	Description   string                 `json:"description,omitempty"`
	ActiveVersion int                    `json:"active_version,omitempty"` // 0: none yet
	Workspaces    int                    `json:"workspaces"`
	Created       time.Time              `json:"created"`
}

// A TemplateVersion is one push of a template.
type TemplateVersion struct {
	Number    int                       `json:"number"`
	Active    bool                      `json:"active"`
	Status    coordinator.VersionStatus `json:"status"`
	Error     string                    `json:"error,omitempty"`
	Message   string                    `json:"message,omitempty"`
	Archive   string                    `json:"archive"` // SHA-256
	Import    coordinator.Import        `json:"import,omitzero"`
	CreatedBy string                    `json:"created_by"`
	Created   time.Time                 `json:"created"`
}

// CreateWorkspace makes a workspace and starts it.
type CreateWorkspace struct {
	Name     string            `json:"name" maxLength:"32"`
	Template string            `json:"template" maxLength:"32"`
	Version  int               `json:"version,omitempty" minimum:"0" doc:"the active one by default"`
	Params   map[string]string `json:"params,omitempty" maxProperties:"100"`
	Stopped  bool              `json:"stopped,omitempty" doc:"do not start it"`
}

// A Workspace is a workspace with its derived status.
type Workspace struct {
	ID        coordinator.WorkspaceID `json:"id"`
	Name      string                  `json:"name"`
	Owner     string                  `json:"owner"`
	Template  string                  `json:"template"`
	Version   int                     `json:"version"`
	Outdated  bool                    `json:"outdated,omitempty"` // the template has a newer active version
	Status    coordinator.Status      `json:"status"`
	Reason    string                  `json:"reason,omitempty"`
	Notice    string                  `json:"notice,omitempty"` // of an update that was refused; not in listings
	Params    map[string]string       `json:"params,omitempty"`
	Agents    []Agent                 `json:"agents,omitempty"`
	Build     *Build                  `json:"build,omitempty"` // the latest
	HostNames []string                `json:"host_names"`      // short and long
	Created   time.Time               `json:"created"`
	LastUsed  time.Time               `json:"last_used,omitzero"`
}

// An Agent is an agent of a workspace.
type Agent struct {
	Name      string             `json:"name"`
	Resource  string             `json:"resource"`
	Connected bool               `json:"connected"`
	Version   string             `json:"version,omitempty"` // as the agent says, while it is connected
	Ready     bool               `json:"ready"`
	Steps     []agent.StepReport `json:"steps,omitempty"`
	IDEs      []agent.IDEServer  `json:"ides,omitempty" doc:"servers of IDEs that no session holds"`
}

// StartWorkspace starts, restarts or updates a workspace.
type StartWorkspace struct {
	Update       bool              `json:"update,omitempty" doc:"move to the template's active version"`
	Version      int               `json:"version,omitempty" minimum:"0" doc:"move to this version"`
	Params       map[string]string `json:"params,omitempty" maxProperties:"100" doc:"parameters to change"`
	AllowDestroy []string          `json:"allow_destroy,omitempty" maxItems:"100" doc:"addresses of persistent resources that may be destroyed or replaced"`
}

// A Build is one run of terraform.
type Build struct {
	Number          int                     `json:"number"`
	Workspace       string                  `json:"workspace"` // owner/name
	Transition      coordinator.Transition  `json:"transition"`
	ThenStart       bool                    `json:"then_start,omitempty"` // a restart: a start follows
	Reason          coordinator.Reason      `json:"reason"`
	Initiator       string                  `json:"initiator,omitempty"`
	Version         int                     `json:"version"`
	Status          coordinator.BuildStatus `json:"status"`
	CancelRequested bool                    `json:"cancel_requested,omitempty"`
	Ahead           int                     `json:"ahead,omitempty"` // builds before it in the queue
	Error           string                  `json:"error,omitempty"`
	Address         string                  `json:"address,omitempty"`
	Resources       []string                `json:"resources,omitempty"`
	Timings         []coordinator.Timing    `json:"timings,omitempty"`
	Created         time.Time               `json:"created"`
	Started         time.Time               `json:"started,omitzero"`
	Ended           time.Time               `json:"ended,omitzero"`
}

// A StreamEvent is a line of JSON that comes before the bytes of a stream into a workspace: any number with Progress,
// then one with OK or Problem. After OK the stream is raw.
type StreamEvent struct {
	Progress *coordinator.Progress `json:"progress,omitempty"`
	OK       bool                  `json:"ok,omitempty"`
	Problem  *Problem              `json:"problem,omitempty"`
}

// MaxStreamEvent is the size of the longest StreamEvent, in bytes with its newline.
const MaxStreamEvent = 16 << 10

// A LogEvent is a line of a streamed log: a log line, or the end.
type LogEvent struct {
	Line *coordinator.LogLine `json:"line,omitempty"`
	End  bool                 `json:"end,omitempty"` // nothing more will come
}

// Ping is how far an agent is from the coordinator.
type Ping struct {
	Agent string        `json:"agent"`
	RTT   time.Duration `json:"rtt"` // nanoseconds
}

// KeyProof is what AddKey.Proof signs: it names the user, so that a signature cannot be used to register the key
// with somebody else. wire is the public key in SSH wire format.
func KeyProof(user coordinator.UserID, wire []byte) []byte {
	return append([]byte("berth-key/1\n"+string(user)+"\n"), wire...)
}
