"""Where the time goes: lattices, one iteration, everything else; and the backward pass of the torch layer.

    python -m benchmarks stages [--rounds 15] [--short]

The photograph `astronaut`, 500 x 375, 21 labels. Stages are differences of whole calls: "iteration" a fifth of what 5
more take on a model that is kept, "lattices" what a new model takes beyond that. Forward and backward pass, where
PyTorch is installed, are those of bench_backward.py with scalar weights. All runs in turn; medians and quartiles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import densecrf
from benchmarks import common, contenders, figures
from benchmarks.contenders import SETTINGS, Problem
from benchmarks.data import Case, photographs, unary_of
from benchmarks.scaling import CORES
from benchmarks.timing import interleaved, spread

T = 5
BASE = Case(500, 375, 21, T)
SHORT = Case(96, 72, 3, T)


def ours(problem: Problem, threads: int) -> dict[str, Callable[[], Any]]:
    """Whole calls: a new model, a kept one, and a kept one without iterations."""

    def new() -> densecrf.DenseCRF:
        return densecrf.DenseCRF(problem.image, kernels=contenders.kernels(problem.setting), num_threads=threads)

    kept = new()
    return {
        "new": lambda: new().refine(unary=problem.unary, iterations=T),
        "kept": lambda: kept.refine(unary=problem.unary, iterations=T),
        "none": lambda: kept.refine(unary=problem.unary, iterations=0),
    }


def theirs(problem: Problem) -> dict[str, Callable[[], Any]]:
    """The same of pydensecrf."""
    kept = contenders.model(problem)
    return {
        "new": lambda: contenders.model(problem).inference(T),
        "kept": lambda: kept.inference(T),
        "none": lambda: kept.inference(0),
    }


def row(setting: str, case: Case, rounds: int) -> list[dict[str, Any]]:
    """One line for each engine."""
    problem = Problem(photographs(case.width, case.height)[0][1], unary_of(case), SETTINGS[setting], T)
    contenders.check(problem)
    calls = {f"densecrf, {n} thread{'s' * (n > 1)}": ours(problem, n) for n in dict.fromkeys((1, CORES))}
    if contenders.installed("pydensecrf"):
        calls["pydensecrf"] = theirs(problem)
    runs = {f"{name}: {stage}": run for name, stages in calls.items() for stage, run in stages.items()}
    times = {name: spread(found) for name, found in interleaved(runs, rounds).items()}
    lines = []
    for name in calls:
        new, kept, none = (times[f"{name}: {stage}"]["median"] for stage in ("new", "kept", "none"))
        stages = {"lattices": new - kept, "iteration": (kept - none) / T, "in and out": none, "whole": new}
        calls_of = {stage: times[f"{name}: {stage}"] for stage in ("new", "kept", "none")}
        lines.append({"setting": setting, "method": name, "seconds": stages, "calls": calls_of})
        print(f"{setting} {name}: " + ", ".join(f"{k} {1e3 * v:.1f} ms" for k, v in stages.items()), flush=True)
    return lines


def backward(setting: str, case: Case, rounds: int) -> dict[str, Any]:
    """Seconds of the engine, of the layer's forward pass and of both passes."""
    from benchmarks import bench_backward

    image = photographs(case.width, case.height)[0][1]
    bench_backward.check(case, setting, image)
    found = bench_backward.time_photo(case, setting, "scalar weights", image, rounds, CORES)
    print(f"{setting} torch layer: " + ", ".join(f"{k} {1e3 * v:.1f} ms" for k, v in found.items()), flush=True)
    return {"setting": setting, "threads": CORES, "seconds": found}


def main(arguments: list[str]) -> None:
    parser = common.measuring("stages", __doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    environment = figures.environment()
    left_out = [name for name in contenders.say_who_is_left_out() if name == "pydensecrf"]
    case, rounds = (SHORT, 2) if options.short else (BASE, options.rounds)
    rows = [line for setting in SETTINGS for line in row(setting, case, rounds)]
    passes = []
    if find_spec("torch"):
        import torch

        torch.set_num_threads(CORES)
        passes = list(map(partial(backward, case=case, rounds=rounds), SETTINGS))
    else:
        left_out.append("torch layer")
    stamp = {"environment": environment, "left_out": left_out, "case": case._asdict()}
    figures.save(common.folder(options), "stages", {**stamp, "rows": rows, "passes": passes})
