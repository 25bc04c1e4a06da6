package api

import (
	"context"
	"regexp"
	"strings"

	"golang.org/x/crypto/ssh"

	"berth/coordinator"
	"berth/coordinator/rest"
)

func restUser(u coordinator.User) rest.User {
	return rest.User{ID: u.ID, Name: u.Name, FullName: u.FullName, Email: u.Email, Role: u.Role, Created: u.Created}
}

var emailRE = regexp.MustCompile(`^[^\s@<>"(),:;\\]+@[^\s@<>"(),:;\\]+$`)

// checkPerson checks what becomes an author's name and address in Git, and a line in listings.
func checkPerson(u coordinator.User) error {
	if err := coordinator.CheckName("user", u.Name); err != nil {
		return err
	}
	if u.FullName != oneLine(u.FullName) || strings.ContainsAny(u.FullName, "<>") {
		return coordinator.Errorf(coordinator.CodeInvalid, "the full name may not hold control characters, < or >")
	}
	if u.Email != "" && !emailRE.MatchString(u.Email) {
		return coordinator.Errorf(coordinator.CodeInvalid, "%q is not an e-mail address", coordinator.Clip(oneLine(u.Email), 80))
	}
	return nil
}

// newUser checks u, makes their Git key and the token of their first device, and stores all three by create. A client
// that goes away does not end it half way.
func (s *server) newUser(ctx context.Context, u *coordinator.User, device string,
	create func(context.Context, *coordinator.User, coordinator.GitKey, *coordinator.Token, [32]byte) error,
) (rest.CreatedUser, error) {
	ctx = context.WithoutCancel(ctx)
	if err := checkPerson(*u); err != nil {
		return rest.CreatedUser{}, err
	}
	git, err := s.Issuer.GitKey(u.Name + "@berth")
	if err != nil {
		return rest.CreatedUser{}, err
	}
	if device = oneLine(device); device == "" {
		device = "first sign-in"
	}
	t, secret, hash := s.newToken("", device, coordinator.TokenLifetime)
	if err := create(ctx, u, git, &t, hash); err != nil {
		return rest.CreatedUser{}, err
	}
	return rest.CreatedUser{User: restUser(*u), Token: secret}, nil
}

// storeUser stores a user, and their token after them.
func (s *server) storeUser(ctx context.Context, u *coordinator.User, git coordinator.GitKey, t *coordinator.Token, hash [32]byte) error {
	if err := s.Store.CreateUser(ctx, u, git); err != nil {
		return err
	}
	t.UserID = u.ID
	return s.Store.CreateToken(ctx, t, hash)
}

func (s *server) listUsers(ctx context.Context, in *PageInput) (*output[rest.Page[rest.User]], error) {
	after, err := in.after()
	if err != nil {
		return nil, err
	}
	users, err := s.Store.Users(ctx, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return out(page(users, in.Limit, func(u coordinator.User) string { return u.Name }, restUser)), nil
}

// createUser makes a user. Their keys are taken without proof of possession: an owner vouches for them.
func (s *server) createUser(ctx context.Context, in *struct{ Body rest.CreateUser }) (*output[rest.CreatedUser], error) {
	u := coordinator.User{Name: in.Body.Name, FullName: in.Body.FullName, Email: in.Body.Email, Role: in.Body.Role}
	if u.Role == "" {
		u.Role = coordinator.RoleMember
	}
	var keys []coordinator.SSHKey
	for _, line := range in.Body.SSHKeys {
		pub, comment, err := parseKey(line)
		if err != nil {
			return nil, err
		}
		keys = append(keys, newKey(pub, comment))
	}
	created, err := s.newUser(ctx, &u, "", s.storeUser)
	if err != nil {
		return nil, err
	}
	for i := range keys {
		keys[i].UserID = u.ID
		if err := s.Store.AddKey(ctx, &keys[i]); err != nil {
			// Half a user would be in the way of the next try.
			if undo := s.Store.DeleteUser(context.WithoutCancel(ctx), u.ID); undo != nil {
				s.Logger.ErrorContext(ctx, "remove user whose key was refused", "user", u.Name, "err", undo)
			}
			return nil, err
		}
	}
	return out(created), s.audit(ctx, actor(ctx), "user.create", u.Name, "role "+string(u.Role))
}

type nameInput struct {
	Name string `path:"name" maxLength:"200"`
}

func (s *server) deleteUser(ctx context.Context, in *nameInput) (*empty, error) {
	u, err := s.Store.UserByName(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	if err := s.Store.DeleteUser(ctx, u.ID); err != nil {
		return nil, err
	}
	return nil, s.audit(ctx, actor(ctx), "user.delete", u.Name, "")
}

// manifestsChanged tells the agents of a user's workspaces to fetch their manifest again.
func (s *server) manifestsChanged(ctx context.Context, user coordinator.UserID) error {
	const many = 200
	for after := ""; ; {
		ws, err := s.Store.Workspaces(ctx, user, after, many)
		if err != nil {
			return err
		}
		for _, w := range ws {
			s.Hub.ManifestChanged(w.ID)
			after = w.OwnerName + "/" + w.Name
		}
		if len(ws) < many {
			return nil
		}
	}
}

func newKey(pub ssh.PublicKey, name string) coordinator.SSHKey {
	return coordinator.SSHKey{
		Name: name, PublicKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))), Fingerprint: ssh.FingerprintSHA256(pub),
	}
}
