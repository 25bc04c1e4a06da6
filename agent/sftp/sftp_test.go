package sftp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pkg/sftp"
	"go.uber.org/goleak"
)

// The test program serves on its stdin and stdout where it is told to.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "serve" {
		if err := Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// A client speaks raw packets with a server.
type client struct {
	t    *testing.T
	in   io.WriteCloser
	out  io.Reader
	id   uint32
	said []byte // of the last answer, after its id
}

// start runs a server in dir.
func start(t *testing.T, dir, program string, args ...string) *client {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "USER=whoever")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", program, err)
		}
	})
	c := &client{t: t, in: in, out: out}
	must(t, c.send(frame(typeInit, u32(3))))
	if kind := c.receive(); kind != typeVersion {
		t.Fatalf("INIT is answered with %d", kind)
	}
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
func u64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
func str(s string) []byte { return append(u32(uint32(len(s))), s...) }

func frame(kind byte, parts ...[]byte) []byte {
	body := append([]byte{kind}, bytes.Join(parts, nil)...)
	return append(u32(uint32(len(body))), body...)
}

func (c *client) send(b []byte) error {
	_, err := c.in.Write(b)
	return err
}

func (c *client) receive() byte {
	c.t.Helper()
	var head [4]byte
	_, err := io.ReadFull(c.out, head[:])
	must(c.t, err)
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err = io.ReadFull(c.out, b)
	must(c.t, err)
	c.said = b[5:]
	if b[0] != typeVersion && binary.BigEndian.Uint32(b[1:]) != c.id {
		c.t.Fatalf("answer to %d while %d is asked", binary.BigEndian.Uint32(b[1:]), c.id)
	}
	return b[0]
}

// ask sends a request and tells the answer in words that do not depend on when, and in which directory, it is given.
func (c *client) ask(kind byte, parts ...[]byte) string {
	c.t.Helper()
	c.id++
	must(c.t, c.send(frame(kind, append([][]byte{u32(c.id)}, parts...)...)))
	answer := c.receive()
	p := &packet{b: c.said}
	switch answer {
	case typeStatus:
		return fmt.Sprintf("status %d", p.uint32())
	case typeHandle:
		return "handle"
	case typeData:
		return fmt.Sprintf("data %q", p.bytes())
	case typeAttrs:
		return told(p.attrs())
	case typeName:
		var names []string
		for range p.uint32() {
			name, long := p.string(), p.string()
			if len(long) > 10 && strings.Contains(long, " ") {
				long = long[:10]
			}
			names = append(names, fmt.Sprint(name, " ", long, " ", told(p.attrs())))
		}
		slices.Sort(names)
		return strings.Join(names, "\n")
	default:
		return fmt.Sprintf("type %d, %q", answer, p.b)
	}
}

func told(a attrs) string {
	if a.flags == 0 {
		return "nothing"
	}
	if a.mode&syscall.S_IFMT == syscall.S_IFDIR {
		a.size = 0 // a matter of the file system
	}
	return fmt.Sprintf("size %d mode %o uid %d gid %d", a.size, a.mode, a.uid, a.gid)
}

// handleIs is the handle of the last answer, as a string of the protocol.
func (c *client) handleIs() []byte { return c.said }

func mode(m uint32) []byte { return append(u32(attrMode), u32(m)...) }

var none = u32(0)

