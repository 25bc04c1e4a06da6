// Command berthd is the coordinator.
package main

import (
	"os"

	"berth/coordinator/daemon"
)

func main() { os.Exit(daemon.Main(os.Args[1:])) }
