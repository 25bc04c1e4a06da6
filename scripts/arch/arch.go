// Package arch holds the dependency rule of the module: which package may import which, and which may import a heavy
// dependency. Its test reads the source and fails where the table is broken.
package arch

// A row is one package of ours and what it may import of ours. Rows stand bottom up: an edge may only point to a row
// above its own.
type row struct {
	pkg string
	may []string
}

var rows = []row{
	{"agent", nil},
	{"coordinator", []string{"agent"}},
	{"coordinator/rest", []string{"agent", "coordinator"}},

	{"agent/shell", []string{"agent"}},
	{"agent/keyring", []string{"agent"}},
	{"agent/startup", []string{"agent", "agent/shell"}},
	{"agent/sftp", nil},
	{"agent/sshd", []string{"agent", "agent/shell", "agent/keyring", "agent/sftp"}},
	{"agent/ide", []string{"agent"}},
	{"agent/link", []string{"agent"}},
	{"agent/daemon", []string{"agent", "agent/shell", "agent/keyring", "agent/startup", "agent/sshd", "agent/ide", "agent/link"}},

	{"cli/client", []string{"agent", "coordinator", "coordinator/rest"}},
	{"cli/sshconfig", nil},
	{"cli", []string{"agent", "coordinator", "coordinator/rest", "cli/client", "cli/sshconfig"}},

	{"coordinator/events", []string{"coordinator"}},
	{"coordinator/seal", nil},
	{"coordinator/ca", []string{"agent", "coordinator", "coordinator/seal"}},
	{"coordinator/sqlite", []string{"agent", "coordinator", "coordinator/seal"}},
	{"coordinator/dist", nil},
	{"coordinator/host", []string{"agent", "coordinator"}},
	{"coordinator/provider", []string{"coordinator", "coordinator/dist", "coordinator/host"}},
	{"coordinator/terraform", []string{"coordinator", "coordinator/host"}},
	{"coordinator/runner", []string{"coordinator", "coordinator/provider", "coordinator/terraform"}},
	{"coordinator/builder", []string{"coordinator"}},
	{"coordinator/hub", []string{"agent", "coordinator"}},
	{"coordinator/entry", []string{"agent", "coordinator"}},
	{"coordinator/sshproxy", nil},
	{"coordinator/door", []string{"agent", "coordinator", "coordinator/entry", "coordinator/sshproxy"}},
	{"coordinator/console", []string{"coordinator", "coordinator/rest", "cli", "cli/client"}},
	{"coordinator/api", []string{"agent", "coordinator", "coordinator/rest", "coordinator/entry", "coordinator/sshproxy"}},
	{"coordinator/daemon", []string{
		"agent", "coordinator", "coordinator/rest", "coordinator/events", "coordinator/seal", "coordinator/ca",
		"coordinator/sqlite", "coordinator/dist", "coordinator/host", "coordinator/provider", "coordinator/terraform",
		"coordinator/runner", "coordinator/builder", "coordinator/hub", "coordinator/entry", "coordinator/sshproxy",
		"coordinator/door", "coordinator/console", "coordinator/api",
	}},

	{"agent/berth-agent", []string{"agent/daemon"}},
	{"coordinator/berthd", []string{"coordinator/daemon"}},
	{"cli/berth", []string{"cli"}},
}

// fences names the only packages that may import a heavy dependency, in production code.
var fences = map[string][]string{
	"database/sql":                             {"coordinator/sqlite"},
	"modernc.org/sqlite":                       {"coordinator/sqlite"},
	"github.com/pressly/goose":                 {"coordinator/sqlite"},
	"github.com/hashicorp/terraform-exec":      {"coordinator/terraform"},
	"github.com/hashicorp/terraform-json":      {"coordinator/terraform"},
	"github.com/hashicorp/terraform-plugin-go": {"coordinator/provider"},
	"github.com/hashicorp/go-plugin":           {"coordinator/provider"},
	"github.com/hashicorp/hcl":                 {"coordinator/terraform"},
	"github.com/hashicorp/yamux":               {"agent/link", "coordinator/hub"},
	"github.com/gliderlabs/ssh":                {"agent/sshd", "coordinator/door"},
	"github.com/pkg/sftp":                      {}, // as a client in tests
	"github.com/creack/pty":                    {"agent/shell", "agent/sshd"},
	"github.com/danielgtaylor/huma":            {"coordinator/api"},
	"github.com/spf13/cobra":                   {"cli"},
	"charm.land/bubbletea":                     {"coordinator/console"},
	"embed":                                    {"coordinator/sqlite", "coordinator/dist"},
}
