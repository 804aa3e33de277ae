// The functions of libmesos 1.11.0 that the ABI build calls, looked up by name at load. Which of
// them libmesos exports depends on its compiler. If one is missing, the agent's log says so, instead
// of an error of the dynamic linker or a crash.
#pragma once

#include <cstddef>
#include <string>

namespace contrail_mesos {
namespace abi {

enum class MessageType {
  kContainerLaunchInfo,
  kContainerLimitation,
  kContainerStatus,
  kResourceStatistics,
  kTaskStatus,
};
constexpr size_t kMessageTypes = 5;

// The sizes of messages.
constexpr size_t kContainerLaunchInfoSize = 280;
constexpr size_t kContainerLimitationSize = 64;
constexpr size_t kContainerStatusSize = 72;
constexpr size_t kResourceStatisticsSize = 408;
constexpr size_t kTaskStatusSize = 136;
constexpr size_t kContainerIdSize = 40;
constexpr size_t kContainerConfigSize = 224;
constexpr size_t kContainerStateSize = 88;
constexpr size_t kLabelsSize = 48;
constexpr size_t kEnvironmentSize = 48;
constexpr size_t kAttributesSize = 24;
constexpr size_t kResourcesSize = 264;

constexpr size_t message_size(MessageType type) {
  switch (type) {
    case MessageType::kContainerLaunchInfo:
      return kContainerLaunchInfoSize;
    case MessageType::kContainerLimitation:
      return kContainerLimitationSize;
    case MessageType::kContainerStatus:
      return kContainerStatusSize;
    case MessageType::kResourceStatistics:
      return kResourceStatisticsSize;
    case MessageType::kTaskStatus:
      return kTaskStatusSize;
  }
  return 0;
}

// The value types of futures that we complete.
enum class FutureType { kNothing, kLaunchInfo, kLimitation, kStatistics, kStatus };
constexpr size_t kFutureTypes = 5;

struct FutureData {
  char lock;
  int state;  // 0 pending, 1 ready, 2 failed, 3 discarded
  bool discard;
  bool associated;
  bool abandoned;
};
static_assert(offsetof(FutureData, state) == 4 && offsetof(FutureData, abandoned) == 10,
              "the head of Future's data is a flag, an int and three bools");

struct MessageImports {
  void (*construct)(void* self);
  void (*copy)(void* self, const void* that);
  void (*destroy)(void* self);
};

struct FutureImports {
  void (*construct)(void* self);
  bool (*set)(void* self, const void* value);
  bool (*fail)(void* self, const std::string* message);
  void (*discarded)(void* future);
  const void* (*on_discard)(const void* self, void* callback);
};

struct CommonImports {
  bool (*serialize)(const void* message, std::string* to);
  bool (*parse)(void* message, const std::string* from);
  bool (*parse_partial)(void* message, const std::string* from);
  void (*no_docker_prepare_info)(void* future, const void* none);
};

// Valid after check_agent() has returned an empty string.
const MessageImports& import(MessageType type);
const FutureImports& import(FutureType type);
const CommonImports& import();

bool has_libmesos();

// Returns why this agent is not supported, or an empty string. Looks up the functions at the first
// call.
const std::string& check_agent();

}  // namespace abi
}  // namespace contrail_mesos
