package sshd

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"

	gl "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"

	"berth/agent"
)

// hostKeys are the signers of one manifest.
type hostKeys struct {
	of      *agent.Manifest
	plain   []ssh.Signer // the keys themselves
	signers []gl.Signer  // certificates, then keys: clients without certificates get the same stable keys
}

func parseHostKeys(m *agent.Manifest) (hostKeys, error) {
	keys := hostKeys{of: m}
	var certs []gl.Signer
	for _, k := range m.SSH.HostKeys {
		signer, err := ssh.ParsePrivateKey([]byte(k.PrivateKey))
		if err != nil {
			return hostKeys{}, errors.New("parse host key: not a private key") // the cause might quote it
		}
		keys.plain = append(keys.plain, signer)
		if k.Certificate == "" {
			continue
		}
		pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k.Certificate))
		if err != nil {
			return hostKeys{}, fmt.Errorf("parse host certificate: %w", err)
		}
		cert, ok := pub.(*ssh.Certificate)
		if !ok {
			return hostKeys{}, errors.New("parse host certificate: it is a plain key")
		}
		certSigner, err := ssh.NewCertSigner(cert, signer)
		if err != nil {
			return hostKeys{}, fmt.Errorf("use host certificate: %w", err)
		}
		certs = append(certs, certSigner)
	}
	if len(keys.plain) == 0 {
		return hostKeys{}, errors.New("serve ssh: the manifest holds no host key")
	}
	keys.signers = certs
	for _, k := range keys.plain {
		keys.signers = append(keys.signers, k)
	}
	return keys, nil
}

// announceHostKeys tells the client every host key, so that its known_hosts learns them all
// (hostkeys-00@openssh.com: a list of strings).
func (c *conn) announceHostKeys(sc *ssh.ServerConn) {
	var payload []byte
	for _, k := range c.keys.plain {
		payload = append(payload, ssh.Marshal(struct{ Key string }{string(k.PublicKey().Marshal())})...)
	}
	if _, _, err := sc.SendRequest("hostkeys-00@openssh.com", false, payload); err != nil {
		c.log.Debug("announce host keys", "error", err)
	}
}

// proveHostKeys signs the session's id with each of the keys that the client asks about.
func (c *conn) proveHostKeys(sc *ssh.ServerConn, payload []byte) (bool, []byte) {
	var out []byte
	for n := 0; len(payload) > 0; n++ {
		var asked struct {
			Key  string
			Rest []byte `ssh:"rest"`
		}
		if err := ssh.Unmarshal(payload, &asked); err != nil || n == len(c.keys.plain) {
			return false, nil
		}
		payload = asked.Rest
		signer := c.keys.find(asked.Key)
		if signer == nil {
			return false, nil
		}
		sig, err := signer.Sign(rand.Reader, ssh.Marshal(struct{ Kind, Session, Key string }{
			"hostkeys-prove-00@openssh.com", string(sc.SessionID()), asked.Key,
		}))
		if err != nil {
			return false, nil
		}
		out = append(out, ssh.Marshal(struct{ Sig string }{string(ssh.Marshal(sig))})...)
	}
	return true, out
}

func (k hostKeys) find(blob string) ssh.Signer {
	for _, s := range k.plain {
		if bytes.Equal(s.PublicKey().Marshal(), []byte(blob)) {
			return s
		}
	}
	return nil
}
