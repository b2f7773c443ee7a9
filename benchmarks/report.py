"""The whole comparison: all that is measured, then the plots and tables of docs/comparison.md.

    python -m benchmarks report DATA [--cache DIR] [--kept DIR] [--threads 1]
    python -m benchmarks report --short --output DIR

DATA has the folders camvid_val and msrc (README.md says where they come from). About an hour on two quiet cores,
20 minutes more where the cache has no exact results yet; with --kept, three hours more the first time, which choose
parameters on one half of the photos for the other. --short needs no DATA, takes less than a minute and writes
everything, the page as well, into the output folder: it shows that all runs, its figures mean nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.data import SETS
from benchmarks.plots import IMAGES
from benchmarks.tables import PAGE


def measurements(options: Any) -> list[list[str]]:
    """Command lines of what is measured, each a process of its own: one must not slow the next."""
    if options.short:
        return [
            common.command(name, "--short")
            for name in ("quality", "scaling", "frontier", "memory", "huge_image", "stages")
        ]
    lines = []
    for name, how in SETS.items():
        reading = ["--void", *how["void"], "--stride", how["stride"]]
        lines.append(common.command("quality", options.data / name, *reading, "--threads", options.threads))
        if options.kept:
            lines.append(common.command("tuned", options.data / name, *reading, "--kept", options.kept.resolve()))
            lines.append(common.command("strides", options.data / name, "--void", *how["void"]))
        if options.kept and how["thin"]:
            lines.append(common.command("labels", options.data / name, *reading))
    lines.append(common.command("quality", options.data / "msrc" / "textonboost_2_14"))
    cache = ["--cache", options.cache.resolve()] if options.cache else []
    return [
        *lines,
        common.command("frontier", *cache),
        *map(common.command, ("scaling", "memory", "huge_image", "stages")),
    ]


def main(arguments: list[str]) -> int:
    parser = common.parser("report", __doc__)
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA")
    parser.add_argument("--cache", type=Path, help="folder where exact results are kept")
    parser.add_argument("--kept", type=Path, help="also tune both CRFs; folder where what they counted is kept")
    parser.add_argument("--threads", type=int, default=1, help="of densecrf, in quality [1]")
    parser.add_argument("--output", type=Path, help="folder for results, images, page [the repository's own]")
    parser.add_argument("--short", action="store_true", help="small and quick, to see that it runs")
    options = parser.parse_args(arguments)
    if not options.short and not (options.data and options.data.is_dir()):
        parser.error(f"DATA: must be a folder (without --short), got {options.data}")
    output = options.output or (common.SHORT if options.short else None)
    results, images, page = (
        (path.resolve() for path in (output / "results", output / "images", output / PAGE.name))
        if output
        else (common.RESULTS, IMAGES, PAGE)
    )
    environment = dict(os.environ)
    if options.data:
        options.data = options.data.resolve()
        environment["DENSECRF_DATA"] = str(options.data)
    failed = []
    drawing = common.command("plots", "--results", results, "--images", images)
    filling = common.command("tables", "--results", results, "--images", images, "--page", page)
    for line in [*([*line, "--results", str(results)] for line in measurements(options)), drawing, filling]:
        name, start = line[3], time.monotonic()
        print(f"== {' '.join(line[3:])}", flush=True)
        if subprocess.run(line, cwd=common.ROOT, env=environment, check=False).returncode:
            failed.append(name)
        print(f"-- {name}: {time.monotonic() - start:.0f} s", flush=True)
    if failed:
        print(f"report: error: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
