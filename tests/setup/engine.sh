#!/usr/bin/env bash
# engine: real Docker engines for tests/real/engines.rs, one private daemon per version.
#
#   engine get VERSION            put the engine's and its client's programs under $ENGINES
#   engine start VERSION [ARG…]   start it and print its DOCKER_HOST; ARGs go to dockerd
#   engine stop VERSION           SIGTERM, wait; the state stays
#   engine kill VERSION           SIGKILL the daemon and its containerd; the state stays
#   engine reload VERSION         SIGHUP: the daemon reads its configuration anew
#   engine reset VERSION          SIGKILL it and its containers and forget its state
#   engine image VERSION          make busybox:latest from /bin/busybox, as none is pulled from anywhere
#   engine registry VERSION       start an image registry beside it, which it alone reaches, and print its name
#   engine pid VERSION            print the daemon's process ID
#   engine client VERSION         print the path of the docker client that belongs to it; 26 has docker-compose beside it
#
# VERSION: 20 = bookworm's (20.10), 26 = trixie's (26.1), newest = sid's, whatever that is today.
# Each daemon has a network and mount namespace of its own, so several run side by side, and a docker installed on the
# machine is neither used nor touched. Needs root on Debian bookworm; installs what it needs from the Debian mirror
# that the machine's apt uses. ENGINES, the folder for all of it, defaults to events-engines under the temporary folder.
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
*) echo "engine: no version $version (20, 26 or newest)" >&2; exit 2 ;;
esac
bin=$ENGINES/$version/bin root=$ENGINES/$version/tree run=$ENGINES/$version/run
socket=$run/docker.sock
programs=(bin/containerd bin/containerd-shim-runc-v2 bin/docker sbin/docker-proxy sbin/dockerd)
[ "$version" != 26 ] || programs+=(libexec/docker/cli-plugins/docker-compose)

# --- getting the programs

