package sqlite

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"berth/coordinator"
)

func TestUsers(t *testing.T) {
	s := newStore(t)
	git := coordinator.GitKey{PrivateKey: "private", PublicKey: keyLine() + " alice@berth", Created: noon}
	u := coordinator.User{Name: "alice", FullName: "Alice A.", Email: "a@example.com", Role: coordinator.RoleOwner, Created: noon}
	ok(t, s.CreateUser(ctx, &u, git))
	if u.ID == "" || u.HostUID == 0 {
		t.Errorf("created %+v", u)
	}
	code(t, s.CreateUser(ctx, &coordinator.User{Name: "alice"}, coordinator.GitKey{PublicKey: keyLine()}), coordinator.CodeConflict)
	if diff := cmp.Diff(u, must(s.User(ctx, u.ID))(t)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(u, must(s.UserByName(ctx, "alice"))(t)); diff != "" {
		t.Error(diff)
	}
	git.UserID = u.ID
	if diff := cmp.Diff(git, must(s.GitKey(ctx, u.ID))(t)); diff != "" {
		t.Error(diff)
	}
	script := "#!/bin/sh\necho hi\n"
	ok(t, s.SetDotfiles(ctx, u.ID, "https://example.com/dots"))
	ok(t, s.SetPersonalize(ctx, u.ID, &script))
	if got := must(s.User(ctx, u.ID))(t); got.Dotfiles != "https://example.com/dots" || got.Personalize == nil || *got.Personalize != script {
		t.Errorf("got %+v", got)
	}
	ok(t, s.SetPersonalize(ctx, u.ID, nil))
	if got := must(s.User(ctx, u.ID))(t); got.Personalize != nil {
		t.Errorf("personalize is still %q", *got.Personalize)
	}
	long := strings.Repeat("x", coordinator.MaxPersonalize+1)
	code(t, s.SetPersonalize(ctx, u.ID, &long), coordinator.CodeTooLarge)
	code(t, s.SetDotfiles(ctx, "nobody", ""), coordinator.CodeNotFound)
	code(t, s.SetPersonalize(ctx, "nobody", nil), coordinator.CodeNotFound)
	for name, err := range map[string]error{
		"id":   second(s.User(ctx, "nobody")),
		"name": second(s.UserByName(ctx, "nobody")),
		"git":  second(s.GitKey(ctx, "nobody")),
		"gone": s.DeleteUser(ctx, "nobody"),
	} {
		if coordinator.CodeOf(err) != coordinator.CodeNotFound {
			t.Errorf("%s: %v", name, err)
		}
	}

	for _, name := range []string{"carol", "bob", "dave"} {
		newUser(t, s, name)
	}
	name := func(u coordinator.User) string { return u.Name }
	if got := names(must(s.Users(ctx, "", 3))(t), name); got != "alice bob carol" {
		t.Errorf("first page: %s", got)
	}
	if got := names(must(s.Users(ctx, "carol", 3))(t), name); got != "dave" {
		t.Errorf("second page: %s", got)
	}
	if n := must(s.CountUsers(ctx))(t); n != 4 {
		t.Errorf("%d users", n)
	}
}

func second[T any](_ T, err error) error { return err }

func admission(name string, hash byte, keys ...coordinator.SSHKey) *coordinator.Admission {
	return &coordinator.Admission{
		User: coordinator.User{Name: name, Role: coordinator.RoleOwner}, Git: coordinator.GitKey{PublicKey: keyLine()}, Keys: keys,
		Token: coordinator.Token{Name: "laptop"}, Hash: [32]byte{hash}, Entry: coordinator.AuditEntry{Action: "user.create", Target: name},
	}
}

func TestFirstUserOnce(t *testing.T) {
	s := newStore(t)
	ok(t, s.PutSealed(ctx, SetupToken, []byte("x")))
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { errs[i] = s.AdmitFirst(ctx, admission(fmt.Sprint("u", i), byte(i))) })
	}
	wg.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else {
			code(t, err, coordinator.CodeConflict)
		}
	}
	if made != 1 {
		t.Errorf("%d first users", made)
	}
}

