package cli

import (
	"errors"
	"net"
	"syscall"

	"berth/coordinator"
)

// listenUnix says that Windows has none: a socket's path would begin with a drive and not with a slash.
func listenUnix(string) (net.Listener, error) {
	return nil, coordinator.Errorf(coordinator.CodeInvalid, "on Windows, berth listens on ports only").WithHint("write 8080:/remote/sock")
}

// inUse reports whether an address is taken: WSAEADDRINUSE, or WSAEACCES for one that is reserved.
func inUse(err error) bool {
	return errors.Is(err, syscall.Errno(10048)) || errors.Is(err, syscall.WSAEACCES)
}
