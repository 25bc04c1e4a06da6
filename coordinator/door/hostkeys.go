package door

import (
	"crypto/rand"

	"golang.org/x/crypto/ssh"
)

// announceHostKeys tells a client the door's host keys, so that its known_hosts learns them all and they can be
// rotated (hostkeys-00@openssh.com: a list of strings). It returns the client's requests without those for their
// proof, which it answers.
func (c *conn) announceHostKeys(sc *ssh.ServerConn, reqs <-chan *ssh.Request) <-chan *ssh.Request {
	var keys []ssh.Signer
	var payload []byte
	for _, s := range c.door.cfg.HostSigners {
		if _, isCert := s.PublicKey().(*ssh.Certificate); !isCert {
			keys = append(keys, s)
			payload = append(payload, ssh.Marshal(struct{ Key string }{string(s.PublicKey().Marshal())})...)
		}
	}
	if len(keys) > 0 {
		_, _, _ = sc.SendRequest("hostkeys-00@openssh.com", false, payload) // a client that has gone is seen elsewhere
	}
	others := make(chan *ssh.Request)
	go func() {
		defer close(others)
		for req := range reqs {
			if req.Type == "hostkeys-prove-00@openssh.com" {
				proof, ok := prove(keys, sc.SessionID(), req.Payload)
				_ = req.Reply(ok, proof)
				continue
			}
			others <- req
		}
	}()
	return others
}

// prove signs the session's id with each of the keys that the client asks about.
func prove(keys []ssh.Signer, session, asked []byte) (proof []byte, ok bool) {
	for n := 0; len(asked) > 0; n++ {
		var next struct {
			Key  string
			Rest []byte `ssh:"rest"`
		}
		if err := ssh.Unmarshal(asked, &next); err != nil || n == len(keys) {
			return nil, false
		}
		asked = next.Rest
		sig := sign(keys, session, next.Key)
		if sig == nil {
			return nil, false
		}
		proof = append(proof, ssh.Marshal(struct{ Signature string }{string(ssh.Marshal(sig))})...)
	}
	return proof, true
}

func sign(keys []ssh.Signer, session []byte, key string) *ssh.Signature {
	for _, s := range keys {
		if string(s.PublicKey().Marshal()) != key {
			continue
		}
		sig, err := s.Sign(rand.Reader, ssh.Marshal(struct{ Kind, Session, Key string }{"hostkeys-prove-00@openssh.com", string(session), key}))
		if err != nil {
			return nil
		}
		return sig
	}
	return nil
}
