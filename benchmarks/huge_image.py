"""Time and peak memory of one huge image, two labels.

    python -m benchmarks huge_image [--megapixels 100]

The image is a shipped photograph enlarged four times and tiled, the scores are its own scores, enlarged and tiled:
pixels of photographs of this size differ little from their neighbours, and memory depends on how many lattice vertices
the colours need.
"""

from __future__ import annotations

import resource
import time

import numpy as np
from PIL import Image

import densecrf
from benchmarks import common
from benchmarks.data import DEMO


def main(arguments: list[str]) -> None:
    parser = common.parser("huge_image", __doc__)
    parser.add_argument("--megapixels", type=float, default=100.0)
    options = parser.parse_args(arguments)
    side = round((options.megapixels * 1e6) ** 0.5)
    tile = 4 * 512
    tiles = -(-side // tile)
    with Image.open(DEMO / "astronaut.png") as file:
        photo = np.asarray(file.convert("RGB").resize((tile, tile), Image.Resampling.BICUBIC))
    image = np.tile(photo, (tiles, tiles, 1))[:side, :side].copy()
    small = np.load(DEMO / "astronaut_scores_256.npz")["scores"].astype(np.float32)
    scores = small.repeat(tile // 256, axis=1).repeat(tile // 256, axis=2)
    logits = np.tile(scores, (1, tiles, tiles))[:, :side, :side].copy()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    out = densecrf.refine(image, logits=logits)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert np.isfinite(out.probs).all() and np.abs(out.probs.sum(axis=0) - 1).max() < 1e-4
    gigabytes = f"peak {peak / 1e6:.2f} GB, before the call {before / 1e6:.2f} GB"
    print(f"{side}x{side}, L = 2, T = {out.iterations}: {seconds:.1f} s, {gigabytes}")
