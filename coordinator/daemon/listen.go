package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/acme/autocert"

	"berth/coordinator"
)

// peerTimeout is how long what was sent may stay unacknowledged before a connection counts as dead.
const peerTimeout = 30 * time.Second

// listen opens a TCP listener. A port that is taken is the most common reason why a coordinator does not start.
func listen(ctx context.Context, flag, addr string) (net.Listener, error) {
	c := net.ListenConfig{
		Control:         userTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 6},
	}
	l, err := c.Listen(ctx, "tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, coordinator.Errorf(coordinator.CodeConflict, "the address %s is in use", addr).
			WithHint("is another berthd running? choose another with " + flag).WithCause(err)
	case errors.Is(err, syscall.EACCES):
		return nil, coordinator.Errorf(coordinator.CodeDenied, "this user may not listen on %s", addr).
			WithHint("choose a port above 1023 with " + flag + ", or grant CAP_NET_BIND_SERVICE").WithCause(err)
	case err != nil:
		return nil, coordinator.Errorf(coordinator.CodeFailed, "cannot listen on %s: %w", addr, err).WithHint("the address is set with " + flag)
	}
	return l, nil
}

// tlsConfig is nil where plain HTTP is served.
func tlsConfig(s settings, data dataDir) (*tls.Config, error) {
	switch {
	case s.tlsACME != "":
		m := &autocert.Manager{
			Prompt: autocert.AcceptTOS, HostPolicy: autocert.HostWhitelist(s.tlsACME), Cache: autocert.DirCache(data.path("acme")),
		}
		c := m.TLSConfig()
		c.MinVersion = tls.VersionTLS12
		return c, nil
	case s.tlsCert != "":
		files := &certFiles{cert: s.tlsCert, key: s.tlsKey}
		if _, err := files.certificate(time.Now()); err != nil {
			return nil, coordinator.Errorf(coordinator.CodeInvalid, "the TLS certificate cannot be used: %w", err).
				WithHint("--tls-cert and --tls-key name PEM files that belong together")
		}
		return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return files.certificate(time.Now())
		}}, nil
	}
	return nil, nil
}

// certFiles reads a certificate again after it was renewed.
type certFiles struct {
	cert, key string

	mu      sync.Mutex
	current *tls.Certificate // guarded by mu, as is what follows
	changed time.Time        // of the certificate's file
	checked time.Time
}

func (c *certFiles) certificate(now time.Time) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil && now.Sub(c.checked) < time.Minute {
		return c.current, nil
	}
	c.checked = now
	st, err := os.Stat(c.cert)
	if err == nil && c.current != nil && st.ModTime().Equal(c.changed) {
		return c.current, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(c.cert, c.key)
	}
	switch {
	case err == nil:
		c.current, c.changed = &pair, st.ModTime()
	case c.current == nil:
		return nil, err
	} // else half a renewal: the old one serves until it is whole
	return c.current, nil
}

// agentCA returns the PEM of the authority that agents have to trust; "" where the system's do.
func agentCA(s settings) (string, error) {
	if s.tlsCA != "" {
		b, err := os.ReadFile(s.tlsCA)
		if err != nil {
			return "", coordinator.Errorf(coordinator.CodeInvalid, "--tls-ca: %w", err)
		}
		if block, _ := pem.Decode(b); block == nil || block.Type != "CERTIFICATE" {
			return "", coordinator.Errorf(coordinator.CodeInvalid, "--tls-ca %s holds no PEM certificate", s.tlsCA)
		}
		return string(b), nil
	}
	if s.tlsCert == "" {
		return "", nil
	}
	pair, err := tls.LoadX509KeyPair(s.tlsCert, s.tlsKey)
	if err != nil {
		return "", err
	}
	between := x509.NewCertPool()
	var last *x509.Certificate
	for _, der := range pair.Certificate {
		if last, err = x509.ParseCertificate(der); err != nil {
			return "", fmt.Errorf("read certificate chain: %w", err)
		}
		between.AddCert(last)
	}
	var unknown x509.UnknownAuthorityError
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Intermediates: between})
	if !errors.As(err, &unknown) {
		return "", nil
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: last.Raw})), nil
}
