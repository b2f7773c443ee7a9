#include "cpu/parallel.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__SSE__)
#include <immintrin.h>
#endif

namespace densecrf {

struct TeamState {
  std::atomic<int> size{0};  // 0 until all threads have been started
  std::atomic<int> arrived{0};
  std::atomic<unsigned> round{0};
  std::mutex mutex;
  std::condition_variable wake;

  void wait_until_round_changes(unsigned old) {
    // About 10 us, then as much as 1 ms of offering the core to others before sleeping: on a virtual machine
    // waking takes about 0.1 ms, and there are some 50 barriers to a call.
    for (int i = 0; i < 300; ++i) {
      if (round.load(std::memory_order_acquire) != old) return;
#if defined(__x86_64__)
      _mm_pause();
#endif
    }
    for (int i = 0; i < 3000; ++i) {
      if (round.load(std::memory_order_acquire) != old) return;
      std::this_thread::yield();
    }
    std::unique_lock<std::mutex> lock(mutex);
    wake.wait(lock, [&] { return round.load(std::memory_order_acquire) != old; });
  }
  void next_round() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      round.fetch_add(1, std::memory_order_release);
    }
    wake.notify_all();
  }
};

int Team::size() const { return state_->size.load(std::memory_order_relaxed); }

void Team::barrier() {
  int n = size();
  if (n == 1) return;
  unsigned old = state_->round.load(std::memory_order_acquire);
  if (state_->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == n) {
    state_->arrived.store(0, std::memory_order_relaxed);
    state_->next_round();
  } else {
    state_->wait_until_round_changes(old);
  }
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

}  // namespace

void run_team(int threads, TeamBody body, void* context) {
  TeamState state;
  auto run = [&](int thread) {
    FlushDenormals flush;
    Team team(&state);
    body(context, team, thread);
    finish_streams();
  };
  if (threads <= 1) {
    state.size = 1;
    run(0);
    return;
  }
  std::vector<std::thread> others;
  others.reserve(threads - 1);
  try {
    for (int t = 1; t < threads; ++t) {
      others.emplace_back([&, t] {
        state.wait_until_round_changes(0);
        run(t);
      });
    }
  } catch (const std::system_error&) {
    // The system gives no more threads: go on with those that started.
  }
  state.size = int(others.size()) + 1;
  state.next_round();
  run(0);
  for (auto& other : others) other.join();
}

}  // namespace densecrf
