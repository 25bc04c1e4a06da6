# Two commands: `make demo` runs the main job on this machine, `make test` runs every check.

SHELL   := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X berth/agent.Version=$(VERSION)
GOBUILD := CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)"
GOARCH  := $(shell $(GO) env GOARCH)
GOOS    := $(shell $(GO) env GOOS)
ASSETS  := coordinator/dist/assets

.PHONY: build assets demo demo-clean test unit e2e conformance lint fmt bench release deps clean

## build: the three programs in bin/, for this machine
build: assets
	@mkdir -p bin
	@$(GOBUILD) -o bin/ ./cli/berth ./coordinator/berthd
	@$(GOBUILD) -o bin/ ./agent/berth-agent

## assets: the agent and the CLI that berthd carries for workspaces, for this machine's architecture
assets:
	@scripts/assets "$(VERSION)" "$(GOARCH)"

## demo: a coordinator, a template and a running workspace on this machine; Ctrl-C ends the coordinator
demo: build
	@scripts/demo/demo demo

## demo-clean: everything of make demo gone again
demo-clean:
	@[ -x bin/berth ] || $(MAKE) build
	@scripts/demo/demo clean

## test: everything that CI runs: fast tests first, then the stories, then the linters
test: deps build
	@scripts/check

## unit: the tests of the packages, with the race detector
unit:
	$(GO) test -race ./agent/... ./cli/... ./coordinator/... ./scripts/arch/...

## e2e: the stories in testdata/script, with real programs
e2e: build
	$(GO) test -count=1 ./scripts/e2e/...

## conformance: every check of scripts/conformance, through every way in
conformance: build
	@scripts/deps conformance
	@scripts/conformance/run

## lint: formatters and analyzers
lint:
	@scripts/lint

fmt:
	$(GO) tool gofumpt -w agent cli coordinator scripts

## bench: the figures as ratios against a baseline in the same run; exits 1 where one is missed
bench: build
	@$(GO) run ./scripts/bench

## release: the programs for linux and darwin, amd64 and arm64, and the CLI for windows, in dist/
release:
	@scripts/release "$(VERSION)"

## deps: what the tests need besides the README's list
deps:
	@scripts/deps

clean:
	rm -rf bin dist $(ASSETS)/*.gz $(ASSETS)/*.json
