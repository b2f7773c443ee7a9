// Fibers and their scheduler.
#include "emu.h"

#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define __sanitizer_start_switch_fiber(...) (void)0
#define __sanitizer_finish_switch_fiber(...) (void)0
#define ASAN_POISON_MEMORY_REGION(...) (void)0
#define ASAN_UNPOISON_MEMORY_REGION(...) (void)0
#endif

// Keeps the registers that a call must keep on the old stack, and takes them from the new one.
extern "C" void emulation_switch(void** from, void* to);
asm(R"(
.text
.globl emulation_switch
.type emulation_switch,@function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulation_switch,.-emulation_switch
)");

namespace emulation {

namespace {

constexpr int kWarp = 32;
constexpr size_t kMaxThreads = 1024, kStack = 64 << 10, kMaxShared = 227 << 10, kFence = 256;
constexpr unsigned char kUntouched = 0xA5;

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Fiber {
  uint3 index{};
  int lane = 0, warp = 0;
  State state = State::kDone;
  void* top = nullptr;  // of its stack, while it waits
  void* fake = nullptr;
  const char* file = nullptr;  // of the block barrier that it waits at
  int line = 0;
  uint32_t mask = 0;  // of the warp barrier that it waits at
  uint64_t offer = 0;
};

struct Guard {
  unsigned char* at;
  size_t bytes;
};

bool untouched(const unsigned char* at, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    if (at[i] != kUntouched) return false;
  }
  return true;
}

// All that there is, once: an emulated device runs one launch at a time.
struct Device {
  std::vector<Fiber> fibers;
  std::unique_ptr<char[]> stacks;
  Fiber* current = nullptr;
  const std::function<void()>* body = nullptr;
  void* main_top = nullptr;
  void* main_fake = nullptr;
  const void* main_stack = nullptr;
  size_t main_stack_size = 0;
  alignas(16) unsigned char shared[kMaxShared + kFence];
  std::vector<Guard> guards;
  unsigned seed = 0;
  std::mt19937 rng;
  std::string complaint;

  char* stack(const Fiber& fiber) { return stacks.get() + size_t(&fiber - fibers.data()) * kStack; }
};
Device device;

void to_main([[maybe_unused]] bool last) {
  [[maybe_unused]] Fiber* self = device.current;
  __sanitizer_start_switch_fiber(last ? nullptr : &self->fake, device.main_stack, device.main_stack_size);
  emulation_switch(&self->top, device.main_top);
  __sanitizer_finish_switch_fiber(self->fake, nullptr, nullptr);
}

void enter() {
  __sanitizer_finish_switch_fiber(nullptr, &device.main_stack, &device.main_stack_size);
  (*device.body)();
  device.current->state = State::kDone;
  to_main(true);
  std::abort();  // a fiber that is done is not resumed
}

void resume(Fiber& fiber) {
  device.current = &fiber;
  threadIdx = fiber.index;
  __sanitizer_start_switch_fiber(&device.main_fake, device.stack(fiber), kStack);
  emulation_switch(&device.main_top, fiber.top);
  __sanitizer_finish_switch_fiber(device.main_fake, nullptr, nullptr);
}

uint3 place(int64_t index, const dim3& size) {
  return {unsigned(index % size.x), unsigned(index / size.x % size.y), unsigned(index / size.x / size.y)};
}

void prepare(Fiber& fiber, int index) {
  fiber = Fiber{};
  fiber.index = place(index, blockDim);
  fiber.lane = index % kWarp;
  fiber.warp = index / kWarp;
  fiber.state = State::kReady;
  ASAN_UNPOISON_MEMORY_REGION(device.stack(fiber), kStack);
  void** top = reinterpret_cast<void**>(device.stack(fiber) + kStack);
  *--top = nullptr;  // where enter() would return to; keeps the stack aligned
  *--top = reinterpret_cast<void*>(enter);
  for (int i = 0; i < 6; ++i) *--top = nullptr;  // registers
  fiber.top = top;
}

template <class X>
void shuffle(std::vector<X>& order) {
  if (device.seed) std::shuffle(order.begin(), order.end(), device.rng);
}

// Lets go the lanes whose warp barrier all threads of its mask have reached.
bool release_lanes(const std::vector<Fiber*>& lanes) {
  uint32_t present = 0;
  for (const Fiber* lane : lanes) present |= 1u << lane->lane;
  bool any = false;
  for (const Fiber* first : lanes) {
    if (first->state != State::kAtWarpBarrier) continue;
    const uint32_t mask = first->mask;
    uint32_t waiting = 0;
    for (const Fiber* lane : lanes) {
      if (lane->state == State::kAtWarpBarrier && lane->mask == mask) waiting |= 1u << lane->lane;
    }
    if (waiting != (mask & present)) continue;
    for (Fiber* lane : lanes) {
      if (waiting >> lane->lane & 1) lane->state = State::kReady;
    }
    any = true;
  }
  return any;
}

void run_warp(std::vector<Fiber*> lanes) {
  do {
    shuffle(lanes);
    for (Fiber* lane : lanes) {
      if (lane->state == State::kReady) resume(*lane);
    }
  } while (release_lanes(lanes));
}

std::string where(const Fiber& fiber) { return std::string(fiber.file) + ":" + std::to_string(fiber.line); }

// Empty where all threads wait at the same block barrier.
std::string barrier_complaint() {
  const Fiber* at = nullptr;
  const Fiber* elsewhere = nullptr;
  for (const Fiber& fiber : device.fibers) {
    if (fiber.state == State::kAtBlockBarrier) at = &fiber;
  }
  if (!at) return "a warp barrier that not all of its lanes reach";
  for (const Fiber& fiber : device.fibers) {
    if (fiber.state != State::kAtBlockBarrier || fiber.file != at->file || fiber.line != at->line)
      elsewhere = &fiber;
  }
  if (!elsewhere) return "";
  const bool other = elsewhere->state == State::kAtBlockBarrier;
  return "divergent barrier: threads of one block are at " + where(*at) + " and " +
         (other ? where(*elsewhere) : "not at any");
}

std::string run_block() {
  std::vector<std::vector<Fiber*>> warps((device.fibers.size() + kWarp - 1) / kWarp);
  for (size_t i = 0; i < device.fibers.size(); ++i) {
    prepare(device.fibers[i], int(i));
    warps[i / kWarp].push_back(&device.fibers[i]);
  }
  for (;;) {
    shuffle(warps);
    for (const auto& warp : warps) run_warp(warp);
    bool done = true;
    for (const Fiber& fiber : device.fibers) done = done && fiber.state == State::kDone;
    if (done) return "";
    const std::string complaint = barrier_complaint();
    if (!complaint.empty()) return complaint;
    for (Fiber& fiber : device.fibers) fiber.state = State::kReady;
  }
}

std::string run_grid(size_t shared) {
  std::vector<int64_t> order(size_t(gridDim.x) * gridDim.y * gridDim.z);
  for (size_t i = 0; i < order.size(); ++i) order[i] = int64_t(i);
  device.rng.seed(device.seed);
  shuffle(order);
  for (int64_t i : order) {
    blockIdx = place(i, gridDim);
    std::memset(device.shared, 0xFF, shared);  // not a number
    std::memset(device.shared + shared, kUntouched, kFence);
    const std::string complaint = run_block();
    if (!complaint.empty()) return complaint;
    if (!untouched(device.shared + shared, kFence)) return "a write beyond the dynamic shared memory";
  }
  for (const Guard& guard : device.guards) {
    ASAN_UNPOISON_MEMORY_REGION(guard.at, guard.bytes);
    const bool intact = untouched(guard.at, guard.bytes);
    ASAN_POISON_MEMORY_REGION(guard.at, guard.bytes);
    if (!intact) return "a write beyond an array of the workspace";
  }
  return "";
}

}  // namespace

