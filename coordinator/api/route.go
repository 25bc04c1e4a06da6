package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"berth/coordinator"
	"berth/coordinator/rest"
)

const (
	maxJSON  = 1 << 20          // bytes of a JSON body
	bodyTime = 30 * time.Second // for a JSON body to arrive
)

// A route is one row of the table: what it answers to, what the caller needs, and what handles it.
type route struct {
	method, path string
	perm         coordinator.Permission
	summary      string
	add          func(s *server, api huma.API, op huma.Operation)
}

// An option changes how a route is described or served.
type option func(*huma.Operation)

// status sets the status of a success.
func status(code int) option { return func(op *huma.Operation) { op.DefaultStatus = code } }

// typed is a route whose input and output are described by their types.
func typed[I, O any](method, path string, perm coordinator.Permission, summary string,
	h func(context.Context, *I) (*O, error), options ...option,
) route {
	return route{method, path, perm, summary, func(s *server, api huma.API, op huma.Operation) {
		for _, o := range options {
			o(&op)
		}
		what := op.Method + " " + op.Path
		huma.Register(api, op, func(ctx context.Context, in *I) (*O, error) {
			out, err := h(ctx, in)
			return out, s.fail(ctx, what, err)
		})
	}}
}

// register adds every route to the mux. It panics for a route without a permission: one that nobody thought about
// must not be served.
func (s *server) register(mux *http.ServeMux, routes []route) {
	cfg := huma.DefaultConfig("Berth", s.Server.Version)
	cfg.Info.Description = "Errors are problems of RFC 9457 with a stable code and a hint. Listings page by cursor."
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath, cfg.CreateHooks = "", "", "", nil
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"bearer": {Type: "http", Scheme: "bearer"}}
	api := humago.New(mux, cfg)
	for _, r := range routes {
		if !known(r.perm) {
			panic(fmt.Sprintf("route %s %s has no permission", r.method, r.path))
		}
		op := huma.Operation{
			OperationID: operationID(r.method, r.path), Method: r.method, Path: r.path, Summary: r.summary,
			Description:  "Needs the permission " + string(r.perm) + ".",
			MaxBodyBytes: maxJSON, BodyReadTimeout: bodyTime,
			Middlewares: huma.Middlewares{s.authorize(r.perm)},
		}
		if r.perm != coordinator.PermPublic {
			op.Security = []map[string][]string{{"bearer": {}}}
		}
		r.add(s, api, op)
	}
	document, err := api.OpenAPI().MarshalJSON()
	if err != nil {
		panic(fmt.Sprintf("describe the API: %v", err)) // only a wrong type of a handler can do this
	}
	mux.HandleFunc("GET "+rest.Prefix+"/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(document)
	})
}

func known(p coordinator.Permission) bool {
	switch p {
	case coordinator.PermPublic, coordinator.PermRead, coordinator.PermStopSelf, coordinator.PermAccount,
		coordinator.PermWorkspace, coordinator.PermConnect, coordinator.PermTemplateAdmin, coordinator.PermUserAdmin,
		coordinator.PermAudit:
		return true
	}
	return false
}

// operationID makes post-workspaces-owner-name-start of a route.
func operationID(method, path string) string {
	path = strings.NewReplacer("{", "", "}", "", "/", "-", ".", "-").Replace(strings.TrimPrefix(path, rest.Prefix))
	return strings.ToLower(method) + path
}

// A streamed output writes its body itself, after headers that it sets.
type streamed struct {
	Body func(huma.Context)
}

// stream makes a streamed output of an ordinary handler.
func stream(h func(w http.ResponseWriter, r *http.Request)) *streamed {
	return &streamed{func(ctx huma.Context) {
		r, w := humago.Unwrap(ctx)
		h(w, r.WithContext(ctx.Context()))
	}}
}

// produces documents the content type of a streamed output.
func produces(contentType string) option {
	return func(op *huma.Operation) {
		code := "200"
		op.Responses = map[string]*huma.Response{code: {
			Description: http.StatusText(http.StatusOK),
			Content:     map[string]*huma.MediaType{contentType: {Schema: &huma.Schema{Type: huma.TypeString}}},
		}}
	}
}

// An Upload is an input that reads its body itself.
type Upload struct{ body io.ReadCloser }

// Resolve takes the body, with its caps in size and time.
func (b *Upload) Resolve(ctx huma.Context) []error {
	r, w := humago.Unwrap(ctx)
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(archiveTime)); err != nil &&
		!errors.Is(err, http.ErrNotSupported) {
		return []error{err}
	}
	b.body = http.MaxBytesReader(w, r.Body, coordinator.MaxArchive)
	return nil
}

// consumes documents the content type of an upload.
func consumes(contentType string) option {
	return func(op *huma.Operation) {
		op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			contentType: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
		}}
	}
}

// size writes a number of bytes for people.
func size(n int64) string {
	if n >= 1<<20 && n%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	if n >= 1<<10 && n%(1<<10) == 0 {
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}
