"""What every kernel of csrc/cuda takes of a multiprocessor; fails where registers spill.

    NVCC_APPEND_FLAGS="-Xptxas -v" python setup.py build_ext --inplace | python .ci/registers.py

reads what ptxas says while the kernels are compiled (what is up to date is not, and says nothing).
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

NOT_OURS = "sort"  # CUB's kernels
# Kernels for any number of dimensions keep arrays of so many bytes and more in local memory; next to these a spilled
# register is nothing.
ARRAYS = 1024


@dataclass
class Usage:
    """Of one kernel, the most of all architectures."""

    registers: dict[str, int] = field(default_factory=dict)  # by architecture
    shared: int = 0
    local: int = 0
    spilled: int = 0


def short(kernel: str) -> str:
    """The kernel's name and template arguments, without namespaces and parameters."""
    found = re.match(r"(?:void )?(?:[\w ()]+::)*(\w+(?:<[^(]*>)?)", kernel.replace("(anonymous namespace)::", ""))
    return found[1] if found else kernel


def read(lines: Iterable[str]) -> dict[str, Usage]:
    """What ptxas says of each kernel, in the output of a build."""
    usages: dict[str, Usage] = defaultdict(Usage)
    file = name = arch = ""
    for line in lines:
        if found := re.search(r"CUDA \S*?(\w+)\.o$", line):
            file = found[1]
        elif found := re.search(r"Compiling entry function '(.*)' for 'sm_(\w+)'", line):
            name, arch = f"{file} {short(found[1])}", found[2]
        elif file == NOT_OURS:
            continue
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            usages[name].local = max(usages[name].local, int(found[1]))
            usages[name].spilled = max(usages[name].spilled, int(found[2]) + int(found[3]))
        elif found := re.search(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?", line):
            usages[name].registers[arch] = int(found[1])
            usages[name].shared = max(usages[name].shared, int(found[2] or 0))
    return usages


def main() -> None:
    """Print the table."""
    text = subprocess.run(["c++filt"], input=sys.stdin.read(), capture_output=True, text=True, check=True).stdout
    usages = read(text.splitlines())
    if not usages:
        print("registers: no kernel was compiled, so there is nothing to look at")
        return
    archs = sorted({arch for usage in usages.values() for arch in usage.registers}, key=lambda arch: (len(arch), arch))
    print(f"{'registers on ' + ', '.join(archs):>36} {'shared':>7} {'local':>6} {'spilled':>8}  kernel")
    for name, usage in sorted(usages.items()):
        registers = " ".join(f"{usage.registers.get(arch, '-'):>4}" for arch in archs)
        print(f"{registers:>36} {usage.shared:>7} {usage.local:>6} {usage.spilled:>8}  {name}")
    spilling = [name for name, usage in sorted(usages.items()) if usage.spilled and usage.local < ARRAYS]
    if spilling:
        sys.exit(f"registers: {len(spilling)} kernels spill: {', '.join(spilling)}")


if __name__ == "__main__":
    main()
