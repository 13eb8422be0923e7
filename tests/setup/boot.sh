#!/usr/bin/env bash
# boot: a real systemd with only the recorder's unit, in a root of its own, for tests/real/watching.rs.
#
#   boot start FOLDER BINARY SOCKET UNIT   boot it, with an engine's socket at /run/docker.sock (group 995: docker)
#   boot in PID COMMAND…                   run a command inside; PID is that of `boot start`
#   boot tidy PID                          remove its cgroup after it has exited
#
# Needs root, and systemd's programs. From inside, nothing of the machine can be written and only /usr is visible: the
# root is a tmpfs with /usr bound read-only, and this is checked before systemd is started. It has only the units that
# are written here, so no unit that cleans up a machine at boot.
set -euo pipefail

die() { echo "boot: $*" >&2; exit 1; }

cgroups() { findmnt -n -t cgroup2 -o TARGET | head -1; }

bind_read_only() { mount --bind "$1" "$2" && mount -o remount,bind,ro "$2"; }

start() { # the caller's child process becomes unshare, and the new init is killed when it exits
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
  # A regular file, so that tests can read systemd's log.
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
  # Short times for the tests, and a log file that they can read.
  printf '[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\nRestartSec=100ms\nStandardError=append:/run/out\n' \
    >etc/systemd/system/events.service.d/test.conf

  pivot_root . old
  cd /
  umount -l /old
  rmdir /old
  [ "$(findmnt -n -o FSTYPE /)" = tmpfs ] || die "/ is not the private tmpfs"
  ! touch /usr/here 2>/dev/null || die "/usr is writable"
  exec env -i container=events SYSTEMD_UNIT_PATH=/etc/systemd/system PATH=/usr/bin:/usr/sbin \
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=kmsg </dev/null
}

inside() {
  local init
  init=$(pgrep -P "$1") || die "the machine does not run"
  # The root is private only once systemd runs.
  [ "$(cat "/proc/$init/comm")" = systemd ] || die "systemd is not started yet"
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
*) echo "boot: expected start, in or tidy" >&2; exit 2 ;;
esac
