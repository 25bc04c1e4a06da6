package api

import (
	"context"
	"encoding/json"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// maxSecrets is the size of all secrets of a user together, as JSON in bytes: they travel in one manifest.
const maxSecrets = 2 << 20

var (
	secretRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$`)
	envRE    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,99}$`)
	scpRE    = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*:[^:\s-][^\s]*$`)
)

func restSecret(x coordinator.UserSecret) rest.Secret {
	return rest.Secret{Name: x.Name, Env: x.Env, File: x.File, Updated: x.Updated}
}

func (s *server) listSecrets(ctx context.Context, _ *empty) (*output[rest.Page[rest.Secret]], error) {
	list, err := s.Store.Secrets(ctx, actor(ctx).User.ID, false)
	if err != nil {
		return nil, err
	}
	return out(whole(list, restSecret)), nil
}

type putSecretInput struct {
	Name string `path:"name" maxLength:"200"`
	Body rest.PutSecret
}

func (s *server) putSecret(ctx context.Context, in *putSecretInput) (*output[rest.Secret], error) {
	a := actor(ctx)
	x := coordinator.UserSecret{
		UserID: a.User.ID, Name: in.Name, Env: in.Body.Env, File: in.Body.File, Value: coordinator.Secret(in.Body.Value), Updated: s.Now(),
	}
	if err := checkSecret(x); err != nil {
		return nil, err
	}
	if err := s.checkSecrets(ctx, x); err != nil {
		return nil, err
	}
	if err := s.Store.PutSecret(ctx, x); err != nil {
		return nil, err
	}
	if err := s.manifestsChanged(ctx, a.User.ID); err != nil {
		return nil, err
	}
	return out(restSecret(x)), s.audit(ctx, a, "secret.put", x.Name, "")
}

func checkSecret(x coordinator.UserSecret) error {
	invalid := func(format string, args ...any) error {
		return coordinator.Errorf(coordinator.CodeInvalid, format, args...)
	}
	switch {
	case !secretRE.MatchString(x.Name):
		return invalid("%q is not a valid name of a secret: use letters, digits, _, . and -", coordinator.Clip(oneLine(x.Name), 40))
	case (x.Env == "") == (x.File == ""):
		return invalid("a secret is either an environment variable or a file: give one of env and file")
	case x.Env != "" && !envRE.MatchString(x.Env):
		return invalid("%q is not a valid name of an environment variable", coordinator.Clip(oneLine(x.Env), 40))
	case strings.HasPrefix(x.Env, "BERTH_"), x.Env == "SSH_AUTH_SOCK":
		return invalid("the environment variable %s is Berth's own", x.Env)
	case x.File != "" && !secretRE.MatchString(x.File):
		return invalid("%q is not a valid file name: use letters, digits, _, . and -, and no directory", coordinator.Clip(oneLine(x.File), 40))
	case x.Env != "" && strings.ContainsRune(string(x.Value), 0):
		return invalid("the value of an environment variable cannot hold a zero byte")
	case len(x.Value) > coordinator.MaxSecretValue:
		return coordinator.Errorf(coordinator.CodeTooLarge, "a secret's value has at most %s", size(coordinator.MaxSecretValue))
	}
	return nil
}

// checkSecrets checks x beside the caller's other secrets.
func (s *server) checkSecrets(ctx context.Context, x coordinator.UserSecret) error {
	all, err := s.Store.Secrets(ctx, x.UserID, true)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(o coordinator.UserSecret) bool { return o.Name == x.Name })
	if len(all) >= coordinator.MaxSecrets {
		return coordinator.Errorf(coordinator.CodeConflict, "you have %d secrets already, and more are not kept", len(all)).
			WithHint("remove one with berth secrets delete")
	}
	total := 0
	for _, o := range append(all, x) {
		if o.Name != x.Name && (x.Env != "" && o.Env == x.Env || x.File != "" && o.File == x.File) {
			return coordinator.Errorf(coordinator.CodeConflict, "the secret %s sets %s already", o.Name, o.Env+o.File).
				WithHint("choose another variable or file, or change that secret")
		}
		b, err := json.Marshal(o.Value)
		if err != nil {
			return err
		}
		total += len(b)
	}
	if total > maxSecrets {
		return coordinator.Errorf(coordinator.CodeTooLarge, "all your secrets together have at most %s", size(maxSecrets))
	}
	return nil
}

func (s *server) deleteSecret(ctx context.Context, in *nameInput) (*empty, error) {
	a := actor(ctx)
	if err := s.Store.DeleteSecret(ctx, a.User.ID, in.Name); err != nil {
		return nil, err
	}
	if err := s.manifestsChanged(ctx, a.User.ID); err != nil {
		return nil, err
	}
	return nil, s.audit(ctx, a, "secret.delete", in.Name, "")
}

func (s *server) dotfiles(ctx context.Context, _ *empty) (*output[rest.Dotfiles], error) {
	return out(rest.Dotfiles{URL: actor(ctx).User.Dotfiles}), nil
}

func (s *server) putDotfiles(ctx context.Context, in *struct{ Body rest.Dotfiles }) (*output[rest.Dotfiles], error) {
	a := actor(ctx)
	if err := checkRepository(in.Body.URL); err != nil {
		return nil, err
	}
	if err := s.Store.SetDotfiles(ctx, a.User.ID, in.Body.URL); err != nil {
		return nil, err
	}
	if err := s.manifestsChanged(ctx, a.User.ID); err != nil {
		return nil, err
	}
	return out(in.Body), s.audit(ctx, a, "dotfiles.set", a.User.Name, "")
}

// checkRepository takes what git clone can fetch, and nothing that git would take for an option or a command:
// ext::sh -c … runs one.
func checkRepository(s string) error {
	if s == "" {
		return nil
	}
	bad := coordinator.Errorf(coordinator.CodeInvalid, "%q is not a repository's URL", coordinator.Clip(oneLine(s), 80)).
		WithHint("give one like https://github.com/you/dotfiles or git@github.com:you/dotfiles.git")
	if s != oneLine(s) || strings.ContainsAny(s, " '\"`$\\") || strings.HasPrefix(s, "-") {
		return bad
	}
	if path.IsAbs(s) { // a directory in the workspace
		return nil
	}
	if !strings.Contains(s, "://") {
		if strings.Contains(s, "::") || !scpRE.MatchString(s) {
			return bad
		}
		return nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return bad
	}
	switch u.Scheme {
	case "https", "http", "ssh", "git":
		if u.Hostname() == "" || strings.HasPrefix(u.Host, "-") || strings.HasPrefix(u.User.Username(), "-") {
			return bad
		}
	case "file":
		if u.Path == "" {
			return bad
		}
	default:
		return bad
	}
	if _, has := u.User.Password(); has {
		return coordinator.Errorf(coordinator.CodeInvalid, "the URL holds a password, which would stand in logs").
			WithHint("use your Git key (berth keys git) or a secret")
	}
	return nil
}

func (s *server) personalize(ctx context.Context, _ *empty) (*output[rest.Personalize], error) {
	return out(rest.Personalize{Script: actor(ctx).User.Personalize}), nil
}

func (s *server) putPersonalize(ctx context.Context, in *struct{ Body rest.Personalize }) (*output[rest.Personalize], error) {
	a := actor(ctx)
	if p := in.Body.Script; p != nil && (len(*p) > coordinator.MaxPersonalize || strings.ContainsRune(*p, 0)) {
		return nil, coordinator.Errorf(coordinator.CodeTooLarge, "the script has at most %s, and no zero bytes", size(coordinator.MaxPersonalize))
	}
	if err := s.Store.SetPersonalize(ctx, a.User.ID, in.Body.Script); err != nil {
		return nil, err
	}
	if err := s.manifestsChanged(ctx, a.User.ID); err != nil {
		return nil, err
	}
	return out(in.Body), s.audit(ctx, a, "personalize.set", a.User.Name, "")
}
