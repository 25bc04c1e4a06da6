package api

import (
	"context"
	"crypto/rsa"
	"encoding/base64"
	"strings"

	"golang.org/x/crypto/ssh"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// minRSA is the size of the smallest RSA key that is taken, in bits.
const minRSA = 2048

// parseKey reads one public key in authorized_keys form.
func parseKey(line string) (pub ssh.PublicKey, comment string, err error) {
	bad := func(why string) (ssh.PublicKey, string, error) {
		return nil, "", coordinator.Errorf(coordinator.CodeInvalid, "the SSH key is not usable: %s", why).
			WithHint("give the content of a file like ~/.ssh/id_ed25519.pub")
	}
	line = strings.TrimSpace(line)
	if strings.Contains(line, "PRIVATE KEY") {
		return bad("it is a private key, which must stay with you")
	}
	if strings.ContainsAny(line, "\r\n") {
		return bad("it has more than one line")
	}
	pub, comment, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(options) > 0 {
		return bad("it is not one public key in OpenSSH's form")
	}
	switch pub.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256:
	case ssh.KeyAlgoRSA:
		c, ok := pub.(ssh.CryptoPublicKey)
		if !ok {
			return bad("it is damaged")
		}
		if k, ok := c.CryptoPublicKey().(*rsa.PublicKey); !ok || k.N.BitLen() < minRSA {
			return bad("RSA keys need 2048 bits or more")
		}
	default:
		return bad("keys of the type " + pub.Type() + " are not taken")
	}
	return pub, coordinator.Clip(oneLine(comment), 100), nil
}

// proven checks the signature that shows that the caller has the private key: without it, anybody could register
// somebody else's public key and keep them out, or be taken for them.
func proven(pub ssh.PublicKey, user coordinator.UserID, proof string) error {
	bad := coordinator.Errorf(coordinator.CodeInvalid, "the proof that you have the private key is missing or wrong").
		WithHint("berth keys add signs with the key; load it into your ssh-agent if it has a passphrase")
	wire, err := base64.StdEncoding.DecodeString(proof)
	if err != nil || len(wire) == 0 {
		return bad
	}
	var sig ssh.Signature
	if err := ssh.Unmarshal(wire, &sig); err != nil {
		return bad.WithCause(err)
	}
	if sig.Format == ssh.KeyAlgoRSA { // SHA-1
		return bad
	}
	if err := pub.Verify(rest.KeyProof(user, pub.Marshal()), &sig); err != nil {
		return bad.WithCause(err)
	}
	return nil
}

func restKey(k coordinator.SSHKey) rest.Key {
	return rest.Key{
		ID: k.ID, Name: k.Name, PublicKey: k.PublicKey, Fingerprint: k.Fingerprint, Device: k.TokenID != "",
		Created: k.Created, LastUsed: k.LastUsed,
	}
}

func (s *server) listKeys(ctx context.Context, _ *empty) (*output[rest.Page[rest.Key]], error) {
	keys, err := s.Store.Keys(ctx, actor(ctx).User.ID)
	if err != nil {
		return nil, err
	}
	return out(whole(keys, restKey)), nil
}

func (s *server) addKey(ctx context.Context, in *struct{ Body rest.AddKey }) (*output[rest.Key], error) {
	a := actor(ctx)
	pub, comment, err := parseKey(in.Body.PublicKey)
	if err != nil {
		return nil, err
	}
	if err := proven(pub, a.User.ID, in.Body.Proof); err != nil {
		return nil, err
	}
	if err := s.notGitKey(ctx, a.User.ID, pub); err != nil {
		return nil, err
	}
	name := oneLine(in.Body.Name)
	if name == "" {
		name = comment
	}
	if name == "" {
		name = pub.Type()
	}
	k := newKey(pub, name)
	k.UserID = a.User.ID
	if in.Body.Device {
		k.TokenID = a.TokenID
	}
	if err := s.Store.AddKey(ctx, &k); err != nil {
		return nil, err
	}
	if err := s.manifestsChanged(ctx, a.User.ID); err != nil {
		return nil, err
	}
	return out(restKey(k)), s.audit(ctx, a, "key.add", k.Fingerprint, k.Name)
}

// notGitKey refuses the key that the caller's workspaces hold: whoever is in a workspace could enter the others.
func (s *server) notGitKey(ctx context.Context, user coordinator.UserID, pub ssh.PublicKey) error {
	git, err := s.Store.GitKey(ctx, user)
	if err != nil {
		return err
	}
	own, _, _, _, err := ssh.ParseAuthorizedKey([]byte(git.PublicKey))
	if err == nil && ssh.FingerprintSHA256(own) == ssh.FingerprintSHA256(pub) {
		return coordinator.Errorf(coordinator.CodeInvalid, "your workspaces' Git key cannot be a key to enter them").
			WithHint("register a key of your own machine")
	}
	return nil
}

func (s *server) deleteKey(ctx context.Context, in *idInput) (*empty, error) {
	a := actor(ctx)
	if err := s.Store.DeleteKey(ctx, a.User.ID, in.ID); err != nil {
		return nil, err
	}
	if err := s.manifestsChanged(ctx, a.User.ID); err != nil {
		return nil, err
	}
	return nil, s.audit(ctx, a, "key.delete", in.ID, "")
}

func (s *server) gitKey(ctx context.Context, _ *empty) (*output[rest.GitKey], error) {
	k, err := s.Store.GitKey(ctx, actor(ctx).User.ID)
	if err != nil {
		return nil, err
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k.PublicKey))
	if err != nil {
		return nil, err
	}
	return out(rest.GitKey{PublicKey: k.PublicKey, Fingerprint: ssh.FingerprintSHA256(pub)}), nil
}
