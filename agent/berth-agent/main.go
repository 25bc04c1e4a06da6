// Command berth-agent is the process inside a workspace: it links to the coordinator, sets the workspace up and serves
// SSH.
package main

import (
	"os"

	"berth/agent/daemon"
)

func main() { os.Exit(daemon.Main(os.Args[1:])) }
