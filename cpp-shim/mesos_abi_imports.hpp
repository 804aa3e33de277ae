// The functions of libmesos 1.11.0 that the ABI build calls, found by name at load: which of them
// an operator's libmesos exports is up to its compiler, and a missing one is then a sentence in
// the agent's log instead of the dynamic linker's error or a crash.
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

// Of messages that are made here, and of those that only the agent makes.
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

// What futures that we complete may hold.
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

// Valid once check_agent() has returned an empty string.
const MessageImports& import(MessageType type);
const FutureImports& import(FutureType type);
const CommonImports& import();

bool has_libmesos();

// Empty, or why this agent is refused. Looks everything up, once.
const std::string& check_agent();

}  // namespace abi
}  // namespace contrail_mesos
