package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// A request from inside the process is for whom the context says, at every request anew; the records say by which way.
func TestInside(t *testing.T) {
	w := newWorld(t).populate()
	var actor coordinator.Actor
	var gone error
	ask := func(ctx context.Context, method, path, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(ctx, method, rest.Prefix+path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		rec := httptest.NewRecorder()
		w.Config.Handler.ServeHTTP(rec, r)
		return rec
	}
	ctx := Inside(context.Background(), func(context.Context) (coordinator.Actor, error) { return actor, gone })

	actor = coordinator.Actor{User: w.member, Via: "ssh console"}
	if rec := ask(ctx, "GET", "/whoami", ""); rec.Code != http.StatusOK || !strings.Contains(rec.Body.String(), w.member.Name) {
		t.Errorf("whoami: %d %s", rec.Code, rec.Body)
	}
	if rec := ask(ctx, "GET", "/users", ""); rec.Code != http.StatusForbidden {
		t.Errorf("a member lists users: %d", rec.Code)
	}
	if rec := ask(context.Background(), "GET", "/whoami", ""); rec.Code != http.StatusUnauthorized {
		t.Errorf("without an identity: %d", rec.Code)
	}
	if rec := ask(ctx, "PUT", "/dotfiles", `{"url":"https://example.com/d.git"}`); rec.Code != http.StatusOK {
		t.Errorf("dotfiles: %d %s", rec.Code, rec.Body)
	}
	if detail := w.detail; !strings.Contains(detail, "way in: ssh console") {
		t.Errorf("audit detail %q", detail)
	}
	gone = coordinator.Errorf(coordinator.CodeUnauthenticated, "the key is gone")
	if rec := ask(ctx, "GET", "/whoami", ""); rec.Code != http.StatusUnauthorized {
		t.Errorf("with a key that is gone: %d", rec.Code)
	}
}
