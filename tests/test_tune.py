"""The search for settings: what it tries, what it counts, what it chooses, and what it leaves behind."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from test_datasets import broken, make

import densecrf
from densecrf import _candidates, _counting, _tune_plot, grid, metrics, params, terms, tune
from densecrf._candidates import Axis, Dense, DenseSpace, Grid, GridSpace
from densecrf._counting import Counter
from densecrf.cli import cli
from densecrf.datasets import DataSet, Sample
from densecrf.images import FileError

for module in ("sklearn", "scipy", "matplotlib"):
    pytest.importorskip(module)

FILES = ["counts.jsonl", "params.json", "search.csv", "search.png"]


DRAW = _tune_plot.draw


class Small(DenseSpace):
    """A search of few settings."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.axes = {"weight": Axis(2, 8, 2, 0.25), "sxy": Axis(3, 6, 2, 1.0), "srgb": Axis(20, 40, 2, 0.5)}
        self.rounds -= 1

    def finer(self, best, number):
        return super().finer(best, number)[::4]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few settings, few resamples, no picture."""
    monkeypatch.setattr(_tune_plot, "draw", lambda file, found: file.write(b"picture"))
    monkeypatch.setattr(tune, "DenseSpace", Small)
    monkeypatch.setattr(metrics, "intervals", functools.partial(metrics.intervals, resamples=5))


@pytest.fixture
def calls(monkeypatch):
    """The pairs of image and setting that are counted, in this process."""
    made: list[tuple[str, object]] = []
    count = _counting._count

    def noted(data, task):
        found = count(data, task)
        made.extend((task.image.name, candidate) for candidate in found)
        return found

    monkeypatch.setattr(_counting, "_count", noted)
    return made


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four photos."""
    return make(tmp_path / "set", names="abcd")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["tune", *map(str, arguments), "--jobs", "1"])


def sample(size=(24, 36), labels=4) -> Sample:
    rng = np.random.default_rng(1)
    smooth = np.kron(rng.normal(size=(labels, 4, 6)), np.ones((6, 6)))
    logits = (2 * smooth + rng.normal(size=(labels, *size))).astype(np.float32)
    image = rng.integers(0, 60, (*size, 3)).astype(np.uint8) + np.uint8(60) * smooth.argmax(0)[..., None].astype(
        np.uint8
    )
    return Sample("x", image, logits, smooth.argmax(0).astype(np.int32))


# --- Labels of a setting ---


@pytest.mark.parametrize("normalization", ["symmetric", "after"])
def test_labels_are_those_of_refine(normalization, monkeypatch):
    built = []
    prepare = terms.prepare
    monkeypatch.setattr(terms, "prepare", lambda *given: built.append(given[1]) or prepare(*given))
    image = sample()
    tried = [
        Dense(weight, 8, 30, spatial, 1, normalization, count)
        for weight in (0.5, 6)
        for spatial in (1, 3)
        for count in (10, 1, 5)
    ]
    found = dict(_candidates.label(image, tried))
    assert len(built) == 2  # one lattice and one grid for all of them
    assert len({labels.tobytes() for labels in found.values()}) > 6
    for candidate in tried:
        preset = candidate.params.dense
        assert (preset.iterations, preset.normalization) == (candidate.iterations, normalization)
        expected = densecrf.refine(image.image, logits=image.logits, **preset).labels
        # Labels may only differ where two of them are as probable, to rounding.
        assert (found[candidate] != expected).mean() <= 0.002


def test_reweighted_probabilities_are_those_of_a_new_crf():
    image = sample()
    one, other = Dense(weight=2, sxy=8, srgb=30), Dense(weight=7, sxy=8, srgb=30, spatial_weight=1)
    crf = densecrf.DenseCRF(image.image, kernels=one.params.dense.kernels)
    before = crf.refine(image.logits).probs
    changed = crf.reweighted([other.spatial_weight, other.weight]).refine(image.logits).probs
    expected = densecrf.refine(image.image, logits=image.logits, **other.params.dense).probs
    np.testing.assert_allclose(changed, expected, atol=1e-6)
    np.testing.assert_array_equal(crf.refine(image.logits).probs, before)
    with pytest.raises(ValueError, match="weight"):
        crf.reweighted([1, np.nan])
    with pytest.raises(ValueError):
        crf.reweighted([1])


def test_labels_of_the_grid_crf():
    pytest.importorskip("gco")
    image = sample()
    for candidate, labels in _candidates.label(image, [Grid(3, 0.1), Grid(20, 1)]):
        setting = vars(candidate.params.grid)
        np.testing.assert_array_equal(labels, grid.refine(image.image, logits=image.logits, **setting).labels)


