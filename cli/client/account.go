package client

import (
	"context"
	"net/http"
	"time"

	"berth/coordinator/rest"
)

// Server describes the installation. It needs no token.
func (c *Client) Server(ctx context.Context) (rest.Server, error) {
	var s rest.Server
	if err := c.do(ctx, http.MethodGet, "/server", nil, nil, &s); err != nil {
		return s, err
	}
	if s.Suffix == "" {
		return s, c.foreign(nil)
	}
	return s, nil
}

// Setup makes the first owner.
func (c *Client) Setup(ctx context.Context, in rest.Setup) (rest.CreatedUser, error) {
	var u rest.CreatedUser
	return u, c.do(ctx, http.MethodPost, "/setup", nil, in, &u)
}

// Whoami returns the caller.
func (c *Client) Whoami(ctx context.Context) (rest.Whoami, error) {
	var w rest.Whoami
	return w, c.do(ctx, http.MethodGet, "/whoami", nil, nil, &w)
}

// Tokens lists the caller's API tokens.
func (c *Client) Tokens(ctx context.Context) ([]rest.Token, error) {
	return list[rest.Token](ctx, c, "/tokens", nil)
}

// CreateToken makes an API token.
func (c *Client) CreateToken(ctx context.Context, in rest.CreateToken) (rest.CreatedToken, error) {
	var t rest.CreatedToken
	return t, c.do(ctx, http.MethodPost, "/tokens", nil, in, &t)
}

// DeleteToken revokes a token by its id; "current" is the one in use.
func (c *Client) DeleteToken(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, route("tokens", id), nil, nil, nil)
}

// Keys lists the caller's SSH public keys.
func (c *Client) Keys(ctx context.Context) ([]rest.Key, error) {
	return list[rest.Key](ctx, c, "/keys", nil)
}

// AddKey registers an SSH public key.
func (c *Client) AddKey(ctx context.Context, in rest.AddKey) (rest.Key, error) {
	var k rest.Key
	return k, c.do(ctx, http.MethodPost, "/keys", nil, in, &k)
}

// DeleteKey removes a key by id, name or fingerprint.
func (c *Client) DeleteKey(ctx context.Context, key string) error {
	return c.do(ctx, http.MethodDelete, route("keys", key), nil, nil, nil)
}

// GitKey returns the public half of the key that the caller's workspaces present to Git hosts.
func (c *Client) GitKey(ctx context.Context) (rest.GitKey, error) {
	var k rest.GitKey
	return k, c.do(ctx, http.MethodGet, "/keys/git", nil, nil, &k)
}

// Secrets lists the caller's secrets, without their values.
func (c *Client) Secrets(ctx context.Context) ([]rest.Secret, error) {
	return list[rest.Secret](ctx, c, "/secrets", nil)
}

// PutSecret stores a secret.
func (c *Client) PutSecret(ctx context.Context, name string, in rest.PutSecret) error {
	return c.do(ctx, http.MethodPut, route("secrets", name), nil, in, nil)
}

// DeleteSecret removes a secret.
func (c *Client) DeleteSecret(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, route("secrets", name), nil, nil, nil)
}

// Dotfiles returns the caller's dotfiles repository.
func (c *Client) Dotfiles(ctx context.Context) (rest.Dotfiles, error) {
	var d rest.Dotfiles
	return d, c.do(ctx, http.MethodGet, "/dotfiles", nil, nil, &d)
}

// PutDotfiles sets the caller's dotfiles repository; an empty URL means none.
func (c *Client) PutDotfiles(ctx context.Context, in rest.Dotfiles) error {
	return c.do(ctx, http.MethodPut, "/dotfiles", nil, in, nil)
}

// Personalize returns the caller's ~/personalize script.
func (c *Client) Personalize(ctx context.Context) (rest.Personalize, error) {
	var p rest.Personalize
	return p, c.do(ctx, http.MethodGet, "/personalize", nil, nil, &p)
}

// PutPersonalize stores the caller's ~/personalize script; nil means none.
func (c *Client) PutPersonalize(ctx context.Context, in rest.Personalize) error {
	return c.do(ctx, http.MethodPut, "/personalize", nil, in, nil)
}

// Users lists the users.
func (c *Client) Users(ctx context.Context) ([]rest.User, error) {
	return list[rest.User](ctx, c, "/users", nil)
}

// CreateUser makes a user and their first token.
func (c *Client) CreateUser(ctx context.Context, in rest.CreateUser) (rest.CreatedUser, error) {
	var u rest.CreatedUser
	return u, c.do(ctx, http.MethodPost, "/users", nil, in, &u)
}

// DeleteUser deletes a user.
func (c *Client) DeleteUser(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, route("users", name), nil, nil, nil)
}

// A Clock compares the server's clock with this machine's.
type Clock struct {
	Ahead time.Duration // how far the server's is ahead, to about a second
	Known bool          // the server told its time
}

// Clock asks the server for its time: the Date header of RFC 9110, section 6.6.1.
func (c *Client) Clock(ctx context.Context) (Clock, error) {
	req, err := c.request(ctx, http.MethodGet, "/server", nil, nil)
	if err != nil {
		return Clock{}, err
	}
	begin := time.Now()
	resp, err := c.send(req)
	if err != nil {
		return Clock{}, err
	}
	defer resp.Body.Close() // only its header is read
	there, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return Clock{}, nil
	}
	half := time.Since(begin) / 2
	// The header has whole seconds, cut off: half of one on the average.
	return Clock{Ahead: there.Add(time.Second / 2).Sub(begin.Add(half)), Known: true}, nil
}