// conversation asks for what clients ask for, rightly and wrongly, and tells all answers.
func conversation(c *client, dir string) []string {
	var log []string
	do := func(what, answer string) {
		log = append(log, what+": "+strings.ReplaceAll(answer, dir, "DIR"))
	}
	ext := func(name string, parts ...[]byte) string {
		return c.ask(typeExtended, append([][]byte{str(name)}, parts...)...)
	}
	do("mkdir", c.ask(typeMkdir, str("d"), mode(0o700)))
	do("mkdir without a mode", c.ask(typeMkdir, str("e"), none))
	do("mkdir again", c.ask(typeMkdir, str("d"), none))
	do("open", c.ask(typeOpen, str("d/f"), u32(openWrite|openCreate|openTrunc), mode(0o666)))
	f := c.handleIs()
	do("write", c.ask(typeWrite, f, u64(2), str("hello")))
	do("fstat", c.ask(typeFstat, f))
	do("read what is open for writing", c.ask(typeRead, f, u64(0), u32(9)))
	do("fsetstat", c.ask(typeFsetstat, f, mode(0o640)))
	do("fsync", ext("fsync@openssh.com", f))
	do("close", c.ask(typeClose, f))
	do("close again", c.ask(typeClose, f))
	do("exclusive", c.ask(typeOpen, str("d/f"), u32(openWrite|openCreate|openExcl), none))
	do("missing", c.ask(typeOpen, str("nosuch"), u32(openRead), none))
	do("below a file", c.ask(typeOpen, str("d/f/g"), u32(openRead), none))
	do("append", c.ask(typeOpen, str("d/f"), u32(openWrite|openAppend), none))
	f = c.handleIs()
	do("write to the end", c.ask(typeWrite, f, u64(0), str("!")))
	c.ask(typeClose, f)
	do("open to read", c.ask(typeOpen, str("d/f"), u32(openRead), none))
	f = c.handleIs()
	do("read", c.ask(typeRead, f, u64(0), u32(100)))
	do("read a part", c.ask(typeRead, f, u64(3), u32(2)))
	do("read beyond", c.ask(typeRead, f, u64(100), u32(2)))
	do("write to what is open for reading", c.ask(typeWrite, f, u64(0), str("x")))
	do("open a copy", c.ask(typeOpen, str("copy"), u32(openWrite|openCreate), none))
	g := c.handleIs()
	do("copy-data", ext("copy-data", f, u64(1), u64(0), g, u64(0)))
	do("copy-data to itself", ext("copy-data", f, u64(0), u64(0), f, u64(0)))
	do("copy-data of a part", ext("copy-data", f, u64(2), u64(2), g, u64(10)))
	c.ask(typeClose, f)
	c.ask(typeClose, g)
	do("stat", c.ask(typeStat, str("copy")))
	do("setstat size", c.ask(typeSetstat, str("copy"), u32(attrSize), u64(3)))
	do("setstat times", c.ask(typeSetstat, str("copy"), u32(attrTimes), u32(1000), u32(2000)))
	do("symlink", c.ask(typeSymlink, str("../nosuch"), str("d/l")))
	do("readlink", c.ask(typeReadlink, str("d/l")))
	do("readlink of a file", c.ask(typeReadlink, str("d/f")))
	do("lstat", c.ask(typeLstat, str("d/l")))
	do("stat of a dangling link", c.ask(typeStat, str("d/l")))
	do("lsetstat of times", ext("lsetstat@openssh.com", str("d/l"), u32(attrTimes), u32(5), u32(6)))
	do("lsetstat of a size", ext("lsetstat@openssh.com", str("d/l"), u32(attrSize), u64(1)))
	do("realpath", c.ask(typeRealpath, str(".")))
	do("realpath of nothing", c.ask(typeRealpath, str("")))
	do("realpath of what is not there", c.ask(typeRealpath, str("d/../d/new")))
	do("realpath of a dangling link", c.ask(typeRealpath, str("d/l")))
	do("realpath below what is not there", c.ask(typeRealpath, str("no/such")))
	do("realpath below a file", c.ask(typeRealpath, str("copy/x")))
	do("expand-path", ext("expand-path@openssh.com", str("d/./f")))
	do("opendir", c.ask(typeOpendir, str("d")))
	f = c.handleIs()
	do("readdir", c.ask(typeReaddir, f))
	do("readdir at the end", c.ask(typeReaddir, f))
	do("read of a directory", c.ask(typeRead, f, u64(0), u32(10)))
	do("close a directory", c.ask(typeClose, f))
	do("opendir of a file", c.ask(typeOpendir, str("copy")))
	do("rename over a file", c.ask(typeRename, str("copy"), str("d/f")))
	do("rename", c.ask(typeRename, str("copy"), str("moved")))
	do("rename a directory over another", c.ask(typeRename, str("d"), str("e")))
	do("posix-rename", ext("posix-rename@openssh.com", str("moved"), str("d/f")))
	do("hardlink", ext("hardlink@openssh.com", str("d/f"), str("hard")))
	do("hardlink again", ext("hardlink@openssh.com", str("d/f"), str("hard")))
	do("rmdir of a full one", c.ask(typeRmdir, str("d")))
	do("rmdir", c.ask(typeRmdir, str("e")))
	do("remove a directory", c.ask(typeRemove, str("d")))
	do("remove", c.ask(typeRemove, str("hard")))
	do("remove again", c.ask(typeRemove, str("hard")))
	do("no such extension", ext("nosuch@example.com", str("x")))
	do("no such handle", c.ask(typeFstat, str("zzzz")))
	return log
}

