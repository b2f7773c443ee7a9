"""Parameter files, and what ``densecrf refine --params`` does with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import densecrf
from densecrf import images, params, presets
from densecrf.cli import cli
from densecrf.grid import GridSetting
from densecrf.images import FileError
from densecrf.kernels import Bilateral, Custom, Gaussian
from densecrf.params import Params
from densecrf.presets import Preset

KERNELS = (Gaussian(sxy=(1, 2), weight=[1, 2]), Bilateral(sxy=20, srgb=(3, 4, 5), weight=2, normalization="after"))
GIVEN = Params(Preset(KERNELS, 7, "before"), GridSetting(20, 0.5, 4))


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "params.json"
    params.save(path, GIVEN, found={"mIoU": 60.5})
    found = params.load(path)
    assert found.grid == GIVEN.grid
    assert (found.dense.iterations, found.dense.normalization) == (7, "before")
    assert [vars(kernel) for kernel in found.dense.kernels] == [vars(kernel) for kernel in KERNELS]
    assert json.loads(path.read_text())["found"] == {"mIoU": 60.5}
    params.save(path, Params())
    assert [vars(kernel) for kernel in params.load(path).dense.kernels] == [vars(k) for k in presets.DEFAULT.kernels]


def test_a_part_may_be_missing(tmp_path):
    path = tmp_path / "params.json"
    path.write_text('{"grid": {"weight": 3}, "by": "hand"}')
    assert params.load(path) == Params(grid=GridSetting(weight=3))
    path.write_text("{}")
    assert params.load(path) == Params()


def test_of_several_files_the_later_parts_count(tmp_path):
    dense, grids = tmp_path / "dense.json", tmp_path / "grid.json"
    dense.write_text(json.dumps({"dense": params.plain(GIVEN)["dense"]}))
    grids.write_text(json.dumps({"grid": {"weight": 3}}))
    both = params.plain(Params(GIVEN.dense, GridSetting(weight=3)))
    assert params.plain(params.load(dense, grids)) == params.plain(params.load(grids, dense)) == both


def test_features_do_not_go_into_a_file(tmp_path):
    with pytest.raises(ValueError, match="kernels: must be Gaussian or Bilateral to go into a file, got Custom"):
        params.save(tmp_path / "params.json", Params(Preset((Custom(np.zeros((4, 2))),), 5)))
    assert not list(tmp_path.iterdir())


KERNEL = {"kind": "bilateral", "sxy": 5, "srgb": 3, "weight": 1}


@pytest.mark.parametrize(
    "content, reason",
    [
        ("no json", "is no parameter file: Expecting value"),
        ("[1]", "dense: must be an object"),
        ('{"dense": [1]}', "dense: must be an object"),
        ({"dense": {"iterations": 5}}, "'kernels' is missing"),
        ({"dense": {"kernels": [{**KERNEL, "kind": "box"}]}}, "kind: must be"),
        ({"dense": {"kernels": [{**KERNEL, "srgb": -1}]}}, "srgb: bandwidths must be positive"),
        ({"dense": {"kernels": [{**KERNEL, "size": 1}]}}, "size"),
        ({"dense": {"kernels": [KERNEL], "iterations": -1}}, "iterations: must be"),
        ({"dense": {"kernels": [KERNEL], "normalization": "x"}}, "normalization: must be"),
        ({"dense": {"kernels": [KERNEL], "iters": 20}}, "iters"),
        ({"grid": {"width": 1}}, "width"),
        ({"grid": {"neighbours": 8.0}}, "neighbours: must be an integer"),
        ({"grid": {"weight": -1}}, "weight: must be at least 0"),
    ],
)
def test_what_is_no_parameter_file_is_refused(tmp_path, content, reason):
    path = tmp_path / "params.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(FileError, match=f"params.json: .*({reason})"):
        params.load(path)
    path.unlink()
    with pytest.raises(FileError, match="params.json: cannot read"):
        params.load(path)


# --- densecrf refine --params ---


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """One photo, its scores and a parameter file."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8)).save("photo.png")
    np.save("photo.npy", random.normal(size=(2, 6, 8)).astype(np.float32))
    params.save("params.json", GIVEN)
    return tmp_path


def refine(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["refine", "photo.png", "photo.npy", "-o", "out", *map(str, arguments)])


def expected(preset: Preset) -> np.ndarray:
    return densecrf.refine(images.read_image("photo.png"), logits=np.load("photo.npy"), **preset).probs


def test_refine_takes_a_parameter_file(folder):
    result = refine("--params", "params.json")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.load("out/probs.npy"), expected(GIVEN.dense))


def test_options_change_what_the_file_says(folder):
    changed = ["--srgb", 9, "--spatial-weight", 0, "--iterations", 2, "--normalization", "none"]
    assert refine("--params", "params.json", *changed).exit_code == 0
    kernels = (Bilateral(sxy=20, srgb=9, weight=2, normalization="after"),)
    np.testing.assert_array_equal(np.load("out/probs.npy"), expected(Preset(kernels, 2, "none")))


def test_a_preset_and_a_file_exclude_each_other(folder):
    result = refine("--params", "params.json", "--preset", "default")
    assert result.exit_code == 2 and "--params and --preset exclude each other" in result.stderr


def test_a_file_that_cannot_be_read_is_named(folder):
    result = refine("--params", "other.json")
    assert result.exit_code == 2 and "--params: other.json: cannot read: No such file" in result.stderr
    assert not Path("out").exists()