# --- What is tried ---


def test_an_axis_has_equal_ratios_and_round_values():
    axis = Axis(3, 20, 5, 0.5)
    assert axis.values == [3, 5, 7.5, 12.5, 20]
    assert axis.around(7.5, 2) == [6, 7.5, 9.5]
    assert axis.around(7.5, 4) == [6.5, 7.5, 8.5]
    assert Axis(0.3, 2.4, 4, 1.0).values == [1, 2]  # never 0


def test_bandwidths_follow_the_size_of_the_images():
    space = DenseSpace(600, (10, 5, 5), "after", False)
    coarse = space.coarse()
    assert len(coarse) == len(set(coarse)) == 4 * 5 * 5
    assert {each.iterations for each in coarse} == {5}
    assert {each.sxy for each in coarse} == {12, 23, 46, 90}
    assert {each.normalization for each in coarse} == {"after"}
    assert Dense() in DenseSpace(600, (5,), "symmetric", False).coarse()
    assert Dense() not in DenseSpace(600, (10,), "symmetric", False).coarse()


def test_finer_rounds_go_around_the_best():
    space, best = DenseSpace(600, (5, 10), "symmetric", False), Dense(5, 50, 5, iterations=10)
    half = space.finer(best, 0)
    assert len(half) == 2 * 3 * (1 + 2 + 2)
    assert {each.weight for each in half} == {3.75, 5, 6.75}
    assert {each.srgb for each in half} == {4, 5, 6.5}
    assert {each.iterations for each in half} == {5, 10}
    assert max(each.sxy for each in space.finer(best, 1)) < max(each.sxy for each in half)
    assert len(GridSpace().finer(Grid(10, 0.5), 1)) == 9


def test_the_smoothness_term_is_searched_on_demand():
    space, best = DenseSpace(600, (5,), "symmetric", True), Dense(5, 50, 5)
    around = space.finer(best, 0)
    assert len(around) == 12 and {(each.weight, each.sxy, each.srgb) for each in around} == {(5, 50, 5)}
    moved = space.finer(best, 1)
    assert {each.spatial_weight for each in moved} == {2, 3, 4.5}
    assert len({each.spatial_sxy for each in moved}) == 3
    assert len(moved) == 3 * (1 + 4 * 2)


# --- What is chosen ---


class Line:
    """Settings 0, 10, 20, ... and then those one away from the best."""

    kind, axes, rounds = Grid, {}, 1

    def coarse(self):
        return [Grid(float(weight), 1) for weight in (0, 10, 20)]

    def finer(self, best, number):
        return [best, best._replace(weight=best.weight + 1)]


def right(pixels: int) -> metrics.Counts:
    """Counts of an image of 100 pixels."""
    return metrics.Counts(np.array([[pixels, 100 - pixels], [0, 0]]), np.zeros((7, 2)), float("nan"))


def test_each_half_is_scored_with_what_the_other_chose():
    # The more of the weight the better on A, the less the better on B.
    def counts(name, candidate):
        return right(50 + int(candidate.weight)) if name in "ab" else right(50 - int(candidate.weight))

    choice = tune.Choice(Line(), "pixel accuracy", {"A": ["a", "b"], "B": ["c", "d"]})
    for number in (0, 1):
        wanted = choice.wanted(number)
        choice.learn({name: {each: counts(name, each) for each in wanted} for name in "dcba"})
    assert choice.best("A").weight == 21 and choice.best("B").weight == 0
    assert choice.best("all").weight == 0  # all are equal: the weakest
    expected = {"a": 50, "b": 50, "c": 29, "d": 29}
    assert [each.confusion[0, 0] for each in choice.held_out()] == [expected[name] for name in "abcd"]
    row = next(row for row in choice.table() if row.candidate.weight == 21)
    assert (row.a, row.b, row.all) == pytest.approx((71, 29, 50))


def test_a_half_knows_nothing_of_what_the_other_led_to():
    # 21 is tried because A likes 20; it would be the best on B, which likes 0 of the coarse search.
    good = {"A": {20: 90, 21: 95}, "B": {0: 90, 21: 99}}
    choice = tune.Choice(Line(), "pixel accuracy", {"A": ["a"], "B": ["b"]})
    for number in (0, 1):
        wanted = choice.wanted(number)
        choice.learn(
            {
                n: {each: right(good[h].get(int(each.weight), 10)) for each in wanted}
                for n, h in (("a", "A"), ("b", "B"))
            }
        )
    assert choice.best("A").weight == 21
    assert choice.best("B").weight == 0
    assert choice.best("all").weight == 21


