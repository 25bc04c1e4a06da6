package api

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"berth/coordinator"
	"berth/coordinator/rest"
)

func TestAuthentication(t *testing.T) {
	w := newWorld(t).populate()
	expired, hash := coordinator.NewAPIToken(coordinator.APITokenPrefix)
	w.check(w.store.CreateToken(t.Context(), &coordinator.Token{UserID: w.member.ID, Name: "old", Expires: time.Now().Add(-time.Minute)}, hash))
	good := w.tokens["member"]
	for _, tt := range []struct {
		name, header string
		status       int
	}{
		{"good", "Bearer " + good, 200},
		{"lower-case scheme", "bearer " + good, 200},
		{"none", "", 401},
		{"wrong scheme", "Basic " + good, 401},
		{"unknown", "Bearer bt1_" + strings.Repeat("A", 43), 401},
		{"expired", "Bearer " + string(expired), 401},
		{"setup token", "Bearer bs1_setup", 401},
		{"endless", "Bearer bt1_" + strings.Repeat("A", 5000), 401},
		{"part of one", "Bearer " + good[:len(good)-1], 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := w.request("", "GET", "/whoami", nil)
			if tt.header != "" {
				req.Header.Set("Authorization", tt.header)
			}
			a := w.send(req)
			if a.status != tt.status {
				t.Fatalf("got %d %s", a.status, a.body)
			}
			if a.status == 401 && (a.problem(t).Hint == "" || a.header.Get("WWW-Authenticate") == "") {
				t.Errorf("got %v %s", a.header, a.body)
			}
		})
	}
	if logs := w.logs.String(); strings.Contains(logs, good) || strings.Contains(logs, string(expired)) {
		t.Error("a token stands in the log")
	}
	if !strings.Contains(w.logs.String(), "user=mary") {
		t.Errorf("the access log names nobody: %s", w.logs)
	}
}

func TestFailuresAreLimited(t *testing.T) {
	w := newWorld(t).populate()
	w.tokens["bad"] = "bt1_" + strings.Repeat("x", 43)
	var last answer
	for range failBurst + 1 {
		last = w.do("bad", "GET", "/whoami", nil)
	}
	if last.status != http.StatusTooManyRequests || last.header.Get("Retry-After") == "" || last.problem(t).Code != coordinator.CodeUnavailable {
		t.Errorf("after %d failures: %d %s", failBurst+1, last.status, last.body)
	}
	if a := w.do("member", "GET", "/whoami", nil); a.status != 200 {
		t.Errorf("a known token is refused too: %d %s", a.status, a.body)
	}
	w.setup.offer(t)
	if a := w.do("", "POST", "/setup", rest.Setup{Token: "bs1_wrong", Name: "eve"}); a.status != http.StatusTooManyRequests {
		t.Errorf("setup is not limited: %d %s", a.status, a.body)
	}
}

func TestLimiter(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	l := newLimiter(func() time.Time { return now })
	for i := range failBurst {
		if !l.allow("a") {
			t.Fatalf("failure %d of the burst is refused", i+1)
		}
	}
	if l.allow("a") {
		t.Error("one more than the burst is allowed")
	}
	if !l.allow("b") {
		t.Error("another source is refused")
	}
	now = now.Add(failRefill)
	if !l.allow("a") || l.allow("a") {
		t.Error("one is allowed again after the refill, and only one")
	}
	for i := range 3 * maxFailures {
		l.allow(time.Duration(i).String())
	}
	if len(l.free) > maxFailures {
		t.Errorf("%d sources are remembered", len(l.free))
	}
}

func TestSource(t *testing.T) {
	for _, tt := range []struct{ addr, want string }{
		{"192.0.2.7:1234", "192.0.2.7"},
		{"[::ffff:192.0.2.7]:1234", "192.0.2.7"},
		{"[2001:db8:1:2:3:4:5:6]:1", "2001:db8:1:2::/64"},
		{"[fe80::1%eth0]:1", "fe80::/64"},
		{"@", "@"},
	} {
		if got := source(&http.Request{RemoteAddr: tt.addr}); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.addr, got, tt.want)
		}
	}
}

func TestHost(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		host string
		want int
	}{
		{"127.0.0.1:7080", 200},
		{"localhost", 200},
		{"[::1]:7080", 200},
		{"berth.example.com", 200},
		{"BERTH.example.com.:443", 200},
		{"evil.example.com:7080", http.StatusMisdirectedRequest},
		{"127.0.0.1.evil.example", http.StatusMisdirectedRequest},
		{"192.0.2.1", http.StatusMisdirectedRequest},
	} {
		req := w.request("", "GET", "/server", nil)
		req.Host = tt.host
		if a := w.send(req); a.status != tt.want {
			t.Errorf("%s: got %d %s", tt.host, a.status, a.body)
		}
	}
	// A listener beyond loopback is reached by names that nobody told us.
	s := &server{Config: Config{}}
	r := httptest.NewRequest("GET", "http://unknown.example/", nil)
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80}))
	if !s.rightHost(r) {
		t.Error("a name is refused beyond loopback")
	}
}

