"""Time and memory of the torch layer's forward and backward pass beside the engine's forward.

    pip install -c constraints.txt -e ".[torch]"
    DENSECRF_DATA=... python -m benchmarks bench_backward [--rounds 7] [--threads 2] [--output FILE]

500 x 375, L = 21, T = 5, on the photographs of `data.photographs`. Before anything is timed, the layer's result is
checked against the engine's and the gradient of a random direction against a difference of two runs in float64. The
engine (`densecrf.refine` with the same weights: lattice, normalisation, T updates), the layer's forward pass and its
forward and backward pass are run in turn, round after round; the table has medians and the ratio to the engine. "kept"
is what the backward pass holds on to between the two, beyond inputs and results; "peak" the growth of a fresh
process's peak memory over both. The last lines have four photographs as one batch beside the four one by one.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

import densecrf
from benchmarks import common, contenders
from benchmarks.data import Case, photographs, unary_of
from benchmarks.memory import BASE, peak_resident
from benchmarks.timing import interleaved
from densecrf import _native
from densecrf.nn import DenseCRF

SETTINGS = {**contenders.SETTINGS, "crf-as-rnn": (3, 3, 160, 3, 5)}  # its bandwidths and weights, in a DenseCRF
PAUSE = 0.02  # seconds; threads that torch has used spin on for milliseconds and would slow the next run
LEARNED: dict[str, dict[str, Any]] = {
    "scalar weights": {},
    "matrices": {"weights": "matrix", "compatibility": "matrix"},
    "and bandwidths": {"weights": "matrix", "compatibility": "matrix", "learn_bandwidths": True},
}


def inputs(case: Case, image: np.ndarray) -> tuple[Tensor, Tensor]:
    """Logits and image as tensors."""
    return torch.from_numpy(-unary_of(case))[None], torch.from_numpy(image).permute(2, 0, 1)[None].float()


def layer_of(case: Case, setting: str, learned: str) -> DenseCRF:
    return DenseCRF(case.labels, contenders.kernels(SETTINGS[setting]), case.iterations, **LEARNED[learned])


def engine_of(layer: DenseCRF, threads: int) -> dict[str, Any]:
    """What `densecrf.refine` has to be told to compute the same."""
    weights = [getattr(layer, f"weight_{k}").detach().numpy() for k in range(len(layer.kernels))]
    kernels = [
        replace(kernel, weight=w if w.ndim else float(w)) for kernel, w in zip(layer.kernels, weights, strict=True)
    ]
    compatibility = "potts" if layer.compatibility is None else layer.compatibility.detach().numpy()
    how = {"iterations": layer.iterations, "num_threads": threads}
    return {"kernels": kernels, "compatibility": compatibility, **how}


def check(case: Case, setting: str, image: np.ndarray) -> None:
    """Stop unless layer and engine agree and the gradient is the derivative."""
    logits, pixels = inputs(case, image)
    layer = layer_of(case, setting, "scalar weights")
    with torch.no_grad():
        found = layer(logits, pixels)[0].softmax(0).numpy()
    # A tolerance, however small, keeps the engine from storing values in half precision.
    wanted = densecrf.refine(image, logits=logits[0].numpy(), tol=1e-30, **engine_of(layer, 2))
    difference = np.abs(found - wanted.probs)
    if difference.max() > 1e-4:
        raise SystemExit(f"layer and engine differ by up to {difference.max():.1e}, {setting}")
    part = logits[:, :, :60, :80].double().requires_grad_(), pixels[:, :, :60, :80].double()
    direction = torch.randn(part[0].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer.double()
    layer(*part).softmax(1).square().sum().backward()
    slope = (part[0].grad * direction).sum()
    with torch.no_grad():
        ends = [layer(part[0] + s * direction, part[1]).softmax(1).square().sum() for s in (1e-5, -1e-5)]
    if not torch.isclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-4):
        raise SystemExit(f"gradient {slope} is not the difference {(ends[0] - ends[1]) / 2e-5}, {setting}")


def time_photo(case: Case, setting: str, learned: str, image: np.ndarray, rounds: int, threads: int) -> dict[str, Any]:
    """Seconds of the engine, of the layer's forward pass and of both passes, interleaved."""
    logits, pixels = inputs(case, image)
    array = logits[0].numpy()
    logits.requires_grad_()
    layer = layer_of(case, setting, learned)
    grad = torch.randn(logits.shape)
    engine = engine_of(layer, threads)

    def forward() -> Tensor:
        with torch.no_grad():
            return layer(logits, pixels)

    runs: dict[str, Callable[[], Any]] = {
        "engine": lambda: densecrf.refine(image, logits=array, **engine),
        "forward": forward,
        "both": lambda: layer(logits, pixels).backward(grad),
    }
    seconds = interleaved(runs, rounds, PAUSE)
    return {name: median(values) for name, values in seconds.items()}


