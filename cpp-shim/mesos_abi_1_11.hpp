// What the shim needs of Mesos, from facts about the ABI of 1.11.0 on x86-64 alone: no header of
// Mesos, no symbol at link time. Each fact is checked twice: by abi_check.cpp against the real
// headers in a build on a source tree, and, as far as a running program can be asked, by
// `check_agent` before the agent gets an object of ours.
//
// Everything lives in a namespace of its own: a weak `Option<T>` in the global one would be
// merged with libmesos' by the dynamic linker.
#pragma once

#ifndef __x86_64__
#error "The ABI facts hold on x86-64 only: build on a Mesos source tree (MESOS_TREE) instead."
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

// An int tag, 0 for some, then the value.
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

// Only ever read or returned empty: the size is all that is known.
template <size_t Size>
struct Opaque {
  alignas(8) char storage[Size];
};

// A protobuf message of libmesos: made, copied and destroyed by libmesos.
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

// A message that the agent owns.
template <size_t Size>
class Seen {
 public:
  Seen() = delete;
  Seen(const Seen&) = delete;

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

// process::Future<T>: a std::shared_ptr to data that only libmesos touches, but for one flag.
template <FutureType Type, typename T>
class Future {
 public:
  Future(const Future&) = default;
  // A future without a promise counts as abandoned, and the agent dies of one that is abandoned
  // and then completed; what Promise's constructor does to prevent it is exported by nobody.
  Future() : Future(Uninitialised()) {
    import(Type).construct(this);
    data_.get()->abandoned = false;
  }

 private:
  friend class Promise<Type, T>;
  struct Uninitialised {};
  // libmesos constructs into this storage.
  explicit Future(Uninitialised) {}
  std::shared_ptr<FutureData> data_;
};

template <FutureType Type, typename T>
class Promise {
 public:
  Future<Type, T> future() const { return future_; }
  bool set(const T& value) { return import(Type).set(&future_, &value); }
  bool fail(const std::string& message) { return import(Type).fail(&future_, &message); }
  // The argument is passed by the address of a copy that the caller destroys.
  void discard() {
    Future<Type, T> copy(future_);
    import(Type).discarded(&copy);
  }
  // Nobody in libmesos asks a ContainerLimitation to be discarded, so it has no such function.
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

// The interface that shim.cpp is written against; mesos_tree.hpp has the same.
namespace agent {

using abi::Error;
using abi::None;
using abi::Nothing;
using abi::Option;
using abi::Result;
using abi::Try;

using ContainerID = abi::Seen<abi::kContainerIdSize>;
using ContainerConfig = abi::Seen<abi::kContainerConfigSize>;
using ContainerLaunchInfo = abi::Message<abi::MessageType::kContainerLaunchInfo>;
using ContainerLimitation = abi::Message<abi::MessageType::kContainerLimitation>;
using ContainerStatus = abi::Message<abi::MessageType::kContainerStatus>;
using ResourceStatistics = abi::Message<abi::MessageType::kResourceStatistics>;
using TaskStatus = abi::Message<abi::MessageType::kTaskStatus>;
using Labels = abi::Opaque<abi::kLabelsSize>;
using Environment = abi::Opaque<abi::kEnvironmentSize>;
using Attributes = abi::Opaque<abi::kAttributesSize>;
using Resources = abi::Opaque<abi::kResourcesSize>;
// Passed by reference, serialised or not looked at.
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
  // libmesos constructs into this storage.
  alignas(8) char storage_[sizeof(std::shared_ptr<abi::FutureData>)];

 public:
  DockerPrepareInfoFuture(const DockerPrepareInfoFuture&) = delete;
  ~DockerPrepareInfoFuture() {
    reinterpret_cast<std::shared_ptr<abi::FutureData>*>(storage_)->~shared_ptr();
  }
};

// Bytes are taken as they are: what is missing is found where they are decoded.
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

// Whether this process has a libmesos at all; our own tests have none.
inline bool is_running() { return abi::has_libmesos(); }
inline std::string mismatch() { return abi::check_agent(); }

// The virtual functions in the order of 1.11. All pure: a base class' vtable is never used.
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
