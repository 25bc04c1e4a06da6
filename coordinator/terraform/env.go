package terraform

import (
	"os"
	"slices"
	"sort"
	"strings"

	"berth/coordinator"
)

// passed are the variables of the coordinator's environment that reach a runner and terraform: how to find programs
// and how to reach the network. Everything else stays behind, for a template's code reads what terraform has.
var passed = []string{
	"PATH", "LANG", "LC_ALL", "TZ",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
}

// Passed returns the variables of this process's environment that are on the allow-list, as NAME=value.
func Passed() []string {
	var env []string
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); slices.Contains(passed, name) {
			env = append(env, kv)
		}
	}
	return env
}

// An Environment is what terraform gets to see.
type Environment struct {
	Home, Tmp string
	CLIConfig string                        // path of the file that CLIConfig made
	Reattach  string                        // TF_REATTACH_PROVIDERS
	Lean      bool                          // terraform starts no programs that would inherit GOGC
	Granted   map[string]coordinator.Secret // by an admin to the template
}

// reserved are names that an admin's grant may not set: they would undo what Berth sets itself, and what is a variable
// of a module ends in its state.
func reserved(name string) bool {
	return strings.HasPrefix(name, "TF_") ||
		slices.Contains([]string{"HOME", "PATH", "TMPDIR", "GOGC", "GOMEMLIMIT", "LD_PRELOAD"}, name)
}

// Map returns the environment by name, without what terraform-exec wants to set itself.
func (e Environment) Map() map[string]string {
	m := map[string]string{}
	for _, kv := range Passed() {
		name, value, _ := strings.Cut(kv, "=")
		m[name] = value
	}
	for name, value := range e.Granted {
		if !reserved(name) {
			m[name] = string(value)
		}
	}
	m["HOME"], m["TMPDIR"] = e.Home, e.Tmp
	m["CHECKPOINT_DISABLE"] = "1"
	m["TF_CLI_CONFIG_FILE"] = e.CLIConfig
	m["TF_DATA_DIR"] = RelativeDataDir
	if e.Lean {
		// A build lives for a second: collecting garbage costs a third of its time.
		m["GOGC"], m["GOMEMLIMIT"] = "off", "256MiB"
	}
	return m
}

// List returns the whole environment as NAME=value.
func (e Environment) List() []string {
	m := e.Map()
	m["TF_IN_AUTOMATION"], m["TF_INPUT"], m["TF_LOG_SDK"] = "1", "0", "off"
	if e.Reattach != "" {
		m["TF_REATTACH_PROVIDERS"] = e.Reattach
	}
	var env []string
	for name, value := range m {
		env = append(env, name+"="+value)
	}
	sort.Strings(env)
	return env
}