// TestLikeOpenSSH holds the server against OpenSSH's own, answer by answer.
func TestLikeOpenSSH(t *testing.T) {
	program := "/usr/lib/openssh/sftp-server"
	if _, err := os.Stat(program); err != nil {
		t.Fatal("OpenSSH's sftp-server is needed: scripts/deps installs it")
	}
	var answers [2][]string
	for i, server := range []string{program, os.Args[0]} {
		dir := filepath.Join(t.TempDir(), "in")
		must(t, os.Mkdir(dir, 0o755))
		var args []string
		if i == 1 {
			args = []string{"serve"}
		}
		answers[i] = conversation(start(t, dir, server, args...), dir)
	}
	if diff := cmp.Diff(answers[0], answers[1]); diff != "" {
		t.Errorf("- as OpenSSH, + here:\n%s", diff)
	}
	if n := len(answers[1]); n < 60 || answers[1][9] != "close: status 0" {
		t.Errorf("%d answers, %q", n, answers[1])
	}
}

// TestExtensions looks at what older releases of OpenSSH do not have.
func TestExtensions(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir, os.Args[0], "serve")
	ext := func(name string, parts ...[]byte) string {
		return c.ask(typeExtended, append([][]byte{str(name)}, parts...)...)
	}
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("eight by"), 0o600))
	c.ask(typeOpen, str("f"), u32(openRead), none)
	f := c.handleIs()
	c.ask(typeOpen, str("g"), u32(openWrite|openCreate), none)
	g := c.handleIs()
	must(t, os.Link(filepath.Join(dir, "f"), filepath.Join(dir, "linked")))
	c.ask(typeOpen, str("linked"), u32(openWrite), none)
	linked := c.handleIs()
	real, err := filepath.EvalSymlinks(dir)
	must(t, err)
	for _, tt := range []struct{ name, got, want string }{
		{"copy to another name of the file", ext("copy-data", f, u64(0), u64(4), linked, u64(4)), "status 4"},
		{"copy of more than there is", ext("copy-data", f, u64(0), u64(100), g, u64(0)), "status 1"}, // the draft; OpenSSH says 0
		{"copy from beyond", ext("copy-data", f, u64(1<<63), u64(1), g, u64(0)), "status 5"},
		{"home", ext("home-directory", str("")), real + " " + real + " nothing"},
		{"home by name", ext("home-directory", str("whoever")), real + " " + real + " nothing"},
		{"home of root", ext("home-directory", str("root")), "/root /root nothing"},
		{"home of nobody", ext("home-directory", str("berth-no-such-user")), "status 4"},
		{"expand", ext("expand-path@openssh.com", str("~/x")), real + "/x " + real + "/x nothing"},
		{
			"names", ext("users-groups-by-id@openssh.com", str(string(u32(0))+string(u32(4000000000))), str(string(u32(0)))),
			fmt.Sprintf("type 201, %q", string(str(string(str("root"))+string(str(""))))+string(str(string(str("root"))))),
		},
		{"names, cut", ext("users-groups-by-id@openssh.com", str("abc"), str("")), "status 5"},
		{"limits", ext("limits@openssh.com")[:8], "type 201"},
		{"statvfs", ext("statvfs@openssh.com", str("."))[:8], "type 201"},
		{"statvfs of nothing", ext("statvfs@openssh.com", str("nosuch")), "status 2"},
		{"cut", ext("posix-rename@openssh.com", str("a"), u32(500)), "status 5"},
		{"a name with a NUL", c.ask(typeStat, str("a\x00b")), "status 5"},
		{"an unknown type", c.ask(77, str("x")), "status 8"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, tt.got, tt.want)
		}
	}
}

// TestAnotherClient looks through the eyes of a client that is not OpenSSH's, and that sends many requests at once.
func TestAnotherClient(t *testing.T) {
	dir := t.TempDir()
	raw := start(t, dir, os.Args[0], "serve")
	c, err := sftp.NewClientPipe(struct{ io.Reader }{io.MultiReader(bytes.NewReader(frame(typeVersion, u32(3))), raw.out)}, &skip{raw.in, 9})
	must(t, err)
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	f, err := c.Create("f")
	must(t, err)
	_, err = f.ReadFrom(bytes.NewReader(data))
	must(t, err)
	must(t, f.Close())
	f, err = c.Open("f")
	must(t, err)
	var back bytes.Buffer
	_, err = f.WriteTo(&back)
	must(t, err)
	must(t, f.Close())
	if !bytes.Equal(back.Bytes(), data) {
		t.Errorf("%d bytes came back of %d", back.Len(), len(data))
	}
	for i := range 300 {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint("n", i)), nil, 0o600))
	}
	if list, err := c.ReadDir("."); err != nil || len(list) != 301 {
		t.Errorf("%d files, %v", len(list), err)
	}
	must(t, c.Close())
}

// skip leaves out the first n bytes: the client's INIT, which was answered.
type skip struct {
	io.WriteCloser
	n int
}

func (s *skip) Write(b []byte) (int, error) {
	k := min(s.n, len(b))
	s.n -= k
	n, err := s.WriteCloser.Write(b[k:])
	return n + k, err
}

