"""A folder of images and labels, CamVid's way, as a dataset.

Either the usual layout of CamVid, ``train/ trainannot/ val/ valannot/``, or one folder of ``images/ labels/`` (and
perhaps ``scores/``) of which every k-th part is held back. Labels are PNG of class numbers; 11 is void.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

CLASSES = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
VOID = len(CLASSES)


class Example(NamedTuple):
    """Files of one image; `scores` of a network that ran already, float ``[L, h, w]`` before the softmax."""

    image: Path
    labels: Path
    scores: Path | None


def find(images: Path, labels: Path, scores: Path | None = None) -> list[Example]:
    """All images of a folder, by name; neighbours in a video stay neighbours."""
    found = [
        Example(path, labels / path.name, scores / f"{path.stem}.npz" if scores else None)
        for path in sorted(images.glob("*.png"))
    ]
    missing = [path for example in found for path in example if path and not path.is_file()]
    if missing or not found:
        raise FileNotFoundError(f"{images}: no images" if not found else f"{missing[0]}: not found")
    return found


def splits(
    folder: Path, fold: int = 0, folds: int = 4, limit: int | None = None
) -> tuple[list[Example], list[Example]]:
    """Split into training and held-back images; `limit` keeps only so many of the first, evenly spaced.

    Folds are runs of consecutive images, since frames of a video next to each other are nearly the same image.
    """
    if (folder / "trainannot").is_dir():
        train = find(folder / "train", folder / "trainannot")
        test = find(folder / "val", folder / "valannot")
    else:
        scores = folder / "scores"
        every = find(folder / "images", folder / "labels", scores if scores.is_dir() else None)
        part = np.arange(len(every)) * folds // len(every)
        train = [example for example, p in zip(every, part, strict=True) if p != fold]
        test = [example for example, p in zip(every, part, strict=True) if p == fold]
    if limit is not None and limit < len(train):
        train = [train[i * len(train) // limit] for i in range(limit)]
    return train, test


def frequencies(examples: Sequence[Example]) -> Tensor:
    """Pixels of each class, float ``[L]``."""
    counts = np.zeros(VOID + 1, np.int64)
    for example in examples:
        counts += np.bincount(np.asarray(Image.open(example.labels)).ravel(), minlength=VOID + 1)[: VOID + 1]
    return torch.from_numpy(counts[:VOID]).float()


class Segmentation(Dataset[dict[str, Tensor]]):
    """Items are ``image`` float ``[3, H, W]`` from 0 to 255, ``labels`` int64 ``[H, W]`` and ``scores`` ``[L, H, W]``.

    Parameters
    ----------
    crop : height and width of a random crop, else the whole image
    augment : "none", "flip", or "full": flipped, rescaled by 0.7 to 1.5, and lighter or darker
    seed : with the number of the epoch, `set_epoch`, it decides about crops; so a resumed run sees the same ones

    """

    def __init__(
        self,
        examples: Sequence[Example],
        crop: tuple[int, int] | None = None,
        augment: str = "none",
        scores: bool = False,
        seed: int = 0,
    ) -> None:
        self.examples, self.crop, self.augment, self.scores, self.seed = examples, crop, augment, scores, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        example = self.examples[index]
        image = torch.from_numpy(np.array(Image.open(example.image).convert("RGB"))).permute(2, 0, 1).float()
        labels = torch.from_numpy(np.array(Image.open(example.labels))).long()
        item = {"image": image, "labels": labels[None]}
        if self.scores:
            assert example.scores is not None, f"{example.image}: no scores/ beside images/"
            scores = torch.from_numpy(np.load(example.scores)["scores"].astype(np.float32))
            item["scores"] = resize(scores, labels.shape, "bilinear")
        item = self._augmented(item, np.random.default_rng((self.seed, self.epoch, index)))
        item["labels"] = item["labels"][0]
        return item

    def _augmented(self, item: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
        if self.augment == "full":
            scale = rng.uniform(0.7, 1.5)
            size = [round(n * scale) for n in item["labels"].shape[-2:]]
            item = {k: resize(v, size, "nearest-exact" if k == "labels" else "bilinear") for k, v in item.items()}
            item["image"] = ((item["image"] - 110) * rng.uniform(0.8, 1.2) + 110 + rng.uniform(-20, 20)).clamp(0, 255)
        if self.crop is not None:
            height, width = item["labels"].shape[-2:]
            below, right = (max(0, want - have) for want, have in zip(self.crop, (height, width), strict=True))
            fill = {"image": 110.0, "labels": VOID, "scores": 0.0}
            item = {k: F.pad(v, (0, right, 0, below), value=fill[k]) for k, v in item.items()}
            y = rng.integers(height + below - self.crop[0] + 1)
            x = rng.integers(width + right - self.crop[1] + 1)
            item = {k: v[:, y : y + self.crop[0], x : x + self.crop[1]] for k, v in item.items()}
        if self.augment != "none" and rng.random() < 0.5:
            item = {k: v.flip(-1) for k, v in item.items()}
        return {k: v.contiguous() for k, v in item.items()}


def resize(x: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """Resize ``[C, h, w]`` with half-pixel centres."""
    align = False if mode == "bilinear" else None
    return F.interpolate(x[None].float(), tuple(size), mode=mode, align_corners=align)[0].to(x.dtype)
