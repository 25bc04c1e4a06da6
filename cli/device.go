package cli

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"berth/cli/client"
	"berth/coordinator"
	"berth/coordinator/rest"
)

// replaceDeviceKey makes this machine's key, registers it, and only then puts it in the place of the one before.
func (a *app) replaceDeviceKey(ctx context.Context, c *client.Client, me coordinator.UserID) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make device key: %w", err)
	}
	name := deviceName()
	block, err := ssh.MarshalPrivateKey(private, name)
	if err != nil {
		return fmt.Errorf("encode device key: %w", err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return fmt.Errorf("encode device key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return fmt.Errorf("use device key: %w", err)
	}
	proof, err := proveKey(signer, me)
	if err != nil {
		return err
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	if _, err := c.AddKey(ctx, rest.AddKey{Name: name, PublicKey: line, Proof: proof, Device: true}); err != nil {
		return err
	}
	if err := a.writeSetting(identityFile, string(pem.EncodeToMemory(block)), 0o600); err != nil {
		return err
	}
	return a.writeSetting(identityFile+".pub", line+" "+name+"\n", 0o644)
}

// proveKey signs that the key belongs to the user, in the form that rest.AddKey carries.
func proveKey(s ssh.Signer, me coordinator.UserID) (string, error) {
	message := rest.KeyProof(me, s.PublicKey().Marshal())
	var sig *ssh.Signature
	var err error
	if rsa, ok := s.(ssh.AlgorithmSigner); ok && s.PublicKey().Type() == ssh.KeyAlgoRSA {
		sig, err = rsa.SignWithAlgorithm(rand.Reader, message, ssh.KeyAlgoRSASHA512)
	} else {
		sig, err = s.Sign(rand.Reader, message)
	}
	if err != nil {
		return "", fmt.Errorf("sign with the key: %w", err)
	}
	return base64.StdEncoding.EncodeToString(ssh.Marshal(sig)), nil
}

// signer finds the private half of a public key: in the ssh-agent, or in the file beside the public key's.
func (a *app) signer(ctx context.Context, key ssh.PublicKey, file string) (ssh.Signer, func(), error) {
	if s, end := agentSigner(a.env("SSH_AUTH_SOCK"), key); s != nil {
		return s, end, nil
	}
	none := func() {}
	private, ok := strings.CutSuffix(file, ".pub")
	if !ok {
		return nil, none, coordinator.Errorf(coordinator.CodeInvalid, "the private half of this key is not in the ssh-agent").
			WithHint("a registered key needs proof: ssh-add it, or name the .pub file beside the private key")
	}
	data, err := readSmall(private)
	if err != nil {
		return nil, none, err
	}
	if data == "" {
		return nil, none, coordinator.Errorf(coordinator.CodeInvalid, "the private half of this key is neither in the ssh-agent nor at %s", private).
			WithHint("a registered key needs proof: ssh-add it first")
	}
	s, err := ssh.ParsePrivateKey([]byte(data))
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		if !a.interactive() {
			return nil, none, coordinator.Errorf(coordinator.CodeInvalid, "%s has a passphrase", private).WithHint("ssh-add it first")
		}
		var phrase coordinator.Secret
		if phrase, err = a.askHidden(ctx, "Passphrase of "+private+": "); err != nil {
			return nil, none, err
		}
		s, err = ssh.ParsePrivateKeyWithPassphrase([]byte(data), []byte(phrase))
	}
	if err != nil {
		return nil, none, coordinator.Errorf(coordinator.CodeInvalid, "%s cannot be used: %v", private, err)
	}
	if !bytes.Equal(s.PublicKey().Marshal(), key.Marshal()) {
		return nil, none, coordinator.Errorf(coordinator.CodeInvalid, "%s is not the private half of %s", private, file)
	}
	return s, none, nil
}

// agentSigner returns the ssh-agent's signer for a key, nil if there is none.
func agentSigner(socket string, key ssh.PublicKey) (ssh.Signer, func()) {
	if socket == "" {
		return nil, nil
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, nil
	}
	end := func() { conn.Close() } // only talked to
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		end()
		return nil, nil
	}
	for _, s := range signers {
		if bytes.Equal(s.PublicKey().Marshal(), key.Marshal()) {
			return s, end
		}
	}
	end()
	return nil, nil
}

// publicKey reads the one public key in text, the content of file.
func publicKey(text, file string) (ssh.PublicKey, string, error) {
	if strings.Contains(text, "PRIVATE KEY") {
		return nil, "", usage("%s is a private key, which must stay where it is", file).WithHint("name the .pub file beside it")
	}
	key, comment, _, more, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil {
		return nil, "", usage("%s holds no SSH public key", file).WithHint("an SSH public key looks like: ssh-ed25519 AAAA… comment")
	}
	if strings.TrimSpace(string(more)) != "" {
		return nil, "", usage("%s holds more than one line", file).WithHint("give one key at a time")
	}
	return key, comment, nil
}

// keyText is a public key given as text, or as the name of a file, or - for stdin; file is "" unless it was a file.
func (a *app) keyText(arg string) (text, file string, err error) {
	switch {
	case arg == "-":
		b, err := a.readAll(maxSettings)
		return string(b), "", err
	case strings.Contains(arg, " ") && (a.console != nil || !exists(arg)):
		return arg, "", nil
	}
	if err := a.noFiles(); err != nil {
		return "", "", err
	}
	text, err = readSmall(arg)
	if err == nil && text == "" {
		err = coordinator.Errorf(coordinator.CodeNotFound, "there is no file %s", arg).
			WithHint("give a public key's file, its text in quotes, or - for stdin")
	}
	return text, arg, err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