def test_images_that_fail_on_the_way_are_left_out():
    choice = tune.Choice(Line(), "pixel accuracy", {"A": ["a", "b"], "B": ["c"]})
    wanted = choice.wanted(0)
    choice.learn({name: {each: right(10) for each in wanted} for name in "abc"})
    assert choice.value("all", Grid(0.0, 1)) == 10
    choice.learn({name: {each: right(20) for each in wanted} for name in "bc"})
    assert choice.halves == {"A": ["b"], "B": ["c"], "all": ["b", "c"]}
    assert choice.value("all", Grid(0.0, 1)) == 20
    with pytest.raises(FileError, match="all images of one half failed"):
        choice.learn({"b": choice.found["b"]})


@pytest.mark.parametrize("objective", tune.OBJECTIVES)
def test_the_objective_is_largest(folder, tmp_path, objective):
    found = tune.search(DataSet(folder), tmp_path / "out", objective=objective, jobs=1)
    assert found.objective == tune.OBJECTIVES[objective]
    best = next(row for row in found.table if row.candidate == found.best["all"])
    assert best.all == max(row.all for row in found.table)
    used = [
        metrics.Truth(each.labels, 3).count(densecrf.refine(each.image, logits=each.logits, **setting).labels)
        for each in (DataSet(folder).read(name) for name in "abcd")
        for setting in [found.best["B" if each.name in found.halves["A"] else "A"].params.dense]
    ]
    assert found.figures["tuned"] == pytest.approx(metrics.summary(used), nan_ok=True)
    assert sorted(found.halves["A"] + found.halves["B"]) == list("abcd")


# --- Going on, and the same again ---


def files(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES[1:]]


def test_the_same_seed_gives_the_same_files(folder, tmp_path):
    for out in ("one", "two"):
        result = run(folder, "-o", tmp_path / out)
        assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == FILES
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_the_picture_is_the_same_again(folder, tmp_path):
    found = tune.search(DataSet(folder), tmp_path / "out", jobs=1)
    drawn = [io.BytesIO(), io.BytesIO()]
    for file in drawn:
        _tune_plot.draw(file, found)
    assert drawn[0].getvalue() == drawn[1].getvalue()


def test_nothing_is_counted_twice(folder, tmp_path, calls, monkeypatch):
    whole = tmp_path / "whole"
    assert run(folder, "-o", whole).exit_code == 0
    everything = sorted(calls)
    assert len(everything) == len(set(everything))
    calls.clear()
    assert f"0 results computed, {len(everything)} reused" in run(folder, "-o", whole).stdout
    assert not calls

    # Interrupted after some tasks, in the middle of a line; then gone on with.
    out = tmp_path / "out"
    keep = Counter._keep

    def interrupted(*given):
        keep(*given)
        if len(calls) > len(everything) / 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Counter, "_keep", interrupted)
        result = run(folder, "-o", out)
    assert result.exit_code == 130 and "the same command goes on from here" in result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["counts.jsonl"]
    counts = out / "counts.jsonl"
    first = len(calls)
    counts.write_bytes(counts.read_bytes() + counts.read_bytes()[:100])
    text = run(folder, "-o", out).stdout
    assert f"{len(everything) - first} results computed, {first} reused" in text
    assert sorted(calls) == everything
    assert files(out) == files(whole)
    assert all(json.loads(line) for line in counts.read_text().splitlines())


def test_what_has_changed_is_counted_anew(folder, tmp_path, calls):
    def coarse(*arguments: object) -> set[str]:
        """Images that the default, a part of the coarse search, is counted on."""
        calls.clear()
        assert run(folder, "-o", tmp_path / "out", "--void", 255, *arguments).exit_code == 0
        return {name for name, candidate in calls if candidate == Dense()}

    assert coarse() == {*"abcd"}
    assert coarse("--objective", "pixel") == set()
    Image.fromarray(np.ones((13, 22), np.uint8)).save(folder / "labels" / "b.png")
    assert coarse() == {"b"}
    assert coarse("--void", 2) == {*"acd"}  # b has no label 2 any more


def test_processes_give_the_same(folder, tmp_path):
    found = [tune.search(DataSet(folder), tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2)]
    assert found[0].table == found[1].table
    assert found[0].counted == found[1].counted


def test_some_images_only(folder, tmp_path):
    found = [tune.search(DataSet(folder), tmp_path / "out", images=2, seed=seed, jobs=1) for seed in (0, 0, 1, 2, 3)]
    used = [sorted(each.halves["A"] + each.halves["B"]) for each in found]
    assert used[0] == used[1]
    assert len({tuple(names) for names in used}) > 1
    assert all(len(names) == 2 for names in used)