// TestFirstUserAgain repeats the setup, whose answer may have been lost, until the token of an answer was used.
func TestFirstUserAgain(t *testing.T) {
	s := newStore(t)
	ok(t, s.PutSealed(ctx, SetupToken, []byte("x")))
	first := admission("olga", 1)
	ok(t, s.AdmitFirst(ctx, first))
	second := admission("olga", 2)
	ok(t, s.AdmitFirst(ctx, second))
	if diff := cmp.Diff(first.User, second.User); diff != "" || first.Token.ID == second.Token.ID {
		t.Errorf("the second time: %+v, %s", second.Token, diff)
	}
	_, _, err := s.TokenByHash(ctx, first.Hash, time.Now())
	code(t, err, coordinator.CodeUnauthenticated)
	if _, u, err := s.TokenByHash(ctx, second.Hash, time.Now()); err != nil || u.ID != first.User.ID {
		t.Errorf("the second token: %+v, %v", u, err)
	}
	code(t, s.AdmitFirst(ctx, admission("eve", 3)), coordinator.CodeConflict)
	log := must(s.AuditEntries(ctx, coordinator.AuditFilter{}, 0, 0))(t)
	if got := names(log, func(e coordinator.AuditEntry) string { return e.Action + ":" + e.ActorName }); got != "token.create:olga user.create:olga" {
		t.Errorf("written down: %s", got)
	}

	for name, spent := range map[string]func(s *Store, a *coordinator.Admission){
		"the token was used":      func(s *Store, a *coordinator.Admission) { ok(t, s.TouchToken(ctx, a.Token.ID, time.Now())) },
		"the setup token is gone": func(s *Store, _ *coordinator.Admission) { ok(t, s.DeleteSealed(ctx, SetupToken)) },
		"there is a second user":  func(s *Store, _ *coordinator.Admission) { newUser(t, s, "otto") },
		"used, and then revoked": func(s *Store, a *coordinator.Admission) {
			ok(t, s.DeleteSealed(ctx, SetupToken))
			ok(t, s.DeleteToken(ctx, a.User.ID, a.Token.ID))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			ok(t, s.PutSealed(ctx, SetupToken, []byte("x")))
			a := admission("olga", 1)
			ok(t, s.AdmitFirst(ctx, a))
			spent(s, a)
			code(t, s.AdmitFirst(ctx, admission("olga", 2)), coordinator.CodeConflict)
		})
	}
}

// TestAdmitAllOrNothing makes each part of an admission fail: nobody may be left of it.
func TestAdmitAllOrNothing(t *testing.T) {
	s := newStore(t)
	other := newUser(t, s, "otto")
	taken := coordinator.SSHKey{UserID: other.ID, Name: "k", PublicKey: keyLine(), Fingerprint: "SHA256:taken"}
	ok(t, s.AddKey(ctx, &taken))
	gone, cancel := context.WithCancel(ctx)
	cancel()
	free := coordinator.SSHKey{Name: "free", PublicKey: keyLine(), Fingerprint: "SHA256:free"}
	for _, tt := range []struct {
		name string
		ctx  context.Context
		a    *coordinator.Admission
		sql  string
	}{
		{"ended context", gone, admission("olga", 1, free), ""},
		{"taken name", ctx, admission("otto", 1, free), ""},
		{"taken key", ctx, admission("olga", 1, free, taken), ""},
		{"no token", ctx, admission("olga", 1, free), `CREATE TEMP TRIGGER no BEFORE INSERT ON main.tokens BEGIN SELECT raise(ABORT, 'no'); END`},
		{"no entry", ctx, admission("olga", 1, free), `CREATE TEMP TRIGGER no BEFORE INSERT ON main.audit BEGIN SELECT raise(ABORT, 'no'); END`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.sql != "" {
				must(s.write.Exec(tt.sql))(t)
				defer s.write.Exec(`DROP TRIGGER temp.no`) //nolint:errcheck // the next statement tells
			}
			if err := s.Admit(tt.ctx, tt.a); err == nil || tt.a.User.ID != "" || tt.a.Token.ID != "" || tt.a.Keys[0].ID != "" {
				t.Errorf("%v: %+v", err, tt.a)
			}
			for table, want := range map[string]int{"users": 1, "ssh_keys": 1, "git_keys": 1, "tokens": 0, "audit": 0} {
				if n := rowCount(t, s, `SELECT count(*) FROM `+table); n != want {
					t.Errorf("%d rows in %s, want %d", n, table, want)
				}
			}
		})
	}
	a := admission("olga", 1, free)
	a.Entry.Actor, a.Entry.ActorName = other.ID, "otto"
	ok(t, s.Admit(ctx, a))
	if keys := must(s.Keys(ctx, a.User.ID))(t); len(keys) != 1 || keys[0].ID != a.Keys[0].ID {
		t.Errorf("keys %+v", keys)
	}
	got, of, err := s.TokenByHash(ctx, a.Hash, time.Now())
	ok(t, err)
	if got.ID != a.Token.ID || of.ID != a.User.ID {
		t.Errorf("token %+v of %+v", got, of)
	}
	if log := must(s.AuditEntries(ctx, coordinator.AuditFilter{}, 0, 0))(t); len(log) != 1 || log[0].ActorName != "otto" {
		t.Errorf("written down: %+v", log)
	}
}

