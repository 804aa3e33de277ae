#include "shim.hpp"

#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <exception>
#include <memory>
#include <utility>

#ifdef CONTRAIL_MESOS_TREE
#include "mesos_tree.hpp"
#else
#include "mesos_abi_1_11.hpp"
#endif

#include "contrail-mesos/src/module/bridge.rs.h"

namespace contrail_mesos {
namespace {

using agent::ContainerConfig;
using agent::ContainerID;
using agent::ContainerLaunchInfo;
using agent::ContainerLimitation;
using agent::ContainerStatus;
using agent::Error;
using agent::Future;
using agent::None;
using agent::Nothing;
using agent::Option;
using agent::Promise;
using agent::ResourceStatistics;
using agent::Result;
using agent::serialize;
using agent::TaskStatus;
using agent::Try;

// What the operator must read although no logger of ours is up: a line in the form of the
// agent's own log.
void log_error(const std::string& message) noexcept {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  tm local = {};
  localtime_r(&now.tv_sec, &local);
  std::fprintf(stderr, "E%02d%02d %02d:%02d:%02d.%06ld %5d shim.cpp:0] contrail-mesos: %s\n",
               local.tm_mon + 1, local.tm_mday, local.tm_hour, local.tm_min, local.tm_sec,
               now.tv_nsec / 1000, static_cast<int>(getpid()), message.c_str());
}

// The current exception, for a message.
std::string caught() noexcept {
  try {
    throw;
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "an exception that is no std::exception";
  }
}

bool set_nothing(Promise<Nothing>& promise) { return promise.set(Nothing()); }
bool set_nothing(Promise<Option<ContainerLaunchInfo>>& promise) {
  return promise.set(Option<ContainerLaunchInfo>());
}
template <typename T>
bool set_nothing(Promise<T>& promise) {
  return promise.set(T());
}

bool set_message(Promise<Nothing>& promise, const std::string&) { return set_nothing(promise); }
bool set_message(Promise<Option<ContainerLaunchInfo>>& promise, const std::string& bytes) {
  ContainerLaunchInfo message;
  return agent::parse(message, bytes) ? promise.set(Option<ContainerLaunchInfo>(message)) || true
                                      : false;
}
template <typename T>
bool set_message(Promise<T>& promise, const std::string& bytes) {
  T message;
  return agent::parse(message, bytes) ? promise.set(message) || true : false;
}

template <typename T>
class CompletionOf final : public Completion {
 public:
  explicit CompletionOf(std::shared_ptr<Promise<T>> promise) : promise_(std::move(promise)) {}

  void answer(rust::Slice<const uint8_t> message) noexcept override {
    guard([&] {
      const std::string bytes(reinterpret_cast<const char*>(message.data()), message.size());
      if (!set_message(*promise_, bytes))
        promise_->fail("contrail-mesos answered with bytes that are no such message; please "
                       "report this as a bug of contrail-mesos");
    });
  }
  void answer_nothing() noexcept override {
    guard([&] { set_nothing(*promise_); });
  }
  void fail(rust::Str reason) noexcept override {
    guard([&] { promise_->fail(std::string(reason)); });
  }
  void discard() noexcept override {
    guard([&] { promise_->discard(); });
  }

 private:
  template <typename F>
  void guard(F f) noexcept {
    try {
      f();
    } catch (...) {
      log_error("cannot complete a future: " + caught());
    }
  }

