"""Make the small score maps of `examples/data` from the network's full output.

`NAME_scores_256.npz` holds what the network said, `NAME_scores.npz` the same averaged over 8 x 8 blocks:
32 x 32 scores for a 512 x 512 photo, the density at which most segmentation networks work inside (one score
for every 16 x 16 pixels).  Nothing else is done to the numbers.

Run it with `python examples/make_scores.py`.
"""

from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
BLOCK = 8


def block_means(scores: np.ndarray) -> np.ndarray:
    """Average scores [L, H, W] over blocks of 8 x 8, in float32; gives float16 [L, H / 8, W / 8]."""
    labels, height, width = scores.shape
    blocks = scores.astype(np.float32).reshape(labels, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return blocks.mean(axis=(2, 4)).astype(np.float16)


def main() -> None:
    """Write the two small files beside the large ones."""
    for full in sorted(DATA.glob("*_scores_256.npz")):
        scores = np.load(full)["scores"]
        np.savez_compressed(full.with_name(full.name.replace("_256", "")), scores=block_means(scores))


if __name__ == "__main__":
    main()
