#include "cpu/parallel.h"

#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#include "densecrf.h"

#if defined(__SSE__)
#include <immintrin.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define DENSECRF_FORKS
#endif

namespace densecrf {

namespace {

using Clock = std::chrono::steady_clock;

// After the i-th look for what is to come: at first the core is kept, for 300 pauses, then offered to others,
// for about 1 ms, then left to them 50 us at a time, and after some 20 ms, 1 ms at a time.  To be woken takes
// 0.1 ms on a virtual machine, and there are some 50 barriers to a call.
void wait_a_little(int64_t i) {
  if (i < 300) {
#if defined(__x86_64__)
    _mm_pause();
#endif
  } else if (i < 3300) {
    std::this_thread::yield();
  } else {
    std::this_thread::sleep_for(std::chrono::microseconds(i < 3500 ? 50 : 1000));
  }
}

}  // namespace

struct TeamState {
  TeamBody body;
  void* context;
  std::atomic<int> size{1};
  std::atomic<int> arrived{0};
  std::atomic<unsigned> round{0};
  std::atomic<int> working{0};           // helpers that are not done
  std::atomic<int64_t> barrier_time{1};  // of the thread that found it longest
};

int Team::size() const { return state_->size.load(std::memory_order_relaxed); }

void Team::barrier() {
  const int n = size();
  if (n == 1) return;
  const unsigned old = state_->round.load(std::memory_order_acquire);
  if (state_->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == n) {
    state_->arrived.store(0, std::memory_order_relaxed);
    state_->round.fetch_add(1, std::memory_order_release);
  } else {
    for (int64_t i = 0; state_->round.load(std::memory_order_acquire) == old; ++i) wait_a_little(i);
  }
}

int64_t Team::barrier_time() {
  if (barrier_time_ > 0) return barrier_time_;
  constexpr int kTogether = 4;  // one alone is short for whom the others wait for
  const auto before = Clock::now();
  for (int k = 0; k < kTogether; ++k) barrier();
  const int64_t taken = std::chrono::nanoseconds(Clock::now() - before).count() / kTogether;
  int64_t most = state_->barrier_time.load();
  while (most < taken && !state_->barrier_time.compare_exchange_weak(most, taken)) {
  }
  barrier();
  return barrier_time_ = state_->barrier_time.load();
}

namespace {

// Denormal numbers are flushed while the engine runs: labels of vanishing probability would otherwise cost a
// hundred cycles each.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#else
  FlushDenormals() {}
  ~FlushDenormals() {}
#endif
};

// Stores past the caches are done before the others see this thread's end.
void finish_streams() {
#if defined(__SSE__)
  _mm_sfence();
#endif
}

// Left by an exception, the team would end while others work in it.
void work(TeamState* state, int thread) noexcept {
  FlushDenormals flush;
  Team team(state);
  state->body(state->context, team, thread);
  finish_streams();
}

// A thread beside the callers', and its number in its team.
struct Helper {
  std::thread self;
  std::atomic<TeamState*> team{nullptr};
  int thread = 0;
};

TeamState nobody{};  // the team of a helper that is no longer wanted

// Those that have no team.
class Helpers {
 public:
  Helper* take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return count_ > 0 ? idle_[--count_] : nullptr;
  }
  // False: there are enough.
  bool put(Helper* helper) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (count_ == kMost) return false;
    idle_[count_++] = helper;
    return true;
  }
  // False: it has been taken, or sent away, meanwhile.
  bool remove(const Helper* helper) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (int i = 0; i < count_; ++i) {
      if (idle_[i] != helper) continue;
      idle_[i] = idle_[--count_];
      return true;
    }
    return false;
  }
  // A process forks when none is left.
  void before_fork() {
    for (mutex_.lock(); count_ > 0; mutex_.lock()) {
      Helper* helper = idle_[--count_];
      mutex_.unlock();  // which the helper may wait for
      helper->team.store(&nobody, std::memory_order_release);
      helper->self.join();
      delete helper;
    }
  }
  void after_fork() { mutex_.unlock(); }

 private:
  static constexpr int kMost = 256;

  std::mutex mutex_;
  Helper* idle_[kMost];
  int count_ = 0;
};

// Never destroyed: helpers may look at it while the process ends.
Helpers* const helpers = new Helpers;
#if defined(DENSECRF_FORKS)
const int told_of_forks = pthread_atfork([] { helpers->before_fork(); }, [] { helpers->after_fork(); },
                                         [] { helpers->after_fork(); });
#endif

// A call starts several teams, with less than this between them.
constexpr std::chrono::microseconds kStay(500);

// What the helper works in next, `nobody` where it is no longer wanted, or null: there was nothing until
// `end`.
TeamState* next_team(Helper* self, Clock::time_point end) {
  for (int64_t i = 0;; ++i) {
    if (self->team.load(std::memory_order_relaxed))
      return self->team.exchange(nullptr, std::memory_order_acquire);
    wait_a_little(i);
    if (Clock::now() > end && helpers->remove(self)) return nullptr;
  }
}
void help(Helper* self) {
  auto end = Clock::time_point::max();  // a new one's team is on its way
  while (TeamState* team = next_team(self, end)) {
    if (team == &nobody) return;  // who says so waits for this thread
    work(team, self->thread);
    const bool stays = helpers->put(self);
    team->working.fetch_sub(1, std::memory_order_release);  // the caller may go on, and the team be gone
    if (!stays) break;
    end = Clock::now() + kStay;
  }
  self->self.detach();
  delete self;
}

Helper* new_helper() {
  auto* helper = new (std::nothrow) Helper;
  if (!helper) return nullptr;
  try {
    helper->self = std::thread(help, helper);
  } catch (const std::exception&) {
    delete helper;
    return nullptr;
  }
  return helper;
}

}  // namespace

void run_team(int threads, TeamBody body, void* context) {
  TeamState state{body, context};
  Helper* found[kMaxThreads];
  int size = 1;
  for (; size < threads && size < kMaxThreads; ++size) {
    Helper* helper = helpers->take();
    if (!helper) helper = new_helper();
    if (!helper) break;  // the system gives no more: go on with those that there are
    found[size] = helper;
  }
  state.size = size;
  state.working = size - 1;
  for (int t = 1; t < size; ++t) {
    found[t]->thread = t;
    found[t]->team.store(&state, std::memory_order_release);
  }
  work(&state, 0);
  for (int64_t i = 0; state.working.load(std::memory_order_acquire) > 0; ++i) wait_a_little(i);
}

}  // namespace densecrf
