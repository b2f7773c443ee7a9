// The images of a batch, side by side: each is a lattice and a run of its own, whose values stay in cache
// while it is blurred, and threads that have an image each need no barriers (docs/design.md, Batches, has the
// figures).
#pragma once
#include <atomic>
#include <cstdint>
#include <new>

#include "cpu/parallel.h"
#include "python/arrays.h"

namespace densecrf {

// Where an image runs.
struct Place {
  int threads;                     // its own
  bool by_caller;                  // on the thread that called, the only one that signals reach
  const std::atomic<bool>* ended;  // another image came to a bad end: there is no use in going on
  bool interrupted = false;        // by a signal, whose exception is set

  // A request's checkpoint, with the place as its data.
  static bool checkpoint(void* data, int) {
    auto* place = static_cast<Place*>(data);
    if (place->by_caller) {
      py::gil_scoped_acquire acquire;
      place->interrupted = PyErr_CheckSignals() != 0;
    }
    return !place->interrupted && !*place->ended;
  }
};

// Where the values that are blurred take more, images go one by one, on all threads: side by side their
// values push each other out of the cache (of 32 MB; forward and backward pass of four photographs, 500 x
// 375, on two threads: 1.09x and 1.16x longer with 29 and 15 MB each, 0.8x with 13 MB or less).
constexpr int64_t kLargeValues = int64_t(14) << 20;

// Calls run(image, place) for every image, without the GIL: as many at a time as there are threads; the last
// ones, if fewer than threads, share these.  The first bad end becomes an exception, an interrupt before all
// others.  `values`: bytes that an image's run goes over again and again.
template <class F>
void for_images(int64_t images, int threads, int64_t values, F&& run) {
  struct Round {
    F& run;
    int threads_each;
    int64_t end;
    std::atomic<int64_t> next;
    std::atomic<bool> ended{false};
    std::atomic<Status> status{Status::kOk};

    Round(F& f, int each, int64_t first, int64_t last) : run(f), threads_each(each), end(last), next(first) {}
    void work(int thread) {
      Place place{threads_each, thread == 0, &ended};
      for (int64_t image = next++; image < end && !ended; image = next++) note(outcome(image, place), place);
    }
    Status outcome(int64_t image, Place& place) {
      try {
        return run(image, place);
      } catch (const std::bad_alloc&) {
        return Status::kOutOfMemory;
      }
    }
    void note(Status found, const Place& place) {
      Status none = Status::kOk;
      if (place.interrupted)
        status = Status::kInterrupted;
      else if (found != Status::kOk && found != Status::kInterrupted)  // that follows another image's bad end
        status.compare_exchange_strong(none, found);
      if (found != Status::kOk) ended = true;
    }
  };
  without_gil([&] {
    for (int64_t first = 0; first < images;) {
      const int64_t left = images - first;
      const int teams = values > kLargeValues ? 1 : int(left < threads ? left : threads);
      Round round(run, threads / teams, first, first + left / teams * teams);
      run_team(
          teams, [](void* context, Team&, int thread) { static_cast<Round*>(context)->work(thread); },
          &round);
      if (round.ended) return round.status.load();
      first = round.end;
    }
    return Status::kOk;
  });
}

template <class F>
void for_images(int64_t images, int threads, F&& run) {
  for_images(images, threads, 0, run);
}

}  // namespace densecrf
