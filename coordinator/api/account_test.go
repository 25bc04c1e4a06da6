package api

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/coordinator"
	"berth/coordinator/rest"
)

func newSigner(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s, string(ssh.MarshalAuthorizedKey(s.PublicKey()))
}

func prove(t *testing.T, s ssh.Signer, user coordinator.UserID) string {
	t.Helper()
	sig, err := s.Sign(rand.Reader, rest.KeyProof(user, s.PublicKey().Marshal()))
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(ssh.Marshal(sig))
}

func TestKeys(t *testing.T) {
	w := newWorld(t).populate()
	s, line := newSigner(t)
	git := get[rest.GitKey](w, "member", "GET", "/keys/git", nil)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	w.check(err)
	weakPub, err := ssh.NewPublicKey(&weak.PublicKey)
	w.check(err)
	proof := prove(t, s, w.member.ID)
	for _, tt := range []struct {
		name string
		body rest.AddKey
		want string
	}{
		{"no proof", rest.AddKey{PublicKey: line}, "proof"},
		{"another's proof", rest.AddKey{PublicKey: line, Proof: prove(t, s, w.other.ID)}, "proof"},
		{"garbled proof", rest.AddKey{PublicKey: line, Proof: "AAAA"}, "proof"},
		{"no key", rest.AddKey{PublicKey: "hello", Proof: proof}, "not usable"},
		{"private key", rest.AddKey{PublicKey: "-----BEGIN OPENSSH PRIVATE KEY-----", Proof: proof}, "private key"},
		{"options", rest.AddKey{PublicKey: `command="x" ` + line, Proof: proof}, "not usable"},
		{"two keys", rest.AddKey{PublicKey: line + line, Proof: proof}, "more than one line"},
		{"weak key", rest.AddKey{PublicKey: string(ssh.MarshalAuthorizedKey(weakPub)), Proof: proof}, "2048"},
		{"Git key", rest.AddKey{PublicKey: git.PublicKey, Proof: proof}, "proof"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := w.do("member", "POST", "/keys", tt.body)
			if a.status != 422 || !strings.Contains(a.problem(t).Detail, tt.want) {
				t.Errorf("got %d %s", a.status, a.body)
			}
		})
	}
	k := get[rest.Key](w, "member", "POST", "/keys", rest.AddKey{PublicKey: strings.TrimSpace(line) + " laptop", Proof: proof, Device: true})
	if k.Name != "laptop" || !k.Device || k.Fingerprint != ssh.FingerprintSHA256(s.PublicKey()) {
		t.Errorf("got %+v", k)
	}
	if w.hub.changed[w.dev.ID] != 1 {
		t.Error("the workspace's agent is not told")
	}
	a := w.do("other", "POST", "/keys", rest.AddKey{PublicKey: line, Proof: prove(t, s, w.other.ID)})
	if a.status != 409 || strings.Contains(a.body, "mary") {
		t.Errorf("a key of two users: %d %s", a.status, a.body)
	}
	if a := w.do("other", "DELETE", "/keys/"+string(k.ID), nil); a.status != 404 {
		t.Errorf("another's key is deleted: %d", a.status)
	}
	if list := get[rest.Page[rest.Key]](w, "member", "GET", "/keys", nil); len(list.Items) != 1 {
		t.Errorf("got %+v", list)
	}
	// The device's key goes with its token.
	if a := w.do("member", "DELETE", "/tokens/current", nil); a.status != 204 {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if keys, err := w.store.Keys(t.Context(), w.member.ID); err != nil || len(keys) != 0 {
		t.Errorf("left: %v, %v", keys, err)
	}
	if a := w.do("member", "GET", "/whoami", nil); a.status != 401 {
		t.Errorf("the revoked token works: %d", a.status)
	}
}

