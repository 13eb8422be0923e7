#!/usr/bin/env bash
# engine: real Docker Engines for tests/real, one private daemon per version.
#
#   engine get VERSION            put the programs of the engine and its client under $ENGINES
#   engine start VERSION [ARG…]   start the engine and print its DOCKER_HOST; ARGs go to dockerd
#   engine stop VERSION           SIGTERM and wait; keep the state
#   engine kill VERSION           SIGKILL the daemon and its containerd; keep the state
#   engine reload VERSION         SIGHUP: the daemon reads its configuration again
#   engine reset VERSION          SIGKILL the daemon and its containers, and delete the state
#   engine image VERSION          make busybox:latest from /bin/busybox, without pulling
#   engine registry VERSION       start a registry that only this engine reaches, and print its name
#   engine pid VERSION            print the daemon's process ID
#   engine client VERSION         print the path of its docker client; 26 has docker-compose in the same directory
#
# VERSION: 20 = bookworm's (20.10), 26 = trixie's (26.1), newest = the current version in sid.
# Each daemon has its own network and mount namespace, so several can run at the same time. A docker installed on the
# machine is neither used nor changed. Needs root on Debian bookworm; installs what it needs from the Debian mirror that
# the machine's apt uses. ENGINES, the directory for all of this, defaults to events-engines in the temporary directory.
set -euo pipefail

die() { echo "engine: $*" >&2; exit 1; }
usage() { sed -n '/^#   engine/s/^#   //p' "$0" >&2; exit 2; }

[ $# -ge 2 ] || usage
ENGINES=$(realpath -m -- "${ENGINES:-${TMPDIR:-/tmp}/events-engines}")
verb=$1 version=$2; shift 2
case $version in
20) suite=bookworm expected='Docker version 20.' packages='docker.io containerd runc docker-registry' ;;
26) suite=trixie expected='Docker version 26.' packages='docker.io docker-cli containerd docker-compose' ;;
newest) suite=sid expected='Docker version ' packages='docker.io docker-cli containerd' ;;
*) echo "engine: unknown version $version (20, 26 or newest)" >&2; exit 2 ;;
esac
bin=$ENGINES/$version/bin root=$ENGINES/$version/tree run=$ENGINES/$version/run
socket=$run/docker.sock
programs=(bin/containerd bin/containerd-shim-runc-v2 bin/docker sbin/docker-proxy sbin/dockerd)
[ "$version" != 26 ] || programs+=(libexec/docker/cli-plugins/docker-compose)

# --- getting the programs

