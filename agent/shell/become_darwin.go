package shell

import "errors"

// become fails: this system gives a single thread no other user.
func become(*User) error {
	return errors.New("an agent that is root cannot act for its user on this system: start it as that user")
}
