# The targets for developers; `make` alone lists them. All of them need Go and git; the tests also need openssl, and use GnuTLS and Java if installed; the
# image needs docker. Tools and the embedded Kubernetes are built from source, once, at the versions in hack/*/go.mod.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Runs a tool of hack/tools at its pinned version.
TOOL := go tool -modfile=hack/tools/go.mod
# The number of packages that are tested in parallel: several of them start their own Kubernetes.
TEST_JOBS ?= 2
# Additional flags for `go test`, such as -run=TestRotation or -v.
TEST_FLAGS ?=
# The race detector needs a C compiler; without one the tests run without it.
RACE := $(if $(shell command -v $$(go env CC)),-race)
# The version for `make bundle`. OLM requires it without the v of a tag; both forms are accepted.
BUNDLE_VERSION ?= 0.1.0
# The image that `make image` builds.
IMAGE ?= ghcr.io/servingcert/operator:latest
# The version that the manager reports.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# The build is reproducible: the same source and version give the same bytes, in any folder.
BUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags="-s -w -X main.version=$(VERSION)"
# The exact Go version for releases.
RELEASE_GO := $(shell awk '$$1 == "toolchain" {print $$2}' go.mod)

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Try it

.PHONY: run
run: $(if $(filter current,$(CLUSTER)),,controlplane) ## Run the operator in an embedded cluster; CLUSTER=current: in the one kubectl points at
	@CGO_ENABLED=0 go build -trimpath -o bin/demo ./hack/demo; exec bin/demo

##@ Develop

.PHONY: build
build: ## Build bin/manager
	@$(BUILD) -o bin/manager .

# Clients that tests compare with Go's.
PEERS := openssl gnutls-cli javac

# Hides packages without tests.
.PHONY: test
test: controlplane ## Run every test, against an embedded cluster
	@for peer in $(PEERS); do command -v $$peer >/dev/null || echo "there is no $$peer here: what takes it is skipped"; done
	@go test $(RACE) -timeout 60m -p $(TEST_JOBS) $(TEST_FLAGS) ./... | sed '/\[no test files\]/d'
	@go -C hack/controlplane test $(TEST_FLAGS) ./build/... | sed '/\[no test files\]/d'
	@go -C hack/bundle test $(TEST_FLAGS) ./...
	@go -C hack/monitoring test $(TEST_FLAGS) ./...

SERVICES ?= 1000
# The part of the benchmark to run: services or publish; both by default.
ONLY ?=

.PHONY: bench
bench: controlplane build ## Measure the operator on the embedded cluster, compared with a floor; SERVICES=10000 for many
	@go run ./hack/bench --services=$(SERVICES) --only=$(ONLY)

.PHONY: controlplane
controlplane: ## Build the embedded cluster into bin/k8s: minutes the first time
	@go -C hack/controlplane run ./build --out $(CURDIR)/bin/k8s

.PHONY: manifests
manifests: ## Generate the CRDs, deep copies, apply configurations and docs/api.md from the types
	@begin=$$(mktemp); trap 'rm "$$begin"' EXIT; \
		$(TOOL) controller-gen object crd applyconfiguration paths=./api/v1alpha1 output:crd:artifacts:config=config/crd/bases; \
		find api/v1alpha1/applyconfiguration -name '*.go' ! -newer "$$begin" -delete # of deleted types
	@$(TOOL) crd-ref-docs --config hack/crd-ref-docs.yaml --source-path api/v1alpha1 \
		--renderer markdown --output-path docs/api.md --log-level ERROR

.PHONY: dashboard
dashboard: ## Generate the Grafana dashboard and its picture from hack/monitoring/panels.go
	@go -C hack/monitoring run .

.PHONY: generate
generate: manifests ## The same, by its other name

##@ Check

.PHONY: lint
lint: bin/golangci-lint ## Lint the code and the API
	@bin/golangci-lint run
	@cd hack/controlplane && $(CURDIR)/bin/golangci-lint run ./build/...
	@cd hack/bundle && $(CURDIR)/bin/golangci-lint run
	@cd hack/monitoring && $(CURDIR)/bin/golangci-lint run

.PHONY: lint-fix
lint-fix: bin/golangci-lint ## Lint, and repair what can be repaired
	@bin/golangci-lint run --fix
	@cd hack/controlplane && $(CURDIR)/bin/golangci-lint run --fix ./build/...
	@cd hack/bundle && $(CURDIR)/bin/golangci-lint run --fix
	@cd hack/monitoring && $(CURDIR)/bin/golangci-lint run --fix

.PHONY: verify
verify: ## Check that everything generated, formatted or pinned is current
	@hack/verify.sh

.PHONY: vulncheck
vulncheck: ## Look for known vulnerabilities; asks vuln.go.dev
	@$(TOOL) govulncheck ./...

##@ Ship

.PHONY: installer
installer: ## Write dist/install.yaml, all that a cluster needs
	@mkdir -p dist
	@$(TOOL) kustomize build config/default -o dist/install.yaml
	@echo "kubectl apply --server-side -f dist/install.yaml"

.PHONY: bundle
bundle: ## Write bundle/, for OLM; BUNDLE_VERSION is its version
	@$(TOOL) kustomize build config/default | go -C hack/bundle run . --version=$(BUNDLE_VERSION:v%=%)

.PHONY: image
image: ## Build the container image; IMAGE names it
	@docker build -t $(IMAGE) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD) \
		--build-arg SOURCE_DATE_EPOCH=$(shell git log -1 --format=%ct) .

.PHONY: release
release: installer ## Write dist/: the manager, install.yaml, an SBOM, checksums; VERSION=v1.2.3 names it
	@sed -i 's#\(image: ghcr.io/servingcert/operator\):latest$$#\1:$(VERSION)#' dist/install.yaml
	@grep --quiet 'image: ghcr.io/servingcert/operator:$(VERSION)$$' dist/install.yaml || { \
		echo "release: install.yaml does not name ghcr.io/servingcert/operator:$(VERSION): what does config/default?" >&2; exit 1; }
	@for arch in amd64 arm64; do \
		binary=dist/manager-linux-$$arch; \
		GOTOOLCHAIN=$(RELEASE_GO) GOOS=linux GOARCH=$$arch $(BUILD) -o $$binary .; \
		$(TOOL) cyclonedx-gomod bin -json -std -licenses -noserial -notimestamp -version $(VERSION) -output $$binary.cdx.json $$binary; \
	done
	@cd dist && sha256sum install.yaml manager-linux-* | tee SHA256SUMS

# golangci-lint with the Kubernetes API conventions as a plugin.
bin/golangci-lint: hack/tools/go.mod hack/tools/go.sum
	@echo "building golangci-lint (once, about two minutes)" >&2
	@go build -modfile=hack/tools/go.mod -o $@ sigs.k8s.io/kube-api-linter/cmd/golangci-lint-kube-api-linter
	@touch $@
