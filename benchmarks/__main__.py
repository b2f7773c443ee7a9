"""``python -m benchmarks NAME [options]`` runs a benchmark; without a name: lists them."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

from densecrf import _console
from densecrf.images import FileError

GROUPS = {
    "The comparison": (
        "report",
        "quality",
        "tuned",
        "labels",
        "strides",
        "scaling",
        "frontier",
        "memory",
        "huge_image",
        "stages",
        "plots",
        "tables",
    ),
    "Beside pydensecrf2": ("compare_pydensecrf", "compare_frontend", "accuracy"),
    "PyTorch and CUDA": ("bench_backward", "bench_gpu", "gpu_check"),
    "The engine": ("tune_lattice",),
}


def listing() -> str:
    """All benchmarks with the first line of their docstrings, which are read, not imported: packages may be missing."""
    lines = ["usage: python -m benchmarks NAME [options]; NAME --help tells more", ""]
    for group, names in GROUPS.items():
        lines.append(group)
        for name in names:
            source = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
            about = ast.get_docstring(ast.parse(source)) or ""
            lines.append(f"  {name:20}{about.splitlines()[0]}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    name, *others = arguments or [""]
    if name not in {name for names in GROUPS.values() for name in names}:
        print(listing(), file=sys.stderr if name else sys.stdout)
        return 2 if name else 0
    try:
        return int(import_module(f"benchmarks.{name}").main(others) or 0)
    except ImportError as error:
        print(f"{name}: error: {error}; see benchmarks/README.md", file=sys.stderr)
        return 1
    except FileError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _console.interrupted(_console.stderr())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