func TestDeleteUser(t *testing.T) {
	w := newWorld(t)
	owner := coordinator.User{Name: "root", Role: coordinator.RoleOwner}
	ok(t, w.CreateUser(ctx, &owner, coordinator.GitKey{PublicKey: keyLine()}))
	err := w.DeleteUser(ctx, w.user.ID)
	code(t, err, coordinator.CodeConflict)
	if err == nil || !strings.Contains(err.Error(), "1 workspace") {
		t.Errorf("got %v", err)
	}
	code(t, w.DeleteUser(ctx, owner.ID), coordinator.CodeConflict)

	bob := newUser(t, w.Store, "bob")
	tok := coordinator.Token{UserID: bob.ID, Name: "laptop"}
	_, hash := coordinator.NewAPIToken(coordinator.APITokenPrefix)
	ok(t, w.CreateToken(ctx, &tok, hash))
	ok(t, w.AddKey(ctx, &coordinator.SSHKey{UserID: bob.ID, Name: "k", Fingerprint: "SHA256:bob", TokenID: tok.ID}))
	ok(t, w.PutSecret(ctx, coordinator.UserSecret{UserID: bob.ID, Name: "s", Env: "S"}))
	ok(t, w.DeleteUser(ctx, bob.ID))
	for _, table := range []string{"tokens", "ssh_keys", "user_secrets"} {
		if n := rowCount(t, w.Store, "SELECT count(*) FROM "+table); n != 0 {
			t.Errorf("%s: %d rows are left", table, n)
		}
	}
	if n := rowCount(t, w.Store, "SELECT count(*) FROM git_keys WHERE user_id = ?", bob.ID); n != 0 {
		t.Error("the Git key is left")
	}
	// A uid is not given again, for files of the one who had it may be left.
	if eve := newUser(t, w.Store, "eve"); eve.HostUID <= bob.HostUID {
		t.Errorf("uid %d was given again as %d", bob.HostUID, eve.HostUID)
	}
}

func TestKeys(t *testing.T) {
	s := newStore(t)
	alice, bob := newUser(t, s, "alice"), newUser(t, s, "bob")
	k := coordinator.SSHKey{UserID: alice.ID, Name: "laptop", PublicKey: keyLine(), Fingerprint: "SHA256:one", Created: noon}
	ok(t, s.AddKey(ctx, &k))
	u, got, err := s.UserByFingerprint(ctx, "SHA256:one")
	ok(t, err)
	if diff := cmp.Diff(k, got); diff != "" || u.ID != alice.ID {
		t.Errorf("user %s, %s", u.Name, diff)
	}
	for _, who := range []coordinator.UserID{alice.ID, bob.ID} {
		err := s.AddKey(ctx, &coordinator.SSHKey{UserID: who, Name: "again", Fingerprint: "SHA256:one"})
		code(t, err, coordinator.CodeConflict)
		if err != nil && strings.Contains(err.Error(), "alice") {
			t.Errorf("the message tells whose key it is: %v", err)
		}
	}
	git := must(s.GitKey(ctx, bob.ID))(t)
	code(t, s.AddKey(ctx, &coordinator.SSHKey{UserID: bob.ID, Name: "git", Fingerprint: fingerprint(git.PublicKey)}), coordinator.CodeConflict)
	_, _, err = s.UserByFingerprint(ctx, fingerprint(git.PublicKey))
	code(t, err, coordinator.CodeNotFound)

	ok(t, s.TouchKey(ctx, k.ID, noon))
	ok(t, s.TouchKey(ctx, k.ID, noon.Add(59*time.Second)))
	if ks := must(s.Keys(ctx, alice.ID))(t); len(ks) != 1 || !ks[0].LastUsed.Equal(noon) {
		t.Errorf("last used within a minute: %+v", ks)
	}
	ok(t, s.TouchKey(ctx, k.ID, noon.Add(time.Minute)))
	if ks := must(s.Keys(ctx, alice.ID))(t); !ks[0].LastUsed.Equal(noon.Add(time.Minute)) {
		t.Errorf("last used after a minute: %+v", ks)
	}

	for i := 1; i < coordinator.MaxKeys; i++ {
		ok(t, s.AddKey(ctx, &coordinator.SSHKey{UserID: alice.ID, Name: fmt.Sprint("k", i/2), Fingerprint: fmt.Sprint("SHA256:", i)}))
	}
	code(t, s.AddKey(ctx, &coordinator.SSHKey{UserID: alice.ID, Fingerprint: "SHA256:more"}), coordinator.CodeConflict)

	for _, tt := range []struct {
		user coordinator.UserID
		ref  string
		want coordinator.Code
	}{
		{bob.ID, string(k.ID), coordinator.CodeNotFound},
		{bob.ID, "laptop", coordinator.CodeNotFound},
		{alice.ID, "nothing", coordinator.CodeNotFound},
		{alice.ID, "k1", coordinator.CodeConflict}, // two of that name
		{alice.ID, "SHA256:2", ""},
		{alice.ID, "k1", ""},
		{alice.ID, string(k.ID), ""},
		{alice.ID, string(k.ID), coordinator.CodeNotFound},
	} {
		code(t, s.DeleteKey(ctx, tt.user, tt.ref), tt.want)
	}
	if n := len(must(s.Keys(ctx, alice.ID))(t)); n != coordinator.MaxKeys-3 {
		t.Errorf("%d keys are left", n)
	}
}

