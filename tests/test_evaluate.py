"""``densecrf evaluate``: its figures, its files, and what it says when something is missing or broken."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from test_datasets import broken, make

import densecrf
from densecrf import _extras, datasets, evaluate, grid, metrics, params, report
from densecrf.cli import cli

for module in ("sklearn", "scipy", "matplotlib", "jinja2", "gco", "maxflow"):
    pytest.importorskip(module)

FILES = ["figures.csv", "figures.json", "report.html"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A data set of four images called "set"; each test runs beside its own."""
    monkeypatch.chdir(tmp_path)
    return make(tmp_path / "set", names=("a", "b", "c", "d"))


@pytest.fixture
def quick(monkeypatch):
    """No report: its plots take most of the time."""
    monkeypatch.setattr(report, "html", lambda found, data, names: b"")


def run(*arguments: object) -> Result:
    given = ["evaluate", "set", "-o", "out", "--resamples", 20, *arguments]
    return CliRunner().invoke(cli, [str(argument) for argument in given])


def ok(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def written() -> dict:
    return json.loads(Path("out/figures.json").read_text())


def cells() -> dict[tuple[str, str], str]:
    with open("out/figures.csv", newline="") as file:
        return {(row["method"], row["figure"]): row["value"] for row in csv.DictReader(file)}


class Page(HTMLParser):
    """Tags in balance, texts, and where pictures come from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.pictures: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.pictures.append(dict(attributes)["src"])
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def page() -> Page:
    return Page(Path("out/report.html").read_text(encoding="utf-8"))


# --- Figures ---


def test_figures_are_those_of_the_methods(folder):
    data = datasets.DataSet(folder)
    changed = params.Params(grid=grid.GridSetting(weight=0.3))
    found = evaluate.evaluate(data, changed, resamples=20)
    samples = [data.read(name) for name in data.names]
    expected = {
        "unary": [each.logits.argmax(axis=0) for each in samples],
        "grid": [grid.refine(each.image, logits=each.logits, weight=0.3).labels for each in samples],
        "dense": [densecrf.refine(each.image, logits=each.logits, **changed.dense).labels for each in samples],
    }
    for method, labels in expected.items():
        counts = [metrics.Truth(s.labels, 3).count(mine) for s, mine in zip(samples, labels, strict=True)]
        assert found.figures[method] == pytest.approx(metrics.summary(counts), nan_ok=True)
        right = [100 * (mine == s.labels)[s.labels >= 0].mean() for s, mine in zip(samples, labels, strict=True)]
        assert [image.accuracy(method) for image in found.images] == pytest.approx(right)
    assert set(found.figures) == set(found.intervals) == {*expected, "grid - unary", "dense - unary", "dense - grid"}
    difference = found.figures["dense"]["mIoU"] - found.figures["grid"]["mIoU"]
    assert found.figures["dense - grid"]["mIoU"] == pytest.approx(difference)
    gains = found.gains("grid", "unary")
    assert [gain for gain, _ in gains] == sorted(
        image.accuracy("grid") - image.accuracy("unary") for image in found.images
    )


def test_seconds_are_the_methods_own(folder, monkeypatch):
    def slow(method, sample, given, num_threads=1):
        time.sleep(0.05)  # waiting is not computing
        end = time.thread_time() + (0.02 if method == "grid" else 0)
        while time.thread_time() < end:
            pass
        return np.zeros(sample.labels.shape, int)

    monkeypatch.setattr(evaluate, "predict", slow)
    found = evaluate.evaluate(datasets.DataSet(folder), resamples=2)
    assert 0.02 <= found.seconds("grid") < 0.05
    assert found.seconds("dense") < 0.02


def test_an_image_without_known_labels_has_no_gain(folder):
    Image.fromarray(np.full((13, 22), 255, np.uint8)).save(folder / "labels" / "b.png")
    found = evaluate.evaluate(datasets.DataSet(folder), resamples=2)
    assert [image.name for image in found.images] == ["a", "b", "c", "d"]
    assert sorted(name for _, name in found.gains("dense", "unary")) == ["a", "c", "d"]
    assert not np.isnan(found.figures["dense"]["mIoU"])


def test_the_first_image_says_how_many_labels_there_are(folder):
    class Slow(datasets.DataSet):
        def read(self, name):
            if name == "a":
                time.sleep(0.2)
            return super().read(name)

    broken(folder, "other labels")
    found = evaluate.evaluate(Slow(folder), methods=["unary"], jobs=4, resamples=2)
    assert list(found.problems) == ["b"]


@pytest.mark.parametrize(
    "arguments, rule",
    [
        ({"methods": ["dense", "dens"]}, "methods: must be .*, got 'dens'"),
        ({"methods": []}, "methods: must be some of unary, grid, dense, got none"),
        ({"jobs": 0}, "jobs: must be at least 1, got 0"),
        ({"resamples": 0}, "resamples: must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(folder, arguments, rule):
    with pytest.raises(ValueError, match=rule):
        evaluate.evaluate(datasets.DataSet(folder), **arguments)


# --- Files ---


def test_files_say_the_same(folder):
    result = ok()
    assert sorted(os.listdir("out")) == FILES
    assert result.stderr == ""
    found, table, texts = written(), cells(), page().texts
    expected = evaluate.evaluate(datasets.DataSet(folder), resamples=20)
    for method, figures in expected.figures.items():
        for name, value in figures.items():
            entry = found["figures"][method][name]
            if np.isnan(value):
                assert entry == {"value": None, "low": None, "high": None}
                assert table[method, name] == ""
            else:
                low, high = expected.intervals[method][name]
                assert entry == pytest.approx({"value": value, "low": low, "high": high})
                assert float(table[method, name]) == pytest.approx(value, rel=1e-5)
                assert (f"{value:+.2f}" if "-" in method else f"{value:.2f}") in texts
    assert found["per label"]["dense"]["IoU"][1] == pytest.approx(float(table["dense", "IoU of 1"]), rel=1e-5)
    miou = found["figures"]["dense"]["mIoU"]
    assert "{value:.2f} ({low:.2f}, {high:.2f})".format(**miou) in result.stdout  # in one line of 80 columns
    assert found["params"] == params.plain(params.Params())
    assert found["environment"]["densecrf"] == densecrf.__version__
    assert [image["name"] for image in found["images"]] == ["a", "b", "c", "d"]


def test_the_report_holds_all_that_it_needs():
    ok()
    shown = page()
    assert shown.pictures
    assert all(source.startswith("data:image/") for source in shown.pictures)
    text = Path("out/report.html").read_text(encoding="utf-8")
    assert "http" not in text
    assert "<script" not in text
    for heading in ("grid gains most over unary", "dense loses most against grid"):
        assert heading in shown.texts


def test_pictures_show_what_became_right_and_wrong():
    truth, before, after = np.array([[[0, 0, 1, 1, -1]], [[0, 1, 1, 0, 1]], [[0, 0, 0, 0, 0]]])
    shown = report._change(np.full((1, 5), 100, np.uint8), truth, after, before)
    assert shown.tolist() == [[[150] * 3, list(report.GAINED), list(report.LOST), [150] * 3, [255] * 3]]


def test_same_seed_same_figures(quick):
    def figures(*arguments):
        ok("--methods", "unary,dense", *arguments)
        found = written()
        for part in (found, *found["images"]):
            part.pop("seconds", None)
            part.pop("seconds per image", None)
        return found

    first = figures("--seed", 3, "--jobs", 1)
    assert figures("--seed", 3, "--jobs", 3) == first
    assert figures("--seed", 4)["figures"] != first["figures"]


def test_some_methods():
    ok("--methods", "dense,unary")
    assert list(written()["figures"]) == ["unary", "dense", "dense - unary"]
    ok("--methods", "grid")
    assert list(written()["figures"]) == ["grid"]
    assert "Images" not in page().texts
    result = run("--methods", "unary,crf")
    assert result.exit_code == 2
    assert "'crf' is none of unary, grid, dense" in result.stderr


def test_parameters_reach_the_methods(quick):
    params.save("given.json", params.Params(grid=grid.GridSetting(weight=0)))
    ok("--params", "given.json", "--methods", "unary,grid")
    assert written()["params"]["grid"]["weight"] == 0
    assert cells()["grid - unary", "mIoU"] == "0"


def test_names_are_text_and_nothing_else(folder):
    Path("names.txt").write_text("sky & sea\n[red]<b>bold</b>\n$_$\n\n", encoding="utf-8")
    for part, ending in (("images", "png"), ("scores", "npz"), ("labels", "png")):
        (folder / part / f"a.{ending}").rename(folder / part / f"[b]<i>.{ending}")
    result = ok("--names", "names.txt")
    assert written()["data"]["labels"] == ["sky & sea", "[red]<b>bold</b>", "$_$"]
    assert {"[red]<b>bold</b>", "sky & sea", "$_$"} <= set(page().texts)
    text = Path("out/report.html").read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "<i>" not in text
    assert "[red]<b>bold</b>" in result.stdout


@pytest.mark.parametrize(
    "content, message",
    [
        (b"a\nb\n", "names.txt: must have a line for each of the 3 labels, got 2"),
        (b"\xff\n", "names.txt: must be text in UTF-8"),
        (None, "names.txt: cannot read: No such file or directory"),
    ],
)
def test_wrong_names(content, message):
    if content is not None:
        Path("names.txt").write_bytes(content)
    result = run("--names", "names.txt")
    assert result.exit_code == 1
    assert result.stderr == f"densecrf: error: {message}\n"
    assert not Path("out").exists()


def test_two_labels_and_grey_photos():
    folder = make(Path("two"), labels=2)
    for path in (folder / "images").iterdir():
        Image.open(path).convert("L").save(path)
    result = CliRunner().invoke(cli, ["evaluate", "two", "-o", "out", "--resamples", "2"])
    assert result.exit_code == 0, result.output
    assert len(written()["images"]) == 2


# --- What goes wrong ---


def test_broken_images_are_listed_and_the_others_are_used(folder):
    broken(folder, "damaged")
    result = run()
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[0] == "densecrf: error: 1 of 4 images failed:"
    assert lines[1].startswith("  set/scores/b.npz: unreadable NumPy file")
    assert [image["name"] for image in written()["images"]] == ["a", "c", "d"]
    assert list(written()["problems"]) == ["b"]
    assert any("b.npz: unreadable" in text for text in page().texts)


def test_what_the_engine_refuses_is_listed(folder, quick):
    Image.fromarray(np.zeros((13, 22), np.uint8)).save(folder / "images" / "b.png")
    Path("given.json").write_text('{"dense": {"kernels": [{"kind": "bilateral", "sxy": 5, "srgb": [4, 4, 4]}]}}')
    result = run("--params", "given.json")
    assert result.exit_code == 1
    assert "1 of 4 images failed:\n  b: " in result.stderr


def test_nothing_is_written_where_no_image_can_be_used(folder):
    for path in (folder / "labels").iterdir():
        path.write_bytes(b"")
    result = run()
    assert result.exit_code == 1
    assert result.stderr.startswith("densecrf: error: set: no image can be used; the first: set/labels/a.png: ")
    for path in (folder / "scores").iterdir():
        path.write_bytes(b"")
    assert run().stderr.startswith("densecrf: error: set: no image can be used; the first: set/scores/a.npz: ")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "package, extra", [("sklearn.metrics", "evaluate"), ("jinja2", "evaluate"), ("gco", "grid"), ("maxflow", "grid")]
)
def test_missing_packages_are_named(monkeypatch, package, extra, quick):
    def missing(name):
        if name == package:
            raise ImportError(name)
        return original(name)

    original = _extras.import_module
    monkeypatch.setattr(_extras, "import_module", missing)
    result = run()
    assert result.exit_code == 1
    assert result.stderr == f'densecrf: error: {package}: is not installed, do: pip install "densecrf[{extra}]"\n'
    assert not Path("out").exists()
    if extra == "grid":
        ok("--methods", "unary,dense")


def test_a_warning_is_said_once(folder, quick):
    for path in (folder / "images").iterdir():
        Image.fromarray(np.full((13, 22, 3), 9, np.uint8)).save(path)
    Path("given.json").write_text('{"dense": {"kernels": [{"kind": "bilateral", "sxy": 5, "srgb": 0.1, "weight": 1}]}}')
    result = ok("--methods", "dense", "--params", "given.json")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("densecrf: warning: image has values up to 9 but srgb is 0.1, made for 0 to 1")


def test_warnings_of_decoders_are_not_said(quick, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 13 * 22 - 1)  # below the images' size: Pillow warns, we read
    assert ok().stderr == ""


def test_quiet(quick):
    result = ok("--quiet")
    assert result.output == ""


def test_help():
    result = CliRunner().invoke(cli, ["evaluate", "--help"])
    assert result.exit_code == 0
    for piece in ("FOLDER", "--void", "--names", "report.html", "figures.json", "figures.csv", "Exit status"):
        assert piece in result.output
    assert "evaluate" in CliRunner().invoke(cli, ["--help"]).output


def test_an_interrupt_ends_the_work(folder, monkeypatch):
    started = []

    def slow(method, sample, given, num_threads=1):
        started.append(sample.name)
        time.sleep(0.1)
        return np.zeros(sample.labels.shape, int)

    def interrupt(number):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "predict", slow)
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(datasets.DataSet(folder), methods=["unary"], jobs=1, progress=interrupt)
    assert started in (["a"], ["a", "b"])


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_leaves_nothing_behind(folder):
    make(Path("large"), names=[f"{i:03}" for i in range(40)], size=(100, 150), labels=8)
    here = {**os.environ, "PYTHONPATH": str(Path(densecrf.__file__).parent.parent)}
    command = [sys.executable, "-m", "densecrf", "evaluate", "large", "-o", "out"]
    with subprocess.Popen(command, env=here, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not Path("out").exists() and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == "densecrf: interrupted\n"
    assert process.returncode == 130
    assert not Path("out").exists()
