package keyring

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxForwards   = 64               // forwarded agents at a time; the oldest gives way
	maxIdentities = 2048             // of a forwarded agent, as OpenSSH's client reads
	listLimit     = 10 * time.Second // for a forwarded agent to list its identities
	answerLimit   = 5 * time.Minute  // for anything else: somebody may have to touch a token
	silence       = time.Minute      // before an agent that did not answer is asked again
)

// An Opener opens a channel to an agent that the owner forwards.
type Opener func() (io.ReadWriteCloser, error)

// A forward is an agent that a connection of the owner's forwards.
type forward struct {
	open   Opener
	silent atomic.Int64 // until when (Unix milliseconds) it is not asked, for it did not answer
}

// asleep reports whether the agent's client was silent a moment ago, as one is whose lid was closed.
func (f *forward) asleep() bool { return time.Now().UnixMilli() < f.silent.Load() }

// forwards are the agents that are forwarded now, newest first.
type forwards struct {
	mu   sync.Mutex
	list []*forward // guarded by mu; replaced, never changed
}

// Forward offers the identities of an agent that the owner forwards, before those of agents that were forwarded
// earlier, until the returned function is called.
func (k *Keyring) Forward(open Opener) (stop func()) {
	f := &forward{open: open}
	k.forwards.mu.Lock()
	defer k.forwards.mu.Unlock()
	list := append([]*forward{f}, k.forwards.list...)
	k.forwards.list = list[:min(len(list), maxForwards)]
	return func() {
		k.forwards.mu.Lock()
		defer k.forwards.mu.Unlock()
		k.forwards.list = slices.DeleteFunc(slices.Clone(k.forwards.list), func(g *forward) bool { return g == f })
	}
}

func (k *Keyring) forwarded() []*forward {
	k.forwards.mu.Lock()
	defer k.forwards.mu.Unlock()
	return k.forwards.list
}

// A client is one connection to the socket. It stays with the forwarded agent that answered it first, for what is said
// to an agent (a session that is bound to it, say) counts for one connection of it.
type client struct {
	keys *Keyring
	ctx  context.Context                        // ends when the keyring does
	gone func(context.CancelFunc) (stop func()) // watches for the end of the connection; nil: nobody does

	of       *forward
	upstream io.ReadWriteCloser // nil: none yet, or it broke
	failed   []*forward         // that did not answer this connection
}

var (
	errNoForward = errors.New("no forwarded agent")
	errSilent    = errors.New("the forwarded agent does not answer")
)

func (c *client) close() {
	if c.upstream != nil {
		_ = c.upstream.Close() // it is gone either way
		c.upstream = nil
	}
}

// pick makes sure of a forwarded agent: the one that answered before, else the newest that may answer.
func (c *client) pick() error {
	live := c.keys.forwarded()
	if c.upstream != nil && slices.Contains(live, c.of) {
		return nil
	}
	c.close()
	for _, f := range live {
		if !f.asleep() && !slices.Contains(c.failed, f) {
			c.of = f
			return nil
		}
	}
	return errNoForward
}

// ask passes a request on as it is, and returns the answer. An agent that fails is left for this connection. One whose
// client is silent for the limit is left for all, for a while: opening a channel, and reading from one, ends with the
// SSH connection only, so what waits is left behind until then.
func (c *client) ask(request []byte, limit time.Duration) ([]byte, error) {
	if err := c.pick(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.ctx, limit)
	defer cancel()
	if c.gone != nil {
		defer c.gone(cancel)()
	}
	type answer struct {
		up   io.ReadWriteCloser
		body []byte
		err  error
	}
	answers := make(chan answer)
	of, up := c.of, c.upstream
	go func() {
		var a answer
		if a.up = up; a.up == nil {
			a.up, a.err = of.open()
		}
		if a.err == nil {
			a.err = writeFrame(a.up, request)
		}
		if a.err == nil {
			a.body, a.err = readFrame(a.up)
		}
		select {
		case answers <- a:
		case <-ctx.Done(): // nobody waits for it any more
			if a.up != nil {
				_ = a.up.Close()
			}
		}
	}()
	select {
	case a := <-answers:
		c.upstream = a.up
		if a.err != nil {
			c.close()
			c.failed = append(c.failed, of)
		}
		return a.body, a.err
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			of.silent.Store(time.Now().Add(silence).UnixMilli())
		}
		c.close()
		c.failed = append(c.failed, of)
		return nil, errSilent
	}
}

// answer returns the answer to a request.
func (c *client) answer(request []byte) []byte {
	if len(request) == 0 {
		return []byte{failure}
	}
	switch body := request[1:]; request[0] {
	case requestIdentities:
		if len(body) != 0 {
			return []byte{failure}
		}
		return c.identities(request)
	case signRequest:
		if sig := c.keys.sign(body); sig != nil {
			return sig
		}
	}
	// What is left is the forwarded agent's: it was asked for by its owner, and answers as it would at home.
	answer, err := c.ask(request, answerLimit)
	if err != nil {
		return []byte{failure}
	}
	return answer
}

// identities returns what the forwarded agent offers, then the Git key.
func (c *client) identities(request []byte) []byte {
	var count uint32
	var list []byte
	for range maxForwards { // an agent that fails gives way to the one before it
		answer, err := c.ask(request, c.keys.patience)
		if errors.Is(err, errNoForward) {
			break
		}
		n, entries, ok := parseIdentities(answer)
		if err == nil && ok {
			count, list = n, entries
			break
		}
		if err == nil { // nonsense
			c.close()
			c.failed = append(c.failed, c.of)
		}
	}
	if key := c.keys.key.Load(); key != nil && !bytes.Contains(list, appendString(nil, key.blob)) {
		count++
		list = appendString(appendString(slices.Clone(list), key.blob), []byte(key.comment))
	}
	return append(binary.BigEndian.AppendUint32([]byte{identitiesAnswer}, count), list...)
}

// parseIdentities reads an IDENTITIES_ANSWER and returns its entries as they are.
func parseIdentities(answer []byte) (count uint32, entries []byte, ok bool) {
	if len(answer) < 5 || answer[0] != identitiesAnswer {
		return 0, nil, false
	}
	count = binary.BigEndian.Uint32(answer[1:])
	if count > maxIdentities {
		return 0, nil, false
	}
	rest := answer[5:]
	for range count {
		for range 2 { // the key, the comment
			if _, rest, ok = cutString(rest); !ok {
				return 0, nil, false
			}
		}
	}
	return count, answer[5 : len(answer)-len(rest)], true
}
