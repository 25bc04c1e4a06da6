//go:build unix

package cli

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// listenUnix listens on a socket that only its owner may connect to. One that nobody listens on any more is replaced.
func listenUnix(path string) (net.Listener, error) {
	// The mode is the socket's from its first moment on.
	defer syscall.Umask(syscall.Umask(0o177))
	l, err := net.Listen("unix", path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	info, statErr := os.Lstat(path)
	if statErr != nil || info.Mode().Type() != os.ModeSocket {
		return nil, err
	}
	conn, dialErr := net.Dial("unix", path)
	if dialErr == nil {
		return nil, errors.Join(err, conn.Close())
	}
	if !errors.Is(dialErr, syscall.ECONNREFUSED) {
		return nil, err
	}
	if removeErr := os.Remove(path); removeErr != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}

// inUse reports whether an address is taken.
func inUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }
