package link

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
)

// A Read that waits ends with Close, whatever deadline is set meanwhile, and so does one that comes later.
func TestCloseEndsRead(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	ours, err := yamux.Server(near, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	theirs, err := yamux.Client(far, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	s := &session{}
	const readers = 200
	ended := make(chan error, readers)
	var helpers sync.WaitGroup
	for range readers {
		peer, err := theirs.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		st, err := ours.AcceptStream()
		if err != nil {
			t.Fatal(err)
		}
		c := s.wrap(st, nil)
		go func() {
			_, err := c.Read(make([]byte, 1))
			if err == nil || !errors.Is(err, net.ErrClosed) {
				ended <- err
				return
			}
			_, err = c.Read(make([]byte, 1))
			ended <- err
		}()
		poll(t, func() bool { // the reader is there
			if !c.reading.TryLock() {
				return true
			}
			c.reading.Unlock()
			return false
		})
		helpers.Go(func() { _ = c.SetReadDeadline(time.Now().Add(time.Hour)) })
		helpers.Go(func() { _ = c.Close() })
		defer peer.Close()
	}
	limit := time.After(20 * time.Second)
	for i := range readers {
		select {
		case err := <-ended:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("Read: %v", err)
			}
		case <-limit:
			t.Fatalf("%d of %d readers still wait", readers-i, readers)
		}
	}
	helpers.Wait()
	theirs.Close()
	s.streams.Wait()
}
