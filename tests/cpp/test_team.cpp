// Teams of threads: one after the other, inside one another, from several threads, and in a forked process.
#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>
#include <vector>

#include "cpu/parallel.h"
#include "support.h"
#if defined(__unix__) && !defined(__SANITIZE_THREAD__)  // which allows no threads after a fork
#define DENSECRF_FORKS
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace {

using densecrf::DENSECRF_ISA::parallel;

// Every thread of a team adds its number at each of some barriers, and sees what the others have added.
bool adds_up(int threads) {
  constexpr int kRounds = 50;
  std::atomic<int> sum{0}, wrong{0};
  parallel(threads, [&](Team& team, int thread) {
    if (team.size() != threads) ++wrong;
    const int all = team.size() * (team.size() + 1) / 2;
    for (int round = 1; round <= kRounds; ++round) {
      sum += thread + 1;
      team.barrier();
      if (sum != round * all) ++wrong;
      team.barrier();
    }
  });
  return wrong == 0;
}

void test_threads_agree_on_a_barriers_time() {
  for (int threads = 1; threads <= 4; ++threads) {
    int64_t found[2][4] = {};
    parallel(threads, [&](Team& team, int thread) {
      for (auto& times : found) times[thread] = team.barrier_time();
    });
    for (const auto& times : found) {
      for (int t = 0; t < threads; ++t) CHECK(times[t] > 0 && times[t] == found[0][0]);
    }
  }
}

void test_one_after_the_other() {
  for (int i = 0; i < 200; ++i) CHECK(adds_up(1 + i % 4));
}

void test_helpers_are_kept() {
  int fresh = 0;
  for (int i = 0; i < 500; ++i) {
    parallel(2, [&](Team&, int thread) {
      thread_local bool met = false;
      if (thread == 1) fresh += int(!met);
      met = true;
    });
  }
  CHECK(fresh < 250);  // now and then one is kept waiting by the other threads of the machine
}

#if defined(__linux__) && !defined(__SANITIZE_THREAD__)  // which has a thread of its own
int threads_now() {
  int count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) count += int(task.exists());
  return count;
}
void test_helpers_end() {
  CHECK(adds_up(4));
  for (int i = 0; i < 200 && threads_now() > 1; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  CHECK(threads_now() == 1);
}
#else
void test_helpers_end() {}
#endif

void test_inside_one_another() {
  std::atomic<int> wrong{0};
  parallel(3, [&](Team&, int) {
    if (!adds_up(2)) ++wrong;
  });
  CHECK(wrong == 0);
}

void test_from_several_threads() {
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&wrong] {
      for (int k = 0; k < 50; ++k) wrong += !adds_up(2);
    });
  }
  for (auto& caller : callers) caller.join();
  CHECK(wrong == 0);
}

void test_in_a_forked_process() {
#if defined(DENSECRF_FORKS)
  for (int i = 0; i < 20 && failures == 0; ++i) {
    CHECK(adds_up(2));
    const pid_t child = fork();  // while that team's helper is there
    if (child == 0) {
      alarm(20);  // lest it wait for ever
      _exit(adds_up(2) ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
#endif
}

}  // namespace

int main() {
  test_one_after_the_other();
  test_threads_agree_on_a_barriers_time();
  test_helpers_are_kept();
  test_helpers_end();
  test_inside_one_another();
  test_from_several_threads();
  test_in_a_forked_process();
  return report("test_team");
}
