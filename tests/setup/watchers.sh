#!/usr/bin/env bash
# watchers: the programs that watch the recorder in tests/real/watching.rs.
#
#   watchers get      put Prometheus and promtool into a directory, and install systemd
#   watchers folder   print that directory
#
# Needs root on Debian.
set -euo pipefail
folder=${WATCHERS_HOME:-${TMPDIR:-/tmp}/events-watchers}
case ${1:-} in
get)
  [ -x "$folder/promtool" ] && command -v systemd-analyze >/dev/null && exit
  apt-get -qq update
  command -v systemd-analyze >/dev/null ||
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends systemd >/dev/null
  # Unpacked rather than installed, because the package contains a service.
  mkdir -p "$folder/deb"
  (cd "$folder/deb" && apt-get -qq -o APT::Sandbox::User=root download prometheus && dpkg -x prometheus_*.deb .)
  mv "$folder/deb/usr/bin/prometheus" "$folder/deb/usr/bin/promtool" "$folder/"
  rm -rf "$folder/deb"
  ;;
folder) echo "$folder" ;;
*) echo "watchers: expected get or folder" >&2; exit 2 ;;
esac
