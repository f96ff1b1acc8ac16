#!/usr/bin/env bash
# Checks that everything generated, formatted or pinned is current, that every kustomization builds, that builds are reproducible, and that no known
# vulnerability is called. What is not current is brought up to date, so that what remains to be done is a commit.
set -euo pipefail
cd "$(dirname "$0")/.."

generated=(api config/crd/bases docs/api.md bundle config/components/metrics/dashboard.json docs/dashboard.svg)
failed=0

complain() {
  echo "verify: $*" >&2
  failed=1
}

# files lists the files of the tree that match, committed or not.
files() {
  git ls-files --cached --others --exclude-standard -- "$@" | sort -u |
    while read -r file; do [[ ! -f $file ]] || echo "$file"; done
}

# fingerprint says what is in the generated files.
fingerprint() {
  files "${generated[@]}" | while read -r file; do echo "$(git hash-object "$file") $file"; done
}

check_generated() {
  local before after
  before=$(fingerprint)
  make manifests bundle dashboard
  after=$(fingerprint)
  [[ $before == "$after" ]] && return
  complain "generated files were not current; now they are:"
  comm -3 <(sort <<<"$before") <(sort <<<"$after") | awk '{print "  " $2}' | sort -u >&2
}

check_format() {
  local unformatted
  unformatted=$(files '*.go' | xargs gofmt -l)
  [[ -z $unformatted ]] || complain "gofmt wants to change:" $unformatted
}

check_modules() {
  local module
  for module in $(files go.mod '**/go.mod'); do
    go -C "$(dirname "$module")" mod tidy -diff >&2 || complain "go mod tidy wants to change $module"
  done
}

check_kustomizations() {
  local file
  for file in $(files 'config/**/kustomization.yaml'); do
    go tool -modfile=hack/tools/go.mod kustomize build "$(dirname "$file")" >/dev/null || complain "${file} does not build"
  done
}

# check_reproducible builds the manager here and from a copy of what goes into the image, in another folder: the same bytes, in which no folder of
# this machine is named. (What is compiled once is not compiled again for the copy: hence the second question.)
check_reproducible() {
  local copy folder
  copy=$(mktemp -d)
  tar -cf - Makefile go.mod go.sum main.go api controllers | tar -xf - -C "$copy"
  make build VERSION=v0.0.0-verify
  make -C "$copy" build VERSION=v0.0.0-verify
  cmp bin/manager "$copy/bin/manager" >&2 || complain "the manager has other bytes when it is built in another folder"
  for folder in "$PWD" "$copy" "$(go env GOROOT)" "$(go env GOMODCACHE)"; do
    ! grep --quiet --fixed-strings --text "$folder/" bin/manager || complain "$folder is named in the manager's binary"
  done
  [[ $(bin/manager --version) == v0.0.0-verify ]] || complain "the manager does not say which version it is"
  rm -r "$copy"
}

# check_go compares the Go of releases, of the image and of CI.
check_go() {
  local toolchain
  toolchain=$(awk '$1 == "toolchain" {print $2}' go.mod)
  grep --quiet "golang:${toolchain#go} AS build" Dockerfile || complain "the Dockerfile builds with another Go than go.mod's toolchain ${toolchain}"
}

# check_vulnerabilities asks vuln.go.dev. Where that cannot be reached, nothing is known, and CI asks again each week.
check_vulnerabilities() {
  local code=0
  go tool -modfile=hack/tools/go.mod govulncheck ./... >&2 || code=$?
  case $code in
    0) ;;
    3) complain "known vulnerabilities are called: bring the modules above up to date" ;;
    *) echo "verify: vulnerabilities were not looked for" >&2 ;;
  esac
}

check_generated
check_format
check_modules
check_kustomizations
check_go
check_reproducible
check_vulnerabilities
exit "$failed"
