package cli

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// serveSSH serves sessions and forwards as an agent does. A command is told, or run for real.
func (d *double) serveSSH(conn *buffered, real bool) {
	d.mu.Lock()
	d.open = append(d.open, conn)
	d.mu.Unlock()
	sc, chans, reqs, err := ssh.NewServerConn(conn, d.sshCfg)
	if err != nil {
		return
	}
	defer sc.Close()
	go func() {
		for r := range reqs {
			r.Reply(r.Type == "keepalive@openssh.com", nil)
		}
	}()
	for nc := range chans {
		switch nc.ChannelType() {
		case "session":
			go d.session(nc, sc.User(), real)
		default:
			go directDouble(nc)
		}
	}
}

// cut ends every stream into a workspace.
func (d *double) cutStreams() {
	for _, c := range d.open {
		c.Close()
	}
	d.open = nil
}

func (d *double) session(nc ssh.NewChannel, user string, real bool) {
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	for req := range reqs {
		req.Reply(req.Type == "exec" || req.Type == "pty-req" || req.Type == "shell", nil)
		if req.Type == "pty-req" {
			var pty struct {
				Term       string
				Cols, Rows uint32
			}
			ssh.Unmarshal(req.Payload, &pty)
			fmt.Fprintf(ch, "terminal of %dx%d\r\n", pty.Cols, pty.Rows)
		}
		if req.Type != "exec" && req.Type != "shell" {
			continue
		}
		var in struct{ Command string }
		ssh.Unmarshal(req.Payload, &in)
		var out struct{ Status uint32 }
		if real {
			go ssh.DiscardRequests(reqs)
			out.Status = realCommand(ch, in.Command, d.home)
		} else {
			fmt.Fprintf(ch, "ran %s as %s\n", in.Command, user)
			fmt.Sscanf(in.Command, "exit %d", &out.Status)
		}
		ch.SendRequest("exit-status", false, ssh.Marshal(out))
		return
	}
}

func realCommand(ch ssh.Channel, command, home string) uint32 {
	c := exec.Command("sh", "-c", command)
	c.Dir, c.Env = home, append(os.Environ(), "HOME="+home)
	c.Stdout, c.Stderr = ch, ch.Stderr()
	in, err := c.StdinPipe()
	if err != nil {
		return 255
	}
	go func() {
		io.Copy(in, ch)
		in.Close()
	}()
	var exit *exec.ExitError
	if err := c.Run(); errors.As(err, &exit) {
		return uint32(exit.ExitCode())
	} else if err != nil {
		return 255
	}
	return 0
}

// directDouble joins a forward with its target.
func directDouble(nc ssh.NewChannel) {
	network, address := "unix", ""
	switch nc.ChannelType() {
	case "direct-tcpip":
		var t struct {
			Host string
			Port uint32
			From string
			At   uint32
		}
		ssh.Unmarshal(nc.ExtraData(), &t)
		network, address = "tcp", net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
	case "direct-streamlocal@openssh.com":
		var t struct {
			Path, Reserved string
			Unused         uint32
		}
		ssh.Unmarshal(nc.ExtraData(), &t)
		address = t.Path
	}
	to, err := net.Dial(network, address)
	if err != nil {
		nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer to.Close()
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	go ssh.DiscardRequests(reqs)
	go func() {
		io.Copy(to, ch)
		to.(closeWriter).CloseWrite()
	}()
	io.Copy(ch, to)
}

func (d *double) addKey(w http.ResponseWriter, r *http.Request) {
	in, ok := decode[rest.AddKey](w, r)
	if !ok {
		return
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(in.PublicKey))
	if err != nil {
		problem(w, coordinator.Errorf(coordinator.CodeInvalid, "this is no public key"))
		return
	}
	raw, err := base64.StdEncoding.DecodeString(in.Proof)
	var sig ssh.Signature
	if err == nil {
		err = ssh.Unmarshal(raw, &sig)
	}
	if err == nil {
		err = key.Verify(rest.KeyProof("u1", key.Marshal()), &sig)
	}
	if err != nil {
		problem(w, coordinator.Errorf(coordinator.CodeDenied, "the proof does not hold: %v", err))
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	k := rest.Key{
		ID: coordinator.KeyID(fmt.Sprint("k", len(d.keys))), Name: in.Name, PublicKey: in.PublicKey,
		Fingerprint: ssh.FingerprintSHA256(key), Device: in.Device, Created: time.Now(),
	}
	d.keys = append(d.keys, k)
	answer(w, k)
}
