package daemon

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// berthd is the program, built once.
var berthd string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "berthd-")
	if err != nil {
		panic(err)
	}
	berthd = filepath.Join(dir, "berthd")
	out, err := exec.Command("go", "build", "-o", berthd, "berth/coordinator/berthd").CombinedOutput()
	if err != nil {
		panic(fmt.Sprintf("build berthd: %v\n%s", err, out))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// An instance is one berthd that runs, or has run.
type instance struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr *lines
	ended  chan struct{}
}

// lines is what a process wrote to stderr.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A place is where berthd may live in a test.
type place struct{ data, key string }

func newPlace(t *testing.T) place {
	t.Helper()
	dir := t.TempDir()
	return place{filepath.Join(dir, "data"), filepath.Join(dir, "key")}
}

func (p place) args(more ...string) []string {
	return append([]string{"serve", "--data", p.data, "--key-file", p.key, "--http", "127.0.0.1:0", "--ssh", "127.0.0.1:0", "--log-format", "json"}, more...)
}

func start(t *testing.T, args ...string) *instance {
	t.Helper()
	i := &instance{t: t, cmd: exec.Command(berthd, args...), stderr: &lines{}, ended: make(chan struct{})}
	i.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	i.cmd.Stderr = i.stderr
	if err := i.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = i.cmd.Wait() // the state is looked at
		close(i.ended)
	}()
	t.Cleanup(func() {
		select {
		case <-i.ended:
		default:
			_ = i.cmd.Process.Kill()
			<-i.ended
		}
	})
	return i
}

// wait waits for the end and returns the exit status.
func (i *instance) wait() int {
	i.t.Helper()
	select {
	case <-i.ended:
		return i.cmd.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		i.t.Fatalf("berthd does not end: %s", i.stderr)
		return -1
	}
}

// ready waits until it serves, and returns where.
func (i *instance) ready() string {
	i.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		for line := range strings.Lines(i.stderr.String()) {
			var e struct{ Msg, URL string }
			if json.Unmarshal([]byte(line), &e) == nil && e.Msg == "the coordinator is ready" {
				return e.URL
			}
		}
		select {
		case <-i.ended:
			i.t.Fatalf("berthd ended: %s", i.stderr)
		case <-time.After(10 * time.Millisecond):
		}
	}
	i.t.Fatalf("berthd is not ready: %s", i.stderr)
	return ""
}

func (i *instance) signal(s os.Signal) {
	i.t.Helper()
	if err := i.cmd.Process.Signal(s); err != nil {
		i.t.Fatal(err)
	}
}

// stop ends it in order.
func (i *instance) stop() {
	i.t.Helper()
	i.signal(syscall.SIGTERM)
	if code := i.wait(); code != exitOK {
		i.t.Fatalf("exit status %d: %s", code, i.stderr)
	}
}

