package cli

import (
	"archive/tar"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/rest"
)

// A double answers like the API, from memory. What a workspace does is in its name: "broken" fails to start, "slow"
// never ends its build, "queued" waits behind others first, "flaky" loses the connection of its log once, "sick" has a
// startup step that fails, "lost" never sees its agent, "real" runs commands for real.
type double struct {
	*httptest.Server
	ca     ssh.Signer
	sshCfg *ssh.ServerConfig
	home   string // of real workspaces

	mu         sync.Mutex // guards what follows
	setUp      bool
	tokens     map[string]coordinator.TokenID // secret to id
	keys       []rest.Key
	secrets    map[string]rest.PutSecret
	dotfiles   string
	script     *string
	users      []rest.User
	templates  map[string][]*version
	active     map[string]int
	workspaces map[string]*machine
	cut        map[string]bool // logs that were cut once
	evil       bool            // answers hold control characters and lies
	open       []net.Conn      // streams into workspaces
	away       bool            // the coordinator cannot be reached
	redirect   string
}

type version struct {
	rest.TemplateVersion
	tar []byte
}

type machine struct {
	rest.Workspace
	builds []*rest.Build
	ended  time.Time // of the latest build
}

func newDouble() (*double, error) {
	ca, err := newSigner()
	if err != nil {
		return nil, err
	}
	host, err := newSigner()
	if err != nil {
		return nil, err
	}
	d := &double{
		ca: ca, tokens: map[string]coordinator.TokenID{}, secrets: map[string]rest.PutSecret{},
		templates: map[string][]*version{}, active: map[string]int{}, workspaces: map[string]*machine{}, cut: map[string]bool{},
	}
	cert := &ssh.Certificate{
		Key: host.PublicKey(), CertType: ssh.HostCert, KeyId: "dev", ValidPrincipals: []string{"dev.berth", "dev.alice.berth", "real.berth", "real.alice.berth"},
		ValidBefore: ssh.CertTimeInfinity,
	}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		return nil, err
	}
	signer, err := ssh.NewCertSigner(cert, host)
	if err != nil {
		return nil, err
	}
	d.sshCfg = &ssh.ServerConfig{ServerVersion: agent.SSHVersion, PublicKeyCallback: d.knows}
	d.sshCfg.AddHostKey(signer)
	d.Server = httptest.NewUnstartedServer(d.routes())
	d.Start()
	return d, nil
}

func newSigner() (ssh.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(key)
}

// knows lets in whoever holds a registered key.
func (d *double) knows(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range d.keys {
		if k.Fingerprint == ssh.FingerprintSHA256(key) {
			return nil, nil
		}
	}
	return nil, errors.New("unknown key")
}

func (d *double) routes() http.Handler {
	m := http.NewServeMux()
	public := func(pattern string, h func(w http.ResponseWriter, r *http.Request)) {
		method, path, _ := strings.Cut(pattern, " ")
		m.HandleFunc(method+" "+rest.Prefix+path, func(w http.ResponseWriter, r *http.Request) {
			d.mu.Lock()
			redirect, away := d.redirect, d.away
			d.mu.Unlock()
			if away {
				panic(http.ErrAbortHandler)
			}
			if redirect != "" {
				http.Redirect(w, r, redirect, http.StatusFound)
				return
			}
			h(w, r)
		})
	}
	handle := func(pattern string, h func(w http.ResponseWriter, r *http.Request)) {
		public(pattern, func(w http.ResponseWriter, r *http.Request) {
			d.mu.Lock()
			_, ok := d.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
			d.mu.Unlock()
			if !ok {
				problem(w, coordinator.Errorf(coordinator.CodeUnauthenticated, "the token is not known").WithHint("berth login "+d.URL))
				return
			}
			h(w, r)
		})
	}
	public("GET /server", d.server)
	public("POST /setup", d.setup)
	handle("GET /whoami", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, rest.Whoami{User: rest.User{ID: "u1", Name: "alice", Role: coordinator.RoleOwner}})
	})
	d.accountRoutes(handle)
	d.templateRoutes(handle)
	d.workspaceRoutes(handle)
	recordRoutes(handle)
	return m
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func problem(w http.ResponseWriter, err error) {
	var e *coordinator.Error
	if !errors.As(err, &e) {
		e = coordinator.Errorf(coordinator.CodeInternal, "%v", err)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(e.Code.Status())
	json.NewEncoder(w).Encode(rest.Problem{Status: e.Code.Status(), Detail: e.Msg, Code: e.Code, Hint: e.Hint})
}

func decode[T any](w http.ResponseWriter, r *http.Request) (in T, ok bool) {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		problem(w, coordinator.Errorf(coordinator.CodeInvalid, "the body: %v", err))
		return in, false
	}
	return in, true
}

