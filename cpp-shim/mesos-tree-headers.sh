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
protobuf="protobuf-3.5.0"
# The last release of this PyPI source package that contains protobuf 3.5.0.
carrier=grpcio-tools carrier_version=1.10.1
carrier_sha256=fe0195b106b1369583e7b30eaca5ff81f4887963b4109bec487aa17ef8358602

say() { printf 'mesos-tree-headers: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

[ -f "$tree/include/mesos/version.hpp.in" ] || die "$tree is not a Mesos source tree: include/mesos/version.hpp.in is missing"
version=$(sed -n 's/^AC_INIT(\[mesos\], \[\(.*\)\])$/\1/p' "$tree/configure.ac")
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+ ]] || die "$tree/configure.ac has no version"
stamp="$tree $version $(sha256sum < "$0")"
if [ "$(cat "$output/stamp" 2>/dev/null)" = "$stamp" ]; then exit 0; fi
mkdir -p "$output/3rdparty" "$output/include/mesos"

say "Mesos $version: unpacking bundled libraries"
for library in glog-0.4.0 boost-1.65.0 picojson-1.3.0 rapidjson-1.1.0; do
  tarball=$tree/3rdparty/$library.tar.gz
  [ -f "$tarball" ] || die "$tarball is missing; complete the checkout (git lfs), or give MESOS_BUILD"
  rm -rf "${output:?}/3rdparty/$library"
  tar xzf "$tarball" -C "$output/3rdparty"
  if [ -f "$tree/3rdparty/$library.patch" ]; then
    patch -s -d "$output/3rdparty/$library" -p1 < "$tree/3rdparty/$library.patch"
  fi
done

# The results of glog's configure on Linux with g++.
glog=$output/3rdparty/glog-0.4.0/src/glog
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

if [ -f "$tree/3rdparty/$protobuf.tar.gz" ]; then
  rm -rf "${output:?}/3rdparty/$protobuf"
  tar xzf "$tree/3rdparty/$protobuf.tar.gz" -C "$output/3rdparty"
else
  say "the tree has no $protobuf.tar.gz; taking the sources from PyPI's $carrier $carrier_version"
  work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" -q install 'setuptools<58' wheel
  "$work/venv/bin/pip" -q download --no-deps --no-binary :all: --no-build-isolation -d "$work" "$carrier==$carrier_version"
  echo "$carrier_sha256  $work/$carrier-$carrier_version.tar.gz" | sha256sum -c --quiet
  rm -rf "${output:?}/3rdparty/$protobuf"; mkdir -p "$output/3rdparty/$protobuf"
  tar xzf "$work/$carrier-$carrier_version.tar.gz" -C "$output/3rdparty/$protobuf" --strip-components=3 \
    "$carrier-$carrier_version/third_party/protobuf"
fi
source=$output/3rdparty/$protobuf/src
grep -q 'GOOGLE_PROTOBUF_VERSION 3005000' "$source/google/protobuf/stubs/common.h" || die "$source is not protobuf 3.5.0"

# Only its C++ generator, because the others need code that a configured build generates.
say "compiling protoc 3.5.0 (a minute, once)"
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
make -s -j "$(nproc)" -f "$output/protoc.mk" SRC="$source" OBJ="$output/protoc" MAIN="$output/protoc.cc" "$output/protoc/protoc"

say "generating the messages"
(cd "$tree/include" && find mesos -name '*.proto' -print0 | xargs -0 "$output/protoc/protoc" -I. -I"$source" --cpp_out="$output/include")

IFS=. read -r major minor patch <<< "${version%%-*}"
sed -e "s/@PACKAGE_VERSION@/$version/" -e "s/@MESOS_MAJOR_VERSION@/$major/" -e "s/@MESOS_MINOR_VERSION@/$minor/" \
  -e "s/@MESOS_PATCH_VERSION@/$patch/" "$tree/include/mesos/version.hpp.in" > "$output/include/mesos/version.hpp"
printf '%s' "$stamp" > "$output/stamp"
say "ready in $output"
