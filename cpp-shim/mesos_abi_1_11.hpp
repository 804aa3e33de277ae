// The interface of Mesos that the shim uses, from facts about the ABI of 1.11.0 on x86-64. It needs
// no header of Mesos and no symbol at link time. abi_check.cpp checks the facts against the real
// headers in builds on a source tree, and `check_agent` checks at load what can be checked in a
// running agent, before the agent gets an object of ours.
//
// All types are in a namespace of their own: the dynamic linker would merge a weak `Option<T>` in
// the global namespace with that of libmesos.
#pragma once

#ifndef __x86_64__
#error "The ABI facts are for x86-64 only: build on a Mesos source tree (MESOS_TREE) instead."
#endif

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "mesos_abi_imports.hpp"

namespace contrail_mesos {
namespace abi {

struct Nothing {};
struct None {};

struct Error {
  std::string message;
};

// An int tag, which is 0 if there is a value, then the value.
template <typename T>
class Option {
 public:
  Option() : tag_(kNone) {}
  Option(None) : Option() {}
  explicit Option(const T& value) : tag_(kSome) { new (&value_) T(value); }
  Option(const Option& that) : tag_(that.tag_) {
    if (tag_ == kSome) new (&value_) T(that.value_);
  }
  Option& operator=(const Option&) = delete;
  ~Option() {
    if (tag_ == kSome) value_.~T();
  }

 private:
  enum Tag : int { kSome = 0, kNone = 1 };
  Tag tag_;
  union {
    T value_;
  };
};

template <typename T>
class Try {
 public:
  explicit Try(const T& value) : data_(value) {}
  explicit Try(const Error& error) : error_(error) {}

 private:
  Option<T> data_;
  Option<Error> error_;
};

template <typename T>
class Result {
 public:
  Result(None) : data_(Option<T>()) {}
  explicit Result(const T& value) : data_(Option<T>(value)) {}
  explicit Result(const Error& error) : data_(error) {}

 private:
  Try<Option<T>> data_;
};

// Only returned, and always empty: only the size is known.
template <size_t Size>
struct Opaque {
  alignas(8) char storage[Size];
};

// A protobuf message that libmesos constructs, copies and destroys.
template <MessageType Type>
class Message {
 public:
  Message() { import(Type).construct(this); }
  Message(const Message& that) { import(Type).copy(this, &that); }
  Message& operator=(const Message&) = delete;
  ~Message() { import(Type).destroy(this); }

 private:
  alignas(8) char storage_[message_size(Type)];
};

// A message that the agent owns and passes by reference.
template <size_t Size>
class BorrowedMessage {
 public:
  BorrowedMessage() = delete;
  BorrowedMessage(const BorrowedMessage&) = delete;

 private:
  alignas(8) char storage_[Size];
};

// lambda::CallableOnce<void()>: one pointer to an object with this vtable.
class CallableOnce {
 public:
  explicit CallableOnce(std::function<void()> f) : callable_(new Function(std::move(f))) {}

 private:
  struct Callable {
    virtual ~Callable() = default;
    virtual void operator()() && = 0;
  };
  struct Function final : Callable {
    explicit Function(std::function<void()> callable) : f(std::move(callable)) {}
    void operator()() && override { f(); }
    std::function<void()> f;
  };
  std::unique_ptr<Callable> callable_;
};

template <FutureType Type, typename T>
class Promise;

// process::Future<T>: a std::shared_ptr to data, of which we change one flag and libmesos the rest.
template <FutureType Type, typename T>
class Future {
 public:
  Future(const Future&) = default;
  // A future without a promise is marked as abandoned, and completing an abandoned future aborts
  // the agent. Promise's constructor clears the flag, but libmesos does not export it.
  Future() : Future(Uninitialised()) {
    import(Type).construct(this);
    data_.get()->abandoned = false;
  }

 private:
  friend class Promise<Type, T>;
  struct Uninitialised {};
  // libmesos constructs the object in this storage.
  explicit Future(Uninitialised) {}
  std::shared_ptr<FutureData> data_;
};

template <FutureType Type, typename T>
class Promise {
 public:
  Future<Type, T> future() const { return future_; }
  bool set(const T& value) { return import(Type).set(&future_, &value); }
  bool fail(const std::string& message) { return import(Type).fail(&future_, &message); }
  // By the calling convention, the argument is passed as the address of a copy that the caller
  // destroys.
  void discard() {
    Future<Type, T> copy(future_);
    import(Type).discarded(&copy);
  }
  // libmesos never discards a Future<ContainerLimitation>, so it does not have this function.
  void on_discard(std::function<void()> f) {
    if (import(Type).on_discard == nullptr) return;
    CallableOnce callable(std::move(f));
    import(Type).on_discard(&future_, &callable);
  }

