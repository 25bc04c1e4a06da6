package api

import (
	"context"
	"crypto/subtle"
	"io"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// empty is an input or output that holds nothing.
type empty struct{}

// output is an answer with a body.
type output[T any] struct{ Body T }

func out[T any](body T) *output[T] { return &output[T]{body} }

func (s *server) describe(ctx context.Context, _ *empty) (*output[rest.Server], error) {
	n, err := s.Store.CountUsers(ctx)
	if err != nil {
		return nil, err
	}
	d := s.Server
	d.SetUp = n > 0
	return out(d), nil
}

type setupInput struct {
	Body rest.Setup

	request *http.Request
}

// Resolve keeps the request, whose source is counted when the token is wrong.
func (i *setupInput) Resolve(ctx huma.Context) []error {
	i.request, _ = humago.Unwrap(ctx)
	return nil
}

// setup makes the first owner. The store makes them only if nobody is there, so two requests at once cannot both win.
// The answer holds the only key to the installation and may be lost on its way: the setup token is forgotten once the
// first token has been used (see authenticate), and until then it can be exchanged again.
func (s *server) setup(ctx context.Context, in *setupInput) (*output[rest.CreatedUser], error) {
	want, err := s.Setup.Token(ctx)
	switch {
	case coordinator.CodeOf(err) == coordinator.CodeNotFound:
		return nil, coordinator.Errorf(coordinator.CodeConflict, "this installation is set up already").
			WithHint("run berth login, or ask an owner for an account")
	case err != nil:
		return nil, err
	}
	given := coordinator.HashToken(coordinator.Secret(strings.TrimSpace(in.Body.Token)))
	hash := coordinator.HashToken(want)
	if subtle.ConstantTimeCompare(given[:], hash[:]) != 1 {
		return nil, s.failedAuth(in.request, coordinator.Errorf(coordinator.CodeUnauthenticated, "the setup token is not valid").
			WithHint("it is in the file setup-token in berthd's data directory"))
	}
	created, err := s.admit(ctx, coordinator.Admission{
		User:  coordinator.User{Name: in.Body.Name, FullName: in.Body.FullName, Email: in.Body.Email, Role: coordinator.RoleOwner},
		Token: coordinator.Token{Name: in.Body.Device},
	}, "first owner", s.Store.AdmitFirst)
	if err != nil {
		return nil, err
	}
	return out(created), nil
}

func (s *server) whoami(ctx context.Context, _ *empty) (*output[rest.Whoami], error) {
	a := actor(ctx)
	w := rest.Whoami{User: restUser(a.User)}
	if a.Workspace != "" {
		ws, err := s.Store.Workspace(ctx, a.Workspace)
		if err != nil {
			return nil, err
		}
		w.Workspace = ws.OwnerName + "/" + ws.Name
	}
	return out(w), nil
}

func (s *server) health(context.Context, *empty) (*streamed, error) { return text("ok\n"), nil }

func (s *server) knownHosts(context.Context, *empty) (*streamed, error) {
	return text(s.Server.KnownHosts + "\n"), nil
}

type platformInput struct {
	OS   string `query:"os" enum:"linux" doc:"one platform only"`
	Arch string `query:"arch" enum:"amd64,arm64"`
}

func (s *server) initScript(_ context.Context, in *platformInput) (*streamed, error) {
	script, err := s.Script(in.OS, in.Arch)
	if err != nil {
		return nil, coordinator.Errorf(coordinator.CodeNotFound, "%w", err).WithHint("build berthd with make build or make release")
	}
	return text(script), nil
}

type downloadInput struct {
	SHA256 string `path:"sha256"`
	Name   string `path:"name"`
}

func (s *server) download(context.Context, *downloadInput) (*streamed, error) {
	return stream(s.Dist.ServeHTTP), nil
}

func (s *server) agentLink(context.Context, *empty) (*streamed, error) {
	return stream(s.Link.ServeHTTP), nil
}

// text answers with plain text.
func text(content string) *streamed {
	return stream(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, content)
	})
}

// audit writes down a change of state. A change that cannot be written down is reported as failed, though it was made.
func (s *server) audit(ctx context.Context, a coordinator.Actor, action, target, detail string) error {
	return s.Store.Audit(context.WithoutCancel(ctx), s.entry(a, action, target, detail))
}

// entry is what is written down of a change of state.
func (s *server) entry(a coordinator.Actor, action, target, detail string) coordinator.AuditEntry {
	if a.Via != "" {
		detail = strings.TrimPrefix(detail+"; way in: "+a.Via, "; ")
	}
	return coordinator.AuditEntry{
		Time: s.Now(), Actor: a.User.ID, ActorName: a.User.Name, Action: action, Target: target, Detail: oneLine(detail),
	}
}
