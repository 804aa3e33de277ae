// The modules of kind Anonymous: Mesos creates them when it starts, and calls nothing of them. Each
// library with such modules compiles this file, with two macros: CONTRAIL_MESOS_LIBRARY is the name
// of the library in symbols and namespaces, CONTRAIL_MESOS_BRIDGE the header that cxx generates.
//
// Nothing here has external linkage but the functions that the descriptors name.

#include "creation.hpp"

#ifdef CONTRAIL_MESOS_TREE
#include <mesos/mesos.hpp>
#include <mesos/module/anonymous.hpp>
#else
#include "running_mesos.hpp"
#endif

#include <string>
#include <type_traits>
#include <utility>

#include CONTRAIL_MESOS_BRIDGE

namespace contrail_mesos {
namespace {

#ifdef CONTRAIL_MESOS_TREE

using mesos::modules::Anonymous;

// The dynamic linker resolves the symbols, and Mesos compares the versions.
std::string mismatch() { return ""; }

std::string serialize(const void* parameters) {
  std::string bytes;
  static_cast<const mesos::Parameters*>(parameters)->SerializePartialToString(&bytes);
  return bytes;
}

#else

// mesos::modules::Anonymous of 1.11: a virtual destructor and nothing else.
class Anonymous {
 public:
  virtual ~Anonymous() = default;
};

using Serialize = bool (*)(const void* message, std::string* to);
Serialize serializer() { return reinterpret_cast<Serialize>(dlsym(RTLD_DEFAULT, abi::kSerialize)); }

std::string mismatch() {
  const std::string reason = abi::wrong_version(abi::running_version("Anonymous"));
  if (!reason.empty()) return reason;
  if (serializer() == nullptr)
    return std::string("this libmesos is 1.11.0 but does not export ") + abi::kSerialize +
           ", so it was compiled differently from the official one." + abi::kAdvice;
  return "";
}

// `mismatch` has found the function.
std::string serialize(const void* parameters) {
  std::string bytes;
  serializer()(parameters, &bytes);
  return bytes;
}

#endif

static_assert(sizeof(Anonymous) == sizeof(void*) &&
                  std::has_virtual_destructor<Anonymous>::value &&
                  !std::is_abstract<Anonymous>::value,
              "Anonymous is a virtual destructor and nothing else");

namespace library = contrail_mesos::CONTRAIL_MESOS_LIBRARY;

// What the module runs in the background ends with the object. Mesos never deletes it.
class AnonymousFacade final : public Anonymous {
 public:
  explicit AnonymousFacade(rust::Box<library::BackgroundModule> module)
      : module_(std::move(module)) {}

 private:
  rust::Box<library::BackgroundModule> module_;
};

void* create_module(const char* name, library::ModuleKind kind, const void* parameters) noexcept {
  return create(name, mismatch, [&]() -> void* {
    Anonymous* module =
        new AnonymousFacade(library::create_module(kind, serialize(parameters)));
    return module;
  });
}

}  // namespace
}  // namespace contrail_mesos

#define CONTRAIL_MESOS_JOIN_(library, function) contrail_mesos_##library##_##function
#define CONTRAIL_MESOS_JOIN(library, function) CONTRAIL_MESOS_JOIN_(library, function)
#define CONTRAIL_MESOS_FUNCTION(function) CONTRAIL_MESOS_JOIN(CONTRAIL_MESOS_LIBRARY, function)

extern "C" {

void* CONTRAIL_MESOS_FUNCTION(create_helper)(const void* parameters) noexcept {
  return contrail_mesos::create_module(
      "the overlay helper module", contrail_mesos::CONTRAIL_MESOS_LIBRARY::ModuleKind::Helper,
      parameters);
}

void* CONTRAIL_MESOS_FUNCTION(create_manager)(const void* parameters) noexcept {
  return contrail_mesos::create_module(
      "the overlay manager module", contrail_mesos::CONTRAIL_MESOS_LIBRARY::ModuleKind::Manager,
      parameters);
}

bool CONTRAIL_MESOS_FUNCTION(compatible)() noexcept { return contrail_mesos::mismatch().empty(); }

}