install_packages() { # libraries of the daemons, and programs that they call
  local wanted=(busybox-static ca-certificates curl iproute2 iptables procps tzdata
    libdevmapper1.02.1 libseccomp2 libsystemd0) missing=() package
  # If the kernel uses AppArmor, no container starts without its parser.
  [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" != Y ] || wanted+=(apparmor)
  for package in "${wanted[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  apt-get -qq update >&2 || die "apt-get update failed"
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null ||
    die "apt-get could not install ${missing[*]}"
}

mirror() { # the Debian mirror in apt's sources, from *.sources or sources.list
  local sources
  sources=$(debian_sources)
  # apt knows the origin of a source only after fetching it.
  [ -n "$sources" ] || { apt-get -qq update >&2 || die "apt-get update failed"; sources=$(debian_sources); }
  awk '$1 !~ /-/ && $2 == "main" { print $3; exit }' <<<"$sources"
}

debian_sources() {
  # shellcheck disable=SC2016 # apt's variables, not the shell's
  apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 'Origin: Debian'
}

suite_apt() { # apt-get for the suite, with its own state
  local state=$ENGINES/apt/$suite
  apt-get -qq -o Dir::State="$state" -o Dir::State::Lists="$state/lists" -o Dir::State::status="$state/status" \
    -o Dir::Cache="$state/cache" -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o APT::Sandbox::User=root "$@" >&2
}

get_from_suite() {
  local state=$ENGINES/apt/$suite debs=$ENGINES/$version/deb url deb
  url=$(mirror)
  [ -n "$url" ] || die "no Debian mirror in apt's sources"
  rm -rf "$debs" "$root"
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$debs" "$root"
  cp /var/lib/dpkg/status "$state/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $url $suite main" >"$state/sources.list"
  suite_apt update || die "cannot read $suite at $url"
  # shellcheck disable=SC2086 # a list of names
  (cd "$debs" && suite_apt download $packages) || die "cannot download $packages of $suite from $url"
  for deb in "$debs"/*.deb; do dpkg -x "$deb" "$root"; done
  rm -rf "$debs"
}

has_all() { local program; for program in "${programs[@]}"; do [ -x "$bin/${program##*/}" ] || return 1; done; }

get() {
  [ "$(id -u)" = 0 ] || die "needs root"
  # Also if the programs exist, because the directory may have been kept while the machine is new.
  install_packages
  has_all && return
  get_from_suite
  local runc=$root/usr/sbin/runc program
  # runc of the newer suites needs a newer libc than bookworm's.
  [ "$version" = 20 ] || { "$0" get 20 >/dev/null; runc=$ENGINES/20/bin/runc; }
  mkdir -p "$bin"
  ln -sf "$runc" "$bin/runc"
  for program in "${programs[@]}"; do
    [ -x "$root/usr/$program" ] || die "the packages $packages of $suite do not contain /usr/$program"
    ln -sf "$root/usr/$program" "$bin/"
  done
}

# --- running it

runs() { # zombies do not count: in a container, often no process waits for them
  local state; state=$(sed -n 's/^State:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null) || return 1
  [[ -n $state && $state != Z* ]]
}

curl=(curl -sSf --noproxy '*') # a proxy in the environment does not apply to local sockets

answers() { "${curl[@]}" --max-time 5 --unix-socket "$socket" http://docker/_ping >/dev/null 2>&1; }

start() {
  answers && { echo "unix://$socket"; return; }
  get
  local found; found=$("$bin/dockerd" --version) || die "dockerd of $suite does not run on this machine"
  [[ $found == "$expected"* ]] || die "$suite now has '$found', not $version"
  mkdir -p "$run"
  # Its own configuration, because /etc/docker/daemon.json of the machine does not apply to it.
  echo '{}' >"$run/daemon.json"
  PATH=$bin:$PATH setsid nohup unshare --net --mount --propagation private bash -c \
    'ip link set lo up && exec dockerd "$@"' dockerd --config-file "$run/daemon.json" \
    --data-root "$run/data" --exec-root "$run/exec" --pidfile "$run/pid" -H "unix://$socket" --group root "$@" \
    >>"$run/log" 2>&1 </dev/null &
  local daemon=$!
  for _ in $(seq 1200); do
    answers && { echo "unix://$socket"; return; }
    runs "$daemon" || break
    sleep 0.05
  done
  tail -20 "$run/log" >&2
  kill "$daemon" 2>/dev/null || true
  die "version $version did not answer; the end of its log is above"
}

daemon_pid() { # empty if the daemon does not run
  local pid; pid=$(cat "$run/pid" 2>/dev/null) || return 0
  ! runs "$pid" || echo "$pid"
}

wait_gone() { for _ in $(seq 1200); do runs "$1" || return 0; sleep 0.05; done; return 1; }

registry() { # in the daemon's network namespace, so it ends with the daemon; from bookworm, for all versions
  local pid; pid=$(daemon_pid)
  [ -n "$pid" ] || die "version $version does not run"
  cat >"$run/registry.yml" <<END
version: 0.1
storage: { filesystem: { rootdirectory: $run/registry } }
http: { addr: "127.0.0.1:5000" }
END
  setsid nohup nsenter --target "$pid" --net "$ENGINES/20/tree/usr/bin/docker-registry" serve "$run/registry.yml" \
    >>"$run/registry.log" 2>&1 </dev/null &
  local registry=$!
  echo $registry >"$run/registry.pid"
  for _ in $(seq 1200); do
    nsenter --target "$pid" --net "${curl[@]}" http://127.0.0.1:5000/v2/ >/dev/null 2>&1 &&
      { echo localhost:5000; return; }
    runs "$registry" || break
    sleep 0.05
  done
  tail -20 "$run/registry.log" >&2
  die "the registry of version $version did not answer; the end of its log is above"
}

end_registry() {
  local pid; pid=$(cat "$run/registry.pid" 2>/dev/null) || return 0
  ! runs "$pid" || kill -9 "$pid"
  rm -f "$run/registry.pid"
}

stop() {
  local pid; pid=$(daemon_pid)
  end_registry
  [ -z "$pid" ] || { kill "$pid"; wait_gone "$pid" || die "version $version does not exit"; }
}

kill_hard() {
  local pid containerd; pid=$(daemon_pid)
  [ -n "$pid" ] || die "version $version does not run"
  end_registry
  containerd=$(cat "$run/exec/containerd/containerd.pid" 2>/dev/null || true)
  kill -9 "$pid" ${containerd:+"$containerd"}
  wait_gone "$pid" || die "version $version does not exit"
  rm -f "$run/pid" "$run/exec/containerd/containerd.pid"
}

reset() { # without a clean shutdown, because all state is deleted anyway
  local shim
  [ -z "$(daemon_pid)" ] || kill_hard
  end_registry
  # The containers of a killed daemon are still running.
  for shim in $(pgrep -f -- "-address $run/exec/containerd/" || true); do
    pkill -KILL -P "$shim" || true
    kill -9 "$shim" 2>/dev/null || true
    wait_gone "$shim" || die "a container of version $version does not exit"
  done
  rm -rf "$run"
}

image() {
  local tree applet; tree=$(mktemp -d); mkdir "$tree/bin" "$tree/tmp"; cp /bin/busybox "$tree/bin/"
  for applet in $(/bin/busybox --list); do [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"; done
  tar -C "$tree" -c . | "${curl[@]}" --unix-socket "$socket" -H 'Content-Type: application/x-tar' --data-binary @- \
    'http://docker/images/create?fromSrc=-&repo=busybox&tag=latest&changes=CMD%20%5B%22sh%22%5D' ||
    die "version $version did not accept the image"
  rm -rf "$tree"
}

case $verb in
get) get; "$bin/dockerd" --version ;;
start) start "$@" ;;
stop) stop ;;
kill) kill_hard ;;
reload) pid=$(daemon_pid); [ -n "$pid" ] || die "version $version does not run"; kill -HUP "$pid" ;;
reset) reset ;;
image) image ;;
registry) registry ;;
pid) daemon_pid ;;
client) get; echo "$bin/docker" ;;
*) usage ;;
esac
