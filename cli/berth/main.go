// Command berth is the CLI: for people and admins, on a laptop and inside a workspace.
package main

import (
	"os"

	"berth/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:]))
}