install_packages() { # what the daemons run with: libraries, and programs they call
  local wanted=(busybox-static ca-certificates curl iproute2 iptables procps tzdata
    libdevmapper1.02.1 libseccomp2 libsystemd0) missing=() package
  # Where the kernel confines by AppArmor, no container starts without its parser.
  [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" != Y ] || wanted+=(apparmor)
  for package in "${wanted[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  apt-get -qq update >&2 || die "apt-get update failed"
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null ||
    die "apt-get could not install ${missing[*]}"
}

mirror() { # the Debian mirror in apt's sources, be they *.sources or a sources.list
  local sources
  sources=$(debian_sources)
  # apt knows who made a source only of what it has fetched.
  [ -n "$sources" ] || { apt-get -qq update >&2 || die "apt-get update failed"; sources=$(debian_sources); }
  awk '$1 !~ /-/ && $2 == "main" { print $3; exit }' <<<"$sources"
}

debian_sources() {
  # shellcheck disable=SC2016 # apt's variables, not the shell's
  apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 'Origin: Debian'
}

suite_apt() { # apt-get over the suite, with a state of its own
  local state=$ENGINES/apt/$suite
  apt-get -qq -o Dir::State="$state" -o Dir::State::Lists="$state/lists" -o Dir::State::status="$state/status" \
    -o Dir::Cache="$state/cache" -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o APT::Sandbox::User=root "$@" >&2
}

get_from_suite() {
  local state=$ENGINES/apt/$suite debs=$ENGINES/$version/deb url deb
  url=$(mirror)
  [ -n "$url" ] || die "apt's sources name no Debian mirror"
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
  # Also when the programs are there: the folder may have been kept, and the machine not.
  install_packages
  has_all && return
  get_from_suite
  local runc=$root/usr/sbin/runc program
  # runc of the newer suites wants a newer libc than bookworm's.
  [ "$version" = 20 ] || { "$0" get 20 >/dev/null; runc=$ENGINES/20/bin/runc; }
  mkdir -p "$bin"
  ln -sf "$runc" "$bin/runc"
  for program in "${programs[@]}"; do
    [ -x "$root/usr/$program" ] || die "$suite's packages $packages hold no /usr/$program"
    ln -sf "$root/usr/$program" "$bin/"
  done
}

# --- running it

runs() { # a dead process that nobody has waited for does not count: in a container, often nobody ever does
  local state; state=$(sed -n 's/^State:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null) || return 1
  [[ -n $state && $state != Z* ]]
}

curl=(curl -sSf --noproxy '*') # a proxy in the environment is not meant for sockets of this machine

answers() { "${curl[@]}" --max-time 5 --unix-socket "$socket" http://docker/_ping >/dev/null 2>&1; }

start() {
  answers && { echo "unix://$socket"; return; }
  get
  local said; said=$("$bin/dockerd" --version) || die "$suite's dockerd does not run on this machine"
  [[ $said == "$expected"* ]] || die "$suite has '$said' now, not $version"
  mkdir -p "$run"
  # A configuration of its own: the machine's /etc/docker/daemon.json is not meant for it.
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
  die "$version did not answer; the end of its log stands above"
}

daemon_pid() { # nothing if it does not run
  local pid; pid=$(cat "$run/pid" 2>/dev/null) || return 0
  ! runs "$pid" || echo "$pid"
}

wait_gone() { for _ in $(seq 1200); do runs "$1" || return 0; sleep 0.05; done; return 1; }

registry() { # in the daemon's network namespace, so it goes with the daemon; bookworm's, for all of them
  local pid; pid=$(daemon_pid)
  [ -n "$pid" ] || die "$version does not run"
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
  die "the registry of $version did not answer; the end of its log stands above"
}

end_registry() {
  local pid; pid=$(cat "$run/registry.pid" 2>/dev/null) || return 0
  ! runs "$pid" || kill -9 "$pid"
  rm -f "$run/registry.pid"
}

stop() {
  local pid; pid=$(daemon_pid)
  end_registry
  [ -z "$pid" ] || { kill "$pid"; wait_gone "$pid" || die "$version does not end"; }
}

kill_hard() {
  local pid containerd; pid=$(daemon_pid)
  [ -n "$pid" ] || die "$version does not run"
  end_registry
  containerd=$(cat "$run/exec/containerd/containerd.pid" 2>/dev/null || true)
  kill -9 "$pid" ${containerd:+"$containerd"}
  wait_gone "$pid" || die "$version does not end"
  rm -f "$run/pid" "$run/exec/containerd/containerd.pid"
}

reset() { # at once: what the daemon would tidy up when asked to stop is forgotten anyway
  local shim
  [ -z "$(daemon_pid)" ] || kill_hard
  end_registry
  # A daemon that was killed has left its containers running.
  for shim in $(pgrep -f -- "-address $run/exec/containerd/" || true); do
    pkill -KILL -P "$shim" || true
    kill -9 "$shim" 2>/dev/null || true
    wait_gone "$shim" || die "a container of $version does not end"
  done
  rm -rf "$run"
}

image() {
  local tree applet; tree=$(mktemp -d); mkdir "$tree/bin" "$tree/tmp"; cp /bin/busybox "$tree/bin/"
  for applet in $(/bin/busybox --list); do [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"; done
  tar -C "$tree" -c . | "${curl[@]}" --unix-socket "$socket" -H 'Content-Type: application/x-tar' --data-binary @- \
    'http://docker/images/create?fromSrc=-&repo=busybox&tag=latest&changes=CMD%20%5B%22sh%22%5D' ||
    die "$version did not take the image"
  rm -rf "$tree"
}

case $verb in
get) get; "$bin/dockerd" --version ;;
start) start "$@" ;;
stop) stop ;;
kill) kill_hard ;;
reload) pid=$(daemon_pid); [ -n "$pid" ] || die "$version does not run"; kill -HUP "$pid" ;;
reset) reset ;;
image) image ;;
registry) registry ;;
pid) daemon_pid ;;
client) get; echo "$bin/docker" ;;
*) usage ;;
esac