  std::shared_ptr<Promise<T>> promise_;
};

template <typename T>
Future<T> failed(const std::string& message) {
  Promise<T> promise;
  promise.fail(message);
  return promise.future();
}

// Runs `f`, which may throw, and makes a failed future of what it throws.
template <typename T, typename F>
Future<T> guarded(const char* what, F f) noexcept {
  try {
    return f();
  } catch (...) {
    return failed<T>(std::string("contrail-mesos: ") + what + ": " + caught());
  }
}

// Hands `f` a completion and returns its future. A request to discard the future, from whatever
// thread, cancels the call on the Rust side, which then discards the completion.
template <typename T, typename F>
Future<T> start(const char* what, F f) noexcept {
  return guarded<T>(what, [&] {
    auto promise = std::make_shared<Promise<T>>();
    Future<T> future = promise->future();
    auto call = std::make_shared<rust::Box<Call>>(
        f(std::unique_ptr<Completion>(new CompletionOf<T>(promise))));
    promise->on_discard([call] { (*call)->cancel(); });
    return future;
  });
}

class IsolatorFacade final : public agent::Isolator {
 public:
  explicit IsolatorFacade(rust::Box<IsolatorHandle> core) : core_(std::move(core)) {}

  bool supportsNesting() noexcept override { return true; }
  // As network/cni: a standalone container is on the host's network.
  bool supportsStandalone() noexcept override { return false; }

  Future<Nothing> recover(const agent::ContainerStates& states,
                          const agent::ContainerIds& orphans) noexcept override {
    return start<Nothing>("recover", [&](auto completion) {
      return core_->recover(agent::serialize_all(states), agent::serialize_all(orphans),
                            std::move(completion));
    });
  }
  Future<Option<ContainerLaunchInfo>> prepare(const ContainerID& id,
                                              const ContainerConfig& config) noexcept override {
    return start<Option<ContainerLaunchInfo>>("prepare", [&](auto completion) {
      return core_->prepare(serialize(id), serialize(config), std::move(completion));
    });
  }
  Future<Nothing> isolate(const ContainerID& id, pid_t pid) noexcept override {
    return start<Nothing>("isolate", [&](auto completion) {
      return core_->isolate(serialize(id), pid, std::move(completion));
    });
  }
  Future<ContainerLimitation> watch(const ContainerID& id) noexcept override {
    return start<ContainerLimitation>("watch", [&](auto completion) {
      return core_->watch(serialize(id), std::move(completion));
    });
  }
  // Resources are none of a network's business.
  Future<Nothing> update(const ContainerID&, const agent::Resources&,
                         const agent::Limits&) noexcept override {
    return guarded<Nothing>("update", [] {
      Promise<Nothing> promise;
      promise.set(Nothing());
      return promise.future();
    });
  }
  Future<ResourceStatistics> usage(const ContainerID& id) noexcept override {
    return start<ResourceStatistics>("usage", [&](auto completion) {
      return core_->usage(serialize(id), std::move(completion));
    });
  }
  // The agent awaits every isolator in turn: answered before this returns.
  Future<ContainerStatus> status(const ContainerID& id) noexcept override {
    return guarded<ContainerStatus>("status", [&] {
      auto promise = std::make_shared<Promise<ContainerStatus>>();
      Future<ContainerStatus> future = promise->future();
      const rust::Vec<uint8_t> bytes = core_->status(serialize(id));
      CompletionOf<ContainerStatus>(promise).answer({bytes.data(), bytes.size()});
      return future;
    });
  }
  Future<Nothing> cleanup(const ContainerID& id) noexcept override {
    return start<Nothing>("cleanup", [&](auto completion) {
      return core_->cleanup(serialize(id), std::move(completion));
    });
  }

