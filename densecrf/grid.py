"""The grid CRF that dense ones are compared with: Potts over pixels side by side, weaker across edges, by graph cuts.

    E(x) = sum_i U_i(x_i) + sum_(i,j) [x_i != x_j] weight exp(-|I_i - I_j|^2 / (2 contrast s)) / |i - j|

over the pairs of a 4- or 8-neighbourhood (Boykov & Jolly 2001), s the mean of |I_i - I_j|^2 over these pairs. More
than two labels: alpha-expansion (Boykov, Veksler & Zabih 2001) by gco-wrapper; two: the exact minimum, by PyMaxflow.
Needs the extra ``[grid]``, which is a part of ``[bench]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densecrf import _checks, _extras, _inputs

Array = NDArray[Any]
NEIGHBOURS = (4, 8)
_STEPS = ((1, 0), (0, 1), (1, 1), (1, -1))  # from a pixel to those after it: down, right, and diagonal
_UNITS, _MOST = 1e3, 1e4  # gco takes integers up to 1e7: thousandths, and what is above 1e4 is as good as that


@dataclass(frozen=True)
class GridSetting:
    """Weight, contrast and neighbourhood, as in `refine`."""

    weight: float = 15.0
    contrast: float = 0.1
    neighbours: int = 8

    def __post_init__(self) -> None:
        if _checks.number("weight", self.weight) < 0:
            raise ValueError(f"weight: must be at least 0, got {self.weight!r}")
        if _checks.number("contrast", self.contrast) <= 0:
            raise ValueError(f"contrast: must be above 0, got {self.contrast!r}")
        if _checks.integer("neighbours", self.neighbours, 1) not in NEIGHBOURS:
            raise ValueError(f"neighbours: must be 4 or 8, got {self.neighbours!r}")


@dataclass(frozen=True)
class GridResult:
    """Labels ``[H, W]`` and their energy."""

    labels: Array
    energy: float


def refine(
    image: Any,
    *,
    logits: Any = None,
    probs: Any = None,
    unary: Any = None,
    labels: Any = None,
    num_labels: int | None = None,
    confidence: float = 0.7,
    weight: float = 15.0,
    contrast: float = 0.1,
    neighbours: int = 8,
    cycles: int = 2,
) -> GridResult:
    """Refine a segmentation by a contrast-sensitive grid CRF.

    Parameters
    ----------
    image : ``[H, W]`` or ``[H, W, C]``
    logits, probs, unary, labels, num_labels, confidence : what is known of each pixel, as in `densecrf.refine`
    weight : of the pairwise energy, where colours are the same
    contrast : how much of the mean squared difference makes an edge; large: edges do not matter
    neighbours : 4 or 8
    cycles : of alpha-expansion over all labels, at most; it ends where nothing changes. Two labels need none.

    Raises
    ------
    ValueError, TypeError
        An argument breaks its rule.
    ImportError
        gco-wrapper or PyMaxflow is not installed.

    """
    pixels = _pixels(image)
    energies = _unary(pixels.shape[:2], logits, probs, unary, labels, num_labels, confidence)
    costs = energies - energies.min(axis=0)  # what all labels of a pixel share changes nothing
    edges = _edges(pixels, GridSetting(weight, contrast, neighbours))
    cycles = _checks.integer("cycles", cycles, 1)
    found = _two_labels(costs, edges) if len(costs) == 2 else _expansion(costs, edges, cycles)
    return GridResult(found, _energy(found, energies, edges))


def energy(
    segmentation: Any,
    image: Any,
    *,
    logits: Any = None,
    probs: Any = None,
    unary: Any = None,
    labels: Any = None,
    num_labels: int | None = None,
    confidence: float = 0.7,
    weight: float = 15.0,
    contrast: float = 0.1,
    neighbours: int = 8,
) -> float:
    """E of a segmentation ``[H, W]`` of any origin; the other parameters and what is raised as in `refine`."""
    pixels = _pixels(image)
    energies = _unary(pixels.shape[:2], logits, probs, unary, labels, num_labels, confidence)
    found = _checks.array("segmentation", segmentation, "iu")
    if found.shape != pixels.shape[:2] or found.min() < 0 or found.max() >= len(energies):
        rule = f"must have shape {pixels.shape[:2]} and labels from 0 to {len(energies) - 1}"
        raise ValueError(f"segmentation: {rule}, got shape {found.shape}, {found.min()} to {found.max()}")
    return _energy(found, energies, _edges(pixels, GridSetting(weight, contrast, neighbours)))


Edges = dict[tuple[int, int], Array]  # step -> energy of a cut between a pixel and the one so many rows, columns away


def _energy(labels: Array, unary: Array, edges: Edges) -> float:
    total = np.take_along_axis(unary, labels[None].astype(np.intp), axis=0).sum(dtype=np.float64)
    for step, weights in edges.items():
        here, there = _ends(step)
        total += weights[labels[here] != labels[there]].sum(dtype=np.float64)
    return float(total)


def _pixels(image: Any) -> Array:
    pixels = _checks.finite("image", _checks.array("image", image))
    if pixels.ndim not in (2, 3):
        raise ValueError(f"image: must have shape [H, W] or [H, W, C], got {pixels.shape}")
    return pixels


def _unary(size: tuple[int, ...], logits: Any, probs: Any, unary: Any, labels: Any, *others: Any) -> Array:
    scores, sign = _inputs.scores(size, np.dtype(np.float32), None, logits, probs, unary, labels, *others)
    return np.asarray(-sign * _checks.finite("scores", scores)).reshape(-1, *size)


def _edges(image: Array, setting: GridSetting) -> Edges:
    colours = image.reshape(*image.shape[:2], -1).astype(np.float64)
    squares = {}
    for step in _STEPS[: setting.neighbours // 2]:
        here, there = _ends(step)
        squares[step] = ((colours[here] - colours[there]) ** 2).sum(axis=-1)
    pairs = sum(square.size for square in squares.values())
    mean = sum(square.sum() for square in squares.values()) / max(pairs, 1) or 1.0  # 0: one colour everywhere
    scale = -2 * setting.contrast * mean
    return {step: setting.weight * np.exp(square / scale) / np.hypot(*step) for step, square in squares.items()}


def _ends(step: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where the pixels lie that have one so many rows and columns away, and where those lie."""
    down, right = step
    rows, columns = (slice(None, -down or None), slice(down, None)), (slice(None, -1), slice(1, None))
    if right < 0:
        columns = columns[1], columns[0]
    elif right == 0:
        columns = slice(None), slice(None)
    return (rows[0], columns[0]), (rows[1], columns[1])