# --- The command ---


def test_files_and_words(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(_tune_plot, "draw", DRAW)
    out = tmp_path / "out"
    result = run(folder, "-o", out, "--iterations", 3)
    assert result.exit_code == 0, result.output
    best = params.load(out / "params.json").dense
    assert best.iterations == 3
    rows = (out / "search.csv").read_text().splitlines()
    assert rows[0].startswith("weight,sxy,srgb,spatial_weight,spatial_sxy,normalization,iterations,")
    assert rows[0].endswith('"mIoU, half A","mIoU, half B","mIoU, all"')
    top = max(rows[1:], key=lambda row: float(row.rsplit(",", 1)[1])).split(",")
    bilateral = best.kernels[1]
    assert [float(value) for value in top[:3]] == [bilateral.weight, bilateral.sxy, bilateral.srgb]
    with Image.open(out / "search.png") as picture:
        assert picture.width > 1000
    for word in ("best on half A (2 images)", "best on all 4 images", "unary ", "default ", "tuned - default"):
        assert word in result.stdout
    assert run(folder, "-o", out, "--iterations", 3, "-q").output == ""


def test_the_grid_crf(folder, tmp_path, monkeypatch):
    pytest.importorskip("gco")
    monkeypatch.setattr(GridSpace, "rounds", 0)
    monkeypatch.setattr(GridSpace, "coarse", lambda self: [Grid(1.0, 0.5), Grid(8.0, 0.5)])
    result = run(folder, "-o", tmp_path / "out", "--model", "grid")
    assert result.exit_code == 0, result.output
    assert params.load(tmp_path / "out" / "params.json").grid.contrast == 0.5


@pytest.mark.parametrize("what, message", [("no labels", "no label pictures found"), ("nan", "logits: must be finite")])
def test_broken_images_are_listed_and_the_rest_is_used(tmp_path, what, message):
    folder = make(tmp_path / "set", names="abc")
    broken(folder, what)
    result = run(folder, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "1 of 3 images failed" in result.stderr and message in result.stderr
    assert "best on all 2 images" in result.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


def test_an_image_that_fails_on_the_way(folder, tmp_path, monkeypatch):
    count = _counting._count

    def failing(data, task):
        if task.image.name == "c":
            raise MemoryError
        return count(data, task)

    monkeypatch.setattr(_counting, "_count", failing)
    result = run(folder, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "MemoryError" in result.stderr and "best on all 3 images" in result.stdout

    monkeypatch.setattr(_counting, "_count", lambda data, task: 1 // 0)
    result = run(folder, "-o", tmp_path / "other")
    assert result.exit_code == 1 and "only 0 images are left (ZeroDivisionError: " in result.stderr


def test_errors(folder, tmp_path):
    out = tmp_path / "out"

    def error(*arguments: object) -> str:
        result = run(*arguments)
        assert result.exit_code == 1 and not result.stdout
        return result.stderr

    assert "needs 2 images that can be read, has 0" in error(folder, "-o", out, "--void", 9)
    assert error(make(tmp_path / "one", names="a"), "-o", out).endswith("needs 2 images that can be read, has 1\n")
    smooth = make(tmp_path / "smooth")
    for name in "ab":
        Image.fromarray(np.ones((13, 22), np.uint8)).save(smooth / "labels" / f"{name}.png")
    assert "no image has known pixels that count for 'within 4 px'" in error(
        smooth, "-o", out, "--objective", "boundary"
    )
    assert "images: no such folder" in error(tmp_path, "-o", out)
    assert "cannot write" in error(folder, "-o", folder / "labels" / "a.png")
    out.mkdir()
    (out / "counts.jsonl").write_text("[1]\n")
    assert "counts.jsonl: line 1 holds no counts; remove the file" in error(folder, "-o", out)
    for wrong in (["--objective", "x"], ["--images", 1], ["--iterations", 0], ["--jobs", 0]):
        assert CliRunner().invoke(cli, ["tune", str(folder), "-o", "x", *map(str, wrong)]).exit_code == 2


@pytest.mark.parametrize(
    "given, rule",
    [
        ({"model": "x"}, "model: must be"),
        ({"objective": "x"}, "objective: must be"),
        ({"normalization": "x"}, "normalization: must be"),
        ({"iterations": ()}, "iterations: must name"),
        ({"images": 1}, "images: must be"),
        ({"seed": -1}, "seed: must be"),
    ],
)
def test_what_does_not_fit_is_refused(folder, tmp_path, given, rule):
    with pytest.raises(ValueError, match=rule):
        tune.search(DataSet(folder), tmp_path / "out", jobs=1, **given)
