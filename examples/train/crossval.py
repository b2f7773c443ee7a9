"""Learn the CRF's parameters on some images and measure on others, fold by fold, given a network's scores.

    python examples/train/crossval.py FOLDER --out out/crossval

FOLDER has images/ labels/ scores/. Every image is held back once; compared are (a) the scores alone, (b) with the
default CRF, (c) with learned parameters, and, to tell apart what a CRF adds from what a better balance of the classes
adds, scores with a learned scale and offset per class and no CRF.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from data import CLASSES, VOID, Segmentation, splits
from loop import Batch, Run, progress_bar
from losses import RunningIoU
from metrics import Evaluation
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from densecrf.nn import DenseCRF


class Balance(nn.Module):
    """A scale and an offset per class."""

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_labels, 1, 1))
        self.offset = nn.Parameter(torch.zeros(num_labels, 1, 1))

    def forward(self, scores: Tensor, image: Tensor) -> Tensor:
        return self.scale * scores + self.offset


@torch.no_grad()
def evaluate(module: Callable[[Tensor, Tensor], Tensor], dataset: Segmentation) -> Evaluation:
    evaluation = Evaluation(VOID)
    for index in range(len(dataset)):
        batch = {name: value[None] for name, value in dataset[index].items()}
        evaluation.add(module(batch["scores"], batch["image"]), batch["labels"])
    return evaluation


def learn(module: nn.Module, run: dict[str, Any], settings: dict[str, Any], peak: float, progress: Progress) -> None:
    """Learn a module's parameters by `RunningIoU`, whole images one by one."""

    def forward(batch: Batch) -> Tensor:
        return module(batch["scores"], batch["image"])

    iou = RunningIoU(VOID)
    groups = [{"params": list(module.parameters()), "peak": peak}]
    Run(parts={"module": module, "iou": iou}, forward=forward, loss=iou, parameters=groups, **run)(settings, progress)


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/crossval"), help="Checkpoints and figures.")
@click.option("--weights", type=click.Choice(["scalar", "label", "matrix"]), default="label", help="Of the kernels.")
@click.option("--compatibility", type=click.Choice(["potts", "vector", "matrix"]), default="matrix", help="Of labels.")
@click.option("--learn-bandwidths/--keep-bandwidths", default=False, help="Learn the kernels' bandwidths, too.")
@click.option("--epochs", default=5, help="Times that each image is seen.")
@click.option("--rate", default=0.1, help="Highest learning rate.")
@click.option("--folds", default=4, help="Number of folds.")
@click.option("--seed", default=0, help="Of order and flips.")
@click.option("--threads", type=int, help="Threads of PyTorch.")
def main(
    folder: Path,
    out: Path,
    weights: str,
    compatibility: str,
    learn_bandwidths: bool,
    epochs: int,
    rate: float,
    folds: int,
    seed: int,
    threads: int | None,
) -> None:
    """Cross-validate on FOLDER."""
    if threads:
        torch.set_num_threads(threads)
    settings = {
        "weights": weights,
        "compatibility": compatibility,
        "learn_bandwidths": learn_bandwidths,
        "rate": rate,
        "seed": seed,
    }
    console = Console()
    totals: dict[str, Evaluation] = {}
    by_fold: list[dict[str, Any]] = []
    with progress_bar() as progress:
        for fold in range(folds):
            train, test = splits(folder, fold, folds)
            held_back = Segmentation(test, scores=True)
            torch.manual_seed(seed)
            balance = Balance(VOID)
            fixed = DenseCRF(VOID)
            crf = DenseCRF(VOID, weights=weights, compatibility=compatibility, learn_bandwidths=learn_bandwidths)
            for name, module in {"balance": balance, "crf": crf}.items():
                run = {
                    "name": f"fold {fold + 1}, {name}",
                    "dataset": Segmentation(train, augment="flip", scores=True, seed=seed),
                    "evaluate": lambda module=module, test=held_back: evaluate(module, test).result(),
                    "path": out / f"{name}{fold}.pt",
                    "epochs": epochs,
                    "every": epochs,
                }
                learn(module, run, settings, rate, progress)
            found = {
                "(a) network alone": evaluate(lambda scores, image: scores, held_back),
                "network, classes rebalanced, no CRF": evaluate(balance, held_back),
                "(b) + fixed CRF": evaluate(fixed, held_back),
                "(c) + CRF with learned parameters": evaluate(crf, held_back),
            }
            by_fold.append({name: evaluation.result() for name, evaluation in found.items()})
            for name, evaluation in found.items():
                totals.setdefault(name, Evaluation(VOID)).merge(evaluation)
    all_folds = {name: evaluation.result() for name, evaluation in totals.items()}
    out.mkdir(parents=True, exist_ok=True)
    content = {"settings": {**settings, "epochs": epochs}, "all": all_folds, "folds": by_fold}
    (out / "crossval.json").write_text(json.dumps(content, indent=1))
    console.print(figures(all_folds, by_fold), classes(all_folds))


def figures(every: dict[str, Any], by_fold: list[dict[str, Any]]) -> Table:
    """Over all held-back images, and in brackets mean and standard deviation over the folds."""
    table = Table("", "mIoU", "pixel accuracy", "within 4 px of a boundary", title=f"{len(by_fold)} folds")
    for name, result in every.items():
        cells = []
        for key in ("miou", "accuracy", "boundary"):
            values = [fold[name][key] for fold in by_fold]
            cells.append(f"{result[key]:.2f} ({statistics.mean(values):.2f} ± {statistics.stdev(values):.2f})")
        table.add_row(name, *cells)
    return table


def classes(every: dict[str, Any]) -> Table:
    table = Table("IoU", *CLASSES)
    for name, result in every.items():
        table.add_row(name, *(f"{x:.1f}" for x in result["iou"]))
    return table


if __name__ == "__main__":
    main()
