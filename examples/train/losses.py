"""Losses: cross entropy with class weights, and one that is the mean IoU of the last images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def class_weights(pixels: Tensor) -> Tensor:
    """Square root of median frequency over frequency, from the pixels of each class ``[L]``."""
    seen = pixels > 0
    return torch.where(seen, (pixels[seen].median() / pixels.clamp(min=1)).sqrt(), 0.0)


class CrossEntropy(nn.Module):
    """Mean over the pixels that are not void, weighted by class."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(scores, labels, self.weight, ignore_index=len(self.weight))


class RunningIoU(nn.Module):
    """One minus the mean IoU, with probabilities in place of decisions, over about the last `window` batches.

    One image holds a few of the classes, and a handful of pixels of the thin ones; what is measured in the end is the
    IoU over all images. So soft intersections and unions of earlier batches are remembered, without gradients, and the
    present batch is added to them. The gradient is multiplied by the number of batches remembered, so that it does not
    shrink as the memory fills.
    """

    intersection: Tensor
    union: Tensor
    batches: Tensor

    def __init__(self, num_labels: int, window: int = 30) -> None:
        super().__init__()
        self.keep = 1 - 1 / window
        self.register_buffer("intersection", torch.zeros(num_labels))
        self.register_buffer("union", torch.zeros(num_labels))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        valid = labels < scores.shape[1]
        truth = F.one_hot(labels[valid], scores.shape[1]).float()  # [N, L]
        probs = scores.softmax(1).movedim(1, -1)[valid]
        intersection = self.keep * self.intersection + (truth * probs).sum(0)
        union = self.keep * self.union + (truth + probs - truth * probs).sum(0)
        batches = self.keep * self.batches + 1
        if self.training:
            self.intersection, self.union, self.batches = intersection.detach(), union.detach(), batches
        loss = 1 - (intersection / union.clamp(min=1e-6)).mean()
        return loss.detach() + batches * (loss - loss.detach())