def _expansion(costs: Array, edges: Edges, cycles: int) -> Array:
    gco = _extras.need("grid", "gco")
    labels, height, width = costs.shape
    pixels = np.arange(height * width, dtype=np.int32).reshape(height, width)
    pairs = [np.stack([pixels[end].ravel() for end in _ends(step)], axis=1) for step in edges]
    weights = np.concatenate([weight.ravel() for weight in edges.values()])
    if not weights.size:  # a single pixel
        return np.asarray(costs.argmin(axis=0), np.int32)
    potts = (1 - np.eye(labels)).astype(np.int32)
    points = np.ascontiguousarray(_whole(costs).reshape(labels, -1).T)
    # Without a factor of 1 it would scale integers to 0 and 1.
    found = gco.cut_general_graph(
        np.concatenate(pairs), _whole(weights), points, potts, n_iter=cycles, down_weight_factor=1
    )
    return np.asarray(found, np.int32).reshape(height, width)


def _whole(energies: Array) -> Array:
    return np.rint(np.minimum(energies, _MOST) * _UNITS).astype(np.int32)


def _two_labels(costs: Array, edges: Edges) -> Array:
    maxflow = _extras.need("grid", "maxflow")
    if not hasattr(maxflow, "Graph"):
        raise ImportError(f"maxflow: must be PyMaxflow's, got {maxflow.__file__} (SimpleCRF has one of that name)")
    graph = maxflow.Graph[float]()
    nodes = graph.add_grid_nodes(costs.shape[1:])
    graph.add_grid_tedges(nodes, costs[1].astype(np.float64), costs[0].astype(np.float64))
    for step, weights in edges.items():
        here, there = _ends(step)
        graph.add_edges(nodes[here].ravel(), nodes[there].ravel(), weights.ravel(), weights.ravel())
    graph.maxflow()
    return np.asarray(graph.get_grid_segments(nodes)).astype(np.int32)
