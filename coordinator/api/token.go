package api

import (
	"context"
	"time"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// maxLifetime is how long a token may live that somebody asks for.
const maxLifetime = 10 * 365 * 24 * time.Hour

// mint makes an API token for user and returns its secret, which is stored nowhere.
func (s *server) mint(ctx context.Context, user coordinator.UserID, name string, lifetime time.Duration) (coordinator.Token, string, error) {
	t, secret, hash := s.newToken(user, name, lifetime)
	err := s.Store.CreateToken(ctx, &t, hash)
	return t, secret, err
}

// newToken makes an API token, its secret and the hash under which it is to be stored.
func (s *server) newToken(user coordinator.UserID, name string, lifetime time.Duration) (t coordinator.Token, secret string, hash [32]byte) {
	plain, hash := coordinator.NewAPIToken(coordinator.APITokenPrefix)
	now := s.Now()
	return coordinator.Token{UserID: user, Name: name, Created: now, Expires: now.Add(lifetime)}, string(plain), hash
}

func restToken(current coordinator.TokenID) func(coordinator.Token) rest.Token {
	return func(t coordinator.Token) rest.Token {
		return rest.Token{ID: t.ID, Name: t.Name, Created: t.Created, Expires: t.Expires, LastUsed: t.LastUsed, Current: t.ID == current}
	}
}

func (s *server) listTokens(ctx context.Context, _ *empty) (*output[rest.Page[rest.Token]], error) {
	a := actor(ctx)
	tokens, err := s.Store.Tokens(ctx, a.User.ID)
	if err != nil {
		return nil, err
	}
	return out(whole(tokens, restToken(a.TokenID))), nil
}

func (s *server) createToken(ctx context.Context, in *struct{ Body rest.CreateToken }) (*output[rest.CreatedToken], error) {
	a := actor(ctx)
	lifetime := coordinator.TokenLifetime
	if n := in.Body.Lifetime; n > 0 {
		if n > int64(maxLifetime/time.Second) {
			return nil, coordinator.Errorf(coordinator.CodeInvalid, "a token may live for ten years at most")
		}
		lifetime = time.Duration(n) * time.Second
	}
	name := oneLine(in.Body.Name)
	t, secret, err := s.mint(ctx, a.User.ID, name, lifetime)
	if err != nil {
		return nil, err
	}
	return out(rest.CreatedToken{Token: restToken(a.TokenID)(t), Secret: secret}), s.audit(ctx, a, "token.create", name, "")
}

type idInput struct {
	ID string `path:"id" maxLength:"200"`
}

func (s *server) deleteToken(ctx context.Context, in *idInput) (*empty, error) {
	a := actor(ctx)
	id := coordinator.TokenID(in.ID)
	if in.ID == "current" {
		id = a.TokenID
	}
	if err := s.Store.DeleteToken(ctx, a.User.ID, id); err != nil {
		return nil, err
	}
	if err := s.manifestsChanged(ctx, a.User.ID); err != nil { // the device's key goes with its token
		return nil, err
	}
	return nil, s.audit(ctx, a, "token.delete", string(id), "")
}
