package cli

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"berth/coordinator"
)

// maxForwards is how many ports and sockets one command forwards.
const maxForwards = 256

// A forward is one listener here and what it leads to in the workspace.
type forward struct {
	local, remote endpoint
}

// An endpoint is a TCP port or a unix socket.
type endpoint struct {
	host string // "" for a socket
	port int    // 0 here: any free one
	path string // of a unix socket
}

// network is the endpoint's network and address, as package net has them.
func (e endpoint) network() (network, address string) {
	if e.path != "" {
		return "unix", e.path
	}
	host := e.host
	if host == "*" {
		host = ""
	}
	return "tcp", net.JoinHostPort(host, strconv.Itoa(e.port))
}

// String is the endpoint as a person writes it.
func (e endpoint) String() string {
	if e.path != "" {
		return e.path
	}
	return net.JoinHostPort(e.host, strconv.Itoa(e.port))
}

const forwardHint = "write 8080, 5432:5432, 3000-3005, 127.0.0.1:9000:db:9000 or /local/sock:/remote/sock"

// parseForwards reads forwards as they are typed: lists of them, divided by commas.
func parseForwards(args []string) ([]forward, error) {
	var all []forward
	for _, arg := range args {
		list := []string{arg} // a path may hold a comma
		if !strings.Contains(arg, "/") {
			list = strings.Split(arg, ",")
		}
		for _, s := range list {
			more, err := parseForward(s)
			if err != nil {
				return nil, err
			}
			if all = append(all, more...); len(all) > maxForwards {
				return nil, usage("%d forwards are too many for one command", len(all)).WithHint(fmt.Sprintf("it takes at most %d", maxForwards))
			}
		}
	}
	return all, nil
}

// parseForward reads one of
//
//	PORTS | LOCAL:REMOTE | LOCAL:HOST:REMOTE | BIND:LOCAL:REMOTE | BIND:LOCAL:HOST:REMOTE
//	SOCKET:SOCKET | SOCKET:REMOTE | SOCKET:HOST:REMOTE | LOCAL:SOCKET | BIND:LOCAL:SOCKET
//
// where PORTS, LOCAL and REMOTE are a port or a range of them.
func parseForward(s string) ([]forward, error) {
	bad := func(format string, args ...any) ([]forward, error) {
		return nil, usage("%q is no forward: %s", coordinator.Clip(s, 80), fmt.Sprintf(format, args...)).WithHint(forwardHint)
	}
	parts := splitColons(s)
	last := len(parts) - 1
	local, remote := endpoint{host: "127.0.0.1"}, endpoint{host: "localhost"}
	var bind, from, to string
	switch {
	case isPath(parts[0]) && last >= 1 && last <= 2:
		local = endpoint{path: parts[0]}
		to = parts[last]
		if last == 2 {
			remote.host = parts[1]
		}
	case isPath(parts[0]):
		return bad("it does not say where the socket leads to")
	case isPath(parts[last]) && last <= 2:
		from, to = parts[last-1], parts[last]
		if last == 2 {
			bind = parts[0]
		}
	case last == 0:
		from, to = parts[0], parts[0]
	case last == 1:
		from, to = parts[0], parts[1]
	case last == 2 && isPorts(parts[0]):
		from, remote.host, to = parts[0], parts[1], parts[2]
	case last == 2:
		bind, from, to = parts[0], parts[1], parts[2]
	case last == 3:
		bind, from, remote.host, to = parts[0], parts[1], parts[2], parts[3]
	default:
		return bad("it has too many parts")
	}
	if bind != "" {
		local.host = bind
	}
	if local.path == "" && !isHost(local.host) || remote.host == "" || !isHost(remote.host) {
		return bad("it names no host")
	}
	froms, tos, err := pair(from, to, local.path != "")
	if err != nil {
		return bad("%v", err)
	}
	return spread(local, remote, froms, tos, to), nil
}

// pair reads both sides' ports; a side that is a socket has none.
func pair(from, to string, socket bool) (froms, tos []int, err error) {
	if !socket {
		if froms, err = ports(from, 0); err != nil {
			return nil, nil, err
		}
	}
	if isPath(to) {
		if len(froms) > 1 {
			return nil, nil, fmt.Errorf("a range cannot lead to one socket")
		}
		return froms, nil, nil
	}
	if tos, err = ports(to, 1); err != nil {
		return nil, nil, err
	}
	switch {
	case socket && len(tos) > 1:
		return nil, nil, fmt.Errorf("one socket cannot lead to a range")
	case !socket && len(froms) == 1 && froms[0] == 0 && len(tos) > 1:
		froms = make([]int, len(tos)) // any free ones
	case !socket && len(froms) != len(tos):
		return nil, nil, fmt.Errorf("the ranges differ in length")
	}
	return froms, tos, nil
}

// spread makes one forward for each port.
func spread(local, remote endpoint, froms, tos []int, path string) []forward {
	if len(tos) == 0 {
		remote = endpoint{path: path}
	}
	var all []forward
	for i := range max(len(froms), len(tos), 1) {
		f := forward{local, remote}
		if i < len(froms) {
			f.local.port = froms[i]
		}
		if i < len(tos) {
			f.remote.port = tos[i]
		}
		all = append(all, f)
	}
	return all
}

// splitColons splits at colons that are not within brackets, which are taken away.
func splitColons(s string) []string {
	var parts []string
	begin, depth := 0, 0
	cut := func(end int) {
		p := s[begin:end]
		if strings.HasPrefix(p, "[") && strings.HasSuffix(p, "]") {
			p = p[1 : len(p)-1]
		}
		parts = append(parts, p)
		begin = end + 1
	}
	for i, r := range s {
		switch {
		case r == '[':
			depth++
		case r == ']':
			depth--
		case r == ':' && depth == 0:
			cut(i)
		}
	}
	cut(len(s))
	return parts
}

func isPath(s string) bool { return strings.HasPrefix(s, "/") }

func isPorts(s string) bool { return s == "" || strings.Trim(s, "0123456789-") == "" }

// isHost reports whether s can be a host name or an address.
func isHost(s string) bool {
	return s == "*" || s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/[]@", r) })
}

// ports reads a port or a range; none at all is 0: any free one.
func ports(s string, least int) ([]int, error) {
	if s == "" && least == 0 {
		return []int{0}, nil
	}
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	a, errA := strconv.Atoi(first)
	b, errB := strconv.Atoi(last)
	switch {
	case errA != nil || errB != nil || a < least || b > 65535 || isRange && a < 1:
		return nil, fmt.Errorf("%q is no port", coordinator.Clip(s, 40))
	case a > b:
		return nil, fmt.Errorf("the range %s runs backwards", coordinator.Clip(s, 40))
	case b-a >= maxForwards:
		return nil, fmt.Errorf("the range %s holds more than %d ports", coordinator.Clip(s, 40), maxForwards)
	}
	var all []int
	for p := a; p <= b; p++ {
		all = append(all, p)
	}
	return all, nil
}
