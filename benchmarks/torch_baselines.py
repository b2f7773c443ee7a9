"""Dense CRFs as one would write them in plain PyTorch: what the device code is measured against."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Lattice(NamedTuple):
    """A lattice as tensors on a device (see csrc/cuda/device.h): ids of the whole batch."""

    weights: Tensor  # [B, n, d + 1]
    corner: Tensor  # [B, n, d + 1]
    neighbours: Tensor  # [d + 1, M, 2], -1 for none
    blur: float
    alpha: float


def lattice_filter(lattice: Lattice, values: Tensor) -> Tensor:
    """Splat, blur and slice values ``[B * n, L]`` by index_add, gathers and sums."""
    corner = lattice.corner.flatten(0, 1).long()
    weights = lattice.weights.flatten(0, 1).unsqueeze(2)
    vertices = lattice.neighbours.shape[1]
    on_vertices = values.new_zeros(vertices + 1, values.shape[1])  # the last row stays 0: where there is no neighbour
    on_vertices.index_add_(0, corner.flatten(), (weights * values.unsqueeze(1)).flatten(0, 1))
    for beside in lattice.neighbours.long():
        found = on_vertices[beside.where(beside >= 0, vertices)]
        on_vertices[:-1] += lattice.blur * found.sum(1)
    return lattice.alpha * (weights * on_vertices[corner]).sum(1)


def gaussian_filter(values: Tensor, sigma: float) -> Tensor:
    """Filter ``[B, L, H, W]`` with a Gaussian cut at three sigma, axis by axis."""
    radius = ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=values.device, dtype=values.dtype)
    taps = torch.exp(-0.5 * (offsets / sigma) ** 2)
    labels = values.shape[1]
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        kernel = taps.view(shape).expand(labels, -1, -1, -1)
        values = F.conv2d(values, kernel, padding="same", groups=labels)
    return values


def mean_field(
    logits: Tensor, lattice: Lattice, sigma: float, spatial_weight: float, weight: float, iterations: int
) -> Tensor:
    """Scores ``[B, L, H, W]`` of the fully connected CRF, both kernels normalised symmetrically."""
    batch, labels, height, width = logits.shape

    def bilateral(q: Tensor) -> Tensor:
        rows = q.permute(0, 2, 3, 1).reshape(-1, q.shape[1])
        return lattice_filter(lattice, rows).view(batch, height, width, -1).permute(0, 3, 1, 2)

    ones = torch.ones_like(logits[:, :1])
    near, far = gaussian_filter(ones, sigma).rsqrt(), bilateral(ones).rsqrt()
    scores = logits
    for _ in range(iterations):
        q = scores.softmax(1)
        messages = spatial_weight * near * gaussian_filter(near * q, sigma) + weight * far * bilateral(far * q)
        scores = logits + messages
    return scores


def windowed_mean_field(
    logits: Tensor,
    image: Tensor,
    size: int,
    spatial: tuple[float, float],
    bilateral: tuple[float, float, float],
    iterations: int,
) -> Tensor:
    """The same with kernels cut at a window of `size` x `size` pixels (Teichmann & Cipolla 2018, ConvCRF).

    spatial: sigma, weight; bilateral: sigma of positions, of colours, weight. One shift of the window at a time, so
    that memory holds the kernel, ``[B, size ** 2, H, W]``, but not as many copies of Q.
    """
    half = size // 2
    offsets = [(y, x) for y in range(size) for x in range(size)]
    height, width = logits.shape[2:]

    def shifted(padded: Tensor, y: int, x: int) -> Tensor:
        return padded[:, :, y : y + height, x : x + width]

    padded_image = F.pad(image, [half] * 4)
    inside = F.pad(torch.ones_like(image[:, :1]), [half] * 4)
    kernels = []
    for sigma, colour, weight in ((spatial[0], None, spatial[1]), bilateral):
        parts = []
        for y, x in offsets:
            distance = ((y - half) ** 2 + (x - half) ** 2) / sigma**2 * torch.ones_like(image[:, :1])
            if colour is not None:
                distance = distance + ((shifted(padded_image, y, x) - image) / colour).square().sum(1, keepdim=True)
            parts.append(torch.exp(-0.5 * distance) * shifted(inside, y, x))
        norm = sum(parts, torch.zeros_like(parts[0])).rsqrt()
        around = F.pad(norm, [half] * 4)
        kernels += [[weight * norm * part * shifted(around, *at) for part, at in zip(parts, offsets, strict=True)]]
    kernel = [a + b for a, b in zip(*kernels, strict=True)]
    scores = logits
    for _ in range(iterations):
        padded = F.pad(scores.softmax(1), [half] * 4)
        scores = logits.clone()
        for part, at in zip(kernel, offsets, strict=True):
            scores.addcmul_(part, shifted(padded, *at))
    return scores