// TestHandlesAreCapped opens more files than there may be.
func TestHandlesAreCapped(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir, os.Args[0], "serve")
	must(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o600))
	limit := handleLimit()
	for i := range limit {
		if got := c.ask(typeOpen, str("f"), u32(openRead), none); got != "handle" {
			t.Fatalf("open %d: %s", i, got)
		}
	}
	last := c.handleIs()
	if got := c.ask(typeOpen, str("f"), u32(openRead), none); got != "status 4" {
		t.Errorf("beyond the limit: %s", got)
	}
	c.ask(typeClose, last)
	if got := c.ask(typeOpen, str("f"), u32(openRead), none); got != "handle" {
		t.Errorf("after one was closed: %s", got)
	}
}

// TestBrokenFrames ends the connection where packets cannot be told apart any more.
func TestBrokenFrames(t *testing.T) {
	hello := frame(typeInit, u32(3))
	for _, tt := range []struct {
		name  string
		input []byte
		fails bool
	}{
		{"nothing", nil, false},
		{"cut in a length", []byte{0, 0}, false},
		{"cut in a packet", hello[:6], false},
		{"empty packet", u32(0), true},
		{"too long", u32(maxPacket + 1), true},
		{"negative length", u32(0xffffffff), true},
		{"no INIT", frame(typeStat, u32(1), str("x")), true},
		{"without an id", append(slices.Clone(hello), frame(typeStat, []byte{1})...), true},
	} {
		var out bytes.Buffer
		if err := Serve(bytes.NewReader(tt.input), &out); (err != nil) != tt.fails {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestJoinedAnswers looks that answers to requests that came together go out together.
func TestJoinedAnswers(t *testing.T) {
	in := frame(typeInit, u32(3))
	for i := range uint32(100) {
		in = append(in, frame(typeStat, u32(i), str("."))...)
	}
	w := &counter{}
	must(t, Serve(bytes.NewReader(in), w))
	if w.n > 3 {
		t.Errorf("%d writes for 100 answers", w.n)
	}
}

type counter struct{ n int }

func (c *counter) Write(b []byte) (int, error) {
	c.n++
	return len(b), nil
}

func TestModeString(t *testing.T) {
	for mode, want := range map[uint32]string{
		0o100644: "-rw-r--r-- ", 0o040755: "drwxr-xr-x ", 0o120777: "lrwxrwxrwx ", 0o104755: "-rwsr-xr-x ", 0o102644: "-rw-r-Sr-- ",
		0o041777: "drwxrwxrwt ", 0o041776: "drwxrwxrwT ", 0o020600: "crw------- ", 0: "?--------- ",
	} {
		if got := modeString(mode); got != want {
			t.Errorf("%o: %q, want %q", mode, got, want)
		}
	}
}

// FuzzServe feeds what a client may send. It stays in its directory: no slash, no "..".
func FuzzServe(f *testing.F) {
	hello := frame(typeInit, u32(3))
	one := func(kind byte, parts ...[]byte) {
		f.Add(append(slices.Clone(hello), frame(kind, append([][]byte{u32(1)}, parts...)...)...))
	}
	one(typeOpen, str("f"), u32(openWrite|openCreate), mode(0o600))
	one(typeSetstat, str("f"), u32(attrSize|attrOwner|attrMode|attrTimes|attrExtended), u64(1), u32(0), u32(0), u32(0o600), u32(1), u32(2), u32(1), str("a"), str("b"))
	one(typeWrite, str("1"), u64(0), str("x"))
	one(typeRead, str("1"), u64(0), u32(1<<31))
	one(typeRealpath, str("."))
	for _, e := range extensions {
		if e.name != "copy-data" {
			one(typeExtended, str(e.name), str("1"), str("2"), u64(1), u64(2))
		}
	}
	f.Add(append(append(slices.Clone(hello), frame(typeOpendir, u32(1), str("."))...), frame(typeReaddir, u32(2), str("1"))...))
	f.Fuzz(func(t *testing.T, in []byte) {
		if bytes.ContainsAny(in, "/~") || bytes.Contains(in, []byte("..")) || bytes.Contains(in, []byte("copy-data")) {
			t.Skip()
		}
		t.Chdir(t.TempDir())
		var out bytes.Buffer
		_ = Serve(bytes.NewReader(in), &out)
		for rest := out.Bytes(); len(rest) > 0; { // whole packets, none too long
			n := binary.BigEndian.Uint32(rest)
			if n > maxPacket || int(n) > len(rest)-4 {
				t.Fatalf("an answer of %d bytes, %d there", n, len(rest)-4)
			}
			rest = rest[4+n:]
		}
	})
}
