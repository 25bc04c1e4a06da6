package cli

import (
	"bufio"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"berth/coordinator"
)

// buffered is a connection whose first bytes stand in a reader.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"berth": func() { os.Exit(Main(os.Args[1:])) },
	})
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
			env.Values[doubleKey{}] = d
			env.Setenv("HOME", home)
			env.Setenv("URL", d.URL)
			env.Setenv("DOOR", d.URL[strings.LastIndexByte(d.URL, ':')+1:])
			env.Setenv("BERTH_CONFIG_DIR", filepath.Join(env.WorkDir, "settings"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"double": cmdDouble,
			"code":   cmdCode,
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
