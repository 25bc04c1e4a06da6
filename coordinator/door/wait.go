package door

import (
	"errors"
	"strings"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"

	"berth/coordinator"
)

const (
	bannerLeast = time.Second     // between two banners with news
	bannerMost  = 3 * time.Second // between two banners: a client's alive timer runs during authentication too
	bannerLook  = 100 * time.Millisecond
	maxBanner   = 400 // bytes of one line
)

// A pace says when a waiting client is told what.
type pace struct {
	at   time.Time            // of the last banner, or of the beginning
	told coordinator.Progress // without Elapsed
	text string               // of the last banner that had any
}

// next returns the banner that is due, if one is: news at most once a second, and at least every three seconds
// something, if only an empty banner, which prints nothing.
func (p *pace) next(now time.Time, cur coordinator.Progress) (text string, due bool) {
	bare := cur
	bare.Elapsed = 0
	since := now.Sub(p.at)
	switch {
	case cur.Stage != "" && bare != p.told && (p.text == "" || since >= bannerLeast):
		p.at, p.told, p.text = now, bare, cur.String()
		return p.text, true
	case since < bannerMost:
		return "", false
	}
	p.at = now
	if s := cur.String(); cur.Stage != "" && s != p.text {
		p.text = s
		return s, true
	}
	return "", true
}

// tell tells the client, by banners, how far it is with what it waits for, until that is done or limit comes.
func (c *conn) tell(done <-chan struct{}, limit <-chan time.Time, n *news) error {
	tick := time.NewTicker(bannerLook)
	defer tick.Stop()
	p := pace{at: time.Now()}
	for {
		select {
		case <-done:
			return nil
		case <-limit:
			return nil
		case now := <-tick.C:
			text, due := p.next(now, n.get())
			if !due {
				continue
			}
			if text != "" {
				text = banner(c.ws.Name + ": " + text)
			}
			if err := (*c.pre.Load()).SendAuthBanner(text); err != nil {
				return err
			}
		}
	}
}

// banner makes one line for a terminal of text that others had a hand in.
func banner(text string) string {
	return "berth: " + coordinator.Clip(printable(text), maxBanner) + "\r\n"
}

// printable replaces what a terminal would act upon: escape sequences in a template's messages must not reach it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

// explain puts an error in the user's words, with the hint.
func (c *conn) explain(err error) []string {
	var e *coordinator.Error
	if !errors.As(err, &e) {
		c.log.Error("cannot enter workspace", "error", err)
		return []string{"something went wrong in the coordinator; its log says what"}
	}
	if e.Hint == "" {
		return []string{e.Msg}
	}
	return []string{e.Msg, e.Hint}
}

// refuse is the last banner of a login that fails, as the error that sends it.
func (c *conn) refuse(err error) error {
	if c.ctx.Err() != nil {
		return err
	}
	var text string
	for _, line := range c.explain(err) {
		text += banner(line)
	}
	return &ssh.BannerError{Err: err, Message: text}
}