 private:
  Future<Type, T> future_;
};

// std::vector<ContainerState> and std::unordered_set<ContainerID>, as libstdc++ lays them out.
struct ContainerStates {
  const char* begin;
  const char* end;
  const char* capacity;
};
struct ContainerIds {
  struct Node {
    const Node* next;
    // The ContainerID follows.
  };
  const void* buckets;
  size_t bucket_count;
  const Node* first;
  size_t count;
};

}  // namespace abi

// The interface that shim.cpp uses. mesos_tree.hpp has the same.
namespace agent {

using abi::Error;
using abi::None;
using abi::Nothing;
using abi::Option;
using abi::Result;
using abi::Try;

using ContainerID = abi::BorrowedMessage<abi::kContainerIdSize>;
using ContainerConfig = abi::BorrowedMessage<abi::kContainerConfigSize>;
using ContainerLaunchInfo = abi::Message<abi::MessageType::kContainerLaunchInfo>;
using ContainerLimitation = abi::Message<abi::MessageType::kContainerLimitation>;
using ContainerStatus = abi::Message<abi::MessageType::kContainerStatus>;
using ResourceStatistics = abi::Message<abi::MessageType::kResourceStatistics>;
using TaskStatus = abi::Message<abi::MessageType::kTaskStatus>;
using Labels = abi::Opaque<abi::kLabelsSize>;
using Environment = abi::Opaque<abi::kEnvironmentSize>;
using Attributes = abi::Opaque<abi::kAttributesSize>;
using Resources = abi::Opaque<abi::kResourcesSize>;
// Passed by reference, and serialised or ignored.
struct Parameters;
struct TaskInfo;
struct ExecutorInfo;
struct FrameworkInfo;
struct FrameworkID;
struct SlaveInfo;
struct Limits;
struct OptionalTaskInfo;
struct OptionalEnvironment;
using ContainerStates = abi::ContainerStates;
using ContainerIds = abi::ContainerIds;

template <typename T>
struct FutureTypeOf;
template <>
struct FutureTypeOf<Nothing> {
  static constexpr auto value = abi::FutureType::kNothing;
};
template <>
struct FutureTypeOf<Option<ContainerLaunchInfo>> {
  static constexpr auto value = abi::FutureType::kLaunchInfo;
};
template <>
struct FutureTypeOf<ContainerLimitation> {
  static constexpr auto value = abi::FutureType::kLimitation;
};
template <>
struct FutureTypeOf<ResourceStatistics> {
  static constexpr auto value = abi::FutureType::kStatistics;
};
template <>
struct FutureTypeOf<ContainerStatus> {
  static constexpr auto value = abi::FutureType::kStatus;
};

template <typename T>
using Future = abi::Future<FutureTypeOf<T>::value, T>;
template <typename T>
using Promise = abi::Promise<FutureTypeOf<T>::value, T>;

class DockerPrepareInfoFuture {
 public:
  DockerPrepareInfoFuture(None none) { abi::import().no_docker_prepare_info(this, &none); }

 private:
  // libmesos constructs the object in this storage.
  alignas(8) char storage_[sizeof(std::shared_ptr<abi::FutureData>)];

