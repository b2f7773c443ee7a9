"""Folders of photos, scores and labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densecrf import datasets, metrics
from densecrf.images import FileError


def make(folder: Path, names=("a", "b"), size=(13, 22), labels=3, stride=8) -> Path:
    """A data set of random images; void is 255."""
    rng = np.random.default_rng(0)
    for part in ("images", "scores", "labels"):
        (folder / part).mkdir(parents=True)
    cells = [-(-n // stride) for n in size]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / "images" / f"{name}.png")
        np.savez(folder / "scores" / f"{name}.npz", scores=rng.normal(size=(labels, *cells)).astype(np.float16))
        truth = rng.integers(0, labels, size).astype(np.uint8)
        truth[0] = 255
        Image.fromarray(truth).save(folder / "labels" / f"{name}.png")
    return folder


def test_a_folder_is_read(tmp_path):
    found = datasets.DataSet(make(tmp_path / "set"))
    assert found.names == ["a", "b"]
    sample = found.read("b")
    assert sample.image.shape == (13, 22, 3)
    assert sample.logits.shape == (3, 13, 22)
    assert sample.logits.dtype == np.float32
    assert (sample.labels[0] == metrics.VOID).all()
    assert sample.labels[1:].min() >= 0


def test_scores_of_a_padded_photo(tmp_path):
    folder = make(tmp_path / "set", size=(12, 20))
    scores = np.load(folder / "scores" / "a.npz")["scores"].astype(np.float32)
    logits = datasets.DataSet(folder, stride=8).read("a").logits  # of 16 x 24 pixels
    assert np.allclose(logits[:, 3, 11], (scores[:, 0, 0] + 15 * scores[:, 0, 1]) / 16, atol=1e-2)
    with pytest.raises(FileError, match="a.npz: scores must be 5 x 3, one for each 4 pixels of the photo, got 3 x 2"):
        datasets.DataSet(folder, stride=4).read("a")


def test_probabilities(tmp_path):
    folder = make(tmp_path / "set")
    probs = np.full((3, 13, 22), 0.25, np.float32)
    probs[1] = 0.5
    np.save(folder / "scores" / "a.npy", probs)
    (folder / "scores" / "a.npz").unlink()
    logits = datasets.DataSet(folder, probs=True).read("a").logits
    assert np.allclose(logits[1] - logits[0], np.log(2))


def broken(folder: Path, what: str) -> None:
    scores, labels = folder / "scores" / "b.npz", folder / "labels" / "b.png"
    if what == "no scores":
        scores.unlink()
    elif what == "no labels":
        labels.unlink()
    elif what == "damaged":
        scores.write_bytes(scores.read_bytes()[:50])
    elif what == "size":
        Image.open(labels).resize((10, 10), Image.Resampling.NEAREST).save(labels)
    elif what == "unknown label":
        Image.fromarray(np.full((13, 22), 3, np.uint8)).save(labels)
    elif what == "other labels":
        np.savez(scores, scores=np.zeros((4, 2, 3)))
    elif what == "nan":
        np.savez(scores, scores=np.full((3, 2, 3), np.nan))


@pytest.mark.parametrize(
    "what, message",
    [
        ("no scores", "b.png: no scores found for it"),
        ("no labels", "b.png: no label pictures found for it"),
        ("damaged", "b.npz: unreadable NumPy file"),
        ("size", "b.png: a label picture must have the image's size, 22 x 13, got 10 x 10"),
        ("unknown label", r"b.png: has the label 3, but the scores are of labels 0 to 2; .*\(--void 3\)"),
        ("other labels", "b.npz: must have 3 labels as most scores, got 4"),
        ("nan", "b.npz: logits: must be finite"),
    ],
)
def test_what_is_wrong_with_a_photo_is_said_and_the_others_are_read(tmp_path, what, message):
    folder = make(tmp_path / "set", names=("a", "b", "c"))
    broken(folder, what)
    found = datasets.DataSet(folder)
    assert found.read("a").name == "a"
    with pytest.raises(FileError, match=message):
        found.read("b")
    assert found.read("c").name == "c"


def test_scores_without_a_photo(tmp_path):
    folder = make(tmp_path / "set")
    (folder / "images" / "a.png").unlink()
    found = datasets.DataSet(folder)
    assert found.names == ["b", "a.npz"]
    with pytest.raises(FileError, match=r"a.npz: no image found for it"):
        found.read("a.npz")


def test_scores_of_which_several_fit_are_not_without_a_photo(tmp_path):
    folder = make(tmp_path / "set")
    (folder / "scores" / "a_scores.npz").write_bytes((folder / "scores" / "a.npz").read_bytes())
    found = datasets.DataSet(folder)
    assert found.names == ["a", "b"]
    with pytest.raises(FileError, match="a.png: several scores fit: "):
        found.read("a")


def test_how_many_labels_there_are_is_what_most_scores_say(tmp_path):
    folder = make(tmp_path / "set", names="abc")
    np.savez(folder / "scores" / "a.npz", scores=np.zeros((4, 2, 3)))
    found = datasets.DataSet(folder)
    assert found.num_labels == 3
    assert found.read("b").name == "b"
    with pytest.raises(FileError, match="a.npz: must have 3 labels as most scores, got 4"):
        found.read("a")


def test_stretched_scores_are_mentioned(tmp_path):
    folder = make(tmp_path / "set")
    np.savez(folder / "scores" / "a.npz", scores=np.zeros((3, 11, 6)))
    with pytest.warns(UserWarning, match="scores of 6 x 11 are stretched to the image's 22 x 13"):
        datasets.DataSet(folder).read("a")


def test_labels_that_do_not_count(tmp_path):
    folder = make(tmp_path / "set")
    sample = datasets.DataSet(folder, void=(255, 1)).read("a")
    assert set(np.unique(sample.labels)) == {metrics.VOID, 0, 2}


def test_missing_folders_are_named(tmp_path):
    folder = make(tmp_path / "set")
    shutil.rmtree(folder / "labels")
    with pytest.raises(FileError, match="labels: no such folder; .* must have the folders images, scores and labels"):
        datasets.DataSet(folder)
