"""pydensecrf.utils: unary energies from labels and probabilities, features for addPairwiseEnergy."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densecrf import unary
from densecrf.compat.pydensecrf import arrays

Array = NDArray[np.float32]


def unary_from_labels(labels: Any, n_labels: int, gt_prob: float, zero_unsure: bool = True) -> Array:
    """Energies ``[n_labels, N]`` of a label map that is right with probability gt_prob.

    Parameters
    ----------
    labels : integers of any shape
    n_labels : how many there are, not counting 0 where that means unsure
    gt_prob : certainty of the labels, in (0, 1)
    zero_unsure : True: 0 means that all labels are equally likely, and label k goes to row k - 1

    Raises
    ------
    IndexError
        A label out of range; pydensecrf's -1 is the last label, by accident of NumPy's indices.

    """
    if not 0 < gt_prob < 1:
        raise AssertionError("`gt_prob must be in (0,1).")
    found = arrays.given("labels", labels).reshape(-1)
    known = found.astype(np.int64)
    first, last = (0, n_labels) if zero_unsure else (0, n_labels - 1)
    wrong = (known != found) | (known < first) | (known > last)
    if wrong.any():
        rule = f"must be integers from {first} to {last} (zero_unsure={zero_unsure}, n_labels={n_labels})"
        raise IndexError(f"labels: {rule}, got {found[wrong][0]}; give void pixels the label 0 and zero_unsure=True")
    if zero_unsure:
        return unary.from_labels(known - 1, n_labels, gt_prob)
    return unary.from_labels(known, n_labels, gt_prob, unknown=None)


def unary_from_softmax(sm: Any, scale: float | None = None, clip: float | None = 1e-5) -> Array:
    """Energies ``[L, N]``, -log p, of probabilities ``[L, *spatial]``.

    Parameters
    ----------
    sm : probabilities; pydensecrf does not ask that they sum to 1
    scale : in (0, 1]: certainty of the softmax; p becomes scale p + (1 - scale) / L
    clip : smallest probability; None for none, where a 0 has infinite energy

    """
    p = arrays.given("sm", sm)
    p = p.astype(np.promote_types(p.dtype, np.float32), copy=False)
    labels = len(p)
    if scale is not None:
        if not 0 < scale <= 1:
            raise AssertionError("`scale` needs to be in (0,1]")
        p = scale * p + (1 - scale) / labels
    if clip is not None:
        p = np.clip(p, clip, 1.0)
    with np.errstate(divide="ignore"):
        return -np.log(p).reshape(labels, -1).astype(np.float32)


def compute_unary(labels: Any, M: int, GT_PROB: float = 0.5) -> Array:
    """`unary_from_labels`, by its former name."""
    _deprecated("compute_unary", "unary_from_labels")
    return unary_from_labels(labels, M, GT_PROB)


def softmax_to_unary(sm: Any, GT_PROB: float = 1) -> Array:
    """`unary_from_softmax` without clipping, by its former name."""
    _deprecated("softmax_to_unary", "unary_from_softmax")
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def create_pairwise_gaussian(sdims: Sequence[float], shape: Sequence[int]) -> Array:
    """Positions over bandwidths, ``[len(sdims), N]``; both arguments are in axis order, rows first."""
    return _positions(sdims, tuple(shape)).reshape(len(sdims), -1)


def create_pairwise_bilateral(sdims: Sequence[float], schan: Any, img: Any, chdim: int = -1) -> Array:
    """Positions and channels over bandwidths, ``[F, N]``.

    Parameters
    ----------
    sdims : bandwidth of each axis, in axis order
    schan : bandwidth of the channels: a number, or one for each
    img : image of any rank
    chdim : axis of the channels; -1 means that there is none, not that it is the last

    """
    image = arrays.given("img", img)
    by_channel = image[None] if chdim == -1 else np.moveaxis(image, chdim, 0)
    channels = by_channel.astype(np.float32)
    _divide(channels, [schan] * len(channels) if arrays.is_number(schan) else schan)
    features = np.concatenate([_positions(sdims, channels.shape[1:]), channels])
    return features.reshape(len(features), -1)


def _positions(sdims: Sequence[float], shape: tuple[int, ...]) -> Array:
    """Index of each point along each axis over the axis's bandwidth, ``[axes, *shape]``."""
    mesh = np.indices(shape, dtype=np.float32)
    _divide(mesh, sdims)
    return mesh


def _divide(rows: Array, bandwidths: Sequence[float]) -> None:
    for i, bandwidth in enumerate(bandwidths):
        rows[i] /= bandwidth


def _deprecated(name: str, instead: str) -> None:
    """Say so to whoever asks: pydensecrf logs it at every call."""
    warnings.warn(f"{name} is deprecated, use {instead} instead", PendingDeprecationWarning, stacklevel=3)
