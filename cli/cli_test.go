package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"berth/coordinator"
)

// buffered is a connection whose first bytes stand in a reader.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){
		"berth": func() { os.Exit(Main(os.Args[1:])) },
	})
}

// leakChecked fails a run that leaves goroutines behind.
type leakChecked struct{ *testing.M }

func (m leakChecked) Run() int {
	code := m.M.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

type doubleKey struct{}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			d, err := newDouble()
			if err != nil {
				return err
			}
			env.Defer(d.Close)
			home := filepath.Join(env.WorkDir, "home")
			if err := os.MkdirAll(home, 0o700); err != nil {
				return err
			}
			d.home = home
			env.Values[doubleKey{}] = d
			env.Setenv("HOME", home)
			berth, err := exec.LookPath("berth")
			if err != nil {
				return err
			}
			env.Setenv("BERTH", berth)
			env.Setenv("URL", d.URL)
			env.Setenv("DOOR", d.URL[strings.LastIndexByte(d.URL, ':')+1:])
			env.Setenv("BERTH_CONFIG_DIR", filepath.Join(env.WorkDir, "settings"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"double": cmdDouble,
			"code":   cmdCode,
			"person": cmdPerson,
			"echo":   cmdEcho,
			"dial":   cmdDial,
			"await":  cmdAwait,
		},
	})
}

// double WHAT [VALUE]: changes what the server does.
func cmdDouble(ts *testscript.TestScript, _ bool, args []string) {
	d := ts.Value(doubleKey{}).(*double)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch args[0] {
	case "login": // signs in without a device key
		d.setUp = true
		d.tokens["bt1_"+args[1]] = "t0"
		ts.Setenv("BERTH_TOKEN", "bt1_"+args[1])
		ts.Setenv("BERTH_URL", d.URL)
	case "token":
		d.setUp = true
		d.tokens["bt1_"+args[1]] = coordinator.TokenID("t-" + args[1])
	case "cut":
		d.cutStreams()
	case "away":
		d.away = true
		d.cutStreams()
	case "back":
		d.away = false
	case "impostor": // a host key of an authority that the known_hosts line does not name
		d.ca, _ = newSigner()
	case "evil":
		d.evil = true
	case "redirect":
		d.redirect = args[1]
	case "close":
		d.Server.Listener.Close()
	case "secret":
		if got := d.secrets[args[1]].Value; got != strings.ReplaceAll(args[2], `\n`, "\n") {
			ts.Fatalf("the secret %s is %q", args[1], got)
		}
	default:
		ts.Fatalf("unknown: %s", args[0])
	}
}

// code N COMMAND [ARG...]: runs a command that must exit with N.
func cmdCode(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("%v exits with %d, not %s", args[1:], got, args[0])
	}
}

// person ANSWERS COMMAND [ARG...]: runs a command on a terminal of its own and answers each question with the next
// line of the file. What the terminal showed is in the file "screen", what went to stdout in "printed".
func cmdPerson(ts *testscript.TestScript, neg bool, args []string) {
	answers := strings.Split(strings.TrimSpace(ts.ReadFile(args[0])), "\n")
	printed, err := os.Create(ts.MkAbs("printed"))
	ts.Check(err)
	defer printed.Close()
	path, err := exec.LookPath(args[1])
	ts.Check(err)
	c := exec.Command(path, args[2:]...)
	c.Dir = ts.MkAbs(".")
	for _, k := range []string{"HOME", "PATH", "BERTH_CONFIG_DIR", "BERTH_TOKEN", "BERTH_URL"} {
		c.Env = append(c.Env, k+"="+ts.Getenv(k))
	}
	c.Stdout = printed
	terminal, err := pty.StartWithSize(c, &pty.Winsize{Rows: 24, Cols: 60})
	ts.Check(err)
	defer terminal.Close()
	deadline := time.AfterFunc(20*time.Second, func() { c.Process.Kill() })
	defer deadline.Stop()
	var screen []byte
	buf := make([]byte, 4<<10)
	for {
		n, err := terminal.Read(buf)
		screen = append(screen, buf[:n]...)
		if strings.HasSuffix(string(screen), ": ") && len(answers) > 0 {
			// What the terminal echoes ends in the line, so a question is answered once.
			_, werr := terminal.Write([]byte(answers[0] + "\n"))
			ts.Check(werr)
			answers = answers[1:]
		}
		if err != nil {
			break
		}
	}
	ts.Check(os.WriteFile(ts.MkAbs("screen"), screen, 0o600))
	if err := c.Wait(); (err != nil) != neg {
		ts.Fatalf("%v: %v\n%s", args[1:], err, screen)
	}
}

// echo NETWORK ADDRESS VARIABLE: serves there until the script ends: what a client sends, once it has sent all of it,
// comes back behind the word echo. VARIABLE becomes the port.
func cmdEcho(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen(args[0], args[1])
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	if at, ok := l.Addr().(*net.TCPAddr); ok {
		ts.Setenv(args[2], strconv.Itoa(at.Port))
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, _ := io.ReadAll(c)
				fmt.Fprintf(c, "echo %s", b)
			}()
		}
	}()
}

// dial NETWORK ADDRESS TEXT WANT: sends the text, ends that direction, and must get WANT in time.
func cmdDial(ts *testscript.TestScript, _ bool, args []string) {
	var got []byte
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var c net.Conn
		if c, err = net.Dial(args[0], args[1]); err != nil {
			continue
		}
		fmt.Fprint(c, args[2])
		c.(closeWriter).CloseWrite()
		got, err = io.ReadAll(c)
		c.Close()
		if string(got) == args[3] {
			return
		}
	}
	ts.Fatalf("dial %v: got %q, %v", args, got, err)
}

// await FILE TEXT: until the file holds the text.
func cmdAwait(ts *testscript.TestScript, _ bool, args []string) {
	var b []byte
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if b, _ = os.ReadFile(ts.MkAbs(args[0])); strings.Contains(string(b), args[1]) {
			return
		}
	}
	ts.Fatalf("%s does not hold %q:\n%s", args[0], args[1], b)
}
