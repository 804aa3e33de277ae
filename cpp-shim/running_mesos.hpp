// Which Mesos this process runs, for builds without its headers.
#pragma once

#include <dlfcn.h>

#include <string>
#include <unordered_map>

namespace contrail_mesos {
namespace abi {
namespace {

constexpr const char kVersion[] = "1.11.0";
#define STRING_MANGLED "NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
constexpr const char kSerialize[] =
    "_ZNK6google8protobuf11MessageLite24SerializePartialToStringEP" STRING_MANGLED;
constexpr const char kAdvice[] =
    " Build the module for this Mesos from its own source tree: make module MESOS_TREE=<source of "
    "that Mesos> [MESOS_BUILD=<its build directory>], or take the release library for its version.";

// The module manager has the version of Mesos, for every kind of module, in a static hashmap that it
// fills before it opens a library.
using Versions = std::unordered_map<std::string, std::string>;
inline const Versions* known_versions() {
  return static_cast<const Versions*>(
      dlsym(RTLD_DEFAULT, "_ZN5mesos7modules13ModuleManager13kindToVersionB5cxx11E"));
}

// The version that the module manager has for this kind of module; empty if it is not known.
inline std::string running_version(const char* kind) {
  const Versions* const versions = known_versions();
  if (versions == nullptr) return "";
  for (const auto& entry : *versions)
    if (entry.first == kind) return entry.second;
  return "";
}

// Why that version is not supported, or an empty string.
inline std::string wrong_version(const std::string& version) {
  if (version == kVersion) return "";
  return "this build of contrail-mesos is for Mesos " + std::string(kVersion) +
         ", but this process is Mesos " + (version.empty() ? "of an unknown version" : version) +
         "." + kAdvice;
}

}  // namespace
}  // namespace abi
}  // namespace contrail_mesos
