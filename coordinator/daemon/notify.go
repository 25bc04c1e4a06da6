package daemon

import (
	"net"
	"os"
)

// notify tells systemd how far the service is (sd_notify), where it asked for that.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	_, _ = c.Write([]byte(state)) // systemd's own timeout is the remedy
	_ = c.Close()
}
