package agent

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"
)

// FuzzStreamHeader reads a stream's first line as an agent does: nothing beyond the line or the cap is consumed.
func FuzzStreamHeader(f *testing.F) {
	f.Add([]byte(`{"kind":"ssh","id":"s1","user":{"id":"u1","name":"alice"},"peer":"192.0.2.7:50122","via":"door"}` + "\nSSH-2.0-x"))
	f.Add([]byte(`{"kind":"dial","id":"s2","target":"unix:/run/x"}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Add([]byte("\n"))
	f.Add(bytes.Repeat([]byte("a"), MaxStreamHeader+1))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		var h StreamHeader
		err := ReadLine(r, &h, MaxStreamHeader)
		read := len(in) - r.Len()
		if read > MaxStreamHeader {
			t.Fatalf("%d bytes read", read)
		}
		if err != nil {
			return
		}
		if i := bytes.IndexByte(in, '\n'); read != i+1 {
			t.Fatalf("%d bytes read of a line of %d", read, i+1)
		}
		var again bytes.Buffer
		if err := WriteLine(&again, h, 1<<20); err != nil {
			t.Fatal(err)
		}
		var back StreamHeader
		if err := ReadLine(&again, &back, 1<<20); err != nil || back != h {
			t.Fatalf("%+v became %+v, %v", h, back, err)
		}
	})
}

// FuzzManifest reads a frame as an agent does.
func FuzzManifest(f *testing.F) {
	var good bytes.Buffer
	if err := WriteManifest(&good, &Manifest{Workspace: "dev", Owner: Owner{ID: "u1", Name: "alice"}}); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add([]byte("5\n{}"))
	f.Add([]byte("-1\n"))
	f.Add([]byte("99999999999\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := ReadManifest(bytes.NewReader(in))
		if (m == nil) == (err == nil) {
			t.Fatalf("%v, %v", m, err)
		}
	})
}

// FuzzMessages reads a control stream.
func FuzzMessages(f *testing.F) {
	line, err := json.Marshal(Message{Type: TypeStopNotice, Text: "soon"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(line, '\n'))
	f.Add(append(bytes.Repeat([]byte("x"), MaxControlMessage), '\n'))
	f.Add([]byte("{}\n{"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewMessageReader(bytes.NewReader(in), MaxControlMessage)
		for range len(in) + 1 { // each takes at least a byte
			var m Message
			if err := r.Next(&m); err != nil {
				if err == io.EOF && len(in) > 0 && in[len(in)-1] != '\n' {
					t.Fatal("a clean end in mid-line")
				}
				return
			}
		}
		t.Fatal("no end")
	})
}
