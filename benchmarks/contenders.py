"""Who is measured: functions from an image and its energies to probabilities, or to labels."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import densecrf
from densecrf import Bilateral, Gaussian, unary
from densecrf.datasets import Sample
from densecrf.images import FileError

Array = NDArray[Any]
Setting = tuple[float, float, float, float, float]  # Gaussian sxy, weight; Bilateral sxy, srgb, weight
SETTINGS: dict[str, Setting] = {
    "standard": (3, 3, 80, 13, 10),
    "default": (1, 3, 50, 4, 5),
    "deeplab": (1, 3, 67, 3, 4),  # as many vertices as pixels
}
OTHERS = {"pydensecrf": "pydensecrf", "SimpleCRF": "denseCRF", "grid CRF": "gco"}  # name -> module
CORNER = 24, 32  # rows and columns on which everyone is checked
NEAR = {
    "tuned": 0.1,
    "classic": 0.2,
    "fast": 0.2,
}  # mean over pixels of sum_l |Q - Q_exact|, at most; found: 0.048 and 0.100
SIMPLECRF_LABELS = 128  # its labels are signed bytes
SAME = 1e-3  # of Q, by pydensecrf and by the classic numerics
SAME_MEAN = 1e-4  # of Q on average, in single and in double precision (2e-6 is usual)
CHECKED = 500_000  # pixels that are compared so


class Problem(NamedTuple):
    """What everyone is given."""

    image: Array  # uint8 [H, W, 3], contiguous and writable, as pydensecrf wants it
    unary: Array  # float32 [L, H, W]
    setting: Setting
    iterations: int


def problem(sample: Sample, preset: densecrf.presets.Preset) -> Problem:
    """A photo with a setting of one Gaussian and one bilateral kernel.

    Raises
    ------
    FileError
        The setting has other kernels, which nobody else could take.

    """
    if [type(kernel) for kernel in preset.kernels] != [Gaussian, Bilateral]:
        raise FileError(f"kernels: must be a gaussian and a bilateral one to be compared, got {preset.kernels}")
    image = sample.image if sample.image.ndim == 3 else np.repeat(sample.image[..., None], 3, axis=2)
    near, bilateral = preset.kernels
    setting = near.sxy, near.weight, bilateral.sxy, bilateral.srgb, bilateral.weight
    return Problem(np.array(image), unary.from_logits(sample.logits), setting, preset.iterations)


def kernels(setting: Setting) -> list[densecrf.kernels.Kernel]:
    sxy, weight, bilateral_sxy, srgb, bilateral_weight = setting
    return [Gaussian(sxy, weight), Bilateral(bilateral_sxy, srgb, bilateral_weight)]


def ours(problem: Problem, threads: int, method: str = "tuned", dtype: str = "float32") -> Array:
    """Probabilities by densecrf."""
    image, unary, setting, iterations = problem
    how: dict[str, Any] = {"iterations": iterations, "method": method, "num_threads": threads, "dtype": dtype}
    return densecrf.refine(image, unary=unary, kernels=kernels(setting), **how).probs


def model(problem: Problem, module: str = "pydensecrf.densecrf") -> Any:
    """A DenseCRF2D of pydensecrf, or of another module with its names."""
    dcrf = importlib.import_module(module)
    image, unary, (sxy, weight, bilateral_sxy, srgb, bilateral_weight), _ = problem
    crf = dcrf.DenseCRF2D(image.shape[1], image.shape[0], len(unary))
    crf.setUnaryEnergy(unary.reshape(len(unary), -1))
    crf.addPairwiseGaussian(sxy=sxy, compat=weight)
    crf.addPairwiseBilateral(sxy=bilateral_sxy, srgb=srgb, rgbim=image, compat=bilateral_weight)
    return crf


def theirs(problem: Problem, module: str = "pydensecrf.densecrf") -> Array:
    """Probabilities by pydensecrf, or by another module with its names."""
    return np.array(model(problem, module).inference(problem.iterations)).reshape(problem.unary.shape)


def simplecrf(problem: Problem, function: Any = None) -> Array:
    """Labels by SimpleCRF, which takes probabilities, or by another function of its interface."""
    image, unary, (sxy, weight, bilateral_sxy, srgb, bilateral_weight), iterations = problem
    run = function or importlib.import_module("denseCRF").densecrf
    probs = np.ascontiguousarray(np.exp(-unary).transpose(1, 2, 0), np.float32)
    return run(image, probs, (bilateral_weight, bilateral_sxy, srgb, weight, sxy, iterations))


def grid(problem: Problem) -> Array:
    """Labels by the grid CRF with its default parameters, by graph cuts."""
    from densecrf import grid

    return grid.refine(problem.image, unary=problem.unary).labels


def window(problem: Problem, size: int) -> Array:
    """Probabilities with kernels cut at a window of `size` x `size` pixels, by plain PyTorch."""
    import torch

    from benchmarks.torch_baselines import windowed_mean_field

    image = torch.from_numpy(problem.image).permute(2, 0, 1)[None].float()
    logits = -torch.from_numpy(problem.unary)[None]
    with torch.no_grad():
        scores = windowed_mean_field(logits, image, size, problem.setting[:2], problem.setting[2:], problem.iterations)
        return scores[0].softmax(0).numpy()


def everyone(threads: int, labels: int) -> dict[str, Callable[[Problem], Array]]:
    """All that are installed and can do so many labels, by name; `threads` is densecrf's, all others use one."""
    runs: dict[str, Callable[[Problem], Array]] = {}
    if threads > 1:
        runs[f"densecrf, {threads} threads"] = partial(ours, threads=threads)
    runs["densecrf"] = partial(ours, threads=1)
    runs["densecrf, fast"] = partial(ours, threads=1, method="fast")
    runs["densecrf, classic"] = partial(ours, threads=1, method="classic")
    others = {"pydensecrf": theirs, "SimpleCRF": simplecrf, "grid CRF": grid}
    return runs | {name: run for name, run in others.items() if takes_part(name, labels)}


