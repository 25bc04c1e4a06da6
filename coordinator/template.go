package coordinator

import "time"

// A Template is a named Terraform module; every push makes an immutable version, and one version is active.
type Template struct {
	ID          TemplateID
	Name        string
	Description string
	Active      VersionID // empty until the first import succeeds
	Created     time.Time
}

// VersionStatus is where the import of a template version stands.
type VersionStatus string

// Statuses of a version.
const (
	VersionImporting VersionStatus = "importing"
	VersionReady     VersionStatus = "ready"
	VersionFailed    VersionStatus = "failed"
)

// A TemplateVersion is one push of a template.
type TemplateVersion struct {
	ID         VersionID
	TemplateID TemplateID
	Number     int // 1, 2, 3 within the template
	Message    string
	Archive    string // SHA-256 of the tar, hexadecimal; where its bytes are found
	Status     VersionStatus
	Error      string // why the import failed
	Import     Import // what the import found
	Activate   bool   // make it the active version once its import has succeeded
	CreatedBy  UserID
	Created    time.Time
}

// An Import is what the import of a version found out by two plans, with start count 1 and 0.
type Import struct {
	Parameters []Parameter     `json:"parameters,omitempty"`
	Agents     []TemplateAgent `json:"agents,omitempty"`
	Persistent []string        `json:"persistent,omitempty"` // addresses that stay at start count 0
	Ephemeral  []string        `json:"ephemeral,omitempty"`  // addresses that vanish
	Warnings   []string        `json:"warnings,omitempty"`
}

// A TemplateAgent is an agent that a template declares.
type TemplateAgent struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// A Parameter is a berth_parameter of a template.
type Parameter struct {
	Name        string            `json:"name"`
	DisplayName string            `json:"display_name,omitempty"`
	Description string            `json:"description,omitempty"`
	Type        string            `json:"type"` // string, number, bool, list(string)
	Default     *string           `json:"default,omitempty"`
	Mutable     bool              `json:"mutable"`
	Options     []ParameterOption `json:"options,omitempty"`
	Regex       string            `json:"regex,omitempty"`
	Error       string            `json:"error,omitempty"` // message where Regex does not match
	Min         *float64          `json:"min,omitempty"`
	Max         *float64          `json:"max,omitempty"`
}

// A ParameterOption is one allowed value.
type ParameterOption struct {
	Name        string `json:"name"`
	Value       string `json:"value"`
	Description string `json:"description,omitempty"`
}

// Caps of a template archive.
const (
	MaxArchive      = 10 << 20 // bytes of the tar as it arrives
	MaxArchiveFiles = 2000
	MaxArchiveFile  = 8 << 20  // bytes of one file
	MaxArchiveTotal = 32 << 20 // bytes of all files
	MaxArchivePath  = 255      // bytes of a path inside
	MaxParameters   = 100
	MaxParameter    = 8 << 10 // bytes of a value
)
