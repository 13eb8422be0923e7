#!/usr/bin/env bash
# shells: the programs with which tests/real/install_docs.rs reads the completions and the man pages.
#
#   shells get   install zsh, fish and mandoc (apt)
set -euo pipefail
[ "${1:-}" = get ] || { echo "shells: expected get" >&2; exit 2; }
for program in zsh fish mandoc; do
  command -v "$program" >/dev/null || missing=1
done
[ -z "${missing:-}" ] ||
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends zsh fish mandoc >/dev/null; }
