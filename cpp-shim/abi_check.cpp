// Checks the facts of mesos_abi_1_11.hpp against the headers of a real Mesos. Compiled only in
// builds on a source tree, and effective only for 1.11.0. Adds no code to the module.

#include <cstddef>
#include <cstring>
#include <mesos/module/anonymous.hpp>
#include <type_traits>

#include "mesos_tree.hpp"

// After the real headers, in a namespace of its own.
#define agent agent_by_facts
#include "mesos_abi_1_11.hpp"
#undef agent

namespace contrail_mesos {
namespace {

namespace facts = agent_by_facts;
using process::Future;

constexpr bool is_1_11() {
  const char* const expected = "1.11.0";
  const char* const actual = MESOS_VERSION;
  for (size_t i = 0;; ++i) {
    if (expected[i] != actual[i]) return false;
    if (expected[i] == '\0') return true;
  }
}

#define CHECK_FACT(condition, text) static_assert(!is_1_11() || (condition), text)
#define CHECK_SAME(real, fact)                                               \
  CHECK_FACT(sizeof(real) == sizeof(fact) && alignof(real) == alignof(fact), \
             "the layout of " #real " differs from mesos_abi_1_11.hpp")

// Messages that the ABI build constructs, reads or returns.
CHECK_SAME(mesos::ContainerID, facts::ContainerID);
CHECK_SAME(mesos::slave::ContainerConfig, facts::ContainerConfig);
CHECK_SAME(mesos::slave::ContainerLaunchInfo, facts::ContainerLaunchInfo);
CHECK_SAME(mesos::slave::ContainerLimitation, facts::ContainerLimitation);
CHECK_SAME(mesos::ContainerStatus, facts::ContainerStatus);
CHECK_SAME(mesos::ResourceStatistics, facts::ResourceStatistics);
CHECK_SAME(mesos::TaskStatus, facts::TaskStatus);
CHECK_SAME(mesos::Labels, facts::Labels);
CHECK_SAME(mesos::Environment, facts::Environment);
CHECK_SAME(mesos::Attributes, facts::Attributes);
CHECK_SAME(mesos::Resources, facts::Resources);
CHECK_FACT(sizeof(mesos::slave::ContainerState) == abi::kContainerStateSize, "ContainerState");
// The address of a message is also that of its MessageLite.
static_assert(std::is_base_of<google::protobuf::MessageLite, mesos::ContainerID>::value, "");

// Templates of stout and libprocess.
CHECK_SAME(Nothing, facts::Nothing);
CHECK_SAME(Error, facts::Error);
CHECK_SAME(Option<Error>, facts::Option<facts::Error>);
CHECK_SAME(Option<mesos::slave::ContainerLaunchInfo>, facts::Option<facts::ContainerLaunchInfo>);
CHECK_SAME(Try<Nothing>, facts::Try<facts::Nothing>);
CHECK_SAME(Result<mesos::Labels>, facts::Result<facts::Labels>);
CHECK_SAME(Result<mesos::Resources>, facts::Result<facts::Resources>);
CHECK_SAME(Result<mesos::Environment>, facts::Result<facts::Environment>);
CHECK_SAME(Result<mesos::Attributes>, facts::Result<facts::Attributes>);
CHECK_SAME(Result<mesos::TaskStatus>, facts::Result<facts::TaskStatus>);
CHECK_SAME(Future<Nothing>, facts::Future<facts::Nothing>);
CHECK_SAME(agent::DockerPrepareInfoFuture, facts::DockerPrepareInfoFuture);
CHECK_SAME(lambda::CallableOnce<void()>, abi::CallableOnce);
CHECK_SAME(agent::ContainerStates, facts::ContainerStates);
// In libstdc++ it starts with the buckets, their number, the first node and the size.
CHECK_FACT(sizeof(agent::ContainerIds) == 56 && sizeof(facts::ContainerIds) == 32, "hashset");

// The struct that src/module/descriptor.rs declares: eight words, the last are `compatible` and
// `create`.
using mesos::modules::Module;
using mesos::modules::ModuleBase;
CHECK_FACT(sizeof(Module<mesos::slave::Isolator>) == 64 && sizeof(Module<mesos::Hook>) == 64,
           "Module<T> is eight words");
CHECK_FACT(sizeof(Module<mesos::modules::Anonymous>) == 64, "Module<Anonymous> is eight words");
CHECK_FACT(sizeof(mesos::modules::Anonymous) == sizeof(void*) &&
               std::has_virtual_destructor<mesos::modules::Anonymous>::value,
           "Anonymous is a virtual destructor and nothing else");
CHECK_FACT(sizeof(ModuleBase) == 56, "ModuleBase is seven words");
CHECK_FACT(MESOS_MODULE_API_VERSION[0] == '2' && MESOS_MODULE_API_VERSION[1] == '\0',
           "the module API is version 2");

// Whether a value is returned in registers or through a hidden pointer.
#define CHECK_PASSING(real, fact)                                         \
  CHECK_FACT(std::is_trivially_copy_constructible<real>::value ==         \
                     std::is_trivially_copy_constructible<fact>::value && \
                 std::is_trivially_destructible<real>::value ==           \
                     std::is_trivially_destructible<fact>::value,         \
             #real " is returned differently in mesos_abi_1_11.hpp")
CHECK_PASSING(Future<Nothing>, facts::Future<facts::Nothing>);
CHECK_PASSING(agent::DockerPrepareInfoFuture, facts::DockerPrepareInfoFuture);
CHECK_PASSING(Try<Nothing>, facts::Try<facts::Nothing>);
CHECK_PASSING(Result<mesos::Labels>, facts::Result<facts::Labels>);

// Private layouts: an explicit instantiation may name private members.
template <typename T, size_t State, size_t Discard, size_t Associated, size_t Abandoned>
struct FutureLayout {
  CHECK_FACT(State == offsetof(abi::FutureData, state), "Future: state");
  CHECK_FACT(Discard == offsetof(abi::FutureData, discard), "Future: discard");
  CHECK_FACT(Associated == offsetof(abi::FutureData, associated), "Future: associated");
  CHECK_FACT(Abandoned == offsetof(abi::FutureData, abandoned), "Future: abandoned");
};
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Winvalid-offsetof"
#define FUTURE_LAYOUT(T)                                                       \
  template struct FutureLayout<                                                \
      T, offsetof(Future<T>::Data, state), offsetof(Future<T>::Data, discard), \
      offsetof(Future<T>::Data, associated), offsetof(Future<T>::Data, abandoned)>
FUTURE_LAYOUT(Nothing);
FUTURE_LAYOUT(Option<mesos::slave::ContainerLaunchInfo>);
FUTURE_LAYOUT(mesos::slave::ContainerLimitation);
FUTURE_LAYOUT(mesos::ResourceStatistics);
FUTURE_LAYOUT(mesos::ContainerStatus);
#pragma GCC diagnostic pop

template <int Pending, int Ready, int Some, int None>
struct Tags {
  CHECK_FACT(Pending == 0 && Ready == 1, "Future: states");
  CHECK_FACT(Some == 0 && None == 1, "Option: tags");
};
template struct Tags<Future<Nothing>::PENDING, Future<Nothing>::READY, Option<Nothing>::SOME,
                     Option<Nothing>::NONE>;

// A pointer to a virtual function is 1 + the function's offset in the vtable.
template <typename F>
inline size_t slot(F function) {
  static_assert(sizeof(F) == 16, "the Itanium ABI");
  size_t words[2];
  std::memcpy(words, &function, sizeof(words));
  return (words[0] - 1) / sizeof(void*);
}

inline bool slots_agree() {
#define SAME_SLOT(T, name) (slot(&agent::T::name) == slot(&facts::T::name))
  return SAME_SLOT(Isolator, supportsNesting) && SAME_SLOT(Isolator, supportsStandalone) &&
         SAME_SLOT(Isolator, recover) && SAME_SLOT(Isolator, prepare) &&
         SAME_SLOT(Isolator, isolate) && SAME_SLOT(Isolator, watch) &&
         SAME_SLOT(Isolator, update) && SAME_SLOT(Isolator, usage) && SAME_SLOT(Isolator, status) &&
         SAME_SLOT(Isolator, cleanup) && SAME_SLOT(Hook, masterLaunchTaskLabelDecorator) &&
         SAME_SLOT(Hook, masterLaunchTaskResourceDecorator) &&
         SAME_SLOT(Hook, slaveRunTaskLabelDecorator) && SAME_SLOT(Hook, masterSlaveLostHook) &&
         SAME_SLOT(Hook, slaveExecutorEnvironmentDecorator) &&
         SAME_SLOT(Hook, slavePreLaunchDockerTaskExecutorDecorator) &&
         SAME_SLOT(Hook, slavePostFetchHook) && SAME_SLOT(Hook, slaveRemoveExecutorHook) &&
         SAME_SLOT(Hook, slaveTaskStatusDecorator) && SAME_SLOT(Hook, slaveResourcesDecorator) &&
         SAME_SLOT(Hook, slaveAttributesDecorator);
}
}  // namespace

#ifdef __OPTIMIZE__
// The comparison folds to a constant. If it is false, the call remains, which is an error.
__attribute__((error("the order of virtual functions differs from mesos_abi_1_11.hpp"))) void
virtual_functions_differ();
void check_virtual_functions() {
  if (is_1_11() && !slots_agree()) virtual_functions_differ();
}
#endif

}  // namespace contrail_mesos