func TestTokens(t *testing.T) {
	w := newWorld(t).populate()
	made := get[rest.CreatedToken](w, "member", "POST", "/tokens", rest.CreateToken{Name: "ci", Lifetime: 60})
	if d := time.Until(made.Expires); d > time.Minute || d < 50*time.Second {
		t.Errorf("expires in %v", d)
	}
	w.tokens["ci"] = made.Secret
	list := get[rest.Page[rest.Token]](w, "ci", "GET", "/tokens", nil)
	i := slices.IndexFunc(list.Items, func(x rest.Token) bool { return x.Current })
	if len(list.Items) != 2 || i < 0 || list.Items[i].Name != "ci" {
		t.Errorf("got %+v", list.Items)
	}
	for _, body := range []any{`{"name":""}`, `{"name":"x","lifetime":-1}`, `{"name":"x","lifetime":999999999999}`} {
		if a := w.do("member", "POST", "/tokens", body); a.status != 422 {
			t.Errorf("%s: %d", body, a.status)
		}
	}
	if a := w.do("other", "DELETE", "/tokens/"+string(made.ID), nil); a.status != 404 {
		t.Errorf("another's token is deleted: %d", a.status)
	}
	if a := w.do("member", "DELETE", "/tokens/"+string(made.ID), nil); a.status != 204 {
		t.Errorf("got %d", a.status)
	}
}

func TestSecrets(t *testing.T) {
	w := newWorld(t).populate()
	const value = "s3cr3t-value"
	for _, tt := range []struct {
		name   string
		secret string
		body   rest.PutSecret
		status int
	}{
		{"variable", "npm", rest.PutSecret{Env: "NPM_TOKEN", Value: value}, 200},
		{"file", "netrc", rest.PutSecret{File: ".netrc", Value: value}, 422},
		{"file, visible", "netrc", rest.PutSecret{File: "netrc", Value: value}, 200},
		{"both", "x", rest.PutSecret{Env: "A", File: "a", Value: value}, 422},
		{"neither", "x", rest.PutSecret{Value: value}, 422},
		{"our variable", "x", rest.PutSecret{Env: "BERTH_TOKEN", Value: value}, 422},
		{"bad variable", "x", rest.PutSecret{Env: "A-B", Value: value}, 422},
		{"directory", "x", rest.PutSecret{File: "../x", Value: value}, 422},
		{"same variable", "npm2", rest.PutSecret{Env: "NPM_TOKEN", Value: value}, 409},
		{"zero byte", "x", rest.PutSecret{Env: "A", Value: "a\x00"}, 422},
		{"too long", "x", rest.PutSecret{Env: "A", Value: strings.Repeat(value, 10000)}, 422},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := w.do("member", "PUT", "/secrets/"+tt.secret, tt.body)
			if a.status != tt.status || strings.Contains(a.body, value) {
				t.Errorf("got %d %.300s", a.status, a.body)
			}
		})
	}
	a := w.do("member", "GET", "/secrets", nil)
	if strings.Contains(a.body, value) || !strings.Contains(a.body, "NPM_TOKEN") {
		t.Errorf("got %s", a.body)
	}
	if strings.Contains(w.logs.String(), value) {
		t.Error("a secret stands in the log")
	}
	if list := get[rest.Page[rest.Secret]](w, "other", "GET", "/secrets", nil); len(list.Items) != 0 {
		t.Errorf("another sees %+v", list)
	}
	if a := w.do("member", "DELETE", "/secrets/npm", nil); a.status != 204 {
		t.Errorf("got %d", a.status)
	}
	if a := w.do("member", "DELETE", "/secrets/npm", nil); a.status != 404 {
		t.Errorf("got %d", a.status)
	}
}

// TestSecretsTogether checks that a user cannot store more than a manifest holds.
func TestSecretsTogether(t *testing.T) {
	w := newWorld(t).populate()
	status := 200
	n := 0
	for ; n < coordinator.MaxSecrets && status == 200; n++ {
		name := string(rune('A'+n/26)) + string(rune('A'+n%26))
		status = w.do("member", "PUT", "/secrets/"+name, rest.PutSecret{Env: name, Value: strings.Repeat("\x01", 60<<10)}).status
	}
	if status != 413 || n > 10 {
		t.Errorf("%d after %d secrets", status, n)
	}
}

