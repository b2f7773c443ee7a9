"""Figures of segmentations against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from densecrf import metrics

sklearn = pytest.importorskip("sklearn.metrics")
pytest.importorskip("scipy")


def some(seed=0, labels=4, size=(20, 30)):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, labels, (size[0] // 5, size[1] // 5)).repeat(5, 0).repeat(5, 1)
    predicted = np.where(rng.random(size) < 0.3, rng.integers(0, labels, size), truth)
    truth[rng.random(size) < 0.1] = metrics.VOID
    return truth, predicted


def test_figures_are_those_of_the_pixels():
    pairs = [some(seed) for seed in range(3)]
    found = metrics.summary([metrics.Truth(truth, 5).count(predicted) for truth, predicted in pairs])
    truth, predicted = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    known = truth != metrics.VOID
    truth, predicted = truth[known], predicted[known]
    assert found["mIoU"] == pytest.approx(100 * sklearn.jaccard_score(truth, predicted, average="macro"))
    assert found["weighted IoU"] == pytest.approx(100 * sklearn.jaccard_score(truth, predicted, average="weighted"))
    assert found["Dice"] == pytest.approx(100 * sklearn.f1_score(truth, predicted, average="macro"))
    assert found["pixel accuracy"] == pytest.approx(100 * sklearn.accuracy_score(truth, predicted))
    assert found["class accuracy"] == pytest.approx(100 * sklearn.balanced_accuracy_score(truth, predicted))


def test_distance_is_to_the_nearest_boundary():
    labels = np.zeros((9, 12), int)
    labels[:, 6:] = 1
    assert (metrics.Truth(labels, 2).distance[0] == [6, 5, 4, 3, 2, 1, 1, 2, 3, 4, 5, 6]).all()
    labels[:, 5:7] = metrics.VOID  # no boundary with what is not known
    assert np.isinf(metrics.Truth(labels, 2).distance).all()


def test_bands_count_right_pixels():
    labels = np.zeros((9, 12), int)
    labels[:, 6:] = 1
    predicted = labels.copy()
    predicted[:, 5] = 1  # touches the boundary
    near = metrics.Truth(labels, 2).count(predicted).near
    assert (near[:, 0] == np.array([9, 27, 63, 99, 99, 99, 0])).all()  # within 1, 2, 4, 8, 16, 32, beyond
    assert (near[:, 1] == np.array([18, 36, 72, 108, 108, 108, 0])).all()


def test_boundary_score():
    labels = np.zeros((40, 40), int)
    labels[:, 20:] = 1
    truth = metrics.Truth(labels, 2)
    assert truth.count(labels).boundary == 1
    assert truth.count(np.zeros_like(labels)).boundary == 0
    assert truth.count(np.roll(labels, 10, axis=1)[:, ::-1]).boundary < 0.5
    assert np.isnan(metrics.Truth(np.zeros_like(labels), 2).count(np.zeros_like(labels)).boundary)


def test_intervals_hold_the_figure_and_come_again():
    counts = {name: [metrics.Truth(*t).count(p) for t, p in cases(shift)] for name, shift in (("a", 0), ("b", 1))}
    found = metrics.intervals(counts, resamples=100, seed=3)
    assert set(found) == {"a", "b", "b - a"}
    for name in ("a", "b"):
        low, high = found[name]["mIoU"]
        assert low < metrics.summary(counts[name])["mIoU"] < high
    assert repr(found) == repr(metrics.intervals(counts, resamples=100, seed=3))
    assert repr(found) != repr(metrics.intervals(counts, resamples=100, seed=4))


def test_intervals_in_parts_are_the_same(monkeypatch):
    counts = {name: [metrics.Truth(*t).count(p) for t, p in cases(shift)] for name, shift in (("a", 0), ("b", 1))}
    whole = metrics.intervals(counts, resamples=50)
    monkeypatch.setattr(metrics, "_AT_ONCE", 60)  # two matrices of 5 x 5
    assert repr(metrics.intervals(counts, resamples=50)) == repr(whole)


def test_labels_of_many_matrices():
    many = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 4))
    many[0, 0, 2] = many[0, 0, :, 2] = 0
    found = metrics.per_label(many)
    for i, j in np.ndindex(2, 3):
        for name, rates in metrics.per_label(many[i, j]).items():
            np.testing.assert_array_equal(found[name][i, j], rates)
    assert np.isnan(found["IoU"][0, 0, 2])


def cases(shift):
    for seed in range(6):
        truth, predicted = some(seed)
        yield (truth, 5), np.roll(predicted, shift, axis=0)


@pytest.mark.parametrize(
    "truth, predicted, rule",
    [
        (np.full((2, 2), 3), None, "labels: must be -1 to 2, got 3 to 3"),
        (np.zeros(4, int), None, r"labels: must have shape \[H, W\]"),
        (np.zeros((2, 2), int), np.full((2, 2), -1), "predicted: must be 0 to 2"),
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "predicted: must have shape"),
    ],
)
def test_what_does_not_fit_is_refused(truth, predicted, rule):
    with pytest.raises(ValueError, match=rule):
        metrics.Truth(truth, 3).count(predicted)
