package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"time"
)

// A Manifest is everything an agent needs to know about its workspace. It is fetched over a stream of its own after
// every connect and whenever the coordinator says that it changed; it lives in the agent's memory only.
type Manifest struct {
	Workspace   string    `json:"workspace"`    // its name
	WorkspaceID string    `json:"workspace_id"` // its id
	Owner       Owner     `json:"owner"`
	Agent       AgentSpec `json:"agent"`
	StartBuild  string    `json:"start_build"` // id of the start build; startup runs once for each
	URL         string    `json:"url"`         // the coordinator, as the workspace reaches it
	Suffix      string    `json:"suffix"`      // of host names, "berth" by default

	Token   Secret       `json:"token"`        // the CLI's narrow token
	CLI     *Download    `json:"cli,omitzero"` // the CLI for this agent's platform, if the coordinator carries one
	SSH     SSH          `json:"ssh"`
	Git     Git          `json:"git"`
	Secrets []UserSecret `json:"secrets,omitempty"`

	DotfilesURL string                   `json:"dotfiles_url,omitempty"`
	Personalize *string                  `json:"personalize,omitempty"` // nil: the user stored none, leave the file alone
	Limits      map[string]time.Duration `json:"limits,omitempty"`      // by step; DefaultLimits where absent
}

// DefaultLimits are the time limits of the startup steps.
var DefaultLimits = map[string]time.Duration{
	StepSecrets:     time.Minute,
	StepConfigure:   10 * time.Minute,
	StepDotfiles:    10 * time.Minute,
	StepPersonalize: 10 * time.Minute,
}

// LogValue keeps a manifest out of logs.
func (Manifest) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// String keeps a manifest out of messages.
func (Manifest) String() string { return "[redacted]" }

// GoString keeps a manifest out of messages.
func (Manifest) GoString() string { return "[redacted]" }

// An Owner is the workspace's owner.
type Owner struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	FullName string `json:"full_name,omitempty"`
	Email    string `json:"email,omitempty"`
}

// An AgentSpec is what the template says about this agent.
type AgentSpec struct {
	ID   string            `json:"id"`
	Name string            `json:"name"`
	Env  map[string]string `json:"env,omitempty"`
	User string            `json:"user,omitempty"` // whom to run as, where the agent starts as root
	Dir  string            `json:"dir,omitempty"`  // where shells begin; the home directory if empty
	MOTD string            `json:"motd,omitempty"`
}

// A Download is a file that the coordinator serves by its digest.
type Download struct {
	URL    string `json:"url"`
	SHA256 string `json:"sha256"` // hexadecimal
	Size   int64  `json:"size"`
}

// SSH is the identity of the workspace's SSH server and who may enter.
type SSH struct {
	HostKeys []HostKey `json:"host_keys"` // Ed25519 first, then ECDSA
	UserCAs  []string  `json:"user_cas"`  // authorized_keys lines of certificate authorities for users
	People   []SSHUser `json:"people"`    // who may enter, and with which keys
}

// A HostKey is one stable host key of the workspace, with its certificate.
type HostKey struct {
	PrivateKey  Secret `json:"private_key"` // OpenSSH PEM
	Certificate string `json:"certificate"` // authorized_keys form, signed by the host CA
}

// An SSHUser is a person who may enter, with their public keys in authorized_keys form. A certificate of a user CA
// is accepted where its key id (OpenSSH PROTOCOL.certkeys) is the person's id.
type SSHUser struct {
	Person
	Keys []string `json:"keys"`
}

// Git is what the workspace needs to reach Git hosts in its owner's name.
type Git struct {
	PrivateKey Secret `json:"private_key,omitempty"` // OpenSSH PEM, Ed25519; stays in the agent's memory
	PublicKey  string `json:"public_key,omitempty"`
	KnownHosts string `json:"known_hosts,omitempty"` // lines for Git hosts
}

// A UserSecret is one of the owner's own secrets. Exactly one of Env and File is set.
type UserSecret struct {
	Name  string `json:"name"`
	Env   string `json:"env,omitempty"`  // name of an environment variable
	File  string `json:"file,omitempty"` // file name below the runtime directory's secrets/, mode 0600
	Value Secret `json:"value"`
}

// WriteManifest writes m as a frame: its length in decimal, a newline, then JSON. The length makes a lost connection,
// which yamux reports as a clean end, tell itself from a whole manifest.
func WriteManifest(w io.Writer, m *Manifest) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	if len(b) > MaxManifest {
		return ErrTooLong
	}
	_, err = w.Write(append([]byte(strconv.Itoa(len(b))+"\n"), b...))
	return err
}

// ReadManifest reads what WriteManifest wrote.
func ReadManifest(r io.Reader) (*Manifest, error) {
	var n int
	if err := ReadLine(r, &n, 16); err != nil {
		return nil, err
	}
	if n < 0 || n > MaxManifest {
		return nil, ErrTooLong
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read manifest: %w", errors.Join(io.ErrUnexpectedEOF, err))
	}
	m := new(Manifest)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	return m, nil
}
