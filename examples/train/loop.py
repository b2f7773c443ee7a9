"""The training loop: progress, history, and checkpoints from which it goes on."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from data import Segmentation
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

Batch = dict[str, Tensor]


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint under another name first: an interrupted run leaves the last one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    torch.save(dict(content), temporary)
    os.replace(temporary, path)


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


@dataclass
class Run:
    """One stage of training.

    Parameters
    ----------
    name : shown with the progress
    parts : what is saved and resumed, by name: networks, CRF, losses with a memory
    forward : batch to scores ``[B, L, H, W]``
    loss : scores and labels to a number
    parameters : groups for AdamW, each with its learning rate
    evaluate : called every `every` epochs and after the last; its result goes into the history
    path : checkpoint; a run that finds one of the same settings goes on where it stopped

    """

    name: str
    parts: dict[str, nn.Module]
    forward: Callable[[Batch], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    parameters: list[dict[str, Any]]
    dataset: Segmentation
    evaluate: Callable[[], dict[str, Any]]
    path: Path
    epochs: int
    batch: int = 1
    every: int = 1
    weight_decay: float = 0.0
    workers: int = 0
    device: str = "cpu"

    def __call__(self, settings: dict[str, Any], progress: Progress) -> list[dict[str, Any]]:
        """Train, and return the history: a dictionary per epoch."""
        optimiser = torch.optim.AdamW(self.parameters, weight_decay=self.weight_decay)
        settings = {**settings, "epochs": self.epochs, "batch": self.batch, "images": len(self.dataset)}
        history: list[dict[str, Any]] = []
        if self.path.is_file():
            saved = load(self.path)
            if saved["settings"] != settings:
                raise ValueError(f"{self.path}: made with {saved['settings']}, not with {settings}; remove it first")
            history = saved["history"]
            optimiser.load_state_dict(saved["optimiser"])
            for name, part in self.parts.items():
                part.load_state_dict(saved["parts"][name])
        bar = progress.add_task(self.name, total=self.epochs, completed=len(history), note="")
        for epoch in range(len(history), self.epochs):
            history.append(self._epoch(epoch, optimiser, progress, bar))
            content = {"settings": settings, "history": history, "optimiser": optimiser.state_dict()}
            save(self.path, {**content, "parts": {name: part.state_dict() for name, part in self.parts.items()}})
            progress.advance(bar)
        progress.update(bar, note=describe(history[-1]))
        return history

    def _epoch(self, epoch: int, optimiser: torch.optim.Optimizer, progress: Progress, bar: Any) -> dict[str, Any]:
        """Crops and order depend on seed and epoch alone, so a resumed run goes on exactly as it would have."""
        self.dataset.set_epoch(epoch)
        order = torch.Generator().manual_seed(self.dataset.seed * 100_003 + epoch)
        loader = DataLoader(
            self.dataset,
            self.batch,
            shuffle=True,
            generator=order,
            num_workers=self.workers,
            drop_last=len(self.dataset) > self.batch,
        )
        losses: list[float] = []
        start = time.perf_counter()
        for step, batch in enumerate(loader):
            rate = one_cycle((epoch + (step + 1) / len(loader)) / self.epochs)
            for group in optimiser.param_groups:
                group["lr"] = rate * group["peak"]
            batch = {name: value.to(self.device) for name, value in batch.items()}
            loss = self.loss(self.forward(batch), batch["labels"])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            losses.append(loss.item())
            speed = self.batch * len(losses) / (time.perf_counter() - start)
            note = f"step {step + 1}/{len(loader)}, {speed:.1f} images/s, loss {losses[-1]:.3f}"
            progress.update(bar, note=note)
        if not all(math.isfinite(x) for x in losses):
            raise FloatingPointError(f"{self.name}: the loss is not finite in epoch {epoch + 1}")
        row: dict[str, Any] = {"epoch": epoch + 1, "loss": sum(losses) / len(losses)}
        row["seconds"] = time.perf_counter() - start
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.epochs:
            row.update(self.evaluate())
            progress.console.print(f"{self.name}: {describe(row)}")
        return row


def one_cycle(progress: float) -> float:
    """Learning rate over a run: a tenth of it up, the rest down along a cosine."""
    warm_up = 0.1
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def describe(row: Mapping[str, Any]) -> str:
    """One row of a history in words."""
    words = [f"epoch {row['epoch']}, loss {row['loss']:.3f}"] if "loss" in row else []
    if "miou" in row:
        words.append(f"mIoU {row['miou']:.2f}, accuracy {row['accuracy']:.2f}, within 4 px {row['boundary']:.2f}")
    return ", ".join(words)
