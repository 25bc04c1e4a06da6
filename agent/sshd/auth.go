package sshd

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
)

// algorithms are what an audit of SSH servers finds nothing against; the counter-mode ciphers are for clients that
// know no authenticated ones.
var algorithms = ssh.Config{
	KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519},
	Ciphers: []string{
		ssh.CipherChaCha20Poly1305, ssh.CipherAES256GCM, ssh.CipherAES128GCM,
		ssh.CipherAES256CTR, ssh.CipherAES192CTR, ssh.CipherAES128CTR,
	},
	MACs: []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM},
}

// userAlgorithms are the signatures that a person may log in with.
var userAlgorithms = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoSKECDSA256,
	ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
}

// RSA keys outside these sizes are not looked at: checking a huge one costs minutes before anybody is known.
const (
	minRSABits = 2048
	maxRSABits = 4096
)

// serverConfig is the handshake's configuration. Offering a key proves nothing (CVE-2024-45337), so who is let in is
// decided again, and for good, once the signature was checked.
func (c *conn) serverConfig(grace *time.Timer) *ssh.ServerConfig {
	return &ssh.ServerConfig{
		Config:                  algorithms,
		MaxAuthTries:            maxOffers,
		PublicKeyAuthAlgorithms: userAlgorithms,
		VerifiedPublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey, _ *ssh.Permissions, _ string) (*ssh.Permissions, error) {
			if err := c.authorize(key); err != nil {
				return nil, err
			}
			grace.Stop()
			c.log.Info("ssh login", "key", fingerprint(key))
			return &ssh.Permissions{}, nil
		},
	}
}

// authorize returns an error unless key is one of the header's person: listed for them in the manifest, or in a
// certificate that a user CA made out to them. The login name has no say.
func (c *conn) authorize(key ssh.PublicKey) error {
	cert, isCert := key.(*ssh.Certificate)
	plain := key
	if isCert {
		plain = cert.Key
	}
	if err := checkSize(plain); err != nil {
		return err
	}
	if isCert {
		return checkCertificate(cert, c.manifest.SSH.UserCAs, c.header.User)
	}
	for _, p := range c.manifest.SSH.People {
		if p.ID != c.header.User.ID {
			continue
		}
		for _, line := range p.Keys {
			listed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
			if err == nil && bytes.Equal(listed.Marshal(), key.Marshal()) {
				return nil
			}
		}
	}
	return errors.New("key is not registered for the person of this stream")
}

func checkSize(key ssh.PublicKey) error {
	ck, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return nil
	}
	if k, ok := ck.CryptoPublicKey().(*rsa.PublicKey); ok {
		if n := k.N.BitLen(); n < minRSABits || n > maxRSABits {
			return fmt.Errorf("rsa key of %d bits is not accepted", n)
		}
	}
	return nil
}

func checkCertificate(cert *ssh.Certificate, cas []string, p agent.Person) error {
	if cert.CertType != ssh.UserCert {
		return errors.New("not a user certificate")
	}
	if p.ID == "" || cert.KeyId != p.ID {
		return errors.New("certificate is made out to somebody else")
	}
	if len(cert.ValidPrincipals) == 0 {
		return errors.New("certificate without principals") // it would be good for everybody
	}
	known := false
	for _, line := range cas {
		ca, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		known = known || err == nil && bytes.Equal(ca.Marshal(), cert.SignatureKey.Marshal())
	}
	if !known {
		return errors.New("certificate of an unknown authority")
	}
	// Checks times, principals and the authority's signature; every critical option is refused.
	return (&ssh.CertChecker{}).CheckCert(p.Name, cert)
}

func fingerprint(key ssh.PublicKey) string {
	if cert, ok := key.(*ssh.Certificate); ok {
		return "certificate of " + ssh.FingerprintSHA256(cert.SignatureKey)
	}
	return ssh.FingerprintSHA256(key)
}
