// The real Mesos 1.11.0 in one program, made of the official library alone: no Mesos header, no
// Mesos source. It is a master with one agent (`cluster`) and that agent's mesos-containerizer
// (`launch`, `network-cni-setup`).
//
// What follows are facts of the binary interface of that one library file (its sha256 is pinned in
// install.sh; Itanium C++ ABI, GCC 5 with std::__cxx11 strings). Each is checked where that is
// possible, and the program refuses to go on where a check fails.

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

namespace {

// Option<T> is an int (0: some, 1: none) followed by the value in place.
struct OptionString {
  int tag;
  union {
    std::string value;
  };
  OptionString() : tag(1) {}
  explicit OptionString(const char* text) : tag(0) { new (&value) std::string(text); }
  ~OptionString() {
    if (tag == 0) value.~basic_string();
  }
  OptionString(const OptionString&) = delete;
};
static_assert(sizeof(OptionString) == 40, "Option<std::string> of Mesos 1.11 has 40 bytes");

}  // namespace

// A function that returns an object by value takes the address of the place for it first ("place").
extern "C" {
bool process_initialize(const OptionString& delegate, const OptionString& rw, const OptionString& ro)
    __asm__(
        "_ZN7process10initializeERK6OptionINSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEES9_S9_");

void local_flags(void* self) __asm__("_ZN5mesos8internal5local5FlagsC1Ev");
void local_launch(void* place, const void* flags, void* allocator)
    __asm__("_ZN5mesos8internal5local6launchERKNS1_5FlagsEPNS_9allocator9AllocatorE");

void hooks_initialize(void* place, const std::string& hooks)
    __asm__(
        "_ZN5mesos8internal11HookManager10initializeERKNSt7__cxx1112basic_stringIcSt11char_traitsIc"
        "ESaIcEEE");

void flags_base(void* self) __asm__("_ZN5flags9FlagsBaseC1Ev");
void flags_load(void* place, void* self, const OptionString& prefix, int argc,
                const char* const* argv, bool unknowns, bool duplicates)
    __asm__(
        "_ZN5flags9FlagsBase4loadERK6OptionINSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEE"
        "iPKPKcbb");

extern void* launch_vtable[] __asm__("_ZTVN5mesos8internal5slave24MesosContainerizerLaunchE");
void launch_flags(void* self) __asm__("_ZN5mesos8internal5slave24MesosContainerizerLaunch5FlagsC1Ev");

void cni_setup(void* self) __asm__("_ZN5mesos8internal5slave23NetworkCniIsolatorSetupC1Ev");

extern void* detector_vtable[] __asm__("_ZTVN5mesos6master8detector24StandaloneMasterDetectorE");
void detector_detect(void* place, void* self, const void* previous)
    __asm__("_ZN5mesos6master8detector24StandaloneMasterDetector6detectERK6OptionINS_10MasterInfoEE");
void detector_appoint(void* self, const void* upid)
    __asm__("_ZN5mesos6master8detector24StandaloneMasterDetector7appointERKN7process4UPIDE");
void upid(void* self, const char* text) __asm__("_ZN7process4UPIDC1EPKc");
}

