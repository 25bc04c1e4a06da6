package door

import (
	"fmt"

	"golang.org/x/crypto/ssh"

	"berth/coordinator"
)

// answerSession answers a shell or command on a connection that leads to no shell: with the reason on stderr, and
// the exit status that the CLI has for it.
func (c *conn) answerSession(nc ssh.NewChannel) {
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	lines, code := c.explainSession()
	for req := range reqs {
		switch req.Type {
		case "shell", "exec", "subsystem":
		case "env", "pty-req":
			_ = req.Reply(true, nil)
			continue
		default:
			_ = req.Reply(false, nil)
			continue
		}
		_ = req.Reply(true, nil)
		for _, l := range lines {
			_, _ = ch.Stderr().Write([]byte(banner(l)))
		}
		_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{uint32(code)}))
		_ = ch.CloseWrite()
		break
	}
	_ = ch.Close()
	ssh.DiscardRequests(reqs)
}

func (c *conn) explainSession() (lines []string, code int) {
	if c.problem != nil {
		return c.explain(c.problem), coordinator.CodeOf(c.problem).Exit()
	}
	name, suffix := c.target.Workspace, c.door.cfg.Suffix
	return []string{
		fmt.Sprintf("%s.%s is a name to jump by: it leads to the workspace's own SSH server", name, suffix),
		fmt.Sprintf("use %s as the login name, or ssh -J %s.%s@this-host %s.%s", name, name, suffix, name, suffix),
	}, coordinator.CodeInvalid.Exit()
}
