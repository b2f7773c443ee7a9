"""The grid CRF against all labelings of tiny images."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from densecrf import grid

pytest.importorskip("gco")
pytest.importorskip("maxflow")


def random_problem(seed, size, labels):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*size, 3)), rng.normal(0, 2, (labels, *size))


def plain_energy(image, logits, labels, weight, contrast, neighbours):
    """The formula, pair by pair."""
    height, width = labels.shape
    steps = [(1, 0), (0, 1), (1, 1), (1, -1)][: neighbours // 2]
    pairs = [
        ((y, x), (y + dy, x + dx))
        for y in range(height)
        for x in range(width)
        for dy, dx in steps
        if y + dy < height and 0 <= x + dx < width
    ]
    square = {pair: float(((image[pair[0]] - image[pair[1]]) ** 2).sum()) for pair in pairs}
    mean = np.mean(list(square.values()))
    costs = -logits
    total = sum(costs[labels[y, x], y, x] for y in range(height) for x in range(width))
    for a, b in pairs:
        far = np.hypot(a[0] - b[0], a[1] - b[1])
        total += (labels[a] != labels[b]) * weight * np.exp(-square[a, b] / (2 * contrast * mean)) / far
    return total


@pytest.mark.parametrize("neighbours", [4, 8])
@pytest.mark.parametrize("labels, seeds", [(2, 20), (3, 5)])
def test_the_energy_is_the_least(labels, seeds, neighbours):
    size = 2, 3
    for seed in range(seeds):
        image, logits = random_problem(seed, size, labels)
        found = grid.refine(image, logits=logits, weight=2, contrast=0.5, neighbours=neighbours, cycles=5)
        assert found.energy == pytest.approx(plain_energy(image, logits, found.labels, 2, 0.5, neighbours), rel=1e-5)
        # Of two labels the least energy of all, of more one that no expansion improves.
        chosen = [np.array(some).reshape(size) for some in itertools.product((False, True), repeat=6)]
        every = [np.where(some, a, 0 if labels == 2 else found.labels) for some in chosen for a in range(labels)]
        least = min(plain_energy(image, logits, x, 2, 0.5, neighbours) for x in every)
        assert found.energy <= least + 6e-3  # costs are rounded to thousandths


def test_energy_of_any_segmentation():
    image, logits = random_problem(0, (4, 5), 3)
    how = {"weight": 2, "contrast": 0.5, "neighbours": 4}
    found = grid.refine(image, logits=logits, **how)
    assert grid.energy(found.labels, image, logits=logits, **how) == found.energy
    other = np.arange(20, dtype=np.uint8).reshape(4, 5) % 3
    expected = plain_energy(image, logits, other, 2, 0.5, 4)
    assert grid.energy(other, image, unary=-logits, **how) == pytest.approx(expected, rel=1e-5)
    for wrong in (other[:3], other + 1, other - 1.0):
        with pytest.raises((ValueError, TypeError), match="segmentation: must"):
            grid.energy(wrong, image, logits=logits)


def test_edges_stop_the_smoothing():
    image = np.zeros((6, 8, 3), np.uint8)
    image[:, 4:] = 200
    logits = np.zeros((3, 6, 8))
    logits[0, :, :4], logits[2, :, 4:] = 1, 1
    logits[:, 2, 6] = 1.5, 0, 0  # a speck
    labels = grid.refine(image, logits=logits, weight=5, contrast=0.1).labels
    assert (labels[:, :4] == 0).all() and (labels[:, 4:] == 2).all()
    assert (grid.refine(image, logits=logits, weight=0).labels == logits.argmax(0)).all()


def test_sources_and_shapes():
    image, logits = random_problem(0, (4, 5), 3)
    probs = np.exp(logits) / np.exp(logits).sum(axis=0)
    wanted = grid.refine(image, logits=logits)
    assert (grid.refine(image, probs=probs).labels == wanted.labels).all()
    assert (grid.refine(image, unary=-logits).labels == wanted.labels).all()
    assert grid.refine(image[..., 0], logits=logits[:, :2, :2]).labels.shape == (4, 5)  # enlarged
    assert grid.refine(image[:1, :1], logits=logits[:, :1, :1]).labels.shape == (1, 1)
    assert grid.refine(np.zeros((3, 1)), logits=logits[:2, :3, :1]).labels.shape == (3, 1)


@pytest.mark.parametrize(
    "changed, rule",
    [
        ({"weight": -1}, "weight: must be at least 0"),
        ({"contrast": 0}, "contrast: must be above 0"),
        ({"neighbours": 6}, "neighbours: must be 4 or 8"),
        ({"cycles": 0}, "cycles: must be"),
        ({"logits": np.full((3, 4, 5), np.nan)}, "must be finite"),
        ({"logits": np.zeros((3, 9, 5))}, "logits: must have the image's size"),
        ({"image": np.zeros(7)}, "image: must have shape"),
        ({"image": np.full((4, 5, 3), np.inf)}, "image: must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(changed, rule):
    image, logits = random_problem(0, (4, 5), 3)
    with pytest.raises(ValueError, match=rule):
        grid.refine(**{"image": image, "logits": logits, **changed})
