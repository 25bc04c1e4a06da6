package agent

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A Kind says what a stream is for.
type Kind string

// Kinds of streams. Control and manifest streams are opened by the agent, the others by the coordinator.
const (
	KindControl  Kind = "control"  // newline-delimited JSON messages, both ways, for the life of the link
	KindManifest Kind = "manifest" // the coordinator answers with one framed manifest and closes
	KindSSH      Kind = "ssh"      // SSH from the first byte; a refusal is a line of JSON, which begins with '{'
	KindDial     Kind = "dial"     // one Reply, then the bytes of a connection that the agent dials
)

// Ways into a workspace, as they stand in StreamHeader.Via and in the coordinator's records.
const (
	ViaDoor    = "door"    // ssh to the door, terminated there
	ViaJump    = "jump"    // ProxyJump through the door, end to end
	ViaConsole = "console" // a shell from the console at the door
	ViaConnect = "connect" // berth connect, end to end
	ViaProbe   = "probe"   // the coordinator's own look, e.g. berth ping
)

// A StreamHeader is the first line of every stream: JSON, at most MaxStreamHeader bytes with its newline.
//
//	{"kind":"ssh","id":"…","user":{"id":"…","name":"alice"},"peer":"192.0.2.7:50122","via":"door"}\n
type StreamHeader struct {
	Kind   Kind   `json:"kind"`
	ID     string `json:"id"`             // the coordinator's record of this stream
	User   Person `json:"user,omitzero"`  // whom the coordinator let through; the agent accepts nobody else
	Peer   string `json:"peer,omitempty"` // the true peer, host:port
	Via    string `json:"via,omitempty"`  // one of the Via constants
	Target string `json:"target,omitempty"`
	// Target is for KindDial only: "tcp:HOST:PORT" or "unix:PATH", as seen from inside the workspace.
}

// A Person is a user as an agent knows them.
type Person struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// A Reply answers a stream header: always for KindDial, and for any stream that is refused.
type Reply struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// ErrTooLong is returned for a line or frame beyond its cap.
var ErrTooLong = errors.New("line too long")

// WriteLine writes v as one line of JSON in a single Write. It fails with ErrTooLong beyond limit bytes.
func WriteLine(w io.Writer, v any, limit int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode line: %w", err)
	}
	b = append(b, '\n')
	if len(b) > limit {
		return ErrTooLong
	}
	_, err = w.Write(b)
	return err
}

// ReadLine reads one line of JSON into v, byte by byte, so that nothing after the newline is consumed. It is for
// the first line of a stream; use a MessageReader for many.
func ReadLine(r io.Reader, v any, limit int) error {
	line := make([]byte, 0, 256)
	var b [1]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return fmt.Errorf("read line: %w", err)
		}
		if b[0] == '\n' {
			break
		}
		if len(line)+1 >= limit {
			return ErrTooLong
		}
		line = append(line, b[0])
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("decode line: %w", err)
	}
	return nil
}

// A MessageReader reads newline-delimited JSON with a cap for each line.
type MessageReader struct {
	r     *bufio.Reader
	limit int
}

// NewMessageReader returns a reader of lines of at most limit bytes.
func NewMessageReader(r io.Reader, limit int) *MessageReader {
	return &MessageReader{r: bufio.NewReaderSize(r, 4<<10), limit: limit}
}

// Next decodes the next line into v. It returns io.EOF at a clean end and io.ErrUnexpectedEOF in mid-line.
func (m *MessageReader) Next(v any) error {
	var line []byte
	for {
		part, err := m.r.ReadSlice('\n')
		if len(line)+len(part) > m.limit {
			return ErrTooLong
		}
		line = append(line, part...)
		switch {
		case err == nil:
			if err := json.Unmarshal(line, v); err != nil {
				return fmt.Errorf("decode message: %w", err)
			}
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) > 0:
			return io.ErrUnexpectedEOF
		default:
			return err
		}
	}
}
