"""Fair times: contenders in turn, round after round, and what is said of many times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import numpy as np


def interleaved(
    runs: dict[str, Callable[[], Any]], rounds: int, pause: float = 0, budget: float = inf
) -> dict[str, list[float]]:
    """Seconds of each run, called in turn, round after round, each after a pause.

    A run that has taken `budget` seconds in all has no more turns.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            if sum(seconds[name]) < budget:
                time.sleep(pause)
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and number of the runs."""
    low, middle, high = np.percentile(seconds, (25, 50, 75))
    return {"median": float(middle), "low": float(low), "high": float(high), "runs": len(seconds)}
