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

// admit checks a new user, makes their Git key and the token of their first device, and stores all of it by store, the
// audit entry included. A client that goes away does not end it half way.
func (s *server) admit(ctx context.Context, a coordinator.Admission, detail string,
	store func(context.Context, *coordinator.Admission) error,
) (rest.CreatedUser, error) {
	ctx = context.WithoutCancel(ctx)
	if err := checkPerson(a.User); err != nil {
		return rest.CreatedUser{}, err
	}
	var err error
	if a.Git, err = s.Issuer.GitKey(a.User.Name + "@berth"); err != nil {
		return rest.CreatedUser{}, err
	}
	var secret string
	if a.Token.Name = oneLine(a.Token.Name); a.Token.Name == "" {
		a.Token.Name = "first sign-in"
	}
	a.Token, secret, a.Hash = s.newToken("", a.Token.Name, coordinator.TokenLifetime)
	a.Entry = s.entry(actor(ctx), "user.create", a.User.Name, detail)
	if err := store(ctx, &a); err != nil {
		return rest.CreatedUser{}, err
	}
	return rest.CreatedUser{User: restUser(a.User), Token: secret}, nil
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
	created, err := s.admit(ctx, coordinator.Admission{User: u, Keys: keys}, "role "+string(u.Role), s.Store.Admit)
	if err != nil {
		return nil, err
	}
	return out(created), nil
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
