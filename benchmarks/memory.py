"""Peak memory that a call adds, for sizes and numbers of labels.

    python -m benchmarks memory [--short]

Every figure is the growth of a fresh process's peak over one call (Linux), after a call on a tiny image: the memory of
inputs, interpreter and packages does not count, that of the result does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import common, contenders, figures
from benchmarks.contenders import SETTINGS, Problem, ours, theirs
from benchmarks.data import Case, photographs, unary_of

THREADS = 2  # of densecrf
ENGINES = {"densecrf": partial(ours, threads=THREADS), "pydensecrf": theirs, "grid CRF": contenders.grid}
TINY = Case(16, 16, 2, 1)
BASE = Case(500, 375, 21, 5)
AXES = {
    "size": [BASE._replace(width=4 * n, height=3 * n) for n in (60, 125, 250, 500)],
    "labels": [BASE._replace(labels=labels) for labels in (2, 5, 21, 64, 150)],
}
SHORT = Case(96, 72, 3, 2)
SHORT_AXES = {"size": [SHORT, SHORT._replace(width=192)], "labels": [SHORT, SHORT._replace(labels=6)]}
# Graph cuts beyond take minutes; their memory grows with the image, and not much with the labels.
GRID_LABELS, GRID_PIXELS = 21, 1_000_000


def added(engine: str, setting: str, case: Case) -> float:
    """Peak memory in MB that a call adds, measured in a fresh process."""
    line = common.command("memory", "--child", engine, setting, json.dumps(case))
    out = subprocess.run(line, cwd=common.ROOT, capture_output=True, text=True, check=False)
    if out.returncode:
        raise SystemExit(f"memory of {engine}, {case}: {out.stderr.strip()}")
    return float(out.stdout)


def print_added(engine: str, setting: str, case: Case) -> None:
    """The child of added()."""
    run = ENGINES[engine]
    image, unary = photographs(case.width, case.height)[0][1], unary_of(case)
    run(Problem(image[:16, :16].copy(), unary_of(TINY), SETTINGS[setting], TINY.iterations))
    forget_peak()
    before = peak_resident()
    result = run(Problem(image, unary, SETTINGS[setting], case.iterations))
    assert result.shape[-2:] == image.shape[:2]
    print(peak_resident() - before)


def forget_peak() -> None:
    """Of making the inputs (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_resident() -> float:
    """Peak resident memory of this process in MB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise SystemExit("/proc/self/status has no VmHWM: memory is measured on Linux only")


def row(case: Case, setting: str) -> dict[str, Any]:
    """One line of the table: MB by engine."""
    image = photographs(case.width, case.height)[0][1]
    contenders.check(Problem(image, unary_of(case), SETTINGS[setting], case.iterations))
    engines = [name for name in ENGINES if name not in contenders.OTHERS or contenders.installed(name)]
    if (case.labels > GRID_LABELS or case.width * case.height > GRID_PIXELS) and "grid CRF" in engines:
        engines.remove("grid CRF")
    found = {engine: added(engine, setting, case) for engine in engines}
    figures_of = ", ".join(f"{engine} {value:.0f} MB" for engine, value in found.items())
    print(f"{case.width}x{case.height}, L = {case.labels}, {setting}: {figures_of}", flush=True)
    return {"case": case._asdict(), "setting": setting, "MB": found}


def main(arguments: list[str]) -> None:
    parser = common.measuring("memory", __doc__)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        engine, setting, case = options.child
        print_added(engine, setting, Case(*json.loads(case)))
        return
    stamp = {"environment": figures.environment(), "left_out": contenders.say_who_is_left_out()}
    axes = SHORT_AXES if options.short else AXES
    rows = {axis: [row(case, "default") for case in cases] for axis, cases in axes.items()}
    figures.save(common.folder(options), "memory", {**stamp, "threads": THREADS, "rows": rows})
