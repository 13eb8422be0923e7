#!/usr/bin/env bash
# hosts: the programs with which tests/real/hosts.rs reaches engines, in addition to those of tests/setup/engine.sh.
#
#   hosts get      install an sshd, ssh and Podman (apt)
set -euo pipefail
case ${1:-} in
get)
  command -v sshd >/dev/null && command -v ssh >/dev/null && command -v podman >/dev/null && exit
  apt-get -qq update
  # RUNLEVEL=1 installs the services without starting them.
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
    openssh-server openssh-client podman >/dev/null
  ;;
*) echo "hosts: expected get" >&2; exit 2 ;;
esac
