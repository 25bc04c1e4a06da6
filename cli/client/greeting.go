package client

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"berth/agent"
	"berth/coordinator"
)

// Greeting is the first line of every SSH server of Berth. It is sent to a local SSH client before the workspace is
// there, so that no timer of that client runs while the workspace starts.
const Greeting = agent.SSHVersion + "\r\n"

// maxGreeting is the longest identification string of RFC 4253, section 4.2, with CR LF.
const maxGreeting = 255

// SkipGreeting reads the workspace's own greeting, which the local client has had already. It consumes nothing after.
func SkipGreeting(r io.Reader) error {
	line := make([]byte, 0, maxGreeting)
	var b [1]byte
	for len(line) == 0 || line[len(line)-1] != '\n' {
		if len(line) == maxGreeting && line[0] != '{' || len(line) == agent.MaxStreamHeader {
			return coordinator.Errorf(coordinator.CodeFailed, "the workspace does not speak SSH")
		}
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return coordinator.Errorf(coordinator.CodeUnavailable, "the connection to the workspace was lost").
				WithHint("try again in a moment").WithCause(fmt.Errorf("read greeting: %w", err))
		}
		line = append(line, b[0])
	}
	if line[0] == '{' { // a refusal by the agent
		var reply agent.Reply
		if err := json.Unmarshal(line, &reply); err == nil && reply.Error != "" {
			return coordinator.Errorf(coordinator.CodeFailed, "the workspace refuses the connection: %s", coordinator.Clip(reply.Error, 300))
		}
	}
	if got := strings.TrimRight(string(line), "\r\n"); got != agent.SSHVersion {
		return coordinator.Errorf(coordinator.CodeFailed, "the workspace's SSH server says %q instead of %q", coordinator.Clip(got, 80), agent.SSHVersion).
			WithHint("this berth and the coordinator differ in version; install the coordinator's")
	}
	return nil
}

// Disconnect is an SSH_MSG_DISCONNECT in clear text, as a server may send it before the key exchange. SSH clients show
// its text to the person who waits.
//
//	uint32 packet length | byte padding length | byte 1 | uint32 reason | string text | string language | padding
func Disconnect(text string) []byte {
	const byApplication, block, minPadding = 11, 8, 4
	payload := binary.BigEndian.AppendUint32([]byte{1}, byApplication)
	payload = binary.BigEndian.AppendUint32(payload, uint32(len(text)))
	payload = append(payload, text...)
	payload = binary.BigEndian.AppendUint32(payload, 0)
	padding := block - (4+1+len(payload))%block
	if padding < minPadding {
		padding += block
	}
	packet := binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)+padding))
	packet = append(append(packet, byte(padding)), payload...)
	pad := make([]byte, padding)
	rand.Read(pad) // never fails
	return append(packet, pad...)
}