def kept_bytes(case: Case, setting: str, learned: str, image: np.ndarray) -> float:
    """MB that the graph saves for the backward pass, beyond inputs, parameters and the result."""
    logits, pixels = inputs(case, image)
    logits.requires_grad_()
    layer = layer_of(case, setting, learned)
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(logits, pixels)
    for known in (logits, pixels, out, *layer.parameters()):
        saved.pop(known.untyped_storage().data_ptr(), None)
    return sum(saved.values()) / 2**20


def peak(case: Case, setting: str, learned: str, threads: int) -> float:
    """MB that forward and backward pass add to a fresh process's peak."""
    line = common.command("bench_backward", "--peak", setting, learned, "--threads", threads)
    out = subprocess.run(line, cwd=common.ROOT, capture_output=True, text=True, check=True)
    return float(out.stdout)


def print_peak(case: Case, setting: str, learned: str) -> None:
    """The child of peak()."""
    logits, pixels = inputs(case, photographs(case.width, case.height)[0][1])
    layer = layer_of(case, setting, learned)
    layer(logits[:, :, :16, :16], pixels[:, :, :16, :16]).sum().backward()
    logits.requires_grad_()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the inputs
    before = peak_resident()
    layer(logits, pixels).sum().backward()
    print(peak_resident() - before)


def row(case: Case, setting: str, learned: str, rounds: int, threads: int) -> dict[str, Any]:
    """One line of the table."""
    photos = photographs(case.width, case.height)
    times = [time_photo(case, setting, learned, image, rounds, threads) for _, image in photos]
    kept = [kept_bytes(case, setting, learned, image) for _, image in photos]
    ratios = [t["both"] / t["engine"] for t in times]
    line = {
        "setting": setting,
        "learned": learned,
        "ms": {name: 1000 * median(t[name] for t in times) for name in times[0]},
        "ratio": median(ratios),
        "ratios": ratios,
        "kept_MB": max(kept),
        "peak_MB": peak(case, setting, learned, threads),
    }
    ms = line["ms"]
    print(
        f"{setting:10} {learned:14} "
        f"engine {ms['engine']:4.0f} ms  forward {ms['forward']:4.0f}  both {ms['both']:4.0f}  "
        f"{line['ratio']:.2f}x ({min(ratios):.2f}-{max(ratios):.2f})  kept {line['kept_MB']:.0f} MB  "
        f"peak {line['peak_MB']:.0f} MB",
        flush=True,
    )
    return line


def batch_row(case: Case, setting: str, rounds: int, height: int, width: int) -> dict[str, Any]:
    """Forward and backward pass of a batch of four crops beside the four one by one."""
    pairs = [inputs(case, image) for _, image in photographs(case.width, case.height)[:4]]
    logits, pixels = (torch.cat(parts)[:, :, :height, :width].contiguous() for parts in zip(*pairs, strict=True))
    logits.requires_grad_()
    layer = layer_of(case, setting, "scalar weights")
    grad = torch.randn(logits.shape)

    def singles() -> None:
        for i in range(4):
            layer(logits[i : i + 1], pixels[i : i + 1]).backward(grad[i : i + 1])

    runs: dict[str, Callable[[], Any]] = {
        "batch": lambda: layer(logits, pixels).backward(grad),
        "singles": singles,
    }
    seconds = interleaved(runs, rounds, PAUSE)
    ms = {name: 1000 * median(values) for name, values in seconds.items()}
    print(
        f"{setting:10} {width}x{height}: batch of 4 {ms['batch']:.0f} ms, one by one {ms['singles']:.0f} ms", flush=True
    )
    return {"setting": setting, "size": [width, height], "ms": ms}


def main(arguments: list[str]) -> None:
    parser = common.parser("bench_backward", __doc__)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--learned", nargs="+", choices=list(LEARNED), default=list(LEARNED))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    case = BASE
    if options.peak:
        print_peak(case, *options.peak)
        return
    for setting in options.settings:
        check(case, setting, photographs(case.width, case.height)[0][1])
    rows = [
        row(case, setting, learned, options.rounds, options.threads)
        for setting in options.settings
        for learned in options.learned
    ]
    sizes = ((64, 64), (128, 128), (240, 320), (case.height, case.width))
    batches = [batch_row(case, setting, options.rounds, *size) for setting in options.settings for size in sizes]
    if options.output:
        stamp = {
            "machine": platform.processor() or platform.machine(),
            **_native.info(),
            "threads": options.threads,
            "version": densecrf.__version__,
            "torch": torch.__version__,
        }
        options.output.write_text(
            json.dumps({"environment": stamp, "case": case._asdict(), "rows": rows, "batches": batches}, indent=1)
            + "\n"
        )
