#include "shim.hpp"

#include <memory>
#include <utility>

#include "creation.hpp"

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

// Sets Nothing, None or an empty message.
template <typename T>
void set_nothing(Promise<T>& promise) {
  promise.set(T());
}

// The following return false if the bytes cannot be parsed.

bool set_message(Promise<Nothing>& promise, const std::string&) {
  set_nothing(promise);
  return true;
}
bool set_message(Promise<Option<ContainerLaunchInfo>>& promise, const std::string& bytes) {
  ContainerLaunchInfo message;
  if (!agent::parse(message, bytes)) return false;
  promise.set(Option<ContainerLaunchInfo>(message));
  return true;
}
template <typename T>
bool set_message(Promise<T>& promise, const std::string& bytes) {
  T message;
  if (!agent::parse(message, bytes)) return false;
  promise.set(message);
  return true;
}

template <typename T>
class CompletionOf final : public Completion {
 public:
  explicit CompletionOf(std::shared_ptr<Promise<T>> promise) : promise_(std::move(promise)) {}

  void set(rust::Slice<const uint8_t> message) noexcept override {
    guard([&] {
      const std::string bytes(reinterpret_cast<const char*>(message.data()), message.size());
      if (!set_message(*promise_, bytes))
        promise_->fail(
            "contrail-mesos responded with an invalid message; please report this as a bug of "
            "contrail-mesos");
    });
  }
  void set_nothing() noexcept override {
    guard([&] { contrail_mesos::set_nothing(*promise_); });
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
      log_error("cannot complete a future: " + current_exception_message());
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

// Runs `f`. An exception becomes a failed future.
template <typename T, typename F>
Future<T> guarded(const char* call, F f) noexcept {
  try {
    return f();
  } catch (...) {
    return failed<T>(std::string("contrail-mesos: ") + call + ": " + current_exception_message());
  }
}

// Passes a completion to `f` and returns its future. A request to discard the future, on any
// thread, cancels the call in Rust, which then discards the completion.
template <typename T, typename F>
Future<T> start(const char* name, F f) noexcept {
  return guarded<T>(name, [&] {
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
  explicit IsolatorFacade(rust::Box<IsolatorHandle> isolator) : isolator_(std::move(isolator)) {}

  bool supportsNesting() noexcept override { return true; }
  // Like network/cni: standalone containers use the host's network.
  bool supportsStandalone() noexcept override { return false; }

  Future<Nothing> recover(const agent::ContainerStates& states,
                          const agent::ContainerIds& orphans) noexcept override {
    return start<Nothing>("recover", [&](auto completion) {
      return isolator_->recover(agent::serialize_all(states), agent::serialize_all(orphans),
                            std::move(completion));
    });
  }
  Future<Option<ContainerLaunchInfo>> prepare(const ContainerID& id,
                                              const ContainerConfig& config) noexcept override {
    return start<Option<ContainerLaunchInfo>>("prepare", [&](auto completion) {
      return isolator_->prepare(serialize(id), serialize(config), std::move(completion));
    });
  }
  Future<Nothing> isolate(const ContainerID& id, pid_t pid) noexcept override {
    return start<Nothing>("isolate", [&](auto completion) {
      return isolator_->isolate(serialize(id), pid, std::move(completion));
    });
  }
  Future<ContainerLimitation> watch(const ContainerID& id) noexcept override {
    return start<ContainerLimitation>("watch", [&](auto completion) {
      return isolator_->watch(serialize(id), std::move(completion));
    });
  }
  // Networks do not depend on resources.
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
      return isolator_->usage(serialize(id), std::move(completion));
    });
  }
  // Completes before it returns, because the agent queries its isolators one after another.
  Future<ContainerStatus> status(const ContainerID& id) noexcept override {
    return guarded<ContainerStatus>("status", [&] {
      auto promise = std::make_shared<Promise<ContainerStatus>>();
      Future<ContainerStatus> future = promise->future();
      const rust::Vec<uint8_t> bytes = isolator_->status(serialize(id));
      CompletionOf<ContainerStatus>(promise).set({bytes.data(), bytes.size()});
      return future;
    });
  }
  Future<Nothing> cleanup(const ContainerID& id) noexcept override {
    return start<Nothing>("cleanup", [&](auto completion) {
      return isolator_->cleanup(serialize(id), std::move(completion));
    });
  }

 private:
  rust::Box<IsolatorHandle> isolator_;
};

// Implements all calls of the interface, including those that only the master makes.
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
      const std::string&, const std::string&, const agent::OptionalEnvironment&) noexcept override {
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
      return Try<Nothing>(Error{current_exception_message()});
    }
  }
  Result<TaskStatus> slaveTaskStatusDecorator(const agent::FrameworkID& framework,
                                              const TaskStatus& status) noexcept override {
    try {
      const rust::Vec<uint8_t> bytes = decorate_status(serialize(framework), serialize(status));
      if (bytes.empty()) return None();
      TaskStatus decorated;
      // Partial, because the agent uses only the labels, and required fields are missing.
      if (!agent::parse_partial(
              decorated, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())))
        return Result<TaskStatus>(
            Error{"contrail-mesos responded with an invalid TaskStatus"});
      return Result<TaskStatus>(decorated);
    } catch (...) {
      return Result<TaskStatus>(Error{current_exception_message()});
    }
  }
  Result<agent::Resources> slaveResourcesDecorator(const agent::SlaveInfo&) noexcept override {
    return None();
  }
  Result<agent::Attributes> slaveAttributesDecorator(const agent::SlaveInfo&) noexcept override {
    return None();
  }
};

// The agent compares versions before it calls `compatible`, but its message has no advice. So the
// version is also checked when the library is loaded.
__attribute__((constructor)) void check_at_load() noexcept {
  try {
    if (agent::is_running() && !agent::mismatch().empty()) log_error(agent::mismatch());
  } catch (...) {
    log_error("cannot check the agent's version: " + current_exception_message());
  }
}

}  // namespace
}  // namespace contrail_mesos

using namespace contrail_mesos;  // NOLINT: the functions below have C names

extern "C" void* contrail_mesos_create_isolator(const void* parameters) noexcept {
  return create("the isolator network/contrail", agent::mismatch, [&]() -> void* {
    const auto& message = *static_cast<const agent::Parameters*>(parameters);
    agent::Isolator* isolator = new IsolatorFacade(create_isolator(serialize(message)));
    return isolator;
  });
}

extern "C" void* contrail_mesos_create_hook(const void*) noexcept {
  return create("the hook org_contrail_mesos_Hook", agent::mismatch, []() -> void* {
    agent::Hook* hook = new HookFacade();
    return hook;
  });
}

extern "C" bool contrail_mesos_compatible() noexcept { return agent::mismatch().empty(); }
