#include "mesos_abi_imports.hpp"

#include <dlfcn.h>
#include <link.h>

#include <memory>

#include "running_mesos.hpp"

namespace contrail_mesos {
namespace abi {
namespace {

MessageImports messages[kMessageTypes];
FutureImports futures[kFutureTypes];
CommonImports common;

// In the order of MessageType.
const char* const kMessageNames[kMessageTypes] = {
    "5mesos5slave19ContainerLaunchInfo", "5mesos5slave19ContainerLimitation",
    "5mesos15ContainerStatus", "5mesos18ResourceStatistics", "5mesos10TaskStatus"};

// In the order of FutureType.
const char* const kFutureNames[kFutureTypes] = {
    "7Nothing", "6OptionIN5mesos5slave19ContainerLaunchInfoEE",
    "N5mesos5slave19ContainerLimitationE", "N5mesos18ResourceStatisticsE",
    "N5mesos15ContainerStatusE"};

// libmesos has a default instance of each message, in a symbol of exactly the message's size.
struct InstanceSize {
  const char* symbol;
  size_t size;
};
const InstanceSize kSizes[] = {
    {"_ZN5mesos5slave38_ContainerLaunchInfo_default_instance_E", kContainerLaunchInfoSize},
    {"_ZN5mesos5slave38_ContainerLimitation_default_instance_E", kContainerLimitationSize},
    {"_ZN5mesos34_ContainerStatus_default_instance_E", kContainerStatusSize},
    {"_ZN5mesos37_ResourceStatistics_default_instance_E", kResourceStatisticsSize},
    {"_ZN5mesos29_TaskStatus_default_instance_E", kTaskStatusSize},
    {"_ZN5mesos30_ContainerID_default_instance_E", kContainerIdSize},
    {"_ZN5mesos5slave34_ContainerConfig_default_instance_E", kContainerConfigSize},
    {"_ZN5mesos5slave33_ContainerState_default_instance_E", kContainerStateSize},
    {"_ZN5mesos25_Labels_default_instance_E", kLabelsSize},
    {"_ZN5mesos30_Environment_default_instance_E", kEnvironmentSize},
};

class Lookup {
 public:
  template <typename F>
  void find(F*& function, const std::string& symbol) {
    function = reinterpret_cast<F*>(dlsym(RTLD_DEFAULT, symbol.c_str()));
    if (function == nullptr && missing_.empty()) missing_ = symbol;
  }
  template <typename F>
  void find_any(F*& function, const std::string& symbol, const std::string& other) {
    function = reinterpret_cast<F*>(dlsym(RTLD_DEFAULT, symbol.c_str()));
    if (function == nullptr) find(function, other);
  }
  const std::string& missing() const { return missing_; }

 private:
  std::string missing_;
};

std::string look_up() {
  Lookup lookup;
  for (size_t i = 0; i < kMessageTypes; ++i) {
    const std::string name = kMessageNames[i];
    lookup.find(messages[i].construct, "_ZN" + name + "C1Ev");
    lookup.find(messages[i].copy,
                "_ZN" + name + "C1ERKS" + (name.find("5slave") == std::string::npos ? "0_" : "1_"));
    lookup.find(messages[i].destroy, "_ZN" + name + "D1Ev");
  }
  for (size_t i = 0; i < kFutureTypes; ++i) {
    const std::string name = kFutureNames[i];
    const std::string future = "7process6FutureI" + name + "E";
    // The substitution for `T const&` depends on the number of names in T.
    const char* const value[] = {"S1_", "S5_", "S3_", "S2_", "S2_"};
    lookup.find(futures[i].construct, "_ZN" + future + "C1Ev");
    lookup.find(futures[i].set, "_ZN" + future + "3setERK" + value[i]);
    lookup.find(futures[i].fail, "_ZN" + future + "4failERK" STRING_MANGLED);
    lookup.find_any(futures[i].discarded,
                    "_ZN7process8internal9discardedI" + name + "EEvNS_6FutureIT_EE",
                    "_ZN7process7PromiseI" + name + "E7discardENS_6FutureI" + value[i] + "EE");
    if (static_cast<FutureType>(i) != FutureType::kLimitation)
      lookup.find(futures[i].on_discard,
                  "_ZNK" + future + "9onDiscardEON6lambda12CallableOnceIFvvEEE");
  }
  lookup.find(common.serialize, kSerialize);
  lookup.find(common.parse, "_ZN6google8protobuf11MessageLite15ParseFromStringERK" STRING_MANGLED);
  lookup.find(common.parse_partial,
              "_ZN6google8protobuf11MessageLite22ParsePartialFromStringERK" STRING_MANGLED);
  lookup.find(common.no_docker_prepare_info,
              "_ZN7process6FutureI6OptionIN5mesos29DockerTaskExecutorPrepareInfoEEEC1I4NoneEERKT_");
  return lookup.missing();
}

std::string wrong_size() {
  for (const InstanceSize& expected : kSizes) {
    void* const address = dlsym(RTLD_DEFAULT, expected.symbol);
    Dl_info info;
    const ElfW(Sym)* symbol = nullptr;
    if (address == nullptr ||
        dladdr1(address, &info, const_cast<void**>(reinterpret_cast<const void**>(&symbol)),
                RTLD_DL_SYMENT) == 0 ||
        symbol == nullptr || symbol->st_size != expected.size)
      return expected.symbol;
  }
  return "";
}

// Checks the layout of futures by constructing and completing one.
bool futures_work() {
  const FutureImports& import = futures[static_cast<size_t>(FutureType::kNothing)];
  std::shared_ptr<FutureData> future;
  import.construct(&future);
  if (future == nullptr || future->state != 0 || future->discard || future->associated ||
      !future->abandoned)
    return false;
  future->abandoned = false;
  const char nothing = 0;
  return import.set(&future, &nothing) && future->state == 1 && !future->abandoned;
}

std::string check() {
  const std::string wrong = wrong_version(running_version("Isolator"));
  if (!wrong.empty()) return wrong;
  std::string missing = look_up();
  if (!missing.empty())
    return "this agent's libmesos is 1.11.0 but does not export " + missing +
           ", so it was compiled differently from the official one." + kAdvice;
  const std::string resized = wrong_size();
  if (!resized.empty())
    return "this agent's libmesos is 1.11.0 but " + resized +
           " has another size than in the official one, probably because of another protobuf." +
           kAdvice;
  if (!futures_work())
    return std::string("this agent's libmesos is 1.11.0 but its futures have another layout than in "
                       "the official one.") +
           kAdvice;
  return "";
}

}  // namespace

const MessageImports& import(MessageType type) { return messages[static_cast<size_t>(type)]; }
const FutureImports& import(FutureType type) { return futures[static_cast<size_t>(type)]; }
const CommonImports& import() { return common; }

bool has_libmesos() { return known_versions() != nullptr; }

const std::string& check_agent() {
  static const std::string mismatch = check();
  return mismatch;
}

}  // namespace abi
}  // namespace contrail_mesos