func (d *double) server(w http.ResponseWriter, _ *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	host, port, _ := net.SplitHostPort(d.Listener.Addr().String())
	n, _ := strconv.Atoi(port)
	s := rest.Server{
		Version: "v9", URL: d.URL, SSHHost: host, SSHPort: n, Suffix: "berth", SetUp: d.setUp,
		KnownHosts: "@cert-authority *.berth " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(d.ca.PublicKey()))) + " berth\n",
	}
	if d.evil {
		s.Suffix = "berth\n  ProxyCommand touch pwned"
	}
	answer(w, s)
}

func (d *double) setup(w http.ResponseWriter, r *http.Request) {
	in, ok := decode[rest.Setup](w, r)
	if !ok {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.setUp || in.Token != "bs1_setup" {
		problem(w, coordinator.Errorf(coordinator.CodeUnauthenticated, "the setup token is not valid"))
		return
	}
	d.setUp = true
	d.tokens["bt1_first"] = "t1"
	d.users = append(d.users, rest.User{ID: "u1", Name: in.Name, FullName: in.FullName, Email: in.Email, Role: coordinator.RoleOwner, Created: time.Now()})
	answer(w, rest.CreatedUser{User: d.users[0], Token: "bt1_first"})
}

func (d *double) accountRoutes(handle func(string, func(http.ResponseWriter, *http.Request))) {
	handle("GET /tokens", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		page := rest.Page[rest.Token]{}
		for secret, id := range d.tokens {
			page.Items = append(page.Items, rest.Token{ID: id, Name: "token " + string(id), Created: time.Now().Add(-3 * time.Hour), Expires: time.Now().Add(90*24*time.Hour + time.Minute), Current: strings.HasSuffix(r.Header.Get("Authorization"), secret)})
		}
		slices.SortFunc(page.Items, func(a, b rest.Token) int { return strings.Compare(string(a.ID), string(b.ID)) })
		answer(w, page)
	})
	handle("POST /tokens", func(w http.ResponseWriter, r *http.Request) {
		in, ok := decode[rest.CreateToken](w, r)
		if !ok {
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.tokens["bt1_"+in.Name] = coordinator.TokenID("t" + in.Name)
		life := time.Duration(in.Lifetime) * time.Second
		if life == 0 {
			life = coordinator.TokenLifetime
		}
		answer(w, rest.CreatedToken{Token: rest.Token{ID: coordinator.TokenID("t" + in.Name), Name: in.Name, Expires: time.Now().Add(life + time.Minute)}, Secret: "bt1_" + in.Name})
	})
	handle("DELETE /tokens/{id}", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for secret, id := range d.tokens {
			current := r.PathValue("id") == "current" && strings.HasSuffix(r.Header.Get("Authorization"), secret)
			if current || string(id) == r.PathValue("id") {
				delete(d.tokens, secret)
				w.WriteHeader(http.StatusNoContent)
				return
			}
		}
		problem(w, coordinator.Errorf(coordinator.CodeNotFound, "there is no token %s", r.PathValue("id")))
	})
	handle("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		answer(w, rest.Page[rest.Key]{Items: d.keys})
	})
	handle("POST /keys", d.addKey)
	handle("DELETE /keys/{id}", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		n := len(d.keys)
		d.keys = slices.DeleteFunc(d.keys, func(k rest.Key) bool {
			return slices.Contains([]string{string(k.ID), k.Name, k.Fingerprint}, r.PathValue("id"))
		})
		if len(d.keys) == n {
			problem(w, coordinator.Errorf(coordinator.CodeNotFound, "there is no key %s", r.PathValue("id")))
		}
	})
	handle("GET /keys/git", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, rest.GitKey{PublicKey: "ssh-ed25519 AAAAgit alice", Fingerprint: "SHA256:git"})
	})
	handle("GET /secrets", func(w http.ResponseWriter, _ *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		page := rest.Page[rest.Secret]{}
		for name, s := range d.secrets {
			page.Items = append(page.Items, rest.Secret{Name: name, Env: s.Env, File: s.File, Updated: time.Now()})
		}
		slices.SortFunc(page.Items, func(a, b rest.Secret) int { return strings.Compare(a.Name, b.Name) })
		answer(w, page)
	})
	handle("PUT /secrets/{name}", func(w http.ResponseWriter, r *http.Request) {
		if in, ok := decode[rest.PutSecret](w, r); ok {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.secrets[r.PathValue("name")] = in
		}
	})
	handle("DELETE /secrets/{name}", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if _, ok := d.secrets[r.PathValue("name")]; !ok {
			problem(w, coordinator.Errorf(coordinator.CodeNotFound, "there is no secret %s", r.PathValue("name")))
		}
		delete(d.secrets, r.PathValue("name"))
	})
	handle("GET /dotfiles", func(w http.ResponseWriter, _ *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		answer(w, rest.Dotfiles{URL: d.dotfiles})
	})
	handle("PUT /dotfiles", func(w http.ResponseWriter, r *http.Request) {
		if in, ok := decode[rest.Dotfiles](w, r); ok {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.dotfiles = in.URL
		}
	})
	handle("GET /personalize", func(w http.ResponseWriter, _ *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		answer(w, rest.Personalize{Script: d.script})
	})
	handle("PUT /personalize", func(w http.ResponseWriter, r *http.Request) {
		if in, ok := decode[rest.Personalize](w, r); ok {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.script = in.Script
		}
	})
	handle("GET /users", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		// One a page, so that clients have to follow the cursor.
		n, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
		page := rest.Page[rest.User]{Items: d.users[n:min(n+1, len(d.users))]}
		if n+1 < len(d.users) {
			page.Next = strconv.Itoa(n + 1)
		}
		answer(w, page)
	})
	handle("POST /users", func(w http.ResponseWriter, r *http.Request) {
		in, ok := decode[rest.CreateUser](w, r)
		if !ok {
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		u := rest.User{ID: coordinator.UserID("u-" + in.Name), Name: in.Name, FullName: in.FullName, Email: in.Email, Role: in.Role, Created: time.Now()}
		if slices.ContainsFunc(d.users, func(o rest.User) bool { return o.Name == u.Name }) {
			problem(w, coordinator.Errorf(coordinator.CodeConflict, "there is a user %s already", in.Name))
			return
		}
		d.users = append(d.users, u)
		for _, k := range in.SSHKeys {
			d.keys = append(d.keys, rest.Key{ID: "k", Name: "of " + in.Name, PublicKey: k})
		}
		answer(w, rest.CreatedUser{User: u, Token: "bt1_of_" + in.Name})
	})
	handle("DELETE /users/{name}", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.users = slices.DeleteFunc(d.users, func(u rest.User) bool { return u.Name == r.PathValue("name") })
	})
}

