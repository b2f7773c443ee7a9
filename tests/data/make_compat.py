"""Make compat.npz and compat_programs.npz, the answers of pydensecrf2 to compat_cases.py and to programs/.

    pip install pydensecrf2 numpy
    python tests/data/make_compat.py

Arrays are called "case/name" and "program/name"; those called Q are
rounded to multiples of 2^-16 (which compress well).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import compat_cases
import numpy as np
from pydensecrf import densecrf, eigen, utils

HERE = Path(__file__).parent


def rounded(name, array):
    if not name.startswith("Q"):
        return array
    assert np.isfinite(array).all(), name
    return (np.round(array * 2.0**16) / np.float32(2.0**16)).astype(np.float32)


def programs():
    """{program: {name: array}} of all programs."""
    found = {}
    for program in sorted((HERE / "programs").glob("*.py")):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.npz"
            subprocess.run([sys.executable, program, out], check=True)
            with np.load(out) as file:
                found[program.stem] = dict(file)
    return found


def main():
    for path, found in (
        (HERE / "compat.npz", compat_cases.run((densecrf, utils, eigen))),
        (HERE / "compat_programs.npz", programs()),
    ):
        arrays = {f"{case}/{name}": rounded(name, a) for case, named in found.items() for name, a in named.items()}
        np.savez_compressed(path, **arrays)
        print(f"{path.name}: {len(found)} cases, {len(arrays)} arrays, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
