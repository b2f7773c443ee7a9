"""Time and peak memory up to an image of 100 megapixels, two labels.

    python -m benchmarks huge_image [--megapixels 1 100] [--short]

The image is a shipped photograph enlarged four times and tiled, the scores are its own scores, enlarged and tiled:
pixels of photographs of this size differ little from their neighbours, and memory depends on how many lattice vertices
the colours need. All cores, default setting; each size in a process of its own, two calls, the faster one. Before
anything is timed, the engine is checked on a corner (contenders.check). Writes ``huge_image.json``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
from PIL import Image

import densecrf
from benchmarks import common, contenders, figures, memory
from benchmarks.data import DEMO
from densecrf import unary

SIZES = (1, 2, 5, 10, 20, 50, 100)
SHORT = (0.05, 0.1)
TILE = 4 * 512


def image_and_logits(megapixels: float) -> tuple[Any, Any]:
    """A square of so many pixels."""
    side = round((megapixels * 1e6) ** 0.5)
    tiles = -(-side // TILE)
    with Image.open(DEMO / "astronaut.png") as file:
        photo = np.asarray(file.convert("RGB").resize((TILE, TILE), Image.Resampling.BICUBIC))
    image = np.tile(photo, (tiles, tiles, 1))[:side, :side].copy()
    small = np.load(DEMO / "astronaut_scores_256.npz")["scores"].astype(np.float32)
    scores = small.repeat(TILE // 256, axis=1).repeat(TILE // 256, axis=2)
    return image, np.tile(scores, (1, tiles, tiles))[:, :side, :side].copy()


def measure(megapixels: float) -> dict[str, float]:
    """Seconds of a call, and gigabytes of the process at its peak and before."""
    image, logits = image_and_logits(megapixels)
    memory.forget_peak()
    before = memory.peak_resident()
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        out = densecrf.refine(image, logits=logits)
        seconds.append(time.perf_counter() - start)
        assert np.isfinite(out.probs).all() and np.abs(out.probs.sum(axis=0) - 1).max() < 1e-4
        del out
    peak = memory.peak_resident()
    return {
        "megapixels": image[..., 0].size / 1e6,
        "seconds": min(seconds),
        "GB": peak / 1e3,
        "GB before": before / 1e3,
    }


def alone(megapixels: float) -> dict[str, float]:
    """`measure` in a process of its own."""
    line = common.command("huge_image", "--one", megapixels)
    done = subprocess.run(line, cwd=common.ROOT, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(arguments: list[str]) -> None:
    parser = common.measuring("huge_image", __doc__)
    parser.add_argument("--megapixels", type=float, nargs="+")
    parser.add_argument("--one", type=float, metavar="MEGAPIXELS", help="measure here and print the figures")
    options = parser.parse_args(arguments)
    if options.one:
        json.dump(measure(options.one), sys.stdout)
        return
    image, logits = image_and_logits(0.01)
    contenders.check(contenders.Problem(image, unary.from_logits(logits), contenders.SETTINGS["default"], 5))
    stamp = {"environment": figures.environment(), "left_out": []}
    rows: list[dict[str, float]] = []
    for megapixels in options.megapixels or (SHORT if options.short else SIZES):
        rows.append(alone(megapixels))
        print("{megapixels:g} MP: {seconds:.2f} s, peak {GB:.2f} GB, {GB before:.2f} before".format(**rows[-1]))
        figures.save(common.folder(options), "huge_image", {**stamp, "rows": rows})
