"""What `densecrf tune` tries: settings of the dense and of the grid CRF, on a coarse grid and around a good one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby, product
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from densecrf import grid
from densecrf.datasets import Sample
from densecrf.grid import GridSetting
from densecrf.kernels import Bilateral, Gaussian
from densecrf.mean_field import DenseCRF
from densecrf.params import Params
from densecrf.presets import Preset

Candidate = Any  # a Dense or a Grid: a tuple of plain values, which sorts the weaker setting first


class Dense(NamedTuple):
    """A setting of the dense CRF; the defaults are those of ``presets.DEFAULT``."""

    weight: float = 5.0
    sxy: float = 50.0
    srgb: float = 4.0
    spatial_weight: float = 3.0
    spatial_sxy: float = 1.0
    normalization: str = "symmetric"
    iterations: int = 5

    @property
    def params(self) -> Params:
        """As a parameter file has it."""
        smoothness = Gaussian(sxy=self.spatial_sxy, weight=self.spatial_weight)
        appearance = Bilateral(sxy=self.sxy, srgb=self.srgb, weight=self.weight)
        return Params(dense=Preset((smoothness, appearance), self.iterations, self.normalization))

    @property
    def shared(self) -> tuple[Any, ...]:
        """What has to agree for two settings to use the same lattices."""
        return self.sxy, self.srgb, self.spatial_sxy, self.normalization


class Grid(NamedTuple):
    """A setting of the grid CRF."""

    weight: float = GridSetting().weight
    contrast: float = GridSetting().contrast

    @property
    def params(self) -> Params:
        """As a parameter file has it."""
        return Params(grid=GridSetting(self.weight, self.contrast))

    @property
    def shared(self) -> tuple[Any, ...]:
        """Settings have nothing to share: each is a graph cut of its own."""
        return self


class Axis:
    """Values of one parameter in equal ratios, rounded to multiples of a grain."""

    def __init__(self, low: float, high: float, count: int, grain: float) -> None:
        self.grain = grain
        self.ratio = (high / low) ** (1 / (count - 1))
        self.values = self._rounded(low * self.ratio**i for i in range(count))

    def around(self, value: float, parts: int) -> list[float]:
        """The value and its neighbours, a step of the axis divided by `parts` away."""
        factor = self.ratio ** (1 / parts)
        return sorted({value, *self._rounded([value / factor, value * factor])})

    def _rounded(self, values: Iterable[float]) -> list[float]:
        return sorted({round(max(round(value / self.grain), 1) * self.grain, 6) for value in values})


class Space(Protocol):
    """The settings of one model, and how an image is labelled by some of them."""

    @property
    def kind(self) -> type[Dense] | type[Grid]:
        """What its settings are; without arguments, the default."""

    @property
    def axes(self) -> dict[str, Axis]:
        """The parameters that the coarse search goes over."""

    @property
    def rounds(self) -> int:
        """Searches after the coarse one."""

    def coarse(self) -> list[Candidate]:
        """The settings to begin with."""

    def finer(self, best: Candidate, number: int) -> list[Candidate]:
        """Those around the best of what was tried before round `number` = 0, 1, ..."""


class DenseSpace:
    """Weight and bandwidths of the colour term, iterations, and on demand the smoothness term.

    Parameters
    ----------
    diagonal : of the images, in pixels; bandwidths of positions are fractions of it
    iterations : numbers to try
    normalization : of all settings
    spatial : also look for weight and bandwidth of the smoothness term, else 3 and 1 pixel

    """

    kind = Dense

    def __init__(self, diagonal: float, iterations: Sequence[int], normalization: str, spatial: bool) -> None:
        self.iterations, self.normalization = sorted(set(iterations)), normalization
        self.axes = {
            "weight": Axis(1, 10, 5, 0.25),
            "sxy": Axis(0.02 * diagonal, 0.15 * diagonal, 4, 1.0),
            "srgb": Axis(3, 20, 5, 0.5),
        }
        self.smoothness = {"spatial_weight": Axis(1, 10, 4, 0.5), "spatial_sxy": Axis(1, 4, 3, 0.25)} if spatial else {}
        self.rounds = 3 if spatial else 2

    def coarse(self) -> list[Candidate]:
        """All of the colour term, with the fewest iterations; and the default, where it is among what is asked for."""
        weights, near, alike = (axis.values for axis in self.axes.values())
        every = [
            Dense(weight, sxy, srgb, normalization=self.normalization, iterations=self.iterations[0])
            for weight, sxy, srgb in product(weights, near, alike)
        ]
        fits = Dense().normalization == self.normalization and Dense().iterations in self.iterations
        return [*every, Dense()] if fits else every

    def finer(self, best: Dense, number: int) -> list[Candidate]:
        """First all of the smoothness term, where it is looked for; then half steps, then quarter steps.

        Weight and bandwidths lean on each other, and weights cost no lattice: one bandwidth changes at a time, with
        all weights.
        """
        if self.smoothness and number == 0:
            weights, near = (axis.values for axis in self.smoothness.values())
            return [best._replace(spatial_weight=weight, spatial_sxy=sxy) for weight, sxy in product(weights, near)]
        parts = 2 ** (number if self.smoothness else number + 1)
        others = {**self.axes, **self.smoothness}
        weights = others.pop("weight").around(best.weight, parts)
        moved: list[Dense] = [
            best._replace(**{name: value})  # type: ignore[arg-type]
            for name, axis in others.items()
            for value in axis.around(getattr(best, name), parts)
        ]
        counts = product(weights, self.iterations)
        return sorted({each._replace(weight=weight, iterations=n) for weight, n in counts for each in moved})


class GridSpace:
    """Weight and contrast of the grid CRF with 8 neighbours."""

    kind = Grid
    rounds = 2

    def __init__(self) -> None:
        self.axes = {"weight": Axis(1, 60, 5, 0.25), "contrast": Axis(0.05, 2, 5, 0.01)}

    def coarse(self) -> list[Candidate]:
        """All weights and contrasts; and the default."""
        return [Grid(), *(Grid(*some) for some in product(*(axis.values for axis in self.axes.values())))]

    def finer(self, best: Grid, number: int) -> list[Candidate]:
        """Half steps, then quarter steps, in both at once."""
        parts = 2 ** (number + 1)
        around = [axis.around(getattr(best, name), parts) for name, axis in self.axes.items()]
        return [Grid(*some) for some in product(*around)]


def label(sample: Sample, candidates: Iterable[Candidate]) -> Iterator[tuple[Candidate, NDArray[Any]]]:
    """Labels ``[H, W]`` of an image under settings that share their lattices, as `refine` gives them, on one thread."""
    for candidate in candidates:
        if isinstance(candidate, Grid):
            setting = asdict(candidate.params.grid)
            yield candidate, grid.refine(sample.image, logits=sample.logits, **setting).labels
    dense = sorted(each for each in candidates if isinstance(each, Dense))
    if dense:
        yield from _dense(sample, dense)


def _dense(sample: Sample, candidates: list[Dense]) -> Iterator[tuple[Candidate, NDArray[Any]]]:
    preset = candidates[0].params.dense
    crf = DenseCRF(sample.image, kernels=preset.kernels, normalization=preset.normalization, num_threads=1)
    for weights, some in groupby(candidates, lambda each: (each.spatial_weight, each.weight)):
        weighted = crf.reweighted(weights)
        probs, done = None, 0
        for candidate in some:  # by their iterations: each goes on where the one before ended
            result = weighted.refine(sample.logits, iterations=candidate.iterations - done, initial=probs)
            probs, done = result.probs, candidate.iterations
            yield candidate, result.labels


def diagonal(sizes: Iterable[tuple[int, int]]) -> float:
    """Mean diagonal of images, in pixels."""
    return float(np.mean([math.hypot(*size) for size in sizes]))
