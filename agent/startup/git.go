package startup

import (
	"fmt"
	"strings"

	"berth/agent"
	"berth/agent/shell"
)

// gitEnv is the identity in which the workspace commits. The coordinator's configuration stands in for the system's
// one, which includes it: what the user's own files say goes before both.
func gitEnv(m *agent.Manifest, config string) []string {
	env := []string{"GIT_CONFIG_SYSTEM=" + config}
	name := m.Owner.FullName
	if name == "" {
		name = m.Owner.Name
	}
	if name != "" {
		env = append(env, "GIT_AUTHOR_NAME="+name, "GIT_COMMITTER_NAME="+name)
	}
	if m.Owner.Email != "" {
		env = append(env, "GIT_AUTHOR_EMAIL="+m.Owner.Email, "GIT_COMMITTER_EMAIL="+m.Owner.Email)
	}
	return env
}

// gitConfig is the text of the configuration: how to sign with the Git key, and an ssh that knows the Git hosts.
func (r *Runner) gitConfig(m *agent.Manifest) string {
	var b strings.Builder
	b.WriteString("# Written by the Berth agent for every manifest. Your own ~/.gitconfig goes before it.\n")
	b.WriteString("[include]\n\tpath = /etc/gitconfig\n")
	if key := publicKey(m.Git.PublicKey); key != "" {
		fmt.Fprintf(&b, "[gpg]\n\tformat = ssh\n[user]\n\tsigningkey = %s\n", quoteConfig("key::"+key))
	}
	if m.Git.KnownHosts != "" {
		fmt.Fprintf(&b, "[core]\n\tsshCommand = %s\n", quoteConfig(r.sshCommand("")))
	}
	return b.String()
}

// sshCommand is an ssh that knows the Git hosts besides those that the user knows.
func (r *Runner) sshCommand(options string) string {
	known := `UserKnownHostsFile=~/.ssh/known_hosts ~/.ssh/known_hosts2 "` + r.path("known_hosts") + `"`
	return "ssh " + options + "-o " + shell.Quote(known)
}

// publicKey returns type and key of an authorized_keys line, without its comment.
func publicKey(line string) string {
	f := strings.Fields(line)
	if len(f) < 2 {
		return ""
	}
	return f[0] + " " + f[1]
}

// quoteConfig quotes a value for git's configuration.
func quoteConfig(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}
