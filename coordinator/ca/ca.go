// Package ca is the installation's two certificate authorities: one signs the host keys of workspaces and of the
// door, so that clients check them without being asked; the other signs short-lived keys for people whose SSH the
// door terminates. It keeps nothing but the two keys; who stores them seals them.
package ca

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/coordinator"
)

// Validity of certificates. Clocks of clients may be behind ours by ClockSkew.
const (
	ClockSkew = time.Hour
	// HostValidity is long because a workspace may run for months without asking for a new certificate, and short
	// enough that a forgotten one ends. An agent gets a fresh one with every manifest, so at every connect.
	HostValidity = 400 * 24 * time.Hour
)

// A CA is both authorities of an installation.
type CA struct {
	host, user authority
}

type authority struct {
	key    ed25519.PrivateKey
	signer ssh.Signer
}

// New returns fresh authorities.
func New() (*CA, error) {
	var c CA
	for _, a := range []*authority{&c.host, &c.user} {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make CA key: %w", err)
		}
		if *a, err = newAuthority(key); err != nil {
			return nil, err
		}
	}
	return &c, nil
}

func newAuthority(key ed25519.PrivateKey) (authority, error) {
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return authority{}, fmt.Errorf("use CA key: %w", err)
	}
	return authority{key, s}, nil
}

// Parse returns the authorities whose keys Marshal returned.
func Parse(hostPEM, userPEM coordinator.Secret) (*CA, error) {
	host, err := parse(hostPEM)
	if err != nil {
		return nil, fmt.Errorf("read host CA: %w", err)
	}
	user, err := parse(userPEM)
	if err != nil {
		return nil, fmt.Errorf("read user CA: %w", err)
	}
	return &CA{host, user}, nil
}

func parse(s coordinator.Secret) (authority, error) {
	raw, err := ssh.ParseRawPrivateKey([]byte(s))
	if err != nil {
		return authority{}, err
	}
	key, ok := raw.(*ed25519.PrivateKey)
	if !ok {
		return authority{}, fmt.Errorf("want an Ed25519 key, not %T", raw)
	}
	return newAuthority(*key)
}

// Marshal returns the private keys of both as OpenSSH PEM.
func (c *CA) Marshal() (hostPEM, userPEM coordinator.Secret, err error) {
	host, errHost := marshal(c.host.key, "berth host CA")
	user, errUser := marshal(c.user.key, "berth user CA")
	return host, user, errors.Join(errHost, errUser)
}

func marshal(key any, comment string) (coordinator.Secret, error) {
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return "", fmt.Errorf("encode key: %w", err)
	}
	return coordinator.Secret(pem.EncodeToMemory(block)), nil
}

// HostCALine returns the public key of the host CA in authorized_keys form, without a comment.
func (c *CA) HostCALine() string { return line(c.host.signer.PublicKey()) }

// UserCALine returns the public key of the user CA in authorized_keys form, without a comment.
func (c *CA) UserCALine() string { return line(c.user.signer.PublicKey()) }

func line(k ssh.PublicKey) string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(k)), "\n")
}

// NewHostIdentity returns fresh host keys of a workspace: Ed25519, and ECDSA on P-256 for clients that know no
// Ed25519.
func NewHostIdentity() (coordinator.HostIdentity, error) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return coordinator.HostIdentity{}, fmt.Errorf("make host key: %w", err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return coordinator.HostIdentity{}, fmt.Errorf("make host key: %w", err)
	}
	edPEM, errED := marshal(ed, "berth host key")
	ecPEM, errEC := marshal(ec, "berth host key")
	return coordinator.HostIdentity{Ed25519: edPEM, ECDSA: ecPEM}, errors.Join(errED, errEC)
}

// NewGitKey returns a fresh Ed25519 key for a user's workspaces to present to Git hosts. The comment helps people
// to recognize it in a Git host's settings.
func NewGitKey(comment string) (coordinator.GitKey, error) {
	if strings.ContainsAny(comment, "\r\n") {
		return coordinator.GitKey{}, errors.New("make Git key: a comment is one line")
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return coordinator.GitKey{}, fmt.Errorf("make Git key: %w", err)
	}
	private, err := marshal(key, comment)
	if err != nil {
		return coordinator.GitKey{}, err
	}
	public, err := ssh.NewPublicKey(pub)
	if err != nil {
		return coordinator.GitKey{}, fmt.Errorf("make Git key: %w", err)
	}
	return coordinator.GitKey{
		PrivateKey: private,
		PublicKey:  strings.TrimSpace(line(public) + " " + comment),
		Created:    time.Now().UTC(),
	}, nil
}

// HostCertificate returns a certificate, in authorized_keys form, for the public half of a host key. Its principals
// are the names under which clients may reach the host; at least one is needed, for a certificate without principals
// would be good for any name.
func (c *CA) HostCertificate(key coordinator.Secret, keyID string, principals []string, now time.Time) (string, error) {
	if len(principals) == 0 {
		return "", errors.New("sign host key: no principals")
	}
	s, err := ssh.ParsePrivateKey([]byte(key))
	if err != nil {
		return "", fmt.Errorf("sign host key: %w", err)
	}
	cert := &ssh.Certificate{
		Key:             s.PublicKey(),
		Serial:          serial(),
		CertType:        ssh.HostCert,
		KeyId:           keyID,
		ValidPrincipals: principals,
		ValidAfter:      uint64(now.Add(-ClockSkew).Unix()),
		ValidBefore:     uint64(now.Add(HostValidity).Unix()),
	}
	if err := cert.SignCert(rand.Reader, c.host.signer); err != nil {
		return "", fmt.Errorf("sign host key: %w", err)
	}
	return line(cert), nil
}

// UserSigner returns a fresh key, held in memory only, with a certificate for p that is valid for ttl. An agent takes
// the key id, the person's id, to tell who it is; the principal, their name, is for other SSH servers.
func (c *CA) UserSigner(p agent.Person, now time.Time, ttl time.Duration) (ssh.Signer, error) {
	if p.ID == "" || p.Name == "" {
		return nil, errors.New("sign user key: a person needs an id and a name")
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make user key: %w", err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, fmt.Errorf("make user key: %w", err)
	}
	cert := &ssh.Certificate{
		Key:             s.PublicKey(),
		Serial:          serial(),
		CertType:        ssh.UserCert,
		KeyId:           p.ID,
		ValidPrincipals: []string{p.Name},
		ValidAfter:      uint64(now.Add(-ClockSkew).Unix()),
		ValidBefore:     uint64(now.Add(ttl).Unix()),
		Permissions: ssh.Permissions{Extensions: map[string]string{
			"permit-X11-forwarding":   "",
			"permit-agent-forwarding": "",
			"permit-port-forwarding":  "",
			"permit-pty":              "",
			"permit-user-rc":          "",
		}},
	}
	if err := cert.SignCert(rand.Reader, c.user.signer); err != nil {
		return nil, fmt.Errorf("sign user key: %w", err)
	}
	cs, err := ssh.NewCertSigner(cert, s)
	if err != nil {
		return nil, fmt.Errorf("sign user key: %w", err)
	}
	return cs, nil
}

// serial returns a random serial number, so that a certificate can be named in a log or revoked.
func serial() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:])
}
