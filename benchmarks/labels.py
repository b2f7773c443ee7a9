"""Do label-dependent compatibilities keep thin classes? Chosen on one half of the photos, counted on the other.

    python -m benchmarks labels FOLDER [--void N] [--stride N]

Halves are the first and the second by name: neighbouring names may be neighbouring frames of a video. Each half is
scored with what the other half chose, by mIoU, among SETTINGS of the colour term times

    Potts       mu(l, k) = [l != k]
    rows        mu(l, k) = s_l [l != k]              rare labels are held against a pixel less than common ones
    symmetric   mu(l, k) = sqrt(s_l s_k) [l != k]

with s_l = (pixels of label l / pixels of the most frequent label)^gamma in the truth of the other half. All of that
twice: with the network's scores, and with an offset for each label that makes the other half's mIoU largest. Writes
``labels-SET.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

import densecrf
from benchmarks import common, figures
from benchmarks.data import title
from densecrf import grid, metrics
from densecrf.datasets import DataSet, Sample
from densecrf.metrics import VOID, Counts, Truth

Array = NDArray[Any]
SETTINGS = ((50, 4, 5), (50, 4, 3), (20, 6, 5), (80, 4, 3))  # sxy, srgb, weight; the first is the default
GAMMAS = (0.1, 0.2, 0.35)
STEPS = (1.0, 0.5, 0.25, 0.125)  # of the offsets
RAREST = 3  # labels whose IoU the table shows
EVERY = 4  # pixels of a row and of a column, where offsets are fitted


class Model(NamedTuple):
    """A dense CRF that may be chosen."""

    setting: tuple[int, int, int]
    form: str
    gamma: float


MODELS = [Model(s, "Potts", 0.0) for s in SETTINGS] + [
    Model(s, form, gamma) for s in SETTINGS for form in ("rows", "symmetric") for gamma in GAMMAS
]
CHOICES = {
    "dense, default": lambda model: model == MODELS[0],
    "dense, Potts": lambda model: model.form == "Potts",
    "dense, rows": lambda model: model.form != "symmetric",
    "dense, symmetric": lambda model: model.form != "rows",
}


def offsets(samples: list[Sample]) -> Array:
    """What to add to the scores of each label ``[L, 1, 1]`` for a large mIoU: greedy, label by label."""
    labels = len(samples[0].logits)
    scores = np.concatenate([s.logits[:, ::EVERY, ::EVERY].reshape(labels, -1) for s in samples], axis=1)
    truth = np.concatenate([s.labels[::EVERY, ::EVERY].ravel() for s in samples])
    scores, truth = scores[:, truth != VOID], truth[truth != VOID].astype(np.int64)

    def miou(added: Array) -> float:
        counts = np.bincount(truth * labels + (scores + added).argmax(axis=0), minlength=labels**2)
        confusion = counts.reshape(labels, labels)
        right = np.diag(confusion)
        return float(np.mean(right / np.maximum(confusion.sum(axis=0) + confusion.sum(axis=1) - right, 1)))

    found = np.zeros((labels, 1), np.float32)
    best = miou(found)
    for step in STEPS:
        for label in np.tile(np.arange(labels), 3):
            for change in (-step, step):
                tried = found.copy()
                tried[label] += change
                if (value := miou(tried)) > best + 1e-5:
                    found, best = tried, value
    return found[:, :, None]


def compatibility(model: Model, frequency: Array) -> Array:
    """mu ``[L, L]``."""
    s = (np.maximum(frequency, 1) / frequency.max()) ** model.gamma
    return (np.sqrt(np.outer(s, s)) if model.form == "symmetric" else s[:, None]) * (1 - np.eye(len(s)))


def refined(image: Array, logits: Array, model: Model, frequency: Array) -> Array:
    """Labels by a dense CRF."""
    sxy, srgb, weight = model.setting
    kernels = [densecrf.Gaussian(1, 3), densecrf.Bilateral(sxy, srgb, weight)]
    mu = compatibility(model, frequency)
    return densecrf.refine(image, logits=logits, kernels=kernels, compatibility=mu, num_threads=1).labels


def count(sample: Sample, added: Array, frequency: Array) -> dict[Any, Counts]:
    """Counts of all methods on a photo."""
    truth, logits = Truth(sample.labels, len(sample.logits)), sample.logits + added
    found: dict[Any, Counts] = {
        "unary": truth.count(logits.argmax(axis=0)),
        "grid": truth.count(grid.refine(sample.image, logits=logits).labels),
    }
    return found | {model: truth.count(refined(sample.image, logits, model, frequency)) for model in MODELS}


def chosen(found: list[dict[Any, Counts]], half: Array, candidates: Sequence[Any]) -> tuple[list[Counts], list[Any]]:
    """Each photo's counts by the candidate that is best on the other half (mIoU), and the two candidates."""
    best = []
    for this in (0, 1):
        others = [each for each, of in zip(found, half, strict=True) if of != this]
        best.append(max(candidates, key=lambda one: metrics.summary([each[one] for each in others])["mIoU"]))
    return [each[best[of]] for each, of in zip(found, half, strict=True)], best


def evaluate(samples: list[Sample], fitted: bool) -> dict[str, Any]:
    """Figures of all methods, with the network's scores or with offsets."""
    half = (np.arange(len(samples)) >= len(samples) // 2).astype(int)
    others = [[s for s, of in zip(samples, half, strict=True) if of != this] for this in (0, 1)]
    added = [offsets(each) if fitted else np.zeros((len(samples[0].logits), 1, 1), np.float32) for each in others]
    frequency = [
        np.bincount(np.concatenate([s.labels[s.labels != VOID] for s in each]), minlength=len(samples[0].logits))
        for each in others
    ]
    with ThreadPoolExecutor() as pool:
        futures = [pool.submit(count, s, added[of], frequency[of]) for s, of in zip(samples, half, strict=True)]
        found = [future.result() for future in track(futures, "offsets" if fitted else "scores as they are")]
    rows = {name: row([each[name] for each in found]) for name in ("unary", "grid")}
    for name, allowed in CHOICES.items():
        counts, models = chosen(found, half, [model for model in MODELS if allowed(model)])
        rows[name] = {**row(counts), "chosen": [model._asdict() for model in models]}
    return rows


def row(counts: list[Counts]) -> dict[str, Any]:
    """Figures, and the IoU of each label."""
    confusion = np.sum([each.confusion for each in counts], axis=0)
    return {**metrics.summary(counts), "IoU": metrics.per_label(confusion)["IoU"].round(2).tolist()}


def main(arguments: list[str]) -> None:
    parser = common.parser("labels", __doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--void", type=int, nargs="*", default=[255])
    parser.add_argument("--stride", type=int)
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    options = parser.parse_args(arguments)
    stamp = {"environment": figures.environment(), "left_out": []}
    data = DataSet(options.folder, void=options.void, stride=options.stride)
    samples = [data.read(name) for name in sorted(data.names)]
    report = {name: evaluate(samples, name == "offsets") for name in ("as they are", "offsets")}
    known = [each.labels[each.labels != VOID] for each in samples]
    pixels = np.bincount(np.concatenate(known), minlength=data.num_labels)
    for name, rows in report.items():
        print(name)
        for method, line in rows.items():
            rates = "  ".join(f"{figure} {line[figure]:.2f}" for figure in (*metrics.HEADLINES, "within 4 px"))
            print(f"  {method:18}{rates}")
    rarest = pixels.argsort(kind="stable")[:RAREST].tolist()
    figures.save(
        options.results, f"labels-{title(options.folder).lower()}", {**stamp, "rarest": rarest, "rows": report}
    )
