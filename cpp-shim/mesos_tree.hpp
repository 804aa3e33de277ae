// The interface of Mesos that the shim uses, from the headers of a source tree with its build
// directory or of an installation. The same interface as at the end of mesos_abi_1_11.hpp.
#pragma once

#include <functional>
#include <map>
#include <mesos/hook.hpp>
#include <mesos/mesos.hpp>
#include <mesos/module.hpp>
#include <mesos/module/hook.hpp>
#include <mesos/module/isolator.hpp>
#include <mesos/resources.hpp>
#include <mesos/slave/containerizer.hpp>
#include <mesos/slave/isolator.hpp>
#include <mesos/version.hpp>
#include <process/future.hpp>
#include <stout/error.hpp>
#include <stout/hashset.hpp>
#include <stout/none.hpp>
#include <stout/nothing.hpp>
#include <stout/option.hpp>
#include <stout/result.hpp>
#include <stout/try.hpp>
#include <string>
#include <utility>
#include <vector>

namespace contrail_mesos {
namespace agent {

using ::Error;
using ::None;
using ::Nothing;
using ::Option;
using ::Result;
using ::Try;

using mesos::Attributes;
using mesos::ContainerID;
using mesos::ContainerStatus;
using mesos::Environment;
using mesos::ExecutorInfo;
using mesos::FrameworkID;
using mesos::FrameworkInfo;
using mesos::Hook;
using mesos::Labels;
using mesos::Parameters;
using mesos::Resources;
using mesos::ResourceStatistics;
using mesos::SlaveInfo;
using mesos::TaskInfo;
using mesos::TaskStatus;
using mesos::slave::ContainerConfig;
using mesos::slave::ContainerLaunchInfo;
using mesos::slave::ContainerLimitation;
using mesos::slave::ContainerState;
using mesos::slave::Isolator;

using ContainerStates = std::vector<ContainerState>;
using ContainerIds = hashset<ContainerID>;
using Limits = google::protobuf::Map<std::string, mesos::Value::Scalar>;
using OptionalTaskInfo = Option<TaskInfo>;
using OptionalEnvironment = Option<std::map<std::string, std::string>>;
using DockerPrepareInfoFuture = process::Future<Option<mesos::DockerTaskExecutorPrepareInfo>>;

template <typename T>
using Future = process::Future<T>;

template <typename T>
class Promise {
 public:
  process::Future<T> future() const { return promise_.future(); }
  bool set(const T& value) { return promise_.set(value); }
  bool fail(const std::string& message) { return promise_.fail(message); }
  void discard() { promise_.discard(); }
  void on_discard(std::function<void()> f) { promise_.future().onDiscard(std::move(f)); }

 private:
  process::Promise<T> promise_;
};

// Missing required fields are reported by the decoder in Rust.
inline std::string serialize(const google::protobuf::MessageLite& message) {
  std::string bytes;
  message.SerializePartialToString(&bytes);
  return bytes;
}
inline bool parse(google::protobuf::MessageLite& message, const std::string& bytes) {
  return message.ParseFromString(bytes);
}
inline bool parse_partial(google::protobuf::MessageLite& message, const std::string& bytes) {
  return message.ParsePartialFromString(bytes);
}

template <typename Messages>
std::vector<std::string> serialize_all(const Messages& messages) {
  std::vector<std::string> all;
  for (const auto& message : messages) all.push_back(serialize(message));
  return all;
}

// The agent compares versions, and the dynamic linker resolves the symbols.
inline bool is_running() { return true; }
inline std::string mismatch() { return ""; }

}  // namespace agent
}  // namespace contrail_mesos
