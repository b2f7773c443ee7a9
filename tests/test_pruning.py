"""Labels that no pixel can take are left out, and never one that a pixel takes."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from densecrf import Bilateral, DenseCRF, Gaussian, _pruning, refine
from densecrf.cli import cli

KERNELS = [Gaussian(2, 3), Bilateral(20, 8, 5)]


PHOTO = Path(__file__).resolve().parent.parent / "examples" / "data" / "astronaut.png"


@pytest.fixture(scope="module")
def photo():
    return np.asarray(Image.open(PHOTO).convert("RGB"))[40:100, 200:290]


def scores(labels, present, gap, seed=0):
    """Blocky logits; labels from `present` on are `gap` below the best everywhere, and at it somewhere."""
    rng = np.random.default_rng(seed)
    made = np.kron(rng.normal(scale=2, size=(labels, 6, 9)), np.ones((10, 10)))
    best = made[:present].max(axis=0)
    for label in range(present, labels):
        made[label] = np.minimum(made[label], best - gap)
        made[label, label % 60, label % 90] = best[label % 60, label % 90] - gap
    return made.astype(np.float32)


@pytest.mark.parametrize("method", ["tuned", "classic", "fast"])
@pytest.mark.parametrize("normalization", ["symmetric", "after", "before"])
def test_the_bound_holds_and_the_rest_is_as_before(photo, method, normalization):
    how = {"kernels": KERNELS, "method": method, "normalization": normalization, "iterations": 7}
    dropped = 0
    for gap in (6.0, 8.0, 12.0):
        logits = scores(12, 5, gap)
        whole = refine(photo, logits=logits, **how).probs
        for prune in (1e-2, 1e-3):
            found = refine(photo, logits=logits, prune=prune, **how).probs
            gone = ~found.any(axis=(1, 2))
            dropped += gone.sum()
            assert not gone[:5].any()
            assert whole[gone].max(initial=0) <= prune
            assert np.abs(found - whole).max() <= 20 * prune * gone.sum()
            np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    assert dropped >= 7


def test_a_strong_label_that_begins_low_is_kept(photo):
    """Where messages can lift a label, its first probability says nothing."""
    logits = np.zeros((3, *photo.shape[:2]), np.float32)
    logits[1], logits[2] = -4.0, -40.0
    kernels = [Gaussian(3, 6.0)]
    kept = refine(photo, logits=logits, kernels=kernels, prune=0.02).probs
    assert kept[1].any() and not kept[2].any()


def test_below_the_tolerance_nothing_changes(photo):
    logits = scores(6, 6, 0)
    np.testing.assert_array_equal(refine(photo, logits=logits, prune=1e-9).probs, refine(photo, logits=logits).probs)


def test_the_pixel_where_a_label_is_best_keeps_it(photo):
    logits = scores(5, 4, 30.0)
    logits[4, 30, 40] = logits[:, 30, 40].max() + 1
    assert refine(photo, logits=logits, prune=1e-2).probs[4].any()


def test_energies_vectors_masks_and_a_given_start(photo):
    logits = scores(6, 4, 25.0)
    kernels = [Gaussian(2, np.arange(1.0, 7.0)), Bilateral(20, 8, 5)]
    mask = np.ones(photo.shape[:2], bool)
    mask[:20] = False
    how = {"kernels": kernels, "mask": mask}
    whole = refine(photo, unary=-logits, **how).probs
    found = refine(photo, unary=-logits, prune=1e-4, **how).probs
    assert not found[4:].any()
    np.testing.assert_allclose(found, whole, atol=1e-3)
    found = refine(photo, unary=-logits, prune=1e-4, initial=whole, iterations=0, **how).probs
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)
    start = np.full_like(whole, 1 / 6)
    assert refine(photo, unary=-logits, prune=1e-4, initial=start, **how).probs[4:].any()
    start = np.zeros_like(whole)
    start[4:] = 0.5  # all that is given would be left out
    found = refine(photo, unary=-logits, prune=0.6, initial=start, damping=0.5, iterations=1, **how).probs
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    logits[4] = np.nan
    with pytest.raises(ValueError, match="unary: "):
        refine(photo, unary=-logits, prune=1e-4, kernels=kernels)


def test_one_object_serves_all_tolerances(photo):
    crf = DenseCRF(photo, kernels=KERNELS)
    logits = scores(9, 4, 20.0)
    first = crf.refine(logits, prune=1e-3).probs
    assert crf.refine(logits).probs[5:].any() and not first[4:].any()
    np.testing.assert_array_equal(crf.refine(logits, prune=1e-3).probs, first)
    energies = crf.refine(logits, prune=1e-3, free_energy=True).free_energy
    assert (np.diff(energies) < 1e-3 * abs(energies[0])).all()


def test_row_sums_are_those_of_the_filter(photo):
    crf = DenseCRF(photo, kernels=KERNELS, normalization="after")
    assert crf._row_sums == pytest.approx([1, 1], abs=1e-5)
    logits = np.zeros((3, 4), np.float32)
    logits[1:] = [[-4.0], [-4.2]]  # log 0.02 = -3.91; messages add up to 0.02 (2 * 1.5 + [0, 5, 0.5] * 2)
    couplings = [2.0, np.array([0.0, 5.0, 0.5])]
    kept = _pruning.alive(logits, 1.0, None, 0.02, couplings, lambda: [1.5, 2.0])
    np.testing.assert_array_equal(kept, [True, True, False])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prune": 1}, "prune: must be at least 0 and below 1, got 1"),
        ({"prune": -0.1}, "prune: must be at least 0"),
        ({"prune": "much"}, "prune: must be a number"),
        ({"method": "exact"}, "prune: must be 0 with method='exact'"),
        ({"compatibility": np.eye(3)}, "prune: needs weights and a compatibility that make labels attract"),
        ({"kernels": [Gaussian(2, -1.0)]}, "prune: needs weights"),
    ],
)
def test_refusals(photo, wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        refine(photo, logits=scores(3, 3, 0), **{"prune": 0.01, **wrong})


def test_command(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", scores(6, 3, 30.0))
    line = ["refine", str(tmp_path / "a.png"), str(tmp_path / "a.npy"), "-o", str(tmp_path), "--prune"]
    assert CliRunner().invoke(cli, [*line, "0.01"]).exit_code == 0
    assert not np.load(tmp_path / "probs.npy")[3:].any()
    assert CliRunner().invoke(cli, [*line, "1"]).exit_code == 2
    assert refine(photo, logits=scores(6, 3, 30.0)).probs[3:].any()
