// The only threading: teams of threads, the caller's and helpers.
//
// A call runs several teams one after the other, and starting a thread costs about 45 us: a helper is there
// for whoever asks next, offering its core to others, until for half a millisecond nobody has.  A process
// that forks ends its idle helpers before.  Nothing is shared with other libraries' thread settings.
#pragma once
#include <cstdint>

#include "core/macros.h"

namespace densecrf {

struct TeamState;

class Team {
 public:
  explicit Team(TeamState* state) : state_(state) {}
  int size() const;
  void barrier();
  // What a barrier takes, in nanoseconds, the same for all threads: measured at the first call, which they
  // make together, soon after a barrier.
  int64_t barrier_time();

 private:
  TeamState* state_;
  int64_t barrier_time_ = 0;
};

using TeamBody = void (*)(void* context, Team& team, int thread);

// Runs body on up to `threads` threads, the caller being thread 0; fewer when the system refuses more. Bodies
// must not throw.
void run_team(int threads, TeamBody body, void* context);

}  // namespace densecrf

DENSECRF_BEGIN

template <class F>
inline void parallel(int threads, F&& body) {
  run_team(
      threads, [](void* context, Team& team, int thread) { (*static_cast<F*>(context))(team, thread); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

struct Range {
  int64_t begin, end;
};

// Part `index` of [0, n) in `parts` equal pieces whose inner borders are multiples of `align`.
inline Range band(int64_t n, int parts, int index, int64_t align = 1) {
  int64_t units = (n + align - 1) / align;
  auto border = [&](int i) {
    int64_t b = (units * i / parts) * align;
    return b < n ? b : n;
  };
  return {border(index), border(index + 1)};
}

DENSECRF_END