int lane() { return device.current->lane; }
unsigned char* dynamic_shared() { return device.shared; }
void set_seed(unsigned seed) { device.seed = seed; }
const std::string& complaint() { return device.complaint; }

void guard(void* at, size_t bytes) {
  auto* begin = static_cast<unsigned char*>(at);
  ASAN_UNPOISON_MEMORY_REGION(begin, bytes);  // of a workspace that several calls share
  std::memset(begin, kUntouched, bytes);
  ASAN_POISON_MEMORY_REGION(begin, bytes);
  device.guards.push_back({begin, bytes});
}
void forget_guards() {
  for ([[maybe_unused]] const Guard& guard : device.guards)
    ASAN_UNPOISON_MEMORY_REGION(guard.at, guard.bytes);
  device.guards.clear();
}

cudaError_t launch(const cudaLaunchConfig_t& config, const std::function<void()>& body) {
  const dim3 &grid = config.gridDim, &size = config.blockDim;
  const uint64_t threads = uint64_t(size.x) * size.y * size.z;
  const bool fits = grid.x < 1u << 31 && grid.y < 65536 && grid.z < 65536 && threads <= kMaxThreads &&
                    size.z <= 64 && config.dynamicSmemBytes <= kMaxShared;
  if (!fits || !grid.x || !grid.y || !grid.z || !threads) return cudaErrorInvalidConfiguration;
  if (!device.stacks) device.stacks.reset(new char[kMaxThreads * kStack]);
  gridDim = grid;
  blockDim = size;
  device.body = &body;
  device.fibers.resize(threads);
  device.complaint = run_grid(config.dynamicSmemBytes);
  return device.complaint.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}

void block_barrier(const char* file, int line) {
  device.current->state = State::kAtBlockBarrier;
  device.current->file = file;
  device.current->line = line;
  to_main(false);
}
void warp_barrier(uint32_t mask) {
  device.current->state = State::kAtWarpBarrier;
  device.current->mask = mask;
  to_main(false);
}
void offer(uint64_t value) { device.current->offer = value; }
uint64_t offered(int lane) {
  const size_t index = size_t(device.current->warp) * kWarp + size_t(lane);
  return index < device.fibers.size() ? device.fibers[index].offer : 0;
}

}  // namespace emulation
