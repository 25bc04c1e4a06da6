package daemon

import (
	"os"
	"strings"

	"golang.org/x/crypto/ssh"

	"berth/coordinator"
)

// knownGitHosts are the host keys that the large Git hosts publish, so that a first clone neither asks nor trusts blindly.
const knownGitHosts = `github.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl
github.com ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg=
gitlab.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAfuCHKVTjquxvt6CM6tdG4SLp1Btn/nOeHHE5UOzRdf
gitlab.com ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBFSMqzJeV9rUzU4kWitGjeR4PWSa29SPqJ1fVkhtj3Hw9xjLVXVYrU9QlYWrOLXBpQ6KWjbjTDTdDkoohFzgbEY=
bitbucket.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIazEu89wgQZ4bqs3d63QSMzYVa0MuJ2e2gKTKqu+UUO
`

// gitHosts returns the known_hosts lines that workspaces get: the well-known ones, after those of an admin.
func gitHosts(file string) (string, error) {
	if file == "" {
		return knownGitHosts, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", coordinator.Errorf(coordinator.CodeInvalid, "--git-known-hosts: %w", err)
	}
	const most = 256 << 10
	if len(b) > most {
		return "", coordinator.Errorf(coordinator.CodeInvalid, "--git-known-hosts %s is larger than 256 KiB", file)
	}
	for rest := b; len(strings.TrimSpace(string(rest))) > 0; {
		if _, _, _, _, rest, err = ssh.ParseKnownHosts(rest); err != nil {
			return "", coordinator.Errorf(coordinator.CodeInvalid, "--git-known-hosts %s: %w", file, err)
		}
	}
	return strings.TrimSpace(string(b)) + "\n" + knownGitHosts, nil
}