func (d *double) templateRoutes(handle func(string, func(http.ResponseWriter, *http.Request))) {
	handle("GET /templates", func(w http.ResponseWriter, _ *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		page := rest.Page[rest.Template]{}
		for name := range d.templates {
			page.Items = append(page.Items, rest.Template{Name: name, ActiveVersion: d.active[name], Created: time.Now()})
		}
		slices.SortFunc(page.Items, func(a, b rest.Template) int { return strings.Compare(a.Name, b.Name) })
		answer(w, page)
	})
	handle("GET /templates/{t}", func(w http.ResponseWriter, r *http.Request) {
		if v := d.versions(w, r); v != nil {
			answer(w, rest.Template{Name: r.PathValue("t")})
		}
	})
	handle("DELETE /templates/{t}", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.templates, r.PathValue("t"))
	})
	handle("POST /templates/{t}/versions", d.push)
	handle("GET /templates/{t}/versions", func(w http.ResponseWriter, r *http.Request) {
		page := rest.Page[rest.TemplateVersion]{}
		for _, v := range slices.Backward(d.versions(w, r)) {
			page.Items = append(page.Items, v.TemplateVersion)
		}
		if page.Items != nil {
			answer(w, page)
		}
	})
	handle("GET /templates/{t}/versions/{v}", func(w http.ResponseWriter, r *http.Request) {
		if v := d.version(w, r); v != nil {
			answer(w, v.TemplateVersion)
		}
	})
	handle("GET /templates/{t}/versions/{v}/archive", func(w http.ResponseWriter, r *http.Request) {
		if v := d.version(w, r); v != nil {
			w.Write(v.tar)
		}
	})
	handle("POST /templates/{t}/versions/{v}/activate", func(w http.ResponseWriter, r *http.Request) {
		if v := d.version(w, r); v != nil {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.active[r.PathValue("t")] = v.Number
			for _, o := range d.templates[r.PathValue("t")] {
				o.Active = o.Number == v.Number
			}
		}
	})
	handle("GET /templates/{t}/versions/{v}/log", func(w http.ResponseWriter, r *http.Request) {
		v := d.version(w, r)
		if v == nil {
			return
		}
		enc := json.NewEncoder(w)
		enc.Encode(rest.LogEvent{Line: &coordinator.LogLine{Stage: "init", Level: "info", Text: "Initializing modules"}})
		enc.Encode(rest.LogEvent{Line: &coordinator.LogLine{Seq: 1, Stage: "plan", Level: "info", Text: "Planning at start count 1"}})
		if v.Error == "" {
			d.mu.Lock()
			v.Status = coordinator.VersionReady
			d.mu.Unlock()
		} else {
			enc.Encode(rest.LogEvent{Line: &coordinator.LogLine{Seq: 2, Stage: "plan", Level: "error", Text: v.Error}})
			d.mu.Lock()
			v.Status = coordinator.VersionFailed
			d.mu.Unlock()
		}
		enc.Encode(rest.LogEvent{End: true})
	})
}

