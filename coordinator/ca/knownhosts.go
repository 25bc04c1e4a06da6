package ca

import (
	"net"
	"strings"
)

// KnownHostsLine returns the one line of known_hosts that an installation needs, without a newline:
//
//	@cert-authority *.berth,[127.0.0.1]:7022 ssh-ed25519 AAAA… berth
//
// It covers every workspace and, under the given host or host:port, the door. A door host that could mean more than
// one host (a wildcard, a list) is left out.
func KnownHostsLine(caLine, suffix string, doorHosts []string) string {
	patterns := []string{"*." + suffix}
	for _, h := range doorHosts {
		if p := pattern(h); p != "" {
			patterns = append(patterns, p)
		}
	}
	return "@cert-authority " + strings.Join(patterns, ",") + " " + strings.TrimSpace(caLine) + " " + suffix
}

// pattern returns how known_hosts writes the address, or "".
func pattern(addr string) string {
	if addr == "" || strings.ContainsFunc(addr, func(r rune) bool { return r <= ' ' || r == 0x7f }) || strings.ContainsAny(addr, ",!*?#|") {
		return ""
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host, port = strings.Trim(addr, "[]"), "22"
	}
	if host == "" {
		return ""
	}
	if port == "22" {
		return host
	}
	return "[" + host + "]:" + port
}
