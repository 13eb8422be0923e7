#!/usr/bin/env bash
# sqlite_tools: the programs with which tests/real/sqlite_tools.rs queries the store.
#
#   sqlite_tools get      install the sqlite3 shell (apt) and, into a directory, DuckDB and Datasette (pip)
#   sqlite_tools folder   print the directory of the Python that has them
set -euo pipefail
folder=${SQLITE_TOOLS_HOME:-${TMPDIR:-/tmp}/events-sqlite-tools}
case ${1:-} in
get)
  if ! command -v sqlite3 >/dev/null; then
    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends sqlite3 >/dev/null
  fi
  # The extension that reads SQLite is also a package, for one version of DuckDB.
  [ -x "$folder/bin/datasette" ] || {
    python3 -m venv "$folder"
    "$folder/bin/pip" install -q duckdb==1.5.5 duckdb-extensions duckdb-extension-sqlite-scanner==1.5.5 datasette
  }
  ;;
folder) echo "$folder/bin" ;;
*) echo "sqlite_tools: expected get or folder" >&2; exit 2 ;;
esac
