// Teams of threads: one after the other, inside one another, from several threads, and in a forked process.
#include <atomic>
#include <chrono>
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

void test_one_after_the_other() {
  for (int i = 0; i < 200; ++i) CHECK(adds_up(1 + i % 4));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK(adds_up(3));  // the helpers have gone
}

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
  test_inside_one_another();
  test_from_several_threads();
  test_in_a_forked_process();
  std::printf("test_team: %s\n", failures ? "failed" : "all is well");
  return failures ? 1 : 0;
}
