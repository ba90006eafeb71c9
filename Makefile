# Twinkeel. The targets a newcomer needs: make demo, make test.

GO          ?= go
# A tag is the version; between tags it is the next one's, with the commit.
VERSION     := $(shell git describe --tags --exact-match 2>/dev/null | sed s/^v// | grep . || \
	echo 0.1.0-dev$$(git rev-parse --short HEAD 2>/dev/null | sed s/^/+/))
LDFLAGS     := -s -w -X github.com/twinkeel/twinkeel/internal/version.Version=$(VERSION)
GOBUILD     := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
# The agent speaks HTTP/1.1 only, as Mender's clients do; without HTTP/2 it is 400 KB smaller.
GOAGENT     := $(GOBUILD) -tags nethttpomithttp2
GOLANGCI    := .tools/golangci-lint-2.15.0
FUZZTIME    ?= 10s

export GOFLAGS := -buildvcs=false

.PHONY: build
build: host cross ## everything: for this machine in bin/, and the released binaries in bin/linux-*/

.PHONY: host
host: ## twinkeel, its helpers and the agent for this machine
	$(GOBUILD) -o bin/ ./cmd/twinkeel ./cmd/twinkeel-kms ./cmd/twinkeel-vdevice
	$(GOAGENT) -o bin/ ./cmd/twinkeel-agent
	@# Loading PKCS #11 modules needs cgo; only this small program has it.
	@if command -v $${CC:-cc} >/dev/null; then \
		echo "bin/twinkeel-pkcs11 (with cgo)"; \
		CGO_ENABLED=1 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/twinkeel-pkcs11; \
	else \
		echo "bin/twinkeel-pkcs11 is left out: there is no C compiler (keys in PKCS #11 tokens need it)"; \
	fi

.PHONY: cross
cross: ## the released binaries, static: twinkeel and twinkeel-kms for amd64 and arm64, the agent also for armv7
	@for arch in amd64 arm64; do \
		echo "linux/$$arch"; \
		GOOS=linux GOARCH=$$arch $(GOBUILD) -o bin/linux-$$arch/ ./cmd/twinkeel ./cmd/twinkeel-kms || exit 1; \
		GOOS=linux GOARCH=$$arch $(GOAGENT) -o bin/linux-$$arch/ ./cmd/twinkeel-agent || exit 1; \
	done
	@echo "linux/armv7 (agent)"
	@GOOS=linux GOARCH=arm GOARM=7 $(GOAGENT) -o bin/linux-armv7/ ./cmd/twinkeel-agent

.PHONY: demo
demo: ## build, sign, make images, run a server and three virtual devices, roll out, roll back
	@scripts/packages.sh demo
	@$(MAKE) --no-print-directory host
	@examples/demo/demo.sh

.PHONY: test
test: packages vet lint cross ## everything CI checks
	$(GO) test ./...

.PHONY: check
check: vet lint ## the quick half of test, for every save
	$(GO) test -short ./...

.PHONY: packages
packages: # the peers that interop tests run
	@scripts/packages.sh test --optional

.PHONY: vet
vet:
	$(GO) vet ./...

.PHONY: lint
lint: $(GOLANGCI) ## style, import directions
	$(GOLANGCI) run ./...
	$(GOLANGCI) fmt --diff ./...

$(GOLANGCI):
	@echo "building golangci-lint, once"
	@mkdir -p .tools
	GOBIN=$(CURDIR)/.tools GOFLAGS= $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	@mv .tools/golangci-lint $@

.PHONY: race
race: ## tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -short ./...

.PHONY: nand
nand: ## a UBI image on the simulated NAND flash of a virtual machine
	@scripts/packages.sh nand
	@scripts/nand-kernel.sh .tools/nand-kernel
	TWINKEEL_NAND_KERNEL=$(CURDIR)/.tools/nand-kernel $(GO) test -count=1 -v ./test/nand

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME
	@scripts/fuzz.sh $(FUZZTIME)

.PHONY: bench-artifact
bench-artifact: host ## artifacts by us and by mender-artifact side by side, in time, memory and bytes
	@scripts/bench-artifact.sh

.PHONY: bench-imaging
bench-imaging: host ## disk images by us, genimage and dd side by side, against the goals in time, memory and bytes
	@scripts/bench-imaging.sh

.PHONY: bench-pipeline
bench-pipeline: host ## a build of 4 GiB with nothing to do, and what else has a bound in time
	@scripts/bench-build.sh
	@scripts/bench-pipeline.sh

.PHONY: bench-language
bench-language: host ## the language's bounds alone, in seconds; RUNS says how often each is measured
	@scripts/bench-pipeline.sh

.PHONY: golden
golden: ## rewrite golden files and generated documentation
	$(GO) test ./cli ./pipeline ./imaging -update

.PHONY: clean
clean:
	rm -rf bin out examples/demo/work examples/demo/out examples/demo/.twinkeel

.PHONY: help
help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12
