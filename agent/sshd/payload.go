package sshd

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Payloads of requests and channels that name what is to be reached or listened on (RFC 4254, section 7; OpenSSH's
// PROTOCOL, section 2.4).

const (
	maxHost = 1025 // NI_MAXHOST
	maxPath = 4096
)

// A directTCP is the payload of a direct-tcpip channel.
type directTCP struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

func parseDirectTCP(payload []byte) (p directTCP, err error) {
	if err := ssh.Unmarshal(payload, &p); err != nil {
		return p, fmt.Errorf("parse direct-tcpip: %w", err)
	}
	return p, checkAddress(p.Host, p.Port)
}

// A directUnix is the payload of a direct-streamlocal channel.
type directUnix struct {
	Path     string
	Reserved string
	Unused   uint32
}

func parseDirectUnix(payload []byte) (p directUnix, err error) {
	if err := ssh.Unmarshal(payload, &p); err != nil {
		return p, fmt.Errorf("parse direct-streamlocal: %w", err)
	}
	return p, checkPath(p.Path)
}

// A bindTCP is the payload of tcpip-forward and of its cancel.
type bindTCP struct {
	Host string
	Port uint32
}

func parseBindTCP(payload []byte) (p bindTCP, err error) {
	if err := ssh.Unmarshal(payload, &p); err != nil {
		return p, fmt.Errorf("parse tcpip-forward: %w", err)
	}
	return p, checkAddress(p.Host, p.Port)
}

// A bindUnix is the payload of streamlocal-forward and of its cancel.
type bindUnix struct{ Path string }

func parseBindUnix(payload []byte) (p bindUnix, err error) {
	if err := ssh.Unmarshal(payload, &p); err != nil {
		return p, fmt.Errorf("parse streamlocal-forward: %w", err)
	}
	return p, checkPath(p.Path)
}

func checkAddress(host string, port uint32) error {
	if port > 0xffff || len(host) > maxHost || strings.ContainsRune(host, 0) {
		return errors.New("no such address")
	}
	return nil
}

func checkPath(path string) error {
	if path == "" || len(path) > maxPath || strings.ContainsRune(path, 0) {
		return errors.New("no such path")
	}
	return nil
}

// A variable is the payload of an env request.
type variable struct{ Name, Value string }

func parseVariable(payload []byte) (v variable, err error) {
	if err := ssh.Unmarshal(payload, &v); err != nil {
		return v, fmt.Errorf("parse env: %w", err)
	}
	if !allowedEnv(v.Name, v.Value) {
		return v, errors.New("not to be set by a client")
	}
	return v, nil
}
