// Memory for large arrays: workspaces, what a build grows, and the arrays that calls return.
#pragma once
#include <cstddef>

// A sanitizer watches malloc: pages of the system's and memory that is handed out again would escape it.
#if defined(__SANITIZE_ADDRESS__)
#define DENSECRF_WATCHED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DENSECRF_WATCHED 1
#endif
#endif

namespace densecrf {

struct Block {
  void* data;
  size_t bytes;
  bool again;  // handed out more than once: so much only allocate and release look at
};

// Smaller ones are malloc's.  Those of 256 KiB and more are kept when they are given back, and handed out
// again: the system clears every page that it hands out, which was a twelfth of a call with 12 labels while
// only blocks of 8 MiB were kept.
constexpr size_t kWorthKeeping = size_t(256) << 10;

// For a workspace, or the chains of a lattice, what has grown before them and nobody has asked for again
// goes: it is smaller, and of no use to them.
enum class For { kWorkspace, kArray };

// Uninitialised memory of at least so many bytes, aligned to cache lines, in huge pages where the system
// grants them: a first pass over 4 KiB pages costs as much as a mean-field iteration.  No data when there is
// none.
Block allocate(size_t bytes, For use = For::kArray);
// Gives back a block of allocate; one without data is fine.
void release(Block block);

// How many bytes to keep at most; 1 GiB unless told.
void keep_memory(size_t bytes);

}  // namespace densecrf
