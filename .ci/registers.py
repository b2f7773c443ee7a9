"""What every kernel of csrc/cuda takes of a multiprocessor; fails where registers spill.

python .ci/registers.py [ARCH ...]      compute capabilities, 90 unless told; needs setuptools
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
NOT_OURS = "sort.cu"  # CUB's kernels
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


def load_setup() -> ModuleType:
    """setup.py knows the compilers and their flags."""
    spec = importlib.util.spec_from_file_location("densecrf_setup", ROOT / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def report(command: list[str]) -> str:
    """What ptxas says, with readable names."""
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(run.stdout + run.stderr)
    text = run.stdout + run.stderr
    return subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True).stdout


def short(kernel: str) -> str:
    """The kernel's name and template arguments, without namespaces and parameters."""
    found = re.match(r"(?:void )?(?:[\w ()]+::)*(\w+(?:<[^(]*>)?)", kernel.replace("(anonymous namespace)::", ""))
    return found[1] if found else kernel


def read(text: str, arch: str, file: str, usages: dict[str, Usage]) -> None:
    """Add what ptxas says of each function of a file."""
    name = ""
    for line in text.splitlines():
        if found := re.search(r"(?:Function properties for|Compiling entry function) '?(.*?)'?(?: for 'sm_.*)?$", line):
            name = f"{file} {short(found[1])}"
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            usages[name].local = max(usages[name].local, int(found[1]))
            usages[name].spilled = max(usages[name].spilled, int(found[2]) + int(found[3]))
        elif found := re.search(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?", line):
            usages[name].registers[arch] = int(found[1])
            usages[name].shared = max(usages[name].shared, int(found[2] or 0))


def main(archs: list[str]) -> None:
    """Print the table."""
    build = load_setup()
    cuda = build.find_cuda()
    if cuda is None:
        print("registers: no nvcc, so there are no kernels to look at")
        return
    mode, usages = build.Mode(), defaultdict(Usage)
    compiler = build.find_compiler(mode)
    with tempfile.TemporaryDirectory() as folder:
        for arch in archs:
            for group in build.cuda_groups(replace(cuda, archs=(arch,)), compiler, mode):
                for source in group.sources:
                    if source.name != NOT_OURS:
                        output = ["-Xptxas", "-v", "-c", str(source), "-o", f"{folder}/kernel.o"]
                        read(report([cuda.nvcc, *group.flags, *output]), arch, source.stem, usages)
    print(f"{'registers on ' + ', '.join(archs):>28} {'shared':>7} {'local':>6} {'spilled':>8}  kernel")
    for name, usage in sorted(usages.items()):
        registers = " ".join(f"{usage.registers.get(arch, '-'):>4}" for arch in archs)
        print(f"{registers:>28} {usage.shared:>7} {usage.local:>6} {usage.spilled:>8}  {name}")
    spilling = [name for name, usage in sorted(usages.items()) if usage.spilled and usage.local < ARRAYS]
    if spilling:
        sys.exit(f"registers: {len(spilling)} kernels spill: {', '.join(spilling)}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["90"])
