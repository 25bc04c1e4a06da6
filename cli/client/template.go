package client

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// Templates lists the templates.
func (c *Client) Templates(ctx context.Context) ([]rest.Template, error) {
	return list[rest.Template](ctx, c, "/templates", nil)
}

// Template returns one template.
func (c *Client) Template(ctx context.Context, name string) (rest.Template, error) {
	var t rest.Template
	return t, c.do(ctx, http.MethodGet, route("templates", name), nil, nil, &t)
}

// DeleteTemplate deletes a template with all its versions.
func (c *Client) DeleteTemplate(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, route("templates", name), nil, nil, nil)
}

// A Push is a new version of a template.
type Push struct {
	Template    string
	Message     string
	Description string // of the template; empty leaves it
	Activate    bool   // once it is imported
	Archive     []byte // tar
}

// PushTemplate makes a template version. It comes back importing.
func (c *Client) PushTemplate(ctx context.Context, p Push) (rest.TemplateVersion, error) {
	var v rest.TemplateVersion
	query := url.Values{"activate": {strconv.FormatBool(p.Activate)}}
	for k, s := range map[string]string{"message": p.Message, "description": p.Description} {
		if s != "" {
			query.Set(k, s)
		}
	}
	req, err := c.request(ctx, http.MethodPost, route("templates", p.Template, "versions"), query, bytes.NewReader(p.Archive))
	if err != nil {
		return v, err
	}
	req.Header.Set("Content-Type", "application/x-tar")
	return v, c.roundTrip(req, &v)
}

// Versions lists the versions of a template, newest first.
func (c *Client) Versions(ctx context.Context, template string) ([]rest.TemplateVersion, error) {
	return list[rest.TemplateVersion](ctx, c, route("templates", template, "versions"), nil)
}

// Version returns one version of a template; 0 is the active one.
func (c *Client) Version(ctx context.Context, template string, number int) (rest.TemplateVersion, error) {
	var v rest.TemplateVersion
	return v, c.do(ctx, http.MethodGet, route("templates", template, "versions", version(number)), nil, nil, &v)
}

func version(number int) string {
	if number == 0 {
		return "active"
	}
	return strconv.Itoa(number)
}

// ActivateVersion makes a version the active one.
func (c *Client) ActivateVersion(ctx context.Context, template string, number int) error {
	return c.do(ctx, http.MethodPost, route("templates", template, "versions", version(number), "activate"), nil, nil, nil)
}

// Archive returns the tar of a version; 0 is the active one.
func (c *Client) Archive(ctx context.Context, template string, number int) ([]byte, error) {
	req, err := c.request(ctx, http.MethodGet, route("templates", template, "versions", version(number), "archive"), nil, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() // only read from
	b, err := io.ReadAll(io.LimitReader(resp.Body, coordinator.MaxArchive+1))
	if err != nil {
		return nil, c.unreachable(err)
	}
	if len(b) > coordinator.MaxArchive {
		return nil, coordinator.Errorf(coordinator.CodeTooLarge, "the archive is larger than %d MiB", coordinator.MaxArchive>>20)
	}
	return b, nil
}

// VersionLog returns the log of a version's import.
func (c *Client) VersionLog(template string, number int) Log {
	return Log{c: c, route: route("templates", template, "versions", version(number), "log")}
}
