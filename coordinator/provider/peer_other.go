//go:build !linux && !darwin

package provider

import "net"

// peerOf refuses everybody: this system does not say who connected.
func peerOf(net.Conn) (peer, error) { return peer{}, errPeer }
