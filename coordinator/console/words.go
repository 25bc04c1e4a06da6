package console

import (
	"strings"
	"unicode"

	"berth/coordinator"
)

// Caps of a command.
const (
	maxCommand = 32 << 10 // bytes
	maxWords   = 256
)

// words splits a command into words as a POSIX shell does, by blanks and quotes. Nothing else of a shell is here: nothing
// is expanded, and a $ or a ; is a character like any other.
func words(s string) ([]string, error) {
	bad := func(why string) ([]string, error) {
		return nil, coordinator.Errorf(coordinator.CodeInvalid, "the command cannot be read: %s", why)
	}
	if len(s) > maxCommand {
		return bad("it is longer than 32 KiB")
	}
	if strings.ContainsRune(s, 0) {
		return bad("it holds a zero byte")
	}
	var all []string
	var word strings.Builder
	begun := false // also by quotes around nothing
	var quote rune
	rs := []rune(s)
	for i := 0; i < len(rs); i++ {
		r := rs[i]
		switch {
		case quote == '\'' && r != '\'':
			word.WriteRune(r)
		case quote != 0 && r == quote:
			quote = 0
		case r == '\\':
			if i++; i == len(rs) {
				return bad("it ends with a backslash")
			}
			if quote == '"' && !strings.ContainsRune("$`\"\\\n", rs[i]) {
				word.WriteRune('\\')
			}
			begun = true
			if rs[i] != '\n' {
				word.WriteRune(rs[i])
			}
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, begun = r, true
		case r == ' ' || r == '\t' || r == '\n' || r == '\r':
			if begun {
				all = append(all, word.String())
				word.Reset()
				begun = false
			}
		default:
			word.WriteRune(r)
			begun = true
		}
		if len(all) > maxWords {
			return bad("it has more than 256 words")
		}
	}
	if quote != 0 {
		return bad("a quote is not closed")
	}
	if begun {
		all = append(all, word.String())
	}
	return all, nil
}

// clean is text of others as it may stand on a terminal: on one line, without control characters, and without marks
// that turn the direction of reading.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n' || r == '\r':
			return ' '
		case !unicode.IsPrint(r) || unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, s)
}
