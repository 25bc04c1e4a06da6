package dist

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
)

//go:embed init.sh
var initScript string

// A Script says what a bootstrap script is made for.
type Script struct {
	URL      string // of the coordinator, as agents reach it; never taken from a request
	OS, Arch string // one platform; every one that is carried if empty
	CA       string // PEM of the coordinator's certificate authority, where it is not publicly trusted
	Insecure bool   // the agent may use plain HTTP beyond loopback
}

// downloadTries is how often the script tries to download: with its pauses about two minutes, longer than a
// coordinator is away for an upgrade.
const downloadTries = 12

// Script returns the bootstrap script, with the URL and the digests of the agents in it.
func (s *Set) Script(o Script) (string, error) {
	var sums []string
	for _, f := range s.files {
		if f.Name == Agent && (o.OS == "" || o.OS == f.OS) && (o.Arch == "" || o.Arch == f.Arch) {
			sums = append(sums, f.OS+"/"+f.Arch+"="+f.SHA256)
		}
	}
	if len(sums) == 0 {
		return "", fmt.Errorf("this coordinator carries no agent for %s", platformName(o.OS, o.Arch))
	}
	slices.Sort(sums)
	insecure := ""
	if o.Insecure {
		insecure = "1"
	}
	return strings.NewReplacer(
		"@URL@", quote(strings.TrimSuffix(o.URL, "/")),
		"@INSECURE@", quote(insecure),
		"@SUMS@", quote(strings.Join(sums, " ")),
		"@CA@", quote(strings.TrimSpace(o.CA)),
		"@TRIES@", fmt.Sprint(downloadTries),
	).Replace(initScript), nil
}

func platformName(goos, arch string) string {
	if goos == "" && arch == "" {
		return "any platform"
	}
	return goos + "/" + arch
}

// quote returns s as one word of a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
