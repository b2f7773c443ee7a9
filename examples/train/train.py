"""Train a segmentation network with a dense CRF, in stages; see README.md here.

(a) net     the network alone
(b) fixed   the network, then a CRF with its default parameters: nothing to train
(c) crf     the network as it is, then a CRF whose parameters are learned
(d) joint   network and CRF end to end, from (c) on
(e) longer  the network alone, from (a) on as in (d): what (d) would be without a CRF

    python examples/train/train.py FOLDER --out out/train --stage all
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from data import CLASSES, VOID, Example, Segmentation, frequencies, splits
from loop import Batch, Run, describe, load, progress_bar
from losses import CrossEntropy, RunningIoU, class_weights
from metrics import Evaluation
from net import SegmentationNet
from plots import curves
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader

from densecrf.nn import DenseCRF


@dataclass(frozen=True)
class Stage:
    """What is trained, and how fast; where `net_rate` or `crf_rate` is 0 that part stays as it is."""

    title: str
    start: tuple[str, ...] = ("net",)  # stages whose checkpoints it starts from
    crf: str | None = None  # "fixed" or "learned"
    net_rate: float = 0.0
    crf_rate: float = 0.0

    @property
    def crops(self) -> bool:
        """Train on crops, strongly varied, or on whole images, flipped: a CRF should see what it will meet."""
        return not self.start


STAGES = {
    "net": Stage("(a) network alone", start=(), net_rate=2e-3),
    "fixed": Stage("(b) + fixed CRF", crf="fixed"),
    "crf": Stage("(c) + CRF with learned parameters", crf="learned", crf_rate=0.1),
    "joint": Stage("(d) end to end", start=("net", "crf"), crf="learned", net_rate=1e-4, crf_rate=0.02),
    "longer": Stage("(e) network alone, as long as (d)", net_rate=1e-4),
}


@dataclass
class Training:
    """Everything that the stages share."""

    train: Sequence[Example]
    test: Sequence[Example]
    out: Path
    device: str = "cpu"
    seed: int = 0
    workers: int = 0
    epochs: tuple[int, int, int] = (100, 5, 5)  # of net; crf; joint and longer
    batch: int = 4
    crop: tuple[int, int] = (256, 256)
    width: int = 128
    weights: str = "label"
    compatibility: str = "matrix"
    every: int = 1

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.net = SegmentationNet(VOID, self.width).to(self.device)
        self.fixed = DenseCRF(VOID)  # the CRFs compute on the CPU, wherever the network is
        self.crf = DenseCRF(VOID, weights=self.weights, compatibility=self.compatibility)
        self.cross_entropy = CrossEntropy(class_weights(frequencies(self.train))).to(self.device)

    def stage(self, name: str, progress: Progress) -> dict[str, Any]:
        """Do one stage, or the rest of it; returns its result on the held-back images."""
        stage = STAGES[name]
        for earlier in stage.start:
            path = self.out / f"{earlier}.pt"
            if not path.is_file():
                raise click.ClickException(f"{path}: not found; do --stage {earlier} first")
            for part, values in load(path)["parts"].items():
                if part in ("net", "crf"):
                    getattr(self, part).load_state_dict(values)
        crf = {None: None, "fixed": self.fixed, "learned": self.crf}[stage.crf]
        started = time.perf_counter()
        history = self._train(name, stage, crf, progress) if stage.net_rate or stage.crf_rate else []
        result = history[-1] if history else self.evaluate(crf)
        seconds = sum(row["seconds"] for row in history) or time.perf_counter() - started
        return {"title": stage.title, "history": history, "result": result, "seconds": seconds}

    def _train(self, name: str, stage: Stage, crf: DenseCRF | None, progress: Progress) -> list[dict[str, Any]]:
        parts: dict[str, nn.Module] = {}
        groups: list[dict[str, Any]] = []
        if stage.net_rate:
            parts["net"] = self.net
            groups.append({"params": list(self.net.parameters()), "peak": stage.net_rate})
        if stage.crf_rate:
            parts["crf"] = self.crf
            groups.append({"params": list(self.crf.parameters()), "peak": stage.crf_rate})
        self.net.requires_grad_(stage.net_rate > 0)
        losses: list[nn.Module] = [self.cross_entropy] if stage.net_rate else []
        if not stage.crops:
            parts["iou"] = RunningIoU(VOID).to(self.device)
            losses.append(parts["iou"])

        def forward(batch: Batch) -> Tensor:
            self.net.train(stage.crops)  # batch norm keeps its statistics after (a): those of one image are poor ones
            self.crf.train()
            return self.forward(batch["image"], crf)

        augment, crop = ("full", self.crop) if stage.crops else ("flip", None)
        options = ["seed", "width"] + (["crop"] if stage.crops else ["weights", "compatibility"])
        return Run(
            name=stage.title,
            parts=parts,
            forward=forward,
            loss=lambda scores, labels: torch.stack([loss(scores, labels) for loss in losses]).sum(),
            parameters=groups,
            dataset=Segmentation(self.train, crop, augment, seed=self.seed),
            evaluate=lambda: self.evaluate(crf),
            path=self.out / f"{name}.pt",
            epochs=self.epochs[{"net": 0, "crf": 1}.get(name, 2)],
            batch=self.batch if stage.crops else 1,
            every=self.every if stage.crops else 1,
            weight_decay=1e-2 if stage.crops else 0.0,
            workers=self.workers,
            device=self.device,
        )({option: getattr(self, option) for option in options}, progress)

    def forward(self, image: Tensor, crf: DenseCRF | None) -> Tensor:
        """Scores ``[B, L, H, W]`` of images ``[B, 3, H, W]``."""
        scores = self.net(image)
        return scores if crf is None else crf(scores.cpu(), image.cpu()).to(scores.device)

    @torch.no_grad()
    def evaluate(self, crf: DenseCRF | None) -> dict[str, Any]:
        """Measure whole held-back images."""
        self.net.eval()
        self.crf.eval()
        evaluation = Evaluation(VOID, self.device)
        for batch in DataLoader(Segmentation(self.test), num_workers=self.workers):
            evaluation.add(self.forward(batch["image"].to(self.device), crf), batch["labels"].to(self.device))
        return evaluation.result()


def report(results: dict[str, dict[str, Any]]) -> Table:
    table = Table("stage", "mIoU", "pixel accuracy", "within 4 px of a boundary", "minutes")
    for stage in results.values():
        numbers = [f"{stage['result'][key]:.2f}" for key in ("miou", "accuracy", "boundary")]
        table.add_row(stage["title"], *numbers, f"{stage['seconds'] / 60:.1f}")
    return table


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/train"), help="Checkpoints, history, plot.")
@click.option("--stage", type=click.Choice([*STAGES, "all"]), default="all", help="What to train.")
@click.option("--net-epochs", default=100, help="Epochs of (a).")
@click.option("--crf-epochs", default=5, help="Epochs of (c).")
@click.option("--joint-epochs", default=5, help="Epochs of (d) and (e).")
@click.option("--batch", default=4, help="Crops per step of (a); the others take whole images one by one.")
@click.option("--crop", nargs=2, default=(256, 256), help="Height and width of the crops of (a).")
@click.option("--width", default=128, help="Channels of the network.")
@click.option("--weights", type=click.Choice(["scalar", "label", "matrix"]), default="label", help="Of the kernels.")
@click.option("--compatibility", type=click.Choice(["potts", "vector", "matrix"]), default="matrix", help="Of labels.")
@click.option("--fold", default=0, help="Part held back, if FOLDER has images/ and labels/.")
@click.option("--folds", default=4, help="How many parts.")
@click.option("--limit", type=int, help="Train on so many images only.")
@click.option("--every", default=1, help="Measure (a) every so many epochs.")
@click.option("--seed", default=0, help="Of initial values, order and crops.")
@click.option("--workers", default=0, help="Processes that read images.")
@click.option("--threads", type=int, help="Threads of PyTorch.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1.")
def main(
    folder: Path,
    out: Path,
    stage: str,
    net_epochs: int,
    crf_epochs: int,
    joint_epochs: int,
    fold: int,
    folds: int,
    limit: int | None,
    threads: int | None,
    **options: Any,
) -> None:
    """Train on FOLDER: train/ trainannot/ val/ valannot/, or images/ labels/.

    A run that was interrupted goes on where it stopped when started again with the same options.
    """
    if threads:
        torch.set_num_threads(threads)
    train, test = splits(folder, fold, folds, limit)
    console = Console()
    console.print(f"{len(train)} images to train on, {len(test)} held back; {', '.join(CLASSES)}")
    training = Training(train, test, out, epochs=(net_epochs, crf_epochs, joint_epochs), **options)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "history.json"
    results: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else {}
    with progress_bar() as progress:
        for name in STAGES if stage == "all" else [stage]:
            results[name] = training.stage(name, progress)
            progress.console.print(f"{STAGES[name].title}: {describe(results[name]['result'])}")
            results = {key: results[key] for key in STAGES if key in results}
            file.write_text(json.dumps(results, indent=1))
            curves(list(results.values()), out / "curves.png")
    console.print(report(results))


if __name__ == "__main__":
    main()
