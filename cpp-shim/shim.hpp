// The bridge between the agent's C++ and our Rust: bytes in, bytes out, futures completed.
// Included by the code that cxx generates, so it mentions no type of Mesos.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "rust/cxx.h"

namespace contrail_mesos {

// The answer that the agent waits for. Whichever call comes first decides; later ones change
// nothing. Any thread may call, one at a time. Nothing throws.
class Completion {
 public:
  virtual ~Completion() = default;
  // The serialised message. Bytes that are no such message fail the future.
  virtual void answer(rust::Slice<const uint8_t> message) noexcept = 0;
  // No message: Nothing, None, or an empty message, whichever the future's type has.
  virtual void answer_nothing() noexcept = 0;
  virtual void fail(rust::Str reason) noexcept = 0;
  virtual void discard() noexcept = 0;
};

// Empty when the running libmesos is the one that this module was built for; else what is
// wrong and what the operator can do.
rust::String agent_mismatch() noexcept;

// "1.11.0", from whichever of the two headers this was built on; static.
const char* built_for_mesos() noexcept;

}  // namespace contrail_mesos

// What the module descriptors point to. `parameters` is a mesos::Parameters.
extern "C" {
void* contrail_mesos_create_isolator(const void* parameters) noexcept;
void* contrail_mesos_create_hook(const void* parameters) noexcept;
bool contrail_mesos_compatible() noexcept;
}
