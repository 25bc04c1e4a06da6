package events

import (
	"sync"
	"testing"
)

func woken(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestWatch(t *testing.T) {
	b := New()
	a1, endA1 := b.Watch("a")
	a2, endA2 := b.Watch("a")
	other, endOther := b.Watch("b")
	all, endAll := b.Watch("")
	defer endOther()
	defer endAll()

	b.Notify("a")
	b.Notify("a") // joins the pending wake-up
	for _, tt := range []struct {
		name string
		c    <-chan struct{}
		want bool
	}{
		{"first watcher", a1, true},
		{"second watcher", a2, true},
		{"two changes are one wake-up", a1, false},
		{"another workspace", other, false},
		{"everything", all, true},
		{"everything, once", all, false},
	} {
		if got := woken(tt.c); got != tt.want {
			t.Errorf("%s: woken %v, want %v", tt.name, got, tt.want)
		}
	}

	endA1()
	endA1() // twice does no harm
	b.Notify("a")
	if woken(a1) {
		t.Error("an ended watch was woken")
	}
	if !woken(a2) {
		t.Error("ending one watch ended the other")
	}
	endA2()
	if len(b.watches["a"]) != 0 {
		t.Error("the bus remembers a workspace that nobody watches")
	}
}

func TestConcurrent(t *testing.T) {
	b := New()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				c, end := b.Watch("a")
				b.Notify("a")
				if !woken(c) {
					t.Error("a change after Watch returned did not wake")
				}
				end()
			}
		})
	}
	wg.Wait()
	if len(b.watches) != 0 {
		t.Errorf("%d watches are left", len(b.watches))
	}
}
