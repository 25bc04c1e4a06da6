// Command report reads `go test -json` from its standard input, prints a line for each package and the whole output of
// each failed test, and adds the counts to the file named by its argument, as "passed failed skipped".
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

func main() {
	if err := report(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func report(file string) error {
	var passed, failed, skipped int
	output := map[string]*strings.Builder{}
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	dec := json.NewDecoder(in)
	for dec.More() {
		var e event
		if err := dec.Decode(&e); err != nil {
			return fmt.Errorf("read go test -json: %w", err)
		}
		key := e.Package + " " + e.Test
		if e.Action == "output" || e.Action == "build-output" {
			if output[key] == nil {
				output[key] = new(strings.Builder)
			}
			output[key].WriteString(e.Output)
			continue
		}
		switch e.Action {
		case "pass", "fail", "skip":
		case "build-fail":
			printOutput(output)
			continue
		default:
			continue
		}
		if e.Test == "" {
			fmt.Printf("%-4s %-40s %6.1f s\n", e.Action, e.Package, e.Elapsed)
			if e.Action == "fail" {
				fmt.Print(text(output[key]))
				failed++
			}
			continue
		}
		switch e.Action {
		case "pass":
			passed++
		case "skip":
			skipped++
			fmt.Printf("skip %s\n%s", key, text(output[key]))
		case "fail":
			failed++
			fmt.Printf("FAIL %s\n%s", key, text(output[key]))
		}
		delete(output, key)
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	fmt.Fprintln(f, passed, failed, skipped)
	return f.Close()
}

func text(b *strings.Builder) string {
	if b == nil {
		return ""
	}
	return b.String()
}

func printOutput(m map[string]*strings.Builder) {
	for k, b := range m {
		fmt.Print(b.String())
		delete(m, k)
	}
}
