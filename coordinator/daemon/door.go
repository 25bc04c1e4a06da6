package daemon

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/coordinator"
	"berth/coordinator/ca"
	"berth/coordinator/sqlite"
)

// A doorName is how people reach the door.
type doorName struct {
	host string
	port int
}

// doorAt finds out how people reach a door that listens on addr.
func doorAt(s settings, addr net.Addr) (doorName, error) {
	host, port := s.sshHost, ""
	if h, p, err := net.SplitHostPort(s.sshHost); err == nil {
		host, port = h, p
	}
	listenHost, listenPort, err := net.SplitHostPort(addr.String())
	if err != nil {
		return doorName{}, err
	}
	if port == "" {
		port = listenPort
	}
	if host == "" {
		host = listenHost
		if ip := net.ParseIP(listenHost); ip == nil || !ip.IsLoopback() {
			host = s.public.Hostname()
		}
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 1 || n > 65535 || strings.ContainsAny(host, " ,!*?#|") {
		return doorName{}, usagef("--ssh-host %q is not HOST or HOST:PORT", coordinator.Clip(s.sshHost, 80))
	}
	return doorName{strings.ToLower(host), n}, nil
}

// names are all names of the door: a certificate proves them, and known_hosts covers them.
func (d doorName) names() []string {
	if loopback(d.host) {
		all := []string{d.host}
		for _, h := range []string{"127.0.0.1", "localhost", "::1"} {
			if h != d.host {
				all = append(all, h)
			}
		}
		return all
	}
	return []string{d.host}
}

// knownHosts is the one line that people need.
func (d doorName) knownHosts(c *ca.CA, suffix string) string {
	var hosts []string
	for _, h := range d.names() {
		hosts = append(hosts, net.JoinHostPort(h, strconv.Itoa(d.port)))
	}
	return ca.KnownHostsLine(c.HostCALine(), suffix, hosts)
}

// signers are the door's host keys: with a certificate, and bare for clients that do not know the authority.
func (d doorName) signers(ctx context.Context, store *sqlite.Store, c *ca.CA, now time.Time) ([]ssh.Signer, error) {
	id, err := sealed(ctx, store, sealedDoor, ca.NewHostIdentity)
	if err != nil {
		return nil, err
	}
	var certified, bare []ssh.Signer
	for _, key := range []coordinator.Secret{id.Ed25519, id.ECDSA} {
		s, err := ssh.ParsePrivateKey([]byte(key))
		if err != nil {
			return nil, err
		}
		line, err := c.HostCertificate(key, "door", d.names(), now)
		if err != nil {
			return nil, err
		}
		pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, err
		}
		cert, ok := pub.(*ssh.Certificate)
		if !ok {
			return nil, errors.New("the door's certificate is no certificate")
		}
		cs, err := ssh.NewCertSigner(cert, s)
		if err != nil {
			return nil, err
		}
		certified, bare = append(certified, cs), append(bare, s)
	}
	return append(certified, bare...), nil
}
