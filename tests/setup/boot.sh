#!/usr/bin/env bash
# boot: a real systemd with nothing but the unit of the recorder, in a root of its own, for tests/real/watching.rs.
#
#   boot start FOLDER BINARY SOCKET UNIT   boot it, with an engine's socket at /run/docker.sock (group 995: docker)
#   boot in PID COMMAND…                   run a command in there; PID is that of `boot start`
#   boot tidy PID                          take away what is left of it, once it has ended
#
# Needs root, and systemd's programs. Nothing of the machine can be written from in there, and nothing but /usr is to be
# seen: its root is a tmpfs with /usr bound read-only, which is made sure of before systemd is started. Its units are
# those that stand here alone, so none of those that tidy a machine up when it boots are among them.
set -euo pipefail

die() { echo "boot: $*" >&2; exit 1; }

cgroups() { findmnt -n -t cgroup2 -o TARGET | head -1; }

bind_read_only() { mount --bind "$1" "$2" && mount -o remount,bind,ro "$2"; }

start() { # the process that the caller knows is the one that the new init dies with
  local own
  own=$(cgroups)/events-boot-$$
  mkdir "$own"
  echo $$ >"$own/cgroup.procs"
  mkdir "$1/root"
  exec unshare --mount --pid --fork --kill-child=KILL --cgroup --ipc --uts --net --propagation private \
    bash "$0" seal "$@"
}

seal() {
  local folder=$1 binary=$2 socket=$3 unit=$4 device
  mount -t tmpfs -o mode=755 none "$folder/root"
  cd "$folder/root"
  mkdir -p usr proc sys dev run tmp root home var/lib var/tmp var/log var/cache etc/systemd/system/events.service.d old
  for device in bin sbin lib lib64; do ln -s "usr/$device" "$device"; done
  ln -s ../run var/run
  bind_read_only /usr usr
  mount -t tmpfs -o mode=755 none usr/local
  mkdir usr/local/bin
  touch usr/local/bin/events
  bind_read_only "$binary" usr/local/bin/events
  mount -t proc proc proc
  bind_read_only proc/sys proc/sys
  bind_read_only /sys sys
  mount -t cgroup2 none sys/fs/cgroup
  mount -t tmpfs -o mode=755 none dev
  for device in null zero full random urandom tty; do touch "dev/$device"; mount --bind "/dev/$device" "dev/$device"; done
  ln -s pts/ptmx dev/ptmx
  # What systemd says goes where it can be read.
  touch dev/kmsg
  mount -t tmpfs -o mode=755 none run
  touch run/docker.sock
  mount --bind "$socket" run/docker.sock

  tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
  echo 'root:x:0:0::/root:/bin/sh' >etc/passwd
  printf '%s\n' 'root:x:0:' 'docker:x:995:' >etc/group
  echo 'ID=events' >etc/os-release
  cp "$unit" etc/systemd/system/
  for device in sysinit basic multi-user shutdown; do
    printf '[Unit]\nDefaultDependencies=no\n' >"etc/systemd/system/$device.target"
  done
  printf '[Unit]\nWants=events.service\n' >>etc/systemd/system/multi-user.target
  # So that a test need not wait for long, and can read what is said.
  printf '[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\nRestartSec=100ms\nStandardError=append:/run/said\n' \
    >etc/systemd/system/events.service.d/test.conf

  pivot_root . old
  cd /
  umount -l /old
  rmdir /old
  [ "$(findmnt -n -o FSTYPE /)" = tmpfs ] || die "this is not its own root"
  ! touch /usr/here 2>/dev/null || die "/usr can be written"
  exec env -i container=events SYSTEMD_UNIT_PATH=/etc/systemd/system PATH=/usr/bin:/usr/sbin \
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=kmsg </dev/null
}

inside() {
  local init
  init=$(pgrep -P "$1") || die "it does not run"
  # Before, it is not sealed.
  [ "$(cat "/proc/$init/comm")" = systemd ] || die "it has not begun"
  shift
  exec nsenter --target "$init" --mount --pid --net --cgroup -- "$@"
}

tidy() {
  local own
  own=$(cgroups)/events-boot-$1
  for _ in $(seq 200); do
    [ -d "$own" ] || return 0
    find "$own" -depth -type d -exec rmdir {} + 2>/dev/null || true
    [ ! -d "$own" ] || sleep 0.05
  done
  die "$own is still in use"
}

verb=${1:-}
[ $# -lt 2 ] || shift
case $verb in
start) start "$@" ;;
seal) seal "$@" ;;
in) inside "$@" ;;
tidy) tidy "$@" ;;
*) echo "boot: start, in or tidy" >&2; exit 2 ;;
esac
