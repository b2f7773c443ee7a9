"""How good a segmentation is: counts of each image, and what they say about many.

Figures are in percent. Needs the extra ``[evaluate]``: scikit-learn rates, SciPy measures distances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from densecrf import _checks, _extras

Array = NDArray[Any]

VOID = -1  # the label of pixels that do not count
BANDS = (1, 2, 4, 8, 16, 32)  # pixels from a boundary
TOLERANCE = 0.0075  # of the boundary F-score, in diagonals of the image (Csurka et al. 2013)
HEADLINES = ("mIoU", "pixel accuracy", "class accuracy")
_AT_ONCE = 1 << 20  # entries of confusion matrices


class Counts(NamedTuple):
    """What one image adds to the figures."""

    confusion: Array  # [L, L] pixels by true and by predicted label
    near: Array  # [bands + 1, 2] pixels that are right and all pixels within each band, then beyond all of them
    boundary: float  # F-score of the boundaries, NaN where there are none


class Truth:
    """The true labels of an image, and how far its pixels are from a boundary.

    Parameters
    ----------
    labels : integers ``[H, W]``, `VOID` where nothing is known
    num_labels : L

    Raises
    ------
    TypeError, ValueError
        The labels are no integers, have another rank or are out of range.

    """

    def __init__(self, labels: Any, num_labels: int) -> None:
        self.num_labels = _checks.integer("num_labels", num_labels, 1)
        self.labels = _labels("labels", labels, VOID, num_labels)
        self.known = self.labels != VOID

    @cached_property
    def distance(self) -> Array:
        """Pixels to the nearest boundary between two known labels, Euclidean; 1 where a pixel touches it."""
        touches = boundary(self.labels)
        if not touches.any():
            return np.full(touches.shape, np.inf)
        return np.asarray(_ndimage().distance_transform_edt(~touches)) + 1

    def count(self, predicted: Any) -> Counts:
        """What a prediction ``[H, W]`` adds to the figures."""
        found = _labels("predicted", predicted, 0, self.num_labels)
        if found.shape != self.labels.shape:
            raise ValueError(f"predicted: must have shape {self.labels.shape}, got {found.shape}")
        pairs = self.labels[self.known].astype(np.int64) * self.num_labels + found[self.known]
        confusion = np.bincount(pairs, minlength=self.num_labels**2).reshape(self.num_labels, -1)
        right = (found == self.labels)[self.known]
        band = np.searchsorted(BANDS, self.distance[self.known])  # 0: within the first; len(BANDS): beyond all
        per_band = np.stack([np.bincount(band, weights, len(BANDS) + 1) for weights in (right, None)], axis=1)
        near = np.concatenate([per_band[:-1].cumsum(axis=0), per_band[-1:]])
        return Counts(confusion, near, self._boundary_f(found))

    def _boundary_f(self, predicted: Array) -> float:
        """F-score of the boundaries of all labels together, within a tolerance."""
        seen = np.where(self.known, predicted, VOID)
        found, wanted = boundary(seen), boundary(self.labels)
        if not found.any() and not wanted.any():
            return float("nan")
        if not found.any() or not wanted.any():
            return 0.0
        most = TOLERANCE * float(np.hypot(*wanted.shape)) + 1
        to_found = np.asarray(_ndimage().distance_transform_edt(~found)) + 1
        precision, recall = (self.distance[found] <= most).mean(), (to_found[wanted] <= most).mean()
        total = precision + recall
        return float(2 * precision * recall / total) if total else 0.0


def boundary(labels: Array) -> Array:
    """Pixels with a neighbour, of four, of another label; `VOID` has no boundary."""
    touches = np.zeros(labels.shape, bool)
    for a, b in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differ = (labels[a] != labels[b]) & (labels[a] != VOID) & (labels[b] != VOID)
        touches[a] |= differ
        touches[b] |= differ
    return touches


def summary(counts: Sequence[Counts]) -> dict[str, float]:
    """Figures of some images together.

    Means over labels are over those that occur in the truth; those that occur in the predictions only count as 0 in IoU
    and Dice.
    """
    return {figure: float(values[0]) for figure, values in _figures(counts, np.ones((1, len(counts)))).items()}


def _figures(counts: Sequence[Counts], times: Array) -> dict[str, Array]:
    """Figures ``[R]`` of R choices of the images; `times` ``[R, images]`` says how often each image was chosen."""
    confusion = np.tensordot(times, [each.confusion for each in counts], 1)
    near = np.tensordot(times, [each.near for each in counts], 1)
    boundary = np.array([each.boundary for each in counts])
    rates = per_label(confusion)
    truth = confusion.sum(axis=2)
    pixels = truth.sum(axis=1)
    share = _ratio(truth, pixels[:, None])
    return {
        "mIoU": _mean(rates["IoU"]),
        "pixel accuracy": 100 * _ratio(np.trace(confusion, axis1=1, axis2=2), pixels),
        "class accuracy": _mean(rates["recall"]),
        "weighted IoU": np.where(pixels > 0, np.nansum(share * rates["IoU"], axis=1), np.nan),
        "Dice": _mean(rates["Dice"]),
        "boundary F": 100 * _ratio(times @ np.nan_to_num(boundary), times @ ~np.isnan(boundary)),
        **{f"within {k} px": 100 * _ratio(*near[:, i].T) for i, k in enumerate(BANDS)},
        f"beyond {BANDS[-1]} px": 100 * _ratio(*near[:, -1].T),
    }


def per_label(confusion: Array) -> dict[str, Array]:
    """IoU, Dice (F1), precision and recall in percent of each label; NaN where a label does not occur.

    Parameters
    ----------
    confusion : ``[..., L, L]``, pixels by true and by predicted label; the rates are ``[..., L]``

    """
    sklearn = _extras.need("evaluate", "sklearn.metrics")
    *several, count, _ = confusion.shape
    # Each matrix has labels of its own, so that one call rates them all.
    labels = np.arange(confusion.size // count).reshape(-1, count)
    truth, predicted = np.broadcast_arrays(labels[:, :, None], labels[:, None, :])
    # Every pair of labels is one sample that weighs as much as it has pixels.
    rates = sklearn.precision_recall_fscore_support(
        truth.ravel(),
        predicted.ravel(),
        sample_weight=confusion.ravel(),
        labels=labels.ravel(),
        zero_division=np.nan,
    )
    precision, recall, dice = (rate.reshape(*several, count) for rate in rates[:3])
    return {"IoU": 100 * dice / (2 - dice), "Dice": 100 * dice, "precision": 100 * precision, "recall": 100 * recall}


def intervals(
    methods: Mapping[str, Sequence[Counts]], resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, dict[str, tuple[float, float]]]:
    """Bootstrap intervals (low, high) over images, of each method's figures and of their differences.

    The same images are drawn for all methods, so "b - a" is the difference on the same images; a is the first method.
    """
    names = list(methods)
    images = len(methods[names[0]])
    rng = np.random.default_rng(seed)
    times = np.stack([np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(resamples)])
    drawn = {name: _in_parts(methods[name], times) for name in names}
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            drawn[f"{b} - {a}"] = {figure: drawn[b][figure] - drawn[a][figure] for figure in drawn[a]}
    tails = 50 * (1 - level), 50 * (1 + level)
    return {name: {k: _quantiles(values, tails) for k, values in found.items()} for name, found in drawn.items()}


def _in_parts(counts: Sequence[Counts], times: Array) -> dict[str, Array]:
    """What `_figures` says, in little memory also for many labels."""
    parts = np.array_split(times, len(times) * counts[0].confusion.size // _AT_ONCE + 1)
    found = [_figures(counts, part) for part in parts]
    return {figure: np.concatenate([each[figure] for each in found]) for figure in found[0]}


def _quantiles(values: Array, tails: tuple[float, float]) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.percentile(known, tails)
    return float(low), float(high)


def _mean(rates: Array) -> Array:
    """Mean over the labels that occur, of rates ``[R, L]``."""
    return _ratio(np.nansum(rates, axis=1), (~np.isnan(rates)).sum(axis=1))


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)


def _labels(name: str, value: Any, least: int, num_labels: int) -> Array:
    found = _checks.array(name, value, "iu")
    if found.ndim != 2:
        raise ValueError(f"{name}: must have shape [H, W], got {found.shape}")
    if found.min() < least or found.max() >= num_labels:
        rule = f"must be {least} to {num_labels - 1}"
        raise ValueError(f"{name}: {rule}, got {found.min()} to {found.max()}")
    return found


def _ndimage() -> Any:
    return _extras.need("evaluate", "scipy.ndimage")