// TestRefusals runs berthd where it has to refuse: one clear line, and the exit status.
func TestRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	at := taken.Addr().String()
	for _, tt := range []struct {
		name string
		args func(t *testing.T, p place) []string
		code int
		want string
	}{
		{"data open to others", func(t *testing.T, p place) []string {
			mkdir(t, p.data, 0o755)
			return p.args()
		}, 1, "is open to others (mode 0755); chmod 700 it"},
		{"data writable by others", func(t *testing.T, p place) []string {
			mkdir(t, p.data, 0o720)
			return p.args()
		}, 1, "is open to others (mode 0720)"},
		{"data is a file", func(t *testing.T, p place) []string {
			write(t, p.data, "x", 0o600)
			return p.args()
		}, 1, "data directory cannot be made"},
		{"key inside data", func(_ *testing.T, p place) []string {
			return p.args("--key-file", filepath.Join(p.data, "key"))
		}, 1, "lies inside the data directory"},
		{"key inside data by a link", func(t *testing.T, p place) []string {
			mkdir(t, p.data, 0o700)
			symlink(t, p.data, filepath.Join(filepath.Dir(p.data), "elsewhere"))
			return p.args("--key-file", filepath.Join(filepath.Dir(p.data), "elsewhere", "sub", "key"))
		}, 1, "lies inside the data directory"},
		{"key open to others", func(t *testing.T, p place) []string {
			write(t, p.key, "x", 0o644)
			return p.args()
		}, 1, "is open to others (mode 0644)"},
		{"foreign database", func(t *testing.T, p place) []string {
			mkdir(t, p.data, 0o700)
			write(t, filepath.Join(p.data, "berth.db"), "this is my diary", 0o600)
			return p.args()
		}, 1, "berth.db"},
		{"newer database", func(t *testing.T, p place) []string {
			start(t, p.args()...).endAfterStart()
			db, err := sql.Open("sqlite", filepath.Join(p.data, "berth.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`); err != nil {
				t.Fatal(err)
			}
			return p.args()
		}, 1, "newer"},
		{"another key", func(t *testing.T, p place) []string {
			start(t, p.args()...).endAfterStart()
			return p.args("--key-file", p.key+"2")
		}, 1, "key"},
		{"port of HTTP in use", func(_ *testing.T, p place) []string {
			return p.args("--http", at)
		}, 1, "the address " + at + " is in use; is another berthd running? choose another with --http"},
		{"port of SSH in use", func(_ *testing.T, p place) []string {
			return p.args("--ssh", at)
		}, 1, "choose another with --ssh"},
		{"plain HTTP on all addresses", func(_ *testing.T, p place) []string {
			return p.args("--http", "0.0.0.0:0")
		}, 1, "plain HTTP beyond this machine"},
		{"plain HTTP on a name", func(_ *testing.T, p place) []string {
			return p.args("--http", ":0")
		}, 1, "plain HTTP beyond this machine"},
		{"plain URL", func(_ *testing.T, p place) []string {
			return p.args("--url", "http://berth.example.com")
		}, 1, "--url http://berth.example.com is plain HTTP beyond this machine"},
		{"plain agent URL", func(_ *testing.T, p place) []string {
			return p.args("--agent-url", "http://172.17.0.1:7080")
		}, 1, "--agent-url http://172.17.0.1:7080 is plain HTTP"},
		{"second serve", func(t *testing.T, p place) []string {
			start(t, p.args()...).ready()
			return p.args()
		}, 1, "serves this data directory"},
		{"no certificate", func(_ *testing.T, p place) []string {
			return p.args("--tls-cert", "/nonexistent", "--tls-key", "/nonexistent")
		}, 1, "TLS certificate cannot be used"},
		{"half a certificate", func(_ *testing.T, p place) []string { return p.args("--tls-cert", "x") }, 2, "belong together"},
		{"unknown setting", func(_ *testing.T, p place) []string { return p.args("--htp", "x") }, 2, "-htp"},
		{"no address", func(_ *testing.T, p place) []string { return p.args("--http", "7080") }, 2, "is not an address"},
		{"no URL", func(_ *testing.T, p place) []string { return p.args("--url", "berth.example.com") }, 2, "is not a URL"},
		{"argument", func(_ *testing.T, p place) []string { return p.args("now") }, 2, "unexpected argument"},
		{"level", func(_ *testing.T, p place) []string { return p.args("--log-level", "loud") }, 2, "--log-level"},
		{"suffix", func(_ *testing.T, p place) []string { return p.args("--suffix", "a.b") }, 2, "--suffix"},
		{"URL unknown", func(_ *testing.T, p place) []string {
			return p.args("--http", "0.0.0.0:0", "--insecure-http")
		}, 2, "--url is needed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			i := start(t, tt.args(t, newPlace(t))...)
			code := i.wait()
			out := strings.TrimSuffix(i.stderr.String(), "\n")
			if code != tt.code || !strings.Contains(out, tt.want) || !strings.HasPrefix(out, "berthd: ") || strings.Contains(out, "\n") {
				t.Errorf("exit status %d: %s", code, out)
			}
		})
	}
}

func (i *instance) endAfterStart() {
	i.t.Helper()
	i.ready()
	i.stop()
}

func mkdir(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := errors.Join(os.Mkdir(path, mode), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(content), mode), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at); err != nil {
		t.Fatal(err)
	}
}

func TestCommands(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 2, "usage: berthd"},
		{[]string{"sreve"}, 2, `unknown command "sreve"`},
		{[]string{"help"}, 0, "isolation"},
		{[]string{"version"}, 0, "berthd "},
		{[]string{"isolation"}, 0, "e"},
		{[]string{"serve", "--help"}, 0, "-tls-acme"},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			c := exec.Command(berthd, tt.args...)
			out, _ := c.CombinedOutput()
			if c.ProcessState.ExitCode() != tt.code || !strings.Contains(string(out), tt.want) {
				t.Errorf("exit status %d: %s", c.ProcessState.ExitCode(), out)
			}
		})
	}
}

