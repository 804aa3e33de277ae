// What the creation of every module has in common: its failures go to the log, and no exception to
// Mesos.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <exception>
#include <string>

namespace contrail_mesos {
// Each file that includes it has its own: several libraries of ours may be in one process.
namespace {

// Logs an error in the format of the agent's log. Used before the Rust logger is started.
inline void log_error(const std::string& message) noexcept {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  tm local = {};
  localtime_r(&now.tv_sec, &local);
  std::fprintf(stderr, "E%02d%02d %02d:%02d:%02d.%06ld %5d shim.cpp:0] contrail-mesos: %s\n",
               local.tm_mon + 1, local.tm_mday, local.tm_hour, local.tm_min, local.tm_sec,
               now.tv_nsec / 1000, static_cast<int>(getpid()), message.c_str());
}

// Describes the current exception.
inline std::string current_exception_message() noexcept {
  try {
    throw;
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "an exception that is not a std::exception";
  }
}

// Runs `f`. If this Mesos is not supported or `f` throws, logs the reason and returns null, with
// which Mesos logs that it cannot create the module, and exits.
template <typename M, typename F>
void* create(const char* name, M mismatch, F f) noexcept {
  try {
    const std::string reason = mismatch();
    if (reason.empty()) return f();
    log_error(std::string("cannot create ") + name + ": " + reason);
  } catch (...) {
    log_error(std::string("cannot create ") + name + ": " + current_exception_message());
  }
  return nullptr;
}

}  // namespace
}  // namespace contrail_mesos
