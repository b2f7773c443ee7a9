"""Curves of loss and mIoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt

PANELS = {
    "loss": "training loss (each stage has its own)",
    "miou": "mIoU on held-back images, %",
    "boundary": "within 4 px of a boundary, %",
}


def curves(stages: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw stages side by side, each from its first epoch to its last: loss, mIoU, accuracy near boundaries.

    A stage has a ``title``, a ``history`` (a row per epoch) and a ``result``; without a history it is a dashed line.
    """
    figure, panels = plt.subplots(1, len(PANELS), figsize=(12, 4.2), layout="constrained")
    for axes, (key, title) in zip(panels, PANELS.items(), strict=True):
        for slot, stage in enumerate(stages):
            rows = [row for row in stage["history"] if key in row]
            x = [slot + row["epoch"] / len(stage["history"]) for row in rows]
            if rows:
                axes.plot(x, [row[key] for row in rows], f"C{slot}.-")
            elif key in stage["result"]:
                axes.plot([slot, slot + 1], [stage["result"][key]] * 2, f"C{slot}--")
            axes.axvline(slot + 1, color="0.8", linewidth=0.8)
        axes.set_title(title, fontsize="medium")
        axes.set_xticks([])
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_yscale("log")
    for slot, stage in enumerate(stages):
        epochs = len(stage["history"])
        label = f"{stage['title']}, {epochs} epochs" if epochs else stage["title"]
        panels[0].plot([], [], f"C{slot}.-" if epochs else f"C{slot}--", label=label)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    figure.savefig(path, dpi=90)
    plt.close(figure)