// TestSetupToken follows the one-time token from the first start to its use.
func TestSetupToken(t *testing.T) {
	p := newPlace(t)
	file := filepath.Join(p.data, "setup-token")
	i := start(t, p.args()...)
	i.ready()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(b))
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if !strings.Contains(i.stderr.String(), "--token "+token+"\n") {
		t.Errorf("the token is not printed: %s", i.stderr)
	}
	i.stop()

	i = start(t, p.args()...)
	url := i.ready()
	if b, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(b)) != token {
		t.Errorf("after a restart: %q, %v", b, err)
	}
	if status, _ := setup(t, url, token, "olga"); status != "201 Created" {
		t.Fatalf("setup: %s", status)
	}
	i.signal(syscall.SIGKILL) // and the answer is lost
	i.wait()

	i = start(t, p.args()...)
	url = i.ready()
	if b, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(b)) != token {
		t.Errorf("before anybody has signed in: %q, %v", b, err)
	}
	if status, _ := setup(t, url, token, "eve"); status != "409 Conflict" {
		t.Errorf("another owner: %s", status)
	}
	status, made := setup(t, url, token, "olga")
	if status != "201 Created" {
		t.Fatalf("setup once more: %s", status)
	}
	if got := whoami(t, url, made.Token); got != "200 OK" {
		t.Errorf("whoami: %s", got)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the used token's file: %v", err)
	}
	if status, _ := setup(t, url, token, "olga"); status != "409 Conflict" {
		t.Errorf("the token works after somebody has signed in: %s", status)
	}
	i.stop()

	i = start(t, p.args()...)
	i.ready()
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) || strings.Contains(i.stderr.String(), "bs1_") {
		t.Errorf("a token came back: %v, %s", err, i.stderr)
	}
	i.stop()
	http.DefaultClient.CloseIdleConnections()
}

func setup(t *testing.T, url, token, name string) (status string, made rest.CreatedUser) {
	t.Helper()
	body, err := json.Marshal(rest.Setup{Token: token, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(url+rest.Prefix+"/setup", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&made); err != nil {
		t.Fatal(err)
	}
	return resp.Status, made
}

func whoami(t *testing.T, url, token string) (status string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+rest.Prefix+"/whoami", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.Status
}

// TestSecondServe checks that nothing is touched, not even a key file made, while another serves the data.
func TestSecondServe(t *testing.T) {
	p := newPlace(t)
	i := start(t, p.args()...)
	i.ready()
	key := filepath.Join(t.TempDir(), "other-key")
	second := start(t, append(p.args(), "--key-file", key)...)
	if status := second.wait(); status != 1 || !strings.Contains(second.stderr.String(), "another berthd") {
		t.Errorf("exit status %d: %s", status, second.stderr)
	}
	if _, err := os.Stat(key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused coordinator made a key: %v", err)
	}
	i.stop()
}

// TestKilled checks that a killed coordinator is not in the way of the next.
func TestKilled(t *testing.T) {
	p := newPlace(t)
	i := start(t, p.args()...)
	i.ready()
	i.signal(syscall.SIGKILL)
	i.wait()
	i = start(t, p.args()...)
	i.ready()
	i.stop()
}

// TestShutdown checks that a request under way is finished, and that a second signal does not wait for it.
func TestShutdown(t *testing.T) {
	p := newPlace(t)
	begin := func(url string) (net.Conn, string) {
		t.Helper()
		addr := strings.TrimPrefix(url, "http://")
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		fmt.Fprintf(c, "POST %s/setup HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: 30\r\nExpect: 100-continue\r\n\r\n", rest.Prefix, addr)
		buf := make([]byte, 25)
		if _, err := io.ReadFull(c, buf); err != nil || !strings.Contains(string(buf), "100 Continue") {
			t.Fatalf("got %q, %v", buf, err)
		}
		return c, addr
	}
	i := start(t, p.args()...)
	c, addr := begin(i.ready())
	i.signal(syscall.SIGTERM)
	waitClosed(t, addr)
	fmt.Fprint(c, `{"token":"bs1_x","name":"olga"`)
	b, err := io.ReadAll(c)
	if err != nil || !strings.Contains(string(b), "400 Bad Request") {
		t.Errorf("the request was not finished: %q, %v", b, err)
	}
	if code := i.wait(); code != 0 {
		t.Errorf("exit status %d: %s", code, i.stderr)
	}

	i = start(t, p.args()...)
	_, addr = begin(i.ready())
	i.signal(os.Interrupt)
	waitClosed(t, addr)
	began := time.Now()
	i.signal(os.Interrupt)
	i.wait()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the second signal took %v", took)
	}
}

// waitClosed waits until nobody listens on addr.
func waitClosed(t *testing.T, addr string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		c.Close()
		select {
		case <-t.Context().Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Fatalf("somebody still listens on %s", addr)
}

// TestInflight checks the count of handlers.
func TestInflight(t *testing.T) {
	f := &inflight{}
	if !f.wait(t.Context()) {
		t.Error("nothing is in flight")
	}
	f.add(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if f.wait(ctx) {
		t.Error("one is in flight")
	}
	var g sync.WaitGroup
	g.Go(func() {
		if !f.wait(t.Context()) {
			t.Error("it ended")
		}
	})
	f.add(-1)
	g.Wait()
}

func TestComplain(t *testing.T) {
	var b bytes.Buffer
	if code := complain(&b, fmt.Errorf("open: %w", coordinator.Errorf(coordinator.CodeConflict, "taken").WithHint("choose another"))); code != 1 || b.String() != "berthd: open: taken; choose another\n" {
		t.Errorf("%d %q", code, &b)
	}
}