func TestDotfiles(t *testing.T) {
	for _, tt := range []struct {
		url string
		ok  bool
	}{
		{"", true},
		{"https://github.com/me/dotfiles", true},
		{"git@github.com:me/dotfiles.git", true},
		{"github.com:me/dotfiles.git", true},
		{"ssh://git@host:2222/me/dotfiles", true},
		{"git://127.0.0.1:7081/sample", true},
		{"file:///srv/dotfiles", true},
		{"/srv/dotfiles", true},
		{"ext::sh -c id", false},
		{"ext::sh", false},
		{"--upload-pack=id", false},
		{"-oProxyCommand=id:x", false},
		{"ssh://-oProxyCommand=id/x", false},
		{"https://host/$(id)", false},
		{"https://host/`id`", false},
		{"https://me:secret@host/x", false},
		{"ftp://host/x", false},
		{"dotfiles", false},
		{"https://host/a b", false},
		{"https://host/a\nb", false},
	} {
		if err := checkRepository(tt.url); (err == nil) != tt.ok {
			t.Errorf("%q: %v", tt.url, err)
		}
	}
	w := newWorld(t).populate()
	get[rest.Dotfiles](w, "member", "PUT", "/dotfiles", rest.Dotfiles{URL: "https://github.com/me/dotfiles"})
	if d := get[rest.Dotfiles](w, "member", "GET", "/dotfiles", nil); d.URL != "https://github.com/me/dotfiles" {
		t.Errorf("got %+v", d)
	}
	script := "#!/bin/sh\n"
	get[rest.Personalize](w, "member", "PUT", "/personalize", rest.Personalize{Script: &script})
	if p := get[rest.Personalize](w, "member", "GET", "/personalize", nil); p.Script == nil || *p.Script != script {
		t.Errorf("got %+v", p)
	}
	get[rest.Personalize](w, "member", "PUT", "/personalize", `{"script":null}`)
	if p := get[rest.Personalize](w, "member", "GET", "/personalize", nil); p.Script != nil {
		t.Errorf("got %+v", p)
	}
	if w.hub.changed[w.dev.ID] != 3 {
		t.Errorf("the agent was told %d times", w.hub.changed[w.dev.ID])
	}
}

func TestUsers(t *testing.T) {
	w := newWorld(t).populate()
	_, line := newSigner(t)
	made := get[rest.CreatedUser](w, "owner", "POST", "/users", rest.CreateUser{Name: "nina", SSHKeys: []string{line}})
	if made.User.Role != coordinator.RoleMember {
		t.Errorf("got %+v", made)
	}
	w.tokens["nina"] = made.Token
	if a := w.do("nina", "GET", "/users", nil); a.status != 403 {
		t.Errorf("a member lists users: %d", a.status)
	}
	for _, tt := range []struct {
		name   string
		body   any
		status int
	}{
		{"taken name", rest.CreateUser{Name: "nina"}, 409},
		{"taken key", rest.CreateUser{Name: "nora", SSHKeys: []string{line}}, 409},
		{"bad key", rest.CreateUser{Name: "nora", SSHKeys: []string{"x"}}, 422},
		{"unknown role", `{"name":"nora","role":"king"}`, 422},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if a := w.do("owner", "POST", "/users", tt.body); a.status != tt.status {
				t.Errorf("got %d %s", a.status, a.body)
			}
		})
	}
	if _, err := w.store.UserByName(t.Context(), "nora"); coordinator.CodeOf(err) != coordinator.CodeNotFound {
		t.Errorf("half a user is left: %v", err)
	}
	var names []string
	for cursor := ""; ; {
		p := get[rest.Page[rest.User]](w, "owner", "GET", "/users?limit=2&cursor="+cursor, nil)
		for _, u := range p.Items {
			names = append(names, u.Name)
		}
		if cursor = p.Next; cursor == "" {
			break
		}
	}
	if want := []string{"mary", "nina", "olga", "otto"}; !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
	if a := w.do("owner", "GET", "/users?cursor=%25", nil); a.status != 422 {
		t.Errorf("a bad cursor: %d %s", a.status, a.body)
	}
	if a := w.do("owner", "DELETE", "/users/mary", nil); a.status != 409 {
		t.Errorf("a user with workspaces is deleted: %d %s", a.status, a.body)
	}
	if a := w.do("owner", "DELETE", "/users/olga", nil); a.status != 409 {
		t.Errorf("the last owner is deleted: %d %s", a.status, a.body)
	}
	if a := w.do("owner", "DELETE", "/users/nina", nil); a.status != 204 {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if a := w.do("nina", "GET", "/whoami", nil); a.status != 401 {
		t.Errorf("a deleted user's token works: %d", a.status)
	}
}
