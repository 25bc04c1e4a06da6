package cli

import (
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

// ignoreFile lists what is not part of a template, as .gitignore does: one pattern a line, "#" comments, "!" takes a
// file back in, a "/" at the end is for directories, one elsewhere anchors at the top, "*", "?" and "**" are wild.
const ignoreFile = ".berthignore"

type ignoreRules struct {
	rules   []ignoreRule
	negated bool // a rule takes files back in, so an ignored directory must be looked into
}

type ignoreRule struct {
	re       *regexp.Regexp
	negate   bool
	dirsOnly bool
}

// alwaysIgnored is what never belongs to a template: terraform's own directory and state, and version control.
func alwaysIgnored(name string) bool {
	base := path.Base(name)
	switch base {
	case ".terraform", ".git", ".hg", ".svn", ".DS_Store", ".terraform.tfstate.lock.info":
		return true
	}
	return strings.HasSuffix(base, ".tfstate") || strings.Contains(base, ".tfstate.") || base == "crash.log"
}

func readIgnore(file string) (ignoreRules, error) {
	var r ignoreRules
	text, err := readSmall(file)
	if err != nil {
		return r, err
	}
	if !utf8.ValidString(text) {
		return r, usage("%s is not text in UTF-8", file)
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\r\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		var rule ignoreRule
		line, rule.negate = strings.CutPrefix(line, "!")
		line, rule.dirsOnly = strings.CutSuffix(line, "/")
		if line == "" {
			continue
		}
		rule.re = globRE(line)
		r.rules = append(r.rules, rule)
		r.negated = r.negated || rule.negate
	}
	return r, nil
}

// globRE translates a pattern. One without a slash matches at any depth.
func globRE(glob string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString("^")
	if !strings.Contains(glob, "/") {
		b.WriteString("(?:.*/)?")
	}
	glob = strings.TrimPrefix(glob, "/")
	for len(glob) > 0 {
		switch {
		case strings.HasPrefix(glob, "**/"):
			b.WriteString("(?:.*/)?")
			glob = glob[3:]
		case strings.HasPrefix(glob, "**"):
			b.WriteString(".*")
			glob = glob[2:]
		case glob[0] == '*':
			b.WriteString("[^/]*")
			glob = glob[1:]
		case glob[0] == '?':
			b.WriteString("[^/]")
			glob = glob[1:]
		default:
			b.WriteString(regexp.QuoteMeta(glob[:1]))
			glob = glob[1:]
		}
	}
	b.WriteString("$")
	return regexp.MustCompile(b.String())
}

// ignored reports whether a file, or a directory above it, stays behind. The last rule that matches decides.
func (r ignoreRules) ignored(name string, dir bool) bool {
	if name == "." || name == "" {
		return false
	}
	if alwaysIgnored(name) {
		return true
	}
	for i := len(r.rules) - 1; i >= 0; i-- {
		rule := r.rules[i]
		if (dir || !rule.dirsOnly) && rule.re.MatchString(name) {
			return !rule.negate
		}
	}
	return r.ignored(path.Dir(name), true)
}
