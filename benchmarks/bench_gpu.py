"""Device time of the CUDA backend, stage by stage and as a whole, beside plain PyTorch and the CPU engine.

    DENSECRF_CUDA=1 pip install -c constraints.txt -e ".[torch]"
    python -m benchmarks bench_gpu [--rounds 30] [--output benchmarks/results/bench_gpu.json]

Before a case is timed, Q is compared with the CPU engine's. Times are by events on the stream, medians of many runs
after a warm-up, the contenders in turn, round after round; every run takes the next of several sets of inputs, which
together are larger than the second-level cache. The stages are the kernels' own times as the profiler reports them:
"bytes" is the least that a stage has to move (every array once), "of copy" the bandwidth that makes, as a share of what
a large copy reaches on the same card. Contenders: the engine on the CPU; the same computation in plain PyTorch
(`torch_baselines.mean_field`); kernels cut at windows of 7 and 11 pixels (`torch_baselines.windowed_mean_field`).
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import densecrf
from benchmarks import common, torch_baselines
from benchmarks.contenders import SETTINGS, kernels
from benchmarks.data import photographs
from densecrf.nn import functional
from densecrf.numerics import METHODS

SETTING = "standard"
KERNELS = kernels(SETTINGS[SETTING])
CLOSE = 1e-4  # what Q may differ by from the CPU's
SPARE = 2.0  # inputs of all sets, in sizes of the second-level cache


class Case(NamedTuple):
    """Images of a batch, their shape, labels, updates."""

    images: int
    shape: tuple[int, ...]
    labels: int
    iterations: int

    @property
    def name(self) -> str:
        size = "x".join(map(str, reversed(self.shape)))
        return f"{self.images} x {size}, L={self.labels}, T={self.iterations}"


CASES = [
    *(Case(images, (375, 500), 21, iterations) for iterations in (5, 10) for images in (1, 8, 32)),
    Case(1, (1080, 1920), 21, 5),
    Case(1, (375, 500), 150, 5),
    Case(1, (128, 128, 128), 4, 5),
]
SMALL = [Case(1, (24, 32), 3, 2), Case(2, (24, 32), 3, 2), Case(1, (6, 8, 10), 2, 1)]


def image_of(case: Case, which: int) -> np.ndarray:
    """A photograph ``[H, W, 3]``, or a volume ``[D, H, W, 3]`` whose slices pan over one."""
    photos = photographs(case.shape[-1], case.shape[-2])
    pixels = photos[which % len(photos)][1].astype(np.float32)
    if len(case.shape) == 2:
        return pixels
    return np.stack([np.roll(pixels, z, axis=1) for z in range(case.shape[0])])


def inputs(case: Case, first: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits and images; neighbouring pixels have similar scores, as a network's have."""
    images = np.stack([image_of(case, first + b) for b in range(case.images)])
    image = torch.from_numpy(np.moveaxis(images, -1, 1)).contiguous()
    small = [max(1, size // 8) for size in case.shape]
    coarse = torch.randn(case.images, case.labels, *small, generator=torch.Generator().manual_seed(first)) * 2
    mode = "bilinear" if len(case.shape) == 2 else "trilinear"
    logits = torch.nn.functional.interpolate(coarse, case.shape, mode=mode)
    return logits.to(device), image.to(device)


# ---- clocks --------------------------------------------------------------------------------------------------------


def milliseconds(run: Callable[[], Any], device: torch.device) -> float:
    """Time of a run on the device's stream."""
    if device.type == "cpu":
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def interleaved(
    runs: dict[str, Callable[[int], Any]], rounds: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Median and spread of each run's milliseconds; run(i) takes the i-th set of inputs."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 3):
        for name, run in runs.items():
            spent = milliseconds(lambda run=run, i=i: run(i), device)
            if i >= 3:
                times[name].append(spent)
    return {name: {"ms": median(found), "spread": spread(found)} for name, found in times.items()}


def spread(found: list[float]) -> float:
    """Distance of the quartiles, as a share of the median."""
    low, _, high = quantiles(found, n=4)
    return (high - low) / median(found)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second of a copy, read and written, far beyond the caches."""
    source = torch.zeros(2**28 if device.type == "cuda" else 2**22, device=device)
    target = torch.empty_like(source)
    found = [milliseconds(lambda: target.copy_(source), device) for _ in range(20)]
    return 2 * source.numel() * source.element_size() / (median(found) * 1e-3)


# ---- a case --------------------------------------------------------------------------------------------------------


def sets_of(case: Case, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    first = inputs(case, 0, device)
    each = sum(tensor.numel() * tensor.element_size() for tensor in first)
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 0
    return [first, *(inputs(case, i, device) for i in range(1, min(16, 1 + int(SPARE * cache / each))))]


def check(case: Case, device: torch.device) -> dict[str, float]:
    """Largest difference of Q to the CPU's, and labels that differ."""
    logits, image = inputs(case, 0, torch.device("cpu"))
    wanted = functional.dense_crf(logits, image, kernels=KERNELS, iterations=case.iterations).softmax(1)
    there = functional.dense_crf(logits.to(device), image.to(device), kernels=KERNELS, iterations=case.iterations)
    found = there.softmax(1).cpu()
    worst = float((found - wanted).abs().max())
    labels = int((found.argmax(1) != wanted.argmax(1)).sum())
    return {"q": worst, "labels": labels}


def terms_of(case: Case, image: Tensor) -> list[functional.Term]:
    logits = image.new_empty(case.images, case.labels, *case.shape)
    builder = functional.TermBuilder(logits, image, [], None, "symmetric", "tuned", None)
    return builder.terms(KERNELS, [{}, {}])


def plain_lattice(term: functional.Term) -> torch_baselines.Lattice:
    corner, _, _, neighbours, _ = term.arrays
    how = METHODS[term.method](term.weights.shape[2] - 1, term.weights.shape[1])
    return torch_baselines.Lattice(term.weights, corner, neighbours, how.blur, how.alpha)


def contenders(case: Case, device: torch.device) -> dict[str, Callable[[int], Any]]:
    """What is timed: name -> run."""
    sets = sets_of(case, device)
    chosen = KERNELS
    couplings = [torch.tensor(float(kernel.weight), device=device) for kernel in chosen]
    terms = [terms_of(case, image) for _, image in sets]
    how = {"kernels": chosen, "iterations": case.iterations}

    def both(i: int) -> None:
        logits, image = sets[i % len(sets)]
        logits = logits.detach().requires_grad_()
        functional.dense_crf(logits, image, **how).sum().backward()

    def updates(i: int, **storage: Any) -> Any:
        at = i % len(sets)
        return functional.mean_field(sets[at][0], terms[at], couplings, iterations=case.iterations, **storage)

    runs: dict[str, Callable[[int], Any]] = {
        "from the image": lambda i: functional.dense_crf(*sets[i % len(sets)], **how),
        "lattice": lambda i: terms_of(case, sets[i % len(sets)][1]),
        "mean field": updates,
        "forward + backward": both,
    }
    if device.type == "cuda":
        runs["mean field, 16 bits"] = lambda i: updates(i, lattice_dtype=torch.bfloat16)
    if len(case.shape) == 2:
        sxy, weight, bilateral_sxy, srgb, bilateral_weight = SETTINGS[SETTING]
        if device.type == "cuda":
            plain = [plain_lattice(parts[1]) for parts in terms]
            runs["plain torch"] = lambda i: torch_baselines.mean_field(
                sets[i % len(sets)][0], plain[i % len(sets)], sxy, weight, bilateral_weight, case.iterations
            )
        for size in (7, 11) if case.images == 1 else ():
            runs[f"window {size}"] = lambda i, size=size: torch_baselines.windowed_mean_field(
                *sets[i % len(sets)], size, (sxy, weight), (bilateral_sxy, srgb, bilateral_weight), case.iterations
            )
    return runs


def time_case(case: Case, rounds: int, device: torch.device) -> dict[str, Any]:
    """One case: all contenders, and the CPU engine."""
    agreement = check(case, device)
    print(f"{case.name}: Q to {agreement['q']:.0e} of the CPU's, {agreement['labels']} labels differ", flush=True)
    if not agreement["q"] <= CLOSE:
        return {"case": case._asdict(), "agreement": agreement}
    with torch.no_grad():
        runs = contenders(case, device)
        both = runs.pop("forward + backward")
        times = interleaved(runs, rounds, device)
    times |= interleaved({"forward + backward": both}, rounds, device)
    logits, image = inputs(case, 0, torch.device("cpu"))
    with torch.no_grad():
        times["engine on the CPU"] = {
            "ms": median(
                milliseconds(
                    lambda: functional.dense_crf(logits, image, kernels=KERNELS, iterations=case.iterations),
                    torch.device("cpu"),
                )
                for _ in range(3)
            )
        }
    whole = times["from the image"]["ms"]
    for name, found in times.items():
        rate = 1e3 * case.images / found["ms"]
        print(f"  {name:20} {found['ms']:9.3f} ms {rate:9.0f} images/s {found['ms'] / whole:7.2f}x", flush=True)
    return {"case": case._asdict(), "agreement": agreement, "times": times}


# ---- stages --------------------------------------------------------------------------------------------------------

STAGES = {  # kernels by name
    "splat": r"splat_pieces|join_pieces",
    "blur": r"blur_axis",
    "slice and update": r"update_rows<.*Lattice",
    "grid": r"splat_axis|filter_axis",
    "grid slice and update": r"update_rows<.*GridView",
    "first softmax": r"update_rows<.*Mixed",
    "transpose": r"transpose",
}


def least_bytes(case: Case, term: functional.Term) -> dict[str, float]:
    """Bytes of one update's lattice stages, every array moved once."""
    corners, vertices = term.weights.shape[2], term.arrays[3].shape[1]
    points = case.images * int(np.prod(case.shape))
    row = 4 * -(-case.labels // 8) * 8
    entries = 12 * points * corners  # number, corner, weight
    return {
        "splat": entries + (points + vertices) * row,
        "blur": corners * vertices * (2 * row + 8),
        "slice and update": 8 * points * corners + (3 * points + vertices) * row,
    }


def stages(case: Case, device: torch.device, copy: float) -> dict[str, dict[str, float]]:
    """Device time of each stage of one update, by the profiler."""
    from torch.profiler import ProfilerActivity, profile

    sets = sets_of(case, device)
    terms = [terms_of(case, image) for _, image in sets]
    couplings = [torch.tensor(float(kernel.weight), device=device) for kernel in KERNELS]
    runs = 10
    with torch.no_grad(), profile(activities=[ProfilerActivity.CUDA]) as found:
        for i in range(runs):
            at = i % len(sets)
            functional.mean_field(sets[at][0], terms[at], couplings, iterations=case.iterations)
        torch.cuda.synchronize(device)
    bytes_of = least_bytes(case, terms[0][1])
    out: dict[str, dict[str, float]] = {}
    for event in found.key_averages():
        stage = next((name for name, pattern in STAGES.items() if re.search(pattern, event.key)), "other")
        seconds = 1e-6 * event.self_device_time_total / runs / case.iterations
        out.setdefault(stage, {"us": 0.0})["us"] += 1e6 * seconds
    for stage, line in out.items():
        if stage in bytes_of and line["us"]:
            line["MB"] = bytes_of[stage] / 1e6
            line["GB/s"] = bytes_of[stage] / line["us"] / 1e3
            line["of copy"] = 1e9 * line["GB/s"] / copy
        figures = "  ".join(f"{value:9.3f} {name}" for name, value in line.items())
        print(f"  {stage:20} {figures}", flush=True)
    return out


# ---- the whole -----------------------------------------------------------------------------------------------------


def environment(device: torch.device) -> dict[str, Any]:
    stamp = {"densecrf": densecrf.__version__, "torch": torch.__version__, "python": platform.python_version()}
    if device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        stamp["gpu"] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
        stamp["cuda"] = str(torch.version.cuda)
    return stamp


def main(arguments: list[str]) -> None:
    parser = common.parser("bench_gpu", __doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--rehearse", action="store_true", help="small cases on the CPU: does the script still run?")
    options = parser.parse_args(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        print("No GPU here: nothing to measure.")
        sys.exit(2)
    device = torch.device("cpu" if options.rehearse else "cuda")
    copy = copy_bandwidth(device)
    print(f"copy: {copy / 1e9:.0f} GB/s")
    report: dict[str, Any] = {"environment": environment(device), "copy_GB/s": copy / 1e9, "cases": []}
    for case in SMALL if options.rehearse else CASES:
        line = time_case(case, options.rounds, device)
        if device.type == "cuda" and "times" in line:
            line["stages"] = stages(case, device, copy)
        report["cases"].append(line)
        if options.output:  # after every case: the last one may take too long
            options.output.write_text(json.dumps(report, indent=1) + "\n")
    if not all("times" in line for line in report["cases"]):
        sys.exit("Where Q is not the CPU's, nothing was timed.")