func TestSecrets(t *testing.T) {
	s := newStore(t)
	alice, bob := newUser(t, s, "alice"), newUser(t, s, "bob")
	a := coordinator.UserSecret{UserID: alice.ID, Name: "a", Env: "TOKEN", Value: "va", Updated: noon}
	b := coordinator.UserSecret{UserID: alice.ID, Name: "b", File: "id", Value: "vb", Updated: noon}
	ok(t, s.PutSecret(ctx, b))
	ok(t, s.PutSecret(ctx, a))
	if diff := cmp.Diff([]coordinator.UserSecret{a, b}, must(s.Secrets(ctx, alice.ID, true))(t)); diff != "" {
		t.Error(diff)
	}
	for _, v := range must(s.Secrets(ctx, alice.ID, false))(t) {
		if v.Value != "" {
			t.Errorf("a listing without values has %s's", v.Name)
		}
	}
	a.Value = "new"
	ok(t, s.PutSecret(ctx, a))
	if got := must(s.Secrets(ctx, alice.ID, true))(t); got[0].Value != "new" {
		t.Errorf("got %s", string(got[0].Value))
	}
	code(t, s.PutSecret(ctx, coordinator.UserSecret{UserID: alice.ID, Name: "c", Env: "TOKEN"}), coordinator.CodeConflict)
	code(t, s.PutSecret(ctx, coordinator.UserSecret{UserID: alice.ID, Name: "c", File: "id"}), coordinator.CodeConflict)
	ok(t, s.PutSecret(ctx, coordinator.UserSecret{UserID: bob.ID, Name: "c", Env: "TOKEN"}))
	long := coordinator.UserSecret{UserID: alice.ID, Name: "l", Env: "L", Value: coordinator.Secret(strings.Repeat("x", coordinator.MaxSecretValue+1))}
	code(t, s.PutSecret(ctx, long), coordinator.CodeTooLarge)
	for i := len(must(s.Secrets(ctx, bob.ID, false))(t)); i < coordinator.MaxSecrets; i++ {
		ok(t, s.PutSecret(ctx, coordinator.UserSecret{UserID: bob.ID, Name: fmt.Sprint(i), Env: fmt.Sprint("E", i)}))
	}
	code(t, s.PutSecret(ctx, coordinator.UserSecret{UserID: bob.ID, Name: "more", Env: "MORE"}), coordinator.CodeConflict)
	ok(t, s.PutSecret(ctx, coordinator.UserSecret{UserID: bob.ID, Name: "c", Env: "TOKEN", Value: "replacing is no more"}))

	code(t, s.DeleteSecret(ctx, bob.ID, "a"), coordinator.CodeNotFound)
	ok(t, s.DeleteSecret(ctx, alice.ID, "a"))
	code(t, s.DeleteSecret(ctx, alice.ID, "a"), coordinator.CodeNotFound)
}

