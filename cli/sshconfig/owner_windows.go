package sshconfig

import (
	"io/fs"
	"os"
)

// keepOwner does nothing: a new file belongs to whoever makes it, as its directory says.
func keepOwner(*os.File, fs.FileInfo) {}
