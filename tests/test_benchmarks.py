"""The benchmarks run, in their short form, and their results, plots and tables hold what they should."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from densecrf.images import FileError

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("gco")
ROOT = Path(__file__).resolve().parent.parent
SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("quality-stand-in", "scaling", "frontier", "memory", "huge_image", "stages")


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)


def run(*arguments, status=0):
    line = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    folder.joinpath("said.txt").write_text(run("report", "--short", "--output", folder).stdout)
    return folder


@pytest.fixture
def results(report):
    return {name: json.loads((report / "results" / f"{name}.json").read_text()) for name in NAMES}


def test_results_say_where_they_are_from_and_who_was_left_out(report, results):
    for name, result in results.items():
        assert result["environment"]["processor"]
        assert result["environment"]["packages"]["numpy"] == np.__version__
        others = name != "huge_image"  # which has no contenders
        assert ("pydensecrf" in result["left_out"]) == (others and find_spec("pydensecrf") is None)
    if find_spec("pydensecrf") is None:
        assert "left out, not installed: pydensecrf" in (report / "said.txt").read_text()


def test_quality(results):
    found = results["quality-stand-in"]
    assert found["images"] == ["astronaut", "camera"]
    for method in ("unary", "grid CRF", "densecrf, default", "densecrf, standard"):
        assert 90 < found["figures"][method]["mIoU"] < 100
        assert found["seconds"][method]["low"] <= found["seconds"][method]["high"]
    low, high = found["intervals"]["densecrf, default - unary"]["mIoU"]
    assert low <= high


def test_scaling(results):
    axes = results["scaling"]["axes"]
    assert set(axes) == {"size", "labels", "iterations", "sxy", "srgb", "threads"}
    for lines in axes.values():
        assert all(line["seconds"]["densecrf"]["median"] > 0 for line in lines)
    assert axes["size"][0]["seconds"]["exact"]["median"] > axes["size"][0]["seconds"]["densecrf"]["median"]


def test_frontier(results):
    far = {(row["method"], row["T"]): row["L1"] for row in results["frontier"]["means"]}
    for T in (5, 10):
        assert 0 < far["densecrf", T] < 0.01
        if find_spec("torch"):
            assert far["densecrf", T] < far["window 5", T] < 0.5


def test_memory_and_stages(results):
    assert all(row["MB"]["densecrf"] > 0 for row in results["memory"]["rows"]["size"])
    assert [row["megapixels"] for row in results["huge_image"]["rows"]] == pytest.approx([0.05, 0.1], rel=0.01)
    assert all(0 < row["GB before"] <= row["GB"] for row in results["huge_image"]["rows"])
    for row in results["stages"]["rows"]:
        parts = row["seconds"]
        assert parts["lattices"] + 5 * parts["iteration"] + parts["in and out"] == pytest.approx(parts["whole"])


def test_plots_and_page(report):
    from benchmarks import plots

    for name in ("quality-stand-in", "scaling", "frontier", "memory", "huge_image"):
        plot = ElementTree.parse(report / "images" / f"{name}.svg").getroot()
        assert float(plot.get("width").removesuffix("pt")) > 500
        drawn = [mark.get("style", "") for mark in plot.iter(f"{SVG}use")]  # markers, ticks, letters
        assert len(drawn) > 50
        assert plots.look("1 threads" if name == "huge_image" else "densecrf")["color"].lower() in " ".join(drawn)
        assert not list(plot.iter(f"{SVG}image"))
    page = (report / "comparison.md").read_text()
    scaling = page.split("<!-- scaling -->")[1].split("<!-- end scaling -->")[0]
    assert "![scaling](images/scaling.svg)" in scaling
    assert "| T = 4 |" in scaling
    before = (ROOT / "docs" / "comparison.md").read_text()
    between = [
        text.split("<!-- quality-msrc-21 -->")[1].split("<!-- end quality-msrc-21 -->")[0] for text in (before, page)
    ]
    assert between[0] == between[1]  # nothing but the stand-in was measured


def test_a_damaged_photo_is_named_and_the_others_are_scored(tmp_path):
    from benchmarks import data

    folder = data.stand_in(tmp_path / "set")
    (folder / "labels" / "camera.png").write_bytes(b"")
    done = run("quality", folder, "--short", "--results", tmp_path, status=1)
    assert "quality: error: " in done.stderr and "camera.png" in done.stderr
    assert json.loads((tmp_path / "quality-set.json").read_text())["images"] == ["astronaut"]


def test_nothing_is_timed_where_an_answer_is_wrong(monkeypatch):
    from benchmarks import contenders, data

    case = data.Case(40, 30, 3, 2)
    problem = contenders.Problem(data.enlarged(40, 30), data.unary_of(case), contenders.SETTINGS["default"], 2)
    contenders.check(problem)
    right = contenders.ours
    monkeypatch.setattr(
        contenders, "ours", lambda p, threads, how="tuned": right(p, threads, how) + 0.2 * (how == "tuned")
    )
    with pytest.raises(SystemExit, match="tuned: 0.6.. away from the exact answer"):
        contenders.check(problem)


def test_a_run_has_no_more_turns_when_its_budget_is_spent():
    from benchmarks.timing import interleaved

    calls = []
    seconds = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, budget=0.0)
    assert seconds == {"a": [], "b": []}
    seconds = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 3
    assert len(seconds["a"]) == 3


def test_tables_go_between_their_markers():
    from benchmarks import tables

    page = "x\n<!-- a -->\nold\n<!-- end a -->\n<!-- ab -->\nkept\n<!-- end ab -->\n"
    assert tables.fill(page, {"a": r"new \1"}) == page.replace("old", r"new \1")
    assert [tables.significant(value) for value in (0.01234, 1.234, 12.34, 123.4, 1234)] == [
        "0.0123",
        "1.23",
        "12.3",
        "123",
        "1234",
    ]


def test_the_command_lists_the_benchmarks():
    listed = run().stdout
    assert "quality             Accuracy of the network alone" in listed
    assert "gpu_check           All that only a GPU shows" in listed
    assert "usage: python -m benchmarks NAME" in run("nothing", status=2).stderr


def test_label_dependent_compatibilities_are_chosen_on_the_other_half(tmp_path, monkeypatch):
    pytest.importorskip("gco")
    from test_datasets import make

    from benchmarks import labels, tables

    monkeypatch.setattr(labels, "MODELS", labels.MODELS[:1] + [labels.Model((20, 6, 5), "rows", 0.2)])
    labels.main([str(make(tmp_path / "set", names="abcd")), "--results", str(tmp_path)])
    report = json.loads((tmp_path / "labels-set.json").read_text())
    rows = report["rows"]
    assert [row["form"] for row in rows["as they are"]["dense, default"]["chosen"]] == ["Potts", "Potts"]
    assert {row["form"] for row in rows["offsets"]["dense, rows"]["chosen"]} <= {"Potts", "rows"}
    assert rows["offsets"]["unary"]["mIoU"] > 0
    page = tables.made(tmp_path, tmp_path, tmp_path / "page.md")["labels-set"]
    assert page.count("| offsets | ") == 6


def test_tuned_on_the_other_half(tmp_path, monkeypatch):
    from test_datasets import make

    from benchmarks import tables, tuned
    from densecrf import tune
    from densecrf._candidates import Axis, DenseSpace, GridSpace

    class FewDense(DenseSpace):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.rounds, self.axes = (
                0,
                {"weight": Axis(2, 8, 2, 1), "sxy": Axis(3, 6, 2, 1), "srgb": Axis(20, 40, 2, 1)},
            )

    class FewGrid(GridSpace):
        def __init__(self):
            self.rounds, self.axes = 0, {"weight": Axis(1, 4, 2, 1), "contrast": Axis(0.1, 1, 2, 0.1)}

    monkeypatch.setattr(tune, "DenseSpace", FewDense)
    monkeypatch.setattr(tune, "GridSpace", FewGrid)
    arguments = [str(make(tmp_path / "set", names="abcd")), "--kept", str(tmp_path), "--results", str(tmp_path)]
    tuned.main(arguments)
    found = json.loads((tmp_path / "tuned-set.json").read_text())
    assert list(found["figures"]) == ["unary", "grid, default", "dense, default", "grid, tuned", "dense, tuned"]
    assert set(found["seconds"]) == {"grid, tuned", "dense, tuned"}
    assert found["settings"]["grid"] == 5
    page = tables.made(tmp_path, tmp_path, tmp_path / "page.md")["tuned-set"]
    assert "| dense, tuned − grid, tuned | " in page and "| within 32 px, % |" in page
    (tmp_path / "set" / "scores" / "a.npz").unlink()
    with pytest.raises(FileError, match="no scores found"):
        tuned.main(arguments)


def test_pooled_scores():
    from benchmarks.strides import pooled

    scores = np.arange(30, dtype=np.float16).reshape(2, 3, 5)
    found = pooled(scores, 2)
    assert found.shape == (2, 2, 3)
    np.testing.assert_allclose(found[0], [[3, 5, 6.5], [10.5, 12.5, 14]])


def test_settings_at_coarser_strides(tmp_path, monkeypatch):
    from test_datasets import make

    from benchmarks import strides, tables

    monkeypatch.setattr(strides, "REACHES", strides.REACHES[:1])
    monkeypatch.setattr(strides, "COLOURS", strides.COLOURS[:1])
    monkeypatch.setattr(strides, "GRID", strides.GRID[::6])
    folder = make(tmp_path / "set", names="abcd")
    strides.main([str(folder), "--results", str(tmp_path)])
    found = json.loads((tmp_path / "strides-set.json").read_text())["strides"]
    assert list(found) == ["stride 8", "stride 16", "stride 32"]
    assert list(found["stride 16"]) == ["unary", "grid", "default", "standard", "deeplab", "chosen"]
    assert found["stride 32"]["unary"] != found["stride 8"]["unary"]
    page = tables.made(tmp_path, tmp_path, tmp_path / "page.md")["strides-set"]
    assert page.count("| stride 32 | ") == 6


def test_offsets_make_up_for_a_label_that_is_found_too_seldom():
    from benchmarks import labels
    from densecrf.datasets import Sample

    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (60, 60)).repeat(4, 0).repeat(4, 1)
    logits = 2.0 * (np.arange(3)[:, None, None] == truth) + rng.normal(size=(3, *truth.shape))
    logits[2] -= 1.5
    found = labels.offsets([Sample("a", None, logits.astype(np.float32), truth.astype(np.int32))]).ravel()
    assert found[2] - found[:2].mean() == pytest.approx(1.5, abs=0.4)