def installed(name: str) -> bool:
    """Whether this contender can take part."""
    return find_spec(OTHERS[name]) is not None


def takes_part(name: str, labels: int) -> bool:
    """Whether this contender is installed and can do so many labels."""
    return installed(name) and (name != "SimpleCRF" or labels <= SIMPLECRF_LABELS)


def say_who_is_left_out() -> list[str]:
    """Contenders that are not installed."""
    missing = [name for name in OTHERS if not installed(name)]
    if missing:
        print(f"left out, not installed: {', '.join(missing)}", flush=True)
    return missing


def check(problem: Problem) -> dict[str, float]:
    """Stop unless all agree on a corner of the image: with the exact answer, or with each other.

    There the grid CRF must find no more energy than the unary's labels have. On the whole image, up to CHECKED pixels,
    densecrf on two threads in single precision must agree with itself on one thread in double precision.

    Returns the distances that were found.
    """
    rows, columns = CORNER
    image, unary = problem.image[:rows, :columns].copy(), problem.unary[:, :rows, :columns].copy()
    small = problem._replace(image=image, unary=unary)
    exact = ours(small, 1, "exact")
    found = {method: float(np.abs(ours(small, 1, method) - exact).sum(axis=0).mean()) for method in NEAR}
    for method, most in NEAR.items():
        if not found[method] <= most:
            raise SystemExit(f"{method}: {found[method]:.3f} away from the exact answer, at most {most} is right")
    if installed("pydensecrf"):
        found["pydensecrf"] = float(np.abs(theirs(small) - ours(small, 1, "classic")).max())
        if not found["pydensecrf"] <= SAME:
            raise SystemExit(f"classic and pydensecrf differ by {found['pydensecrf']:.1e}, {problem.setting}")
    if takes_part("SimpleCRF", len(unary)):
        from densecrf.compat import simplecrf as same

        found["SimpleCRF"] = float((simplecrf(small) != simplecrf(small, same.densecrf)).mean())
        if not found["SimpleCRF"] <= SAME:
            raise SystemExit(f"SimpleCRF: {found['SimpleCRF']:.1%} of the labels are not those of its own numerics")
    if problem.unary[0].size <= CHECKED:
        found["double"] = float(np.abs(ours(problem, 2) - ours(problem, 1, dtype="float64")).mean())
        if not found["double"] <= SAME_MEAN:
            raise SystemExit(f"densecrf: differs by {found['double']:.1e} from double precision on one thread")
    if takes_part("grid CRF", len(unary)):
        from densecrf import grid as grids

        before, after = grids.energy(unary.argmin(axis=0), image, unary=unary), grids.refine(image, unary=unary).energy
        if not after <= before * (1 + 1e-6) + 1e-2:
            raise SystemExit(f"grid CRF: energy {after:.2f} above that of the unary's labels, {before:.2f}")
    return found