 public:
  DockerPrepareInfoFuture(const DockerPrepareInfoFuture&) = delete;
  ~DockerPrepareInfoFuture() {
    reinterpret_cast<std::shared_ptr<abi::FutureData>*>(storage_)->~shared_ptr();
  }
};

// Missing required fields are reported by the decoder in Rust.
template <typename M>
std::string serialize(const M& message) {
  std::string bytes;
  abi::import().serialize(&message, &bytes);
  return bytes;
}
template <typename M>
bool parse(M& message, const std::string& bytes) {
  return abi::import().parse(&message, &bytes);
}
template <typename M>
bool parse_partial(M& message, const std::string& bytes) {
  return abi::import().parse_partial(&message, &bytes);
}

inline std::vector<std::string> serialize_all(const ContainerStates& states) {
  std::vector<std::string> all;
  for (const char* state = states.begin; state != states.end; state += abi::kContainerStateSize)
    all.push_back(serialize(*state));
  return all;
}
inline std::vector<std::string> serialize_all(const ContainerIds& ids) {
  std::vector<std::string> all;
  for (const abi::ContainerIds::Node* node = ids.first; node != nullptr; node = node->next)
    all.push_back(serialize(*reinterpret_cast<const char*>(node + 1)));
  return all;
}

// Whether this process has loaded libmesos. Our unit tests have not.
inline bool is_running() { return abi::has_libmesos(); }
inline std::string mismatch() { return abi::check_agent(); }

// The virtual functions in the order of 1.11. All are pure, so no vtable of a base class is used.
class Isolator {
 public:
  virtual ~Isolator() = default;
  virtual bool supportsNesting() = 0;
  virtual bool supportsStandalone() = 0;
  virtual Future<Nothing> recover(const ContainerStates& states, const ContainerIds& orphans) = 0;
  virtual Future<Option<ContainerLaunchInfo>> prepare(const ContainerID& id,
                                                      const ContainerConfig& config) = 0;
  virtual Future<Nothing> isolate(const ContainerID& id, pid_t pid) = 0;
  virtual Future<ContainerLimitation> watch(const ContainerID& id) = 0;
  virtual Future<Nothing> update(const ContainerID& id, const Resources& requests,
                                 const Limits& limits) = 0;
  virtual Future<ResourceStatistics> usage(const ContainerID& id) = 0;
  virtual Future<ContainerStatus> status(const ContainerID& id) = 0;
  virtual Future<Nothing> cleanup(const ContainerID& id) = 0;
};

class Hook {
 public:
  virtual ~Hook() = default;
  virtual Result<Labels> masterLaunchTaskLabelDecorator(const TaskInfo& task,
                                                        const FrameworkInfo& framework,
                                                        const SlaveInfo& agent) = 0;
  virtual Result<Resources> masterLaunchTaskResourceDecorator(const TaskInfo& task,
                                                              const Resources& resources) = 0;
  virtual Result<Labels> slaveRunTaskLabelDecorator(const TaskInfo& task,
                                                    const ExecutorInfo& executor,
                                                    const FrameworkInfo& framework,
                                                    const SlaveInfo& agent) = 0;
  virtual Try<Nothing> masterSlaveLostHook(const SlaveInfo& agent) = 0;
  virtual Result<Environment> slaveExecutorEnvironmentDecorator(const ExecutorInfo& executor) = 0;
  virtual DockerPrepareInfoFuture slavePreLaunchDockerTaskExecutorDecorator(
      const OptionalTaskInfo& task, const ExecutorInfo& executor, const std::string& name,
      const std::string& work_directory, const std::string& mapped_directory,
      const OptionalEnvironment& environment) = 0;
  virtual Try<Nothing> slavePostFetchHook(const ContainerID& id, const std::string& directory) = 0;
  virtual Try<Nothing> slaveRemoveExecutorHook(const FrameworkInfo& framework,
                                               const ExecutorInfo& executor) = 0;
  virtual Result<TaskStatus> slaveTaskStatusDecorator(const FrameworkID& framework,
                                                      const TaskStatus& status) = 0;
  virtual Result<Resources> slaveResourcesDecorator(const SlaveInfo& agent) = 0;
  virtual Result<Attributes> slaveAttributesDecorator(const SlaveInfo& agent) = 0;
};

static_assert(sizeof(Future<Nothing>) == 16 && alignof(Future<Nothing>) == 8, "Future<T>");
static_assert(sizeof(Option<ContainerLaunchInfo>) == 288, "Option<ContainerLaunchInfo>");
static_assert(sizeof(Option<Error>) == 40, "Option<Error>");
static_assert(sizeof(Try<Nothing>) == 48, "Try<Nothing>");
static_assert(sizeof(Result<Nothing>) == 56, "Result<Nothing>");
static_assert(sizeof(Result<Option<ContainerLaunchInfo>>) == 344, "Result<Option<…>>");
static_assert(sizeof(abi::CallableOnce) == 8, "CallableOnce");
static_assert(sizeof(Isolator) == 8 && sizeof(Hook) == 8, "one vtable pointer");

}  // namespace agent
}  // namespace contrail_mesos
