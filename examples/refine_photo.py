"""Refine a network's scores of a photo, from arrays to arrays: python examples/refine_photo.py."""

from pathlib import Path

import numpy as np
from PIL import Image

import densecrf

DATA = Path(__file__).parent / "data"
image = np.asarray(Image.open(DATA / "astronaut.png"))  # uint8 [512, 512, 3]
scores = np.load(DATA / "astronaut_scores.npz")["scores"]  # float16 [2, 32, 32], before the softmax

out = densecrf.refine(image, logits=scores, iterations=5)  # small scores are upsampled bilinearly

print(out.probs.shape, out.probs.dtype)  # (2, 512, 512) float32, sums to 1 over axis 0
print(out.labels.shape, out.labels.dtype)  # (512, 512) uint8
