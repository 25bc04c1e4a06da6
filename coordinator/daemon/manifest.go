package daemon

import (
	"context"
	"slices"
	"sync"
	"time"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/ca"
	"berth/coordinator/dist"
	"berth/coordinator/sqlite"
)

// manifests composes what agents have to know.
type manifests struct {
	store    *sqlite.Store
	ca       *ca.CA
	carried  *dist.Set
	tokens   *workspaceTokens
	agentURL string
	suffix   string
	gitHosts string        // known_hosts lines
	limit    time.Duration // of each startup hook; 0: the agent's default
	now      func() time.Time
}

// Manifest returns the manifest of one agent of a workspace.
func (m *manifests) Manifest(ctx context.Context, id coordinator.WorkspaceID, agentID string) (*agent.Manifest, error) {
	ws, err := m.store.Workspace(ctx, id)
	if err != nil {
		return nil, err
	}
	owner, err := m.store.User(ctx, ws.OwnerID)
	if err != nil {
		return nil, err
	}
	start, err := m.store.LatestStart(ctx, id)
	if err != nil {
		return nil, err
	}
	agents, err := m.store.Agents(ctx, id)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(agents, func(a coordinator.WorkspaceAgent) bool { return a.ID == agentID })
	if i < 0 || start == nil {
		return nil, coordinator.Errorf(coordinator.CodeNotFound, "workspace %s has no agent %s", ws.Name, coordinator.Clip(agentID, 40))
	}
	man := &agent.Manifest{
		Workspace: ws.Name, WorkspaceID: string(ws.ID), StartBuild: string(start.ID), URL: m.agentURL, Suffix: m.suffix,
		Owner: agent.Owner{ID: string(owner.ID), Name: owner.Name, FullName: owner.FullName, Email: owner.Email},
		Agent: spec(agents[i]), DotfilesURL: owner.Dotfiles, Personalize: owner.Personalize,
	}
	if m.limit > 0 {
		man.Limits = map[string]time.Duration{agent.StepConfigure: m.limit, agent.StepDotfiles: m.limit, agent.StepPersonalize: m.limit}
	}
	if f, ok := m.carried.Find(dist.CLI, "linux", agents[i].Arch); ok {
		man.CLI = &agent.Download{URL: m.agentURL + "/dist/" + f.SHA256 + "/" + f.Name, SHA256: f.SHA256, Size: f.Size}
	}
	if man.SSH, err = m.ssh(ctx, ws, owner, agents[i].Name); err != nil {
		return nil, err
	}
	if man.Git, man.Secrets, err = m.secrets(ctx, owner.ID); err != nil {
		return nil, err
	}
	man.Token, err = m.tokens.token(ctx, ws, start.ID)
	return man, err
}

func spec(a coordinator.WorkspaceAgent) agent.AgentSpec {
	return agent.AgentSpec{ID: a.ID, Name: a.Name, Env: a.Env, User: a.User, Dir: a.Dir, MOTD: a.MOTD}
}

// ssh is the identity of the workspace, and who may enter it: its owner.
func (m *manifests) ssh(ctx context.Context, ws coordinator.Workspace, owner coordinator.User, agentName string) (agent.SSH, error) {
	s := agent.SSH{UserCAs: []string{m.ca.UserCALine()}}
	id, err := m.store.HostIdentity(ctx, ws.ID)
	if err != nil {
		return s, err
	}
	for _, key := range []coordinator.Secret{id.Ed25519, id.ECDSA} {
		cert, err := m.ca.HostCertificate(key, string(ws.ID), principals(ws, agentName, m.suffix), m.now())
		if err != nil {
			return s, err
		}
		s.HostKeys = append(s.HostKeys, agent.HostKey{PrivateKey: key, Certificate: cert})
	}
	keys, err := m.store.Keys(ctx, owner.ID)
	if err != nil {
		return s, err
	}
	person := agent.SSHUser{Person: agent.Person{ID: string(owner.ID), Name: owner.Name}, Keys: []string{}}
	for _, k := range keys {
		person.Keys = append(person.Keys, k.PublicKey)
	}
	s.People = []agent.SSHUser{person}
	return s, nil
}

// principals are the names that a workspace's certificate proves. The short ones say "a workspace of this name in
// this installation"; the long ones say whose.
func principals(ws coordinator.Workspace, agentName, suffix string) []string {
	t := coordinator.Target{Workspace: ws.Name}
	of := coordinator.Target{Workspace: ws.Name, Agent: agentName}
	return []string{ws.Name, ws.Name + "." + suffix, t.HostName(ws.OwnerName, suffix), of.HostName(ws.OwnerName, suffix)}
}

func (m *manifests) secrets(ctx context.Context, owner coordinator.UserID) (agent.Git, []agent.UserSecret, error) {
	key, err := m.store.GitKey(ctx, owner)
	if err != nil {
		return agent.Git{}, nil, err
	}
	own, err := m.store.Secrets(ctx, owner, true)
	if err != nil {
		return agent.Git{}, nil, err
	}
	var list []agent.UserSecret
	for _, s := range own {
		list = append(list, agent.UserSecret{Name: s.Name, Env: s.Env, File: s.File, Value: s.Value})
	}
	return agent.Git{PrivateKey: key.PrivateKey, PublicKey: key.PublicKey, KnownHosts: m.gitHosts}, list, nil
}

// workspaceTokens mints the narrow tokens with which the CLI works inside. One is minted for each start build and
// kept in memory, for only its hash is stored; a coordinator that starts mints a new one, which replaces the old.
type workspaceTokens struct {
	store *sqlite.Store
	now   func() time.Time

	mu   sync.Mutex
	live map[coordinator.WorkspaceID]liveToken // guarded by mu
}

type liveToken struct {
	build  coordinator.BuildID
	secret coordinator.Secret
}

func (t *workspaceTokens) token(ctx context.Context, ws coordinator.Workspace, start coordinator.BuildID) (coordinator.Secret, error) {
	// Held while the store is asked: two agents of one workspace must not take each other's token away.
	t.mu.Lock()
	defer t.mu.Unlock()
	if l, ok := t.live[ws.ID]; ok && l.build == start {
		return l.secret, nil
	}
	if err := t.store.DeleteWorkspaceTokens(ctx, ws.ID); err != nil {
		return "", err
	}
	secret, hash := coordinator.NewAPIToken(coordinator.APITokenPrefix)
	row := coordinator.Token{UserID: ws.OwnerID, Name: "workspace " + ws.Name, WorkspaceID: ws.ID, Created: t.now()}
	if err := t.store.CreateToken(ctx, &row, hash); err != nil {
		return "", err
	}
	t.live[ws.ID] = liveToken{start, secret}
	return secret, nil
}

// revoke ends the workspace's token.
func (t *workspaceTokens) revoke(ctx context.Context, ws coordinator.WorkspaceID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.live, ws)
	return t.store.DeleteWorkspaceTokens(ctx, ws)
}
