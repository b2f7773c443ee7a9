// The vertices of one axis strung into chains of neighbours.
#pragma once
#include "cpu/buffer.h"

DENSECRF_BEGIN

// Several chains are walked at a time, and without a branch at their ends: one alone waits for each step, and
// with the branch, mispredicted at every end, stringing takes 1.5 times as long.
class ChainWalk {
 public:
  bool init(int64_t vertices) {
    bool ok = starts_.resize(vertices + 1);
    for (Buffer<int32_t>& out : walked_) ok = ok && out.resize(vertices);
    return ok;
  }
  // up: each vertex's neighbour one step up, or -1; has_lower: whether it is one's neighbour.  A chain's last
  // vertex is written as ~id; vertices without neighbours are left out.  Returns how many are in.
  //
  // Corners and bridges, the rest, are numbered by where in the image they were found, and so are chains
  // strung: threads that share a blur then keep most vertices from axis to axis.
  int64_t string(const int32_t* up, const uint8_t* has_lower, int64_t corners, int64_t vertices,
                 int32_t* chains) {
    int64_t count = 0;
    const auto add_starts = [&](int64_t begin, int64_t end) {
      for (int64_t v = begin; v < end; ++v) {
        starts_[count] = int32_t(v);
        count += int(!has_lower[v] & (up[v] >= 0));
      }
    };
    const int64_t bridges = vertices - corners;
    for (int p = 0; p < kParts; ++p) {
      add_starts(corners * p / kParts, corners * (p + 1) / kParts);
      add_starts(corners + bridges * p / kParts, corners + bridges * (p + 1) / kParts);
    }
    starts_[count] = 0;  // looked at, but not walked from
    Walker walkers[kWalkers];
    for (int w = 0; w < kWalkers; ++w) {
      const int32_t* first = starts_.data() + count * w / kWalkers;
      walkers[w] = {first, starts_.data() + count * (w + 1) / kWalkers, *first, walked_[w].data()};
    }
    walk_together(up, walkers);
    int32_t* to = chains;
    for (int w = 0; w < kWalkers; ++w) {
      while (walkers[w].next < walkers[w].end) walkers[w].step(up);
      const int64_t length = walkers[w].out - walked_[w].data();
      if (length > 0) std::memcpy(to, walked_[w].data(), size_t(length) * sizeof(int32_t));
      to += length;
    }
    return to - chains;
  }

 private:
  static constexpr int kWalkers = 4;
  static constexpr int kParts = 64;  // of the image

  struct Walker {
    const int32_t *next, *end;  // the start of the chain that it walks along, and the end of its starts
    int32_t at;
    int32_t* out;

    void step(const int32_t* up) {
      const int32_t above = up[at], last = above >> 31;  // -1 at the end of a chain
      *out++ = at ^ last;
      next -= last;
      at = (above & ~last) | (*next & last);
    }
  };
  // Until one of them has no more chains.
  static void walk_together(const int32_t* up, Walker (&walkers)[kWalkers]) {
    static_assert(kWalkers == 4, "each is named, to stay in registers");
    for (;;) {
      int64_t steps = INT64_MAX;  // a step ends a chain at most
      for (const Walker& walker : walkers) steps = smaller<int64_t>(steps, walker.end - walker.next);
      if (steps <= 0) return;
      Walker a = walkers[0], b = walkers[1], c = walkers[2], d = walkers[3];
      for (int64_t i = 0; i < steps; ++i) {
        a.step(up);
        b.step(up);
        c.step(up);
        d.step(up);
      }
      walkers[0] = a;
      walkers[1] = b;
      walkers[2] = c;
      walkers[3] = d;
    }
  }

  Buffer<int32_t> starts_, walked_[kWalkers];
};

DENSECRF_END
