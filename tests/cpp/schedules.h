// What the tests of emulated kernels share: workspaces that see several schedules.
#pragma once
#include "cuda/device.h"
#include "emulation/emu.h"
#include "support.h"

namespace {

// Runs body(workspace) as in_workspace() does, each time in another schedule.
template <class Body>
void in_schedules(size_t bytes, Body body) {
  unsigned seed = 0;
  in_workspace(bytes, [&](void* workspace) {
    emulation::set_seed(seed++);
    body(workspace);
    emulation::forget_guards();
  });
}

}  // namespace
