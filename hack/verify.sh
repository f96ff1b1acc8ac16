#!/usr/bin/env bash
# Checks that everything generated, formatted or pinned is current, and that every kustomization builds. What is not current is
# brought up to date, so that what remains to be done is a commit.
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

check_generated
check_format
check_modules
check_kustomizations
exit "$failed"