func TestTokens(t *testing.T) {
	w := newWorld(t)
	mint := func(tok *coordinator.Token) [32]byte {
		_, hash := coordinator.NewAPIToken(coordinator.APITokenPrefix)
		ok(t, w.CreateToken(ctx, tok, hash))
		return hash
	}
	tok := coordinator.Token{UserID: w.user.ID, Name: "laptop", Created: noon, Expires: noon.Add(time.Hour)}
	hash := mint(&tok)
	got, u, err := w.TokenByHash(ctx, hash, noon.Add(time.Hour-time.Millisecond))
	ok(t, err)
	if diff := cmp.Diff(tok, got); diff != "" || u.ID != w.user.ID {
		t.Errorf("user %s, %s", u.Name, diff)
	}
	_, _, err = w.TokenByHash(ctx, hash, noon.Add(time.Hour))
	code(t, err, coordinator.CodeUnauthenticated)
	_, _, err = w.TokenByHash(ctx, [32]byte{1}, noon)
	code(t, err, coordinator.CodeUnauthenticated)
	if err := w.CreateToken(ctx, &coordinator.Token{UserID: w.user.ID}, hash); err == nil {
		t.Error("one hash was stored twice")
	}

	own := coordinator.Token{UserID: w.user.ID, Name: "workspace", WorkspaceID: w.ws.ID}
	ownHash := mint(&own)
	if got, _, err := w.TokenByHash(ctx, ownHash, noon); err != nil || got.WorkspaceID != w.ws.ID {
		t.Errorf("%+v, %v", got, err)
	}
	if ts := must(w.Tokens(ctx, w.user.ID))(t); len(ts) != 1 || ts[0].ID != tok.ID {
		t.Errorf("listed %+v", ts)
	}
	for range maxWorkspaceTokens {
		mint(&coordinator.Token{UserID: w.user.ID, WorkspaceID: w.ws.ID})
	}
	if n := rowCount(t, w.Store, `SELECT count(*) FROM tokens WHERE workspace_id IS NOT NULL`); n != maxWorkspaceTokens {
		t.Errorf("%d tokens of one workspace", n)
	}
	_, _, err = w.TokenByHash(ctx, ownHash, noon)
	code(t, err, coordinator.CodeUnauthenticated) // the oldest went
	ok(t, w.DeleteWorkspaceTokens(ctx, w.ws.ID))
	if n := rowCount(t, w.Store, `SELECT count(*) FROM tokens`); n != 1 {
		t.Errorf("%d tokens are left, want the user's one", n)
	}

	ok(t, w.TouchToken(ctx, tok.ID, noon))
	ok(t, w.TouchToken(ctx, tok.ID, noon.Add(time.Second)))
	if ts := must(w.Tokens(ctx, w.user.ID))(t); !ts[0].LastUsed.Equal(noon) {
		t.Errorf("last used %v", ts[0].LastUsed)
	}
	bob := newUser(t, w.Store, "bob")
	code(t, w.DeleteToken(ctx, bob.ID, tok.ID), coordinator.CodeNotFound)

	// The device's key goes with its token.
	ok(t, w.AddKey(ctx, &coordinator.SSHKey{UserID: w.user.ID, Fingerprint: "SHA256:device", TokenID: tok.ID}))
	ok(t, w.AddKey(ctx, &coordinator.SSHKey{UserID: w.user.ID, Fingerprint: "SHA256:own"}))
	_, _, err = w.UserByFingerprint(ctx, "SHA256:device")
	code(t, err, coordinator.CodeNotFound) // by the real clock the token has expired
	live := coordinator.Token{UserID: w.user.ID, Name: "live", Expires: time.Now().Add(time.Hour)}
	mint(&live)
	ok(t, w.AddKey(ctx, &coordinator.SSHKey{UserID: w.user.ID, Fingerprint: "SHA256:live", TokenID: live.ID}))
	_, k, err := w.UserByFingerprint(ctx, "SHA256:live")
	ok(t, err)
	if k.TokenID != live.ID {
		t.Errorf("key %+v", k)
	}
	ok(t, w.DeleteToken(ctx, w.user.ID, live.ID))
	ok(t, w.DeleteToken(ctx, w.user.ID, tok.ID))
	code(t, w.DeleteToken(ctx, w.user.ID, tok.ID), coordinator.CodeNotFound)
	fp := func(k coordinator.SSHKey) string { return k.Fingerprint }
	if got := names(must(w.Keys(ctx, w.user.ID))(t), fp); got != "SHA256:own" {
		t.Errorf("keys that are left: %s", got)
	}
	for range maxTokens {
		mint(&coordinator.Token{UserID: w.user.ID})
	}
	code(t, w.CreateToken(ctx, &coordinator.Token{UserID: w.user.ID}, [32]byte{2}), coordinator.CodeConflict)
}