func (d *double) push(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		problem(w, err)
		return
	}
	name, q := r.PathValue("t"), r.URL.Query()
	d.mu.Lock()
	defer d.mu.Unlock()
	v := &version{tar: body}
	v.Number, v.Status, v.Message, v.CreatedBy, v.Created = len(d.templates[name])+1, coordinator.VersionImporting, q.Get("message"), "alice", time.Now()
	for tr := tar.NewReader(bytes.NewReader(body)); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		if h.Name == "bad.tf" {
			v.Error = "bad.tf:3: this is no HCL"
		}
		if h.Name == "params.tf" {
			small := "small"
			v.Import.Parameters = []coordinator.Parameter{{Name: "region", Type: "string", Regex: "^[a-z]{3}$"}, {Name: "size", Type: "string", Default: &small}}
		}
	}
	d.templates[name] = append(d.templates[name], v)
	if v.Active = q.Get("activate") == "true" && v.Error == ""; v.Active {
		d.active[name] = v.Number
		for _, o := range d.templates[name] {
			o.Active = o == v
		}
	}
	w.WriteHeader(http.StatusCreated)
	answer(w, v.TemplateVersion)
}

func (d *double) versions(w http.ResponseWriter, r *http.Request) []*version {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := d.templates[r.PathValue("t")]
	if v == nil {
		problem(w, coordinator.Errorf(coordinator.CodeNotFound, "there is no template %s", r.PathValue("t")).WithHint("berth template list"))
	}
	return v
}

func (d *double) version(w http.ResponseWriter, r *http.Request) *version {
	all := d.versions(w, r)
	if all == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.active[r.PathValue("t")]
	if v := r.PathValue("v"); v != "active" {
		n, _ = strconv.Atoi(v)
	}
	if n < 1 || n > len(all) {
		problem(w, coordinator.Errorf(coordinator.CodeNotFound, "there is no such version"))
		return nil
	}
	return all[n-1]
}
