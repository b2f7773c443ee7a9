"""How good a segmentation is: mean IoU, pixel accuracy, and accuracy near boundaries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix


def boundary_band(labels: Tensor, void: int, pixels: int = 4) -> Tensor:
    """Pixels within so many of a boundary between two classes, void apart: bool ``[B, H, W]``.

    The two pixels that touch a boundary are at distance 1; distances are Euclidean.
    """
    touches = torch.zeros_like(labels, dtype=torch.bool)
    for axis in (1, 2):
        size = labels.shape[axis] - 1
        a, b = labels.narrow(axis, 0, size), labels.narrow(axis, 1, size)
        differ = (a != b) & (a != void) & (b != void)
        touches.narrow(axis, 0, size).logical_or_(differ)
        touches.narrow(axis, 1, size).logical_or_(differ)
    reach = pixels - 1
    steps = torch.arange(-reach, reach + 1, device=labels.device)
    disc = (steps[:, None] ** 2 + steps**2 <= reach**2).float()
    return F.conv2d(touches[:, None].float(), disc[None, None], padding=reach)[:, 0] > 0.5


class Evaluation:
    """Counts predictions image by image; `result` reads the counts of all of them.

    Mean IoU is over the classes that occur in the labels or the predictions.
    """

    def __init__(self, num_labels: int, device: torch.device | str = "cpu") -> None:
        self.void = num_labels
        self.everywhere, self.near = (
            MulticlassConfusionMatrix(num_labels, ignore_index=num_labels).to(device) for _ in range(2)
        )

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """Count scores ``[B, L, H, W]`` against labels ``[B, H, W]``."""
        predicted = scores.argmax(1)
        self.everywhere.update(predicted, labels)
        self.near.update(predicted, labels.where(boundary_band(labels, self.void), self.void))

    def merge(self, other: Evaluation) -> None:
        """Add another's counts, as if its images had been counted here."""
        for mine, others in ((self.everywhere, other.everywhere), (self.near, other.near)):
            mine.confmat += others.confmat

    def result(self) -> dict[str, float | list[float]]:
        """Percent: ``miou``, ``accuracy``, ``boundary`` (accuracy within 4 px of a boundary), ``iou`` by class."""
        counts, near = self.everywhere.confmat.double(), self.near.confmat.double()
        hits = counts.diag()
        iou = hits / (counts.sum(0) + counts.sum(1) - hits)
        return {
            "miou": float(100 * iou.nanmean()),
            "accuracy": float(100 * hits.sum() / counts.sum()),
            "boundary": float(100 * near.diag().sum() / near.sum()),
            "iou": [float(100 * x) for x in iou],
        }
