#!/usr/bin/python3
"""Builds libraries with the names that the Mesos binary expects of Ubuntu 16.04.

The binary was linked to OpenSSL 1.0, curl with its old symbol version, and (left to the
interpreter that loads it) Python 2.7. Debian 12 has none of them and the tests call none of
them, so every name that the binary asks for is given a function that says its name and aborts.
Which names, of which library and version, is read from the binary itself.

usage: standins.py MESOS_LIBRARY BUILD_DIRECTORY LIBRARY_DIRECTORY
"""

import collections
import pathlib
import re
import subprocess
import sys

REPLACED = {"libssl.so.1.0.0", "libcrypto.so.1.0.0", "libcurl.so.4"}
PYTHON = "libpython-standin.so"
# The only data among the names: read at most as an address, never written.
DATA = re.compile(r"^PyExc_|Struct$|_Type$")


def readelf(option, library):
    return subprocess.run(
        ["readelf", "--wide", option, library], check=True, capture_output=True, text=True
    ).stdout.splitlines()


def needed_versions(library):
    """The binary's version indices, as index -> (file, version)."""
    versions, file = {}, None
    for line in readelf("--version-info", library):
        if found := re.search(r"Version: 1\s+File: (\S+)\s+Cnt:", line):
            file = found[1]
        elif found := re.search(r"Name: (\S+)\s+Flags: \S+\s+Version: (\d+)", line):
            versions[int(found[2])] = (file, found[1])
    return versions


def wanted(library):
    """file -> version -> names; the version is None for names without one."""
    versions = needed_versions(library)
    names = collections.defaultdict(lambda: collections.defaultdict(set))
    for file, version in versions.values():
        if file in REPLACED:
            # The loader looks for the version even where no name asks for it.
            names[file][version] = set()
    for line in readelf("--dyn-syms", library):
        if not (found := re.search(r"\sUND (\S+)(?: \((\d+)\))?$", line)):
            continue
        name = found[1].split("@")[0]
        if found[2]:
            file, version = versions[int(found[2])]
            if file in REPLACED:
                names[file][version].add(name)
        elif re.match(r"_?Py", name):
            names[PYTHON][None].add(name)
    return names


def source(file, names):
    lines = [
        "#include <stdio.h>",
        "#include <stdlib.h>",
        "#define NAME(name) void name(void) { \\",
        f'  fprintf(stderr, "{file} is a stand-in: " #name " was called\\n"); abort(); }}',
    ]
    for name in sorted(names):
        lines.append(f"void* {name}[32];" if DATA.search(name) else f"NAME({name})")
    return "\n".join(lines) + "\n"


def version_script(versions):
    blocks = []
    for number, version in enumerate(sorted(versions)):
        names = "".join(f" {name};" for name in sorted(versions[version]))
        names = f" global:{names}" if names else ""
        rest = " local: *;" if number == 0 else ""
        blocks.append(f"{version} {{{names}{rest} }};\n")
    return "".join(blocks)


def main():
    library, build, out = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    for file, versions in wanted(library).items():
        code = build / (file + ".c")
        code.write_text(source(file, set().union(*versions.values())))
        command = ["g++", "-x", "c", "-w", "-shared", "-fPIC", "-fno-builtin"]
        command += [f"-Wl,-soname,{file}", "-o", str(out / file), str(code)]
        if None not in versions:
            script = build / (file + ".map")
            script.write_text(version_script(versions))
            command.append(f"-Wl,--version-script={script}")
        subprocess.run(command, check=True)


main()