 private:
  rust::Box<IsolatorHandle> core_;
};

// The master's calls have their place here; a module that is loaded into a master needs them.
class HookFacade final : public agent::Hook {
 public:
  Result<agent::Labels> masterLaunchTaskLabelDecorator(const agent::TaskInfo&,
                                                       const agent::FrameworkInfo&,
                                                       const agent::SlaveInfo&) noexcept override {
    return None();
  }
  Result<agent::Resources> masterLaunchTaskResourceDecorator(
      const agent::TaskInfo&, const agent::Resources&) noexcept override {
    return None();
  }
  Result<agent::Labels> slaveRunTaskLabelDecorator(const agent::TaskInfo&,
                                                   const agent::ExecutorInfo&,
                                                   const agent::FrameworkInfo&,
                                                   const agent::SlaveInfo&) noexcept override {
    return None();
  }
  Try<Nothing> masterSlaveLostHook(const agent::SlaveInfo&) noexcept override {
    return Try<Nothing>(Nothing());
  }
  Result<agent::Environment> slaveExecutorEnvironmentDecorator(
      const agent::ExecutorInfo&) noexcept override {
    return None();
  }
  agent::DockerPrepareInfoFuture slavePreLaunchDockerTaskExecutorDecorator(
      const agent::OptionalTaskInfo&, const agent::ExecutorInfo&, const std::string&,
      const std::string&, const std::string&,
      const agent::OptionalEnvironment&) noexcept override {
    return None();
  }
  Try<Nothing> slavePostFetchHook(const ContainerID&, const std::string&) noexcept override {
    return Try<Nothing>(Nothing());
  }
  Try<Nothing> slaveRemoveExecutorHook(const agent::FrameworkInfo& framework,
                                       const agent::ExecutorInfo& executor) noexcept override {
    try {
      executor_removed(serialize(framework), serialize(executor));
      return Try<Nothing>(Nothing());
    } catch (...) {
      return Try<Nothing>(Error{caught()});
    }
  }
  Result<TaskStatus> slaveTaskStatusDecorator(const agent::FrameworkID& framework,
                                              const TaskStatus& status) noexcept override {
    try {
      const rust::Vec<uint8_t> bytes = decorate_status(serialize(framework), serialize(status));
      if (bytes.empty()) return None();
      TaskStatus decorated;
      // Only the labels count; what else a TaskStatus requires is not looked at.
      if (!agent::parse_partial(
              decorated, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())))
        return Result<TaskStatus>(Error{"contrail-mesos answered with bytes that are no TaskStatus"});
      return Result<TaskStatus>(decorated);
    } catch (...) {
      return Result<TaskStatus>(Error{caught()});
    }
  }
  Result<agent::Resources> slaveResourcesDecorator(const agent::SlaveInfo&) noexcept override {
    return None();
  }
  Result<agent::Attributes> slaveAttributesDecorator(const agent::SlaveInfo&) noexcept override {
    return None();
  }
};

// Null makes the agent say that it cannot create the module, and exit; why is in the line above.
template <typename F>
void* create(const char* what, F f) noexcept {
  try {
    const std::string mismatch = agent::mismatch();
    if (mismatch.empty()) return f();
    log_error(std::string("cannot create ") + what + ": " + mismatch);
  } catch (...) {
    log_error(std::string("cannot create ") + what + ": " + caught());
  }
  return nullptr;
}

// The agent judges the version by itself before it asks `compatible`, and says less than we can.
__attribute__((constructor)) void check_at_load() noexcept {
  try {
    if (agent::is_running() && !agent::mismatch().empty()) log_error(agent::mismatch());
  } catch (...) {
    log_error("cannot check the agent's version: " + caught());
  }
}

}  // namespace

rust::String agent_mismatch() noexcept { return rust::String::lossy(agent::mismatch()); }
const char* built_for_mesos() noexcept { return agent::kMesosVersion; }

}  // namespace contrail_mesos

using namespace contrail_mesos;  // NOLINT: the functions below have C names

extern "C" void* contrail_mesos_create_isolator(const void* parameters) noexcept {
  return create("the isolator network/contrail", [&]() -> void* {
    const auto& message = *static_cast<const agent::Parameters*>(parameters);
    agent::Isolator* isolator = new IsolatorFacade(create_isolator(serialize(message)));
    return isolator;
  });
}

extern "C" void* contrail_mesos_create_hook(const void*) noexcept {
  return create("the hook org_contrail_mesos_Hook", []() -> void* {
    agent::Hook* hook = new HookFacade();
    return hook;
  });
}

extern "C" bool contrail_mesos_compatible() noexcept { return agent::mismatch().empty(); }
