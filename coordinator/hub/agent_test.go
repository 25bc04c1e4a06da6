package hub

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"berth/agent"
	agentlink "berth/agent/link"
)

// TestAgent links the agent's own side.
func TestAgent(t *testing.T) {
	w := newWorld(t).up()
	_, key, err := ed25519.GenerateKey(nil)
	ok(t, err)
	var manifests atomic.Int64
	run := func(ctx context.Context) <-chan error {
		outbox := agentlink.NewOutbox()
		outbox.Step(agent.StepReport{Name: agent.StepSecrets, Outcome: agent.OutcomeOK})
		outbox.Log(agent.LogReport{Step: agent.StepSecrets, Time: time.Now(), Text: "one line"})
		outbox.Ready()
		done := make(chan error, 1)
		go func() {
			done <- agentlink.Run(ctx, agentlink.Config{
				URL: w.server.URL, Token: w.agent().token, Key: key, Version: "1", Outbox: outbox,
				OnStream: func(_ context.Context, c net.Conn, _ agent.StreamHeader) {
					io.Copy(c, c)
					c.Close()
				},
				OnManifest: func(*agent.Manifest) { manifests.Add(1) },
			})
		}()
		return done
	}
	first := run(ctx)
	w.connected()
	eventually(t, "the manifest", func() bool { return manifests.Load() == 1 })
	eventually(t, "what it reports", func() bool { a := w.stored(); return a.Ready && len(a.Steps) == 1 && len(w.log()) == 1 })
	w.hub.ManifestChanged(w.ws.ID)
	eventually(t, "the manifest again", func() bool { return manifests.Load() == 2 })

	s, err := w.ssh()
	ok(t, err)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	go func() {
		s.Write(sent)
		s.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(sent), err)
	}
	ok(t, s.Close())

	later, cancel := context.WithCancel(ctx)
	defer cancel()
	second := run(later)
	if err := <-first; !errors.Is(err, agentlink.ErrReplaced) {
		t.Errorf("the replaced agent ended with %v", err)
	}
	w.connected()
	cancel()
	if err := <-second; err != nil {
		t.Errorf("an agent that ends in order: %v", err)
	}
}
