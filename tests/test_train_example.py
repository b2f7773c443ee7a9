"""examples/train: all stages on tiny images, and going on after an interruption."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("torchmetrics")
pytest.importorskip("matplotlib")

import torch

FOLDER = Path(__file__).parent.parent / "examples" / "train"


@pytest.fixture
def example(monkeypatch):
    """Modules of the example, importable by name as when it runs."""
    monkeypatch.syspath_prepend(FOLDER)
    yield
    for name in ["crossval", "data", "loop", "losses", "metrics", "net", "plots", "train"]:
        sys.modules.pop(name, None)


@pytest.fixture
def folder(tmp_path):
    """Images of two to four flat areas, noisy; void somewhere."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels", "scores"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for i in range(4):
        labels = np.zeros((32, 40), np.uint8)
        labels[:, 12 + 2 * i :] = 3
        labels[20:, 25:] = 8
        image = np.stack([labels * 20 + 40, 200 - labels * 10, labels], -1) + rng.integers(0, 9, (32, 40, 3))
        labels[:2] = 11
        scores = 3.0 * (labels[::8, ::8] == np.arange(11)[:, None, None])
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "data/images" / f"{i}.png")
        Image.fromarray(labels).save(tmp_path / "data/labels" / f"{i}.png")
        np.savez(tmp_path / "data/scores" / f"{i}.npz", scores=scores.astype(np.float16))
    return tmp_path / "data"


def run(command, *args, code=0):
    from click.testing import CliRunner

    result = CliRunner().invoke(command, [str(a) for a in args])
    assert result.exit_code == code, result.output
    return result


def small(folder, out, *more):
    options = "--width 16 --crop 32 32 --batch 2 --net-epochs 2 --crf-epochs 2 --joint-epochs 1 --device cpu"
    return [folder, "--out", out, *options.split(), *more]


def test_all_stages(example, folder, tmp_path):
    import train

    output = run(train.main, *small(folder, tmp_path / "run"))
    assert "(d) end to end" in output.output
    history = json.loads((tmp_path / "run/history.json").read_text())
    assert [len(stage["history"]) for stage in history.values()] == [2, 0, 2, 1, 1]
    assert list(history) == ["net", "fixed", "crf", "joint", "longer"]
    assert all(0 <= stage["result"]["miou"] <= 100 for stage in history.values())
    with Image.open(tmp_path / "run/curves.png") as plot:
        assert plot.size[0] > 500
    assert not list((tmp_path / "run").glob("*.part"))

    net, crf, joint = (torch.load(tmp_path / f"run/{name}.pt")["parts"] for name in ("net", "crf", "joint"))
    assert "net" not in crf  # the network was not touched
    fresh = train.DenseCRF(11, weights="label").state_dict()
    assert any((crf["crf"][name] != fresh[name]).any() for name in fresh)
    assert any((joint["net"][name] != value).any() for name, value in net["net"].items())


def test_interrupted_run_goes_on_as_if_nothing_had_happened(example, folder, tmp_path, monkeypatch):
    import loop
    import train

    run(train.main, *small(folder, tmp_path / "whole", "--stage", "net"))
    shutil.copytree(tmp_path / "whole", tmp_path / "halves")
    run(train.main, *small(folder, tmp_path / "whole", "--stage", "crf"))
    with monkeypatch.context() as patch:
        epoch = loop.Run._epoch

        def stop(self, number, *rest):
            if number == 1:
                raise KeyboardInterrupt
            return epoch(self, number, *rest)

        patch.setattr(loop.Run, "_epoch", stop)
        run(train.main, *small(folder, tmp_path / "halves", "--stage", "crf"), code=1)
    run(train.main, *small(folder, tmp_path / "halves", "--stage", "crf"))
    whole, halves = (torch.load(tmp_path / out / "crf.pt") for out in ("whole", "halves"))
    assert len(whole["history"]) == len(halves["history"]) == 2
    assert set(whole["parts"]) == {"crf", "iou"}
    for part, values in whole["parts"].items():
        for name, value in values.items():
            torch.testing.assert_close(halves["parts"][part][name], value, rtol=0, atol=0, msg=f"{part} {name}")


def test_a_checkpoint_of_other_settings_is_refused(example, folder, tmp_path):
    import train

    run(train.main, *small(folder, tmp_path / "run", "--stage", "net"))
    refused = run(train.main, *small(folder, tmp_path / "run", "--stage", "net", "--seed", 1), code=1)
    assert "made with" in str(refused.exception)


def test_camvid_layout(example, folder, tmp_path):
    import data

    (tmp_path / "camvid").mkdir()
    for ours, theirs in (("images", "train"), ("labels", "trainannot"), ("images", "val"), ("labels", "valannot")):
        (tmp_path / "camvid" / theirs).symlink_to(folder / ours)
    train, test = data.splits(tmp_path / "camvid", limit=2)
    assert [len(train), len(test)] == [2, 4]


def test_cross_validation(example, folder, tmp_path):
    import crossval

    output = run(crossval.main, folder, "--out", tmp_path / "cv", "--folds", 2, "--epochs", 1)
    assert "2 folds" in output.output
    result = json.loads((tmp_path / "cv/crossval.json").read_text())
    assert len(result["folds"]) == 2
    assert len(result["all"]) == 4


def test_boundary_band(example):
    import metrics

    labels = torch.zeros(1, 9, 20, dtype=torch.long)
    labels[..., 10:] = 1
    labels[:, 0] = 2  # void
    band = metrics.boundary_band(labels, void=2, pixels=4)[0]
    assert band[5].nonzero().flatten().tolist() == list(range(6, 14))
    assert band[1].sum() == 8