func TestCrossOrigin(t *testing.T) {
	w := newWorld(t).populate()
	for _, tt := range []struct {
		name, method, path, header, value string
		want                              int
	}{
		{"foreign origin", "POST", "/workspaces/me/dev/stop", "Origin", "https://evil.example", 403},
		{"cross-site fetch", "PUT", "/dotfiles", "Sec-Fetch-Site", "cross-site", 403},
		{"stream", "GET", "/workspaces/me/dev/connect", "Origin", "https://evil.example", 403},
		{"reading", "GET", "/whoami", "Origin", "https://evil.example", 200}, // without CORS headers the page sees nothing
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := w.request("member", tt.method, tt.path, nil)
			req.Header.Set(tt.header, tt.value)
			a := w.send(req)
			if a.status != tt.want || a.header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("got %d %s", a.status, a.body)
			}
		})
	}
}

func TestPanic(t *testing.T) {
	w := newWorld(t)
	s := &server{Config: Config{Logger: w.discard(), Now: time.Now}}
	h := s.guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("no") }))
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", "/x", nil))
	if rec.Code != 500 || !strings.Contains(rec.Body.String(), `"code":"internal"`) || strings.Contains(rec.Body.String(), "panic") {
		t.Errorf("got %d %s", rec.Code, rec.Body)
	}
}

func TestSetup(t *testing.T) {
	w := newWorld(t)
	if s := get[rest.Server](w, "", "GET", "/server", nil); s.SetUp {
		t.Error("set up before the setup")
	}
	for _, tt := range []struct {
		name   string
		body   any
		status int
	}{
		{"wrong token", rest.Setup{Token: "bs1_other", Name: "olga"}, 401},
		{"no token", rest.Setup{Name: "olga"}, 401},
		{"bad name", rest.Setup{Token: "bs1_setup", Name: "Olga O"}, 422},
		{"reserved name", rest.Setup{Token: "bs1_setup", Name: "berth"}, 422},
		{"long name", rest.Setup{Token: "bs1_setup", Name: strings.Repeat("x", 33)}, 422},
		{"bad e-mail", rest.Setup{Token: "bs1_setup", Name: "olga", Email: "olga"}, 422},
		{"newline in full name", rest.Setup{Token: "bs1_setup", Name: "olga", FullName: "Olga\nX"}, 422},
		{"no JSON", "{", 400},
		{"unknown field", `{"token":"bs1_setup","name":"olga","admin":true}`, 422},
		{"nothing", "", 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := w.do("", "POST", "/setup", tt.body)
			if a.status != tt.status || strings.Contains(a.problem(t).Detail, "bs1_") {
				t.Errorf("got %d %s", a.status, a.body)
			}
		})
	}
	lost := get[rest.CreatedUser](w, "", "POST", "/setup", rest.Setup{Token: "bs1_setup", Name: "olga", FullName: "Olga O"})
	if a := w.do("", "POST", "/setup", rest.Setup{Token: "bs1_setup", Name: "eve"}); a.status != 409 || !strings.Contains(a.body, "--name olga") {
		t.Errorf("a second first owner: %d %s", a.status, a.body)
	}
	// The answer may have been lost: the same again gives the same owner another token.
	made := get[rest.CreatedUser](w, "", "POST", "/setup", rest.Setup{Token: "bs1_setup\n", Name: "olga", FullName: "Olga O"})
	if made.User.Role != coordinator.RoleOwner || !strings.HasPrefix(made.Token, "bt1_") {
		t.Errorf("got %+v", made)
	}
	w.tokens["lost"], w.tokens["olga"] = lost.Token, made.Token
	if a := w.do("lost", "GET", "/whoami", nil); a.status != 401 || made.User.ID != lost.User.ID {
		t.Errorf("the former token: %d %s", a.status, a.body)
	}
	if me := get[rest.Whoami](w, "olga", "GET", "/whoami", nil); me.Name != "olga" || me.Workspace != "" {
		t.Errorf("whoami: %+v", me)
	}
	if a := w.do("", "POST", "/setup", rest.Setup{Token: "bs1_setup", Name: "eve"}); a.status != 409 {
		t.Errorf("the token works twice: %d %s", a.status, a.body)
	}
	w.setup.offer(t) // even a token that came back makes nobody an owner
	for _, name := range []string{"eve", "olga"} {
		if a := w.do("", "POST", "/setup", rest.Setup{Token: "bs1_setup", Name: name}); a.status != 409 {
			t.Errorf("%s by a token that came back: %d %s", name, a.status, a.body)
		}
	}
	if s := get[rest.Server](w, "", "GET", "/server", nil); !s.SetUp {
		t.Error("not set up after the setup")
	}
}

// A timedWriter notes the last deadline for reading that was set.
type timedWriter struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (w *timedWriter) SetReadDeadline(t time.Time) error {
	w.deadline = t
	return nil
}

// TestBodyHasToArrive: a body that is announced and never sent does not hold its connection for ever, signed in or not.
func TestBodyHasToArrive(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		method, path, body string
		limited            bool
	}{
		{"POST", "/api/v1/tokens", "{}", true},
		{"POST", "/nowhere", "x", true},
		{"GET", "/api/v1/whoami", "", false},
		{"POST", "/api/v1/tokens", "", false},
	} {
		r := httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body))
		rec := &timedWriter{ResponseRecorder: httptest.NewRecorder()}
		w.Config.Handler.ServeHTTP(rec, r)
		if left := time.Until(rec.deadline); (left > 0 && left <= bodyTime) != tt.limited {
			t.Errorf("%s %s: status %d, %v left to read", tt.method, tt.path, rec.Code, left)
		}
	}
}
