// The C++ side of the bridge to Rust. The code that cxx generates includes it, so it must not use
// types of Mesos.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "rust/cxx.h"

namespace contrail_mesos {

// Completes a future that the agent waits for. Only the first call has an effect. Any thread may
// call it, one at a time. Does not throw.
class Completion {
 public:
  virtual ~Completion() = default;
  // Sets the value from a serialised message. Fails the future if the bytes cannot be parsed.
  virtual void set(rust::Slice<const uint8_t> message) noexcept = 0;
  // Sets Nothing, None or an empty message, depending on the future's type.
  virtual void set_nothing() noexcept = 0;
  virtual void fail(rust::Str reason) noexcept = 0;
  virtual void discard() noexcept = 0;
};

}  // namespace contrail_mesos

// Referenced by the module descriptors. `parameters` is a mesos::Parameters.
extern "C" {
void* contrail_mesos_create_isolator(const void* parameters) noexcept;
void* contrail_mesos_create_hook(const void* parameters) noexcept;
bool contrail_mesos_compatible() noexcept;
}