namespace {

// Subcommand: vtable pointer, name (std::string), and FlagsBase of its own; the Flags of the
// concrete subcommand follow at 224.
constexpr size_t kName = 8;
constexpr size_t kOwnFlags = 40;
constexpr size_t kConcreteFlags = 224;
// The text of the Error in Try<flags::Warnings>.
constexpr size_t kError = 40;

// Room enough for either subcommand (the larger has 608 bytes), for the Flags of the cluster, and
// for the results of launch (a PID) and load (a Try of warnings).
template <size_t N>
struct alignas(16) Room {
  char bytes[N] = {};
};

[[noreturn]] void refuse(const char* what) {
  std::fprintf(stderr, "mesos-containerizer of the tests: %s\n", what);
  std::exit(EXIT_FAILURE);
}

// Slots of Subcommand's vtable, after the two destructors.
int execute(void* self) {
  void** table = *static_cast<void***>(self);
  return reinterpret_cast<int (*)(void*)>(table[2])(self);
}
void* get_flags(void* self) {
  void** table = *static_cast<void***>(self);
  return reinterpret_cast<void* (*)(void*)>(table[3])(self);
}

// FlagsBase is a virtual base of every Flags: its offset is the third word before the vtable.
void* base_of(void* flags) {
  ptrdiff_t* table = *static_cast<ptrdiff_t**>(flags);
  return static_cast<char*>(flags) + table[-3];
}

void load_flags(void* flags, const OptionString& prefix, int argc, const char* const* argv) {
  Room<1024> place;
  flags_load(&place, flags, prefix, argc, argv, false, false);
  // Try<Warnings>: an Option of a vector, then an Option of an Error, which is a string.
  if (*reinterpret_cast<int*>(place.bytes) != 0) {
    const std::string& error = *reinterpret_cast<std::string*>(place.bytes + kError);
    refuse(("the flags are not accepted: " + error).c_str());
  }
}

int run(void* subcommand, int argc, char** argv) {
  void* flags = base_of(static_cast<char*>(subcommand) + kConcreteFlags);
  if (get_flags(subcommand) != flags) refuse("this libmesos lays its subcommands out differently");
  load_flags(flags, OptionString("MESOS_CONTAINERIZER_"), argc - 1, argv + 1);
  return execute(subcommand);
}

// The agent mounts some files of /proc read-only over themselves in a container with an image, and
// the containerizer fails if one does not exist. Not every kernel has /proc/sysrq-trigger; where it
// is absent there is nothing to protect, so the mounts go. Each is an object without another in it,
// in an array whose name comes after everything that a user can write (the keys are sorted).
void forget_absent_mounts() {
  if (access("/proc/sysrq-trigger", F_OK) == 0) return;
  const char* variable = "MESOS_CONTAINERIZER_LAUNCH_INFO";
  const char* given = std::getenv(variable);
  if (given == nullptr) return;
  std::string info = given;
  const size_t mounts = info.find("\"mounts\":[");
  if (mounts == std::string::npos) return;
  size_t found;
  while ((found = info.find("/proc/sysrq-trigger\"", mounts)) != std::string::npos) {
    size_t begin = info.rfind('{', found);
    size_t end = info.find('}', found) + 1;
    if (info[end] == ',') {
      ++end;
    } else if (info[begin - 1] == ',') {
      --begin;
    }
    info.erase(begin, end - begin);
  }
  setenv(variable, info.c_str(), 1);
}

int launch(int argc, char** argv) {
  forget_absent_mounts();
  // Its constructor is inline and therefore not in the library: what it does is done here.
  static Room<8192> room;
  *reinterpret_cast<void**>(room.bytes) = launch_vtable + 2;
  new (room.bytes + kName) std::string("launch");
  flags_base(room.bytes + kOwnFlags);
  launch_flags(room.bytes + kConcreteFlags);
  return run(room.bytes, argc, argv);
}

int network_cni_setup(int argc, char** argv) {
  static Room<8192> room;
  cni_setup(room.bytes);
  return run(room.bytes, argc, argv);
}

// Everything comes from the environment: MESOS_* are the flags of master and agent, LIBPROCESS_IP
// and LIBPROCESS_PORT the address of both, TMPDIR the directory under which they work.
int cluster(const char* agents) {
  static Room<8192> flags;
  static Room<1024> place;
  OptionString delegate("master"), none;
  process_initialize(delegate, none, none);
  local_flags(&flags);
  const char* const arguments[] = {"cluster", agents};
  // The flags of the log are another virtual base, between these and FlagsBase.
  load_flags(base_of(base_of(&flags)), none, 2, arguments);
  local_launch(&place, &flags, nullptr);
  // The real agent's own main does this, after it has loaded the modules.
  if (const char* hooks = std::getenv("MESOS_HOOKS")) {
    // Try<Nothing>: an Option of Nothing, then an Option of an Error.
    static Room<64> done;
    hooks_initialize(&done, hooks);
    if (*reinterpret_cast<int*>(done.bytes) != 0) refuse("the hooks cannot be initialized");
  }
  for (;;) pause();
}

// The libprocess id (UPID) of the master that the agent registers at.
Room<1024> other_master;

// Master and agent of one process share a detector. The other master is appointed before the detector's
// first answer, so this process' own master is always a standby.
void detect(void* place, void* self, const void* previous) {
  static bool appointed = false;
  if (!appointed) {
    appointed = true;
    detector_appoint(self, &other_master);
  }
  detector_detect(place, self, previous);
}

int agent(const char* master) {
  upid(&other_master, (std::string("master@") + master).c_str());
  // Offset to top and type come before the functions.
  void** slot = detector_vtable + 2;
  void** const end = slot + 3;
  while (slot != end && *slot != reinterpret_cast<void*>(&detector_detect)) ++slot;
  if (slot == end) refuse("this libmesos lays its detector out differently");
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  void* start = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(slot) & ~(page - 1));
  if (mprotect(start, page, PROT_READ | PROT_WRITE) != 0) refuse("the detector cannot be changed");
  *slot = reinterpret_cast<void*>(&detect);
  return cluster("--num_slaves=1");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "launch") return launch(argc, argv);
  if (command == "network-cni-setup") return network_cni_setup(argc, argv);
  if (command == "cluster") return cluster("--num_slaves=1");
  if (command == "master") return cluster("--num_slaves=0");
  if (command == "agent" && argc == 3) return agent(argv[2]);
  refuse("usage: mesos-containerizer cluster | master | agent MASTER | launch | network-cni-setup");
}
