"""Reading, drawing and writing: what comes out, and what is said when nothing can."""

import errno
import os
import stat
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densecrf import _outputs, images
from densecrf.images import FileError, Outputs

COLOUR = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
GREY = COLOUR[..., 0].copy()


def error(function, *args, **kwargs) -> str:
    with pytest.raises(FileError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


# --- Images ---


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm"])
def test_colour_image(tmp_path, name):
    Image.fromarray(COLOUR).save(tmp_path / name)
    result = images.read_image(tmp_path / name)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, COLOUR)


def test_transparency_is_dropped(tmp_path):
    rgba = np.concatenate([COLOUR, np.zeros_like(COLOUR[..., :1])], axis=-1)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(images.read_image(tmp_path / "rgba.png"), COLOUR)
    Image.fromarray(np.stack([GREY, 0 * GREY], axis=-1), "LA").save(tmp_path / "la.png")
    np.testing.assert_array_equal(images.read_image(tmp_path / "la.png"), GREY)


def test_palette_becomes_colour(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    picture.putpalette(images.palette().tobytes())
    picture.save(tmp_path / "p.png", transparency=bytes([0, 100, 200]))
    np.testing.assert_array_equal(images.read_image(tmp_path / "p.png"), images.palette(3)[[[0, 1], [2, 1]]])


def test_grey_sixteen_bits_and_black_and_white(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "l.png")
    np.testing.assert_array_equal(images.read_image(tmp_path / "l.png"), GREY)
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "i.png")
    np.testing.assert_array_equal(images.read_image(tmp_path / "i.png"), GREY)
    Image.fromarray(GREY % 2 == 0).save(tmp_path / "1.png")
    np.testing.assert_array_equal(images.read_image(tmp_path / "1.png"), (GREY % 2 == 0) * np.uint8(255))


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right to view
    Image.fromarray(COLOUR).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(images.read_image(tmp_path / "turned.png"), np.rot90(COLOUR, -1))


def damaged_png(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])


BAD_IMAGES = [
    ("gone.png", lambda path: None, "{path}: no such file"),
    ("empty.png", lambda path: path.write_bytes(b""), "{path}: not an image that Pillow can read"),
    ("text.png", lambda path: path.write_text("hello"), "{path}: not an image that Pillow can read"),
    ("cut.png", damaged_png, "{path}: unreadable image: image file is truncated"),
    ("folder.png", lambda path: path.mkdir(), "{path}: cannot read: Is a directory"),
    (
        "float.tif",
        lambda path: Image.fromarray(np.ones((2, 2), np.float32)).save(path),
        "{path}: pixels must be 8 or 16 bits, got float32 values",
    ),
    (
        "negative.tif",
        lambda path: Image.fromarray(np.full((2, 2), -1, np.int32)).save(path),
        "{path}: pixels must be 8 or 16 bits, got int32 values",
    ),
]


@pytest.mark.parametrize(("name", "make", "text"), BAD_IMAGES, ids=[case[0] for case in BAD_IMAGES])
def test_bad_image(tmp_path, name, make, text):
    path = tmp_path / name
    make(path)
    assert error(images.read_image, path).startswith(text.format(path=path))


def test_decompression_bomb(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.fromarray(COLOUR).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # below 35, above its half: Pillow warns, we read
    np.testing.assert_array_equal(images.read_image(path), COLOUR)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert error(images.read_image, path) == f"{path}: more than 0 megapixels, Pillow's limit against bombs"


def test_reading_in_a_thread_leaves_the_warnings_of_others(tmp_path, monkeypatch):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    opened, filters = Image.open, []

    def note(path):
        filters.append(list(warnings.filters))
        return opened(path)

    monkeypatch.setattr(Image, "open", note)
    thread = threading.Thread(target=images.read_image, args=[tmp_path / "a.png"])
    thread.start()
    thread.join()
    assert filters == [list(warnings.filters)]


def test_unreadable_image(tmp_path):
    path = tmp_path / "secret.png"
    Image.fromarray(COLOUR).save(path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("needs a user who can be refused")
    assert error(images.read_image, path) == f"{path}: cannot read: Permission denied"


# --- Scores ---

SCORES = np.arange(24, dtype=np.float16).reshape(2, 3, 4)


@pytest.mark.parametrize("scores", [SCORES, SCORES.astype(">f8"), np.asfortranarray(SCORES), SCORES.astype(np.uint8)])
def test_scores_npy(tmp_path, scores):
    np.save(tmp_path / "s.npy", scores)
    result = images.read_scores(tmp_path / "s.npy")
    np.testing.assert_array_equal(result, scores)
    assert result.dtype == scores.dtype


def test_scores_npz(tmp_path):
    path = tmp_path / "s.npz"
    np.savez(path, anything=SCORES)
    np.testing.assert_array_equal(images.read_scores(path), SCORES)
    np.savez_compressed(path, logits=SCORES, names=np.arange(3))
    np.testing.assert_array_equal(images.read_scores(path), SCORES)
    np.savez(path, logits=SCORES, probs=SCORES + 1)
    np.testing.assert_array_equal(images.read_scores(path, "probs"), SCORES + 1)


def test_the_name_does_not_matter(tmp_path):
    with open(tmp_path / "scores.bin", "wb") as file:
        np.save(file, SCORES)
    np.testing.assert_array_equal(images.read_scores(tmp_path / "scores.bin"), SCORES)


def cut(path: Path, save, keep: float, **arrays) -> None:
    with open(path, "wb") as file:
        save(file, *arrays.pop("args", []), **arrays)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def save_objects(path: Path) -> None:
    np.save(path, np.array([{}, {}], dtype=object), allow_pickle=True)


def save_torch_like(path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"not an array")


def damaged_npz(path: Path) -> None:
    np.savez_compressed(path, scores=np.random.default_rng(0).random((2, 30, 30)))
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)


def claims_too_much(path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 900000000, 900000000), }\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


BAD_SCORES = [
    ("gone.npy", lambda path: None, "{path}: no such file"),
    ("folder.npy", lambda path: path.mkdir(), "{path}: cannot read: Is a directory"),
    (
        "empty.npy",
        lambda path: path.write_bytes(b""),
        "{path}: scores must be a .npy or .npz file, this is neither",
    ),
    (
        "text.npz",
        lambda path: path.write_text("hi"),
        "{path}: scores must be a .npy or .npz file, this is neither",
    ),
    ("cut.npy", lambda path: cut(path, np.save, 0.9, args=[SCORES]), "{path}: unreadable NumPy file: "),
    ("cut.npz", lambda path: cut(path, np.savez, 0.5, a=SCORES), "{path}: unreadable NumPy file: "),
    ("damaged.npz", damaged_npz, "{path}: unreadable NumPy file: "),
    ("much.npy", claims_too_much, "{path}: "),
    ("objects.npy", save_objects, "{path}: unreadable NumPy file: Object arrays cannot be loaded"),
    ("torch.npz", save_torch_like, "{path}: holds no NumPy arrays (a file saved by torch or Keras?)"),
    (
        "none.npz",
        lambda path: np.savez(path),
        "{path}: holds nothing; name the array to take (key= in Python, --key in the shell)",
    ),
    (
        "several.npz",
        lambda path: np.savez(path, a=SCORES, b=SCORES),
        "{path}: holds a, b; name the array to take (key= in Python, --key in the shell)",
    ),
    (
        "two.npz",
        lambda path: np.savez(path, logits=SCORES, probs=SCORES),
        "{path}: holds logits, probs; name the array to take (key= in Python, --key in the shell)",
    ),
    (
        "rank2.npy",
        lambda path: np.save(path, SCORES[0]),
        "{path}: scores must have shape [labels, height, width], got [3, 4]",
    ),
    (
        "rank4.npy",
        lambda path: np.save(path, SCORES[None]),
        "{path}: scores must have shape [labels, height, width], got [1, 2, 3, 4]",
    ),
    (
        "complex.npy",
        lambda path: np.save(path, SCORES.astype(complex)),
        "{path}: scores must be integers or floats, got dtype complex128",
    ),
    (
        "text.npy",
        lambda path: np.save(path, SCORES.astype(str)),
        "{path}: scores must be integers or floats, got dtype <U32",
    ),
]


@pytest.mark.parametrize(("name", "make", "text"), BAD_SCORES, ids=[case[0] for case in BAD_SCORES])
def test_bad_scores(tmp_path, name, make, text):
    path = tmp_path / name
    make(path)
    said = error(images.read_scores, path)
    assert said.startswith(text.format(path=path))
    assert "\n" not in said


def test_missing_key(tmp_path):
    np.savez(tmp_path / "s.npz", a=SCORES, b=SCORES)
    said = error(images.read_scores, tmp_path / "s.npz", "c")
    assert said == f"{tmp_path / 's.npz'}: has no array called 'c', it holds a, b"


# --- Labels ---


def test_labels(tmp_path):
    labels = np.array([[0, 1, 255], [2, 7, 3]])
    with open(tmp_path / "p.png", "wb") as file:
        images.write_labels(file, labels)
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.mode == "P"
    result = images.read_labels(tmp_path / "p.png")
    np.testing.assert_array_equal(result, labels)
    assert result.dtype == np.int32
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "l.png")
    np.testing.assert_array_equal(images.read_labels(tmp_path / "l.png"), labels)
    Image.fromarray(labels == 7).save(tmp_path / "1.png")
    np.testing.assert_array_equal(images.read_labels(tmp_path / "1.png"), labels == 7)


def test_more_than_256_labels(tmp_path):
    labels = np.array([[0, 300], [65535, 2]], np.int32)
    with open(tmp_path / "many.png", "wb") as file:
        images.write_labels(file, labels)
    np.testing.assert_array_equal(images.read_labels(tmp_path / "many.png"), labels)


@pytest.mark.parametrize("labels", [[[-1, 0]], [[0, 65536]]])
def test_labels_that_no_png_holds(tmp_path, labels):
    with (
        open(tmp_path / "x.png", "wb") as file,
        pytest.raises(ValueError, match=r"labels must lie in 0\.\.65535 to be written as PNG, got -?\d+\.\.\d+"),
    ):
        images.write_labels(file, np.array(labels))


BAD_LABELS = [
    ("gone.png", lambda path: None, "{path}: no such file"),
    ("text.png", lambda path: path.write_text("hello"), "{path}: not an image that Pillow can read"),
    (
        "colour.png",
        lambda path: Image.fromarray(COLOUR).save(path),
        "{path}: labels must be a palette or grey picture, got mode RGB",
    ),
    (
        "lossy.jpg",
        lambda path: Image.fromarray(GREY).save(path),
        "{path}: labels must not be JPEG, its compression changes the numbers; use PNG",
    ),
]


@pytest.mark.parametrize(("name", "make", "text"), BAD_LABELS, ids=[case[0] for case in BAD_LABELS])
def test_bad_labels(tmp_path, name, make, text):
    path = tmp_path / name
    make(path)
    assert error(images.read_labels, path) == text.format(path=path)


# --- Looking ---


def enlarged(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation with half-pixel centres, as its definition has it."""
    result = np.zeros((len(scores), *size))
    for axis_y in range(size[0]):
        for axis_x in range(size[1]):
            y, x = (
                min(max((index + 0.5) * small / large - 0.5, 0), small - 1)
                for index, small, large in zip((axis_y, axis_x), scores.shape[1:], size, strict=True)
            )
            weights_y = np.maximum(0, 1 - abs(np.arange(scores.shape[1]) - y))
            weights_x = np.maximum(0, 1 - abs(np.arange(scores.shape[2]) - x))
            result[:, axis_y, axis_x] = np.einsum("y,x,lyx->l", weights_y, weights_x, scores)
    return result


@pytest.mark.parametrize(("small", "large"), [((3, 4), (13, 9)), ((1, 1), (4, 5)), ((5, 2), (5, 20)), ((4, 4), (4, 4))])
def test_enlarged_labels(small, large):
    scores = np.random.default_rng(1).normal(size=(3, *small)).astype(np.float32)
    result = images.enlarged_labels(scores, large)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, enlarged(scores, large).argmax(axis=0))


def test_enlarged_labels_in_bands():
    scores = np.random.default_rng(1).normal(size=(3, 50, 30)).astype(np.float16)
    whole = images.enlarged_labels(scores, (2000, 1800))  # more than one band of rows
    assert whole.shape == (2000, 1800)
    some = [0, 1, 1499, 1500, 1552, 1553, 1554, 1999]
    first, second, share = images._taps(50, 2000)
    rows = scores[:, first[some]] * (1 - share[some, None]) + scores[:, second[some]] * share[some, None]
    np.testing.assert_array_equal(whole[some], images.enlarged_labels(rows, (len(some), 1800)))


def test_palette_is_that_of_pascal_voc():
    colours = images.palette(256)
    assert colours.shape == (256, 3)
    assert colours.dtype == np.uint8
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        7: (128, 128, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
    }
    known |= {20: (0, 64, 128), 255: (224, 224, 192)}
    for label, colour in known.items():
        assert tuple(colours[label]) == colour
    assert len(np.unique(images.palette(5000), axis=0)) == 5000


def test_overlay_of_two_labels():
    image = np.full((100, 120, 3), 200, np.uint8)
    before, after = np.zeros((2, 100, 120), np.uint8)
    after[:, 60:] = 1
    picture = images.overlay(image, before, after)
    caption = picture.shape[0] - 100
    assert picture.shape == (100 + caption, 3 * 120 + 2 * 8, 3)
    assert caption > 0
    panels = [picture[caption:, at : at + 120] for at in (0, 128, 256)]
    assert (panels[0] == 200).all()
    assert (panels[1] < 120).all()  # all of it background, and no boundary
    assert (panels[2][:, 61:] == 200).all()
    assert (panels[2][:, 59:61] == (255, 255, 0)).all()
    assert (panels[2][:, :59] < 120).all()


def test_overlay_of_many_labels_and_unknown():
    image = np.full((100, 120), 100, np.uint8)
    before = np.full((100, 120), -1)
    after = np.repeat(np.arange(3), 40)[None].repeat(100, axis=0)
    picture = images.overlay(image, before, after)
    assert (picture[-50, 128:248] == 100 // 4 + 96).all()
    np.testing.assert_array_equal(picture[-50, 256 + np.array([10, 60, 100])], 50 + images.palette(3) // 2)
    assert (picture[-50, 256 + np.array([39, 40, 79, 80])] == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (3, 2), (40, 5000)])
def test_overlay_of_any_size(size):
    image = np.zeros((*size, 3), np.uint8)
    labels = np.indices(size).sum(axis=0) % 3
    picture = images.overlay(image, labels, labels)
    assert picture.dtype == np.uint8
    assert picture.shape[1] <= 3 * images.PANEL_SIDE + 16


def test_overlay_leaves_its_input_alone():
    image, labels = COLOUR.copy(), GREY % 3
    image.setflags(write=False)
    labels.setflags(write=False)
    images.overlay(image, labels, labels)
    np.testing.assert_array_equal(image, COLOUR)


# --- Writing ---


@pytest.mark.parametrize(
    "array",
    [SCORES, SCORES.astype(np.float64).transpose(2, 0, 1), np.zeros((2, 0, 3), np.float32), np.float32(3)],
    ids=["plain", "transposed", "empty", "scalar"],
)
def test_probs_are_a_npy_file(tmp_path, array):
    with open(tmp_path / "p.npy", "wb") as file:
        images.write_probs(file, np.asarray(array))
    result = np.load(tmp_path / "p.npy")
    np.testing.assert_array_equal(result, array)
    assert result.dtype == array.dtype


def write(outputs: Outputs, name: str, content: bytes) -> None:
    with outputs.open(name) as file:
        file.write(content)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_outputs_appear_together(tmp_path):
    with Outputs(tmp_path / "new" / "out") as outputs:
        write(outputs, "a", b"1")
        write(outputs, "b", b"2")
        assert outputs.names == ["a", "b"]
        assert not (tmp_path / "new" / "out" / "a").exists()
    assert content(tmp_path) == {"new/out/a": b"1", "new/out/b": b"2"}


def test_outputs_replace(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with Outputs(tmp_path) as outputs:
        write(outputs, "a", b"new")
    assert content(tmp_path) == {"a": b"new"}


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_outputs_have_usual_permissions(tmp_path):
    old = os.umask(0o027)
    try:
        with Outputs(tmp_path) as outputs:
            write(outputs, "a", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_stays_when_the_block_fails(tmp_path, kind):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(kind), Outputs(tmp_path) as outputs:
        write(outputs, "a", b"new")
        raise kind
    assert content(tmp_path) == {"a": b"old"}
    with pytest.raises(kind), Outputs(tmp_path / "x" / "y") as outputs:
        write(outputs, "a", b"new")
        raise kind
    assert os.listdir(tmp_path) == ["a"]


def test_nothing_stays_when_a_write_is_interrupted(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        Outputs(tmp_path / "x") as outputs,
        outputs.open("a") as file,
    ):
        file.write(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def full_disk(path: Path):
    """Give a file on which there is no room, in the place of the one asked for."""
    path.touch()
    return open("/dev/full", "wb")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_full_disk(tmp_path, monkeypatch, size):
    monkeypatch.setattr(_outputs, "_create", full_disk)
    writers = {
        "labels.png": (images.write_labels, np.zeros((size, 3), np.uint8)),
        "probs.npy": (images.write_probs, np.zeros((2, size, 3), np.float32)),
        "overlay.png": (images.write_picture, np.zeros((size, 3), np.uint8)),
    }
    for name, (writer, array) in writers.items():
        with (
            pytest.raises(FileError) as caught,
            Outputs(tmp_path / "out") as outputs,
            outputs.open(name) as file,
        ):
            writer(file, array)
        assert str(caught.value) == f"{tmp_path / 'out' / name}: cannot write: No space left on device"
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4, 5])
def test_old_files_come_back_when_renaming_fails(tmp_path, monkeypatch, fails_at):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"old")
    rename, calls = os.replace, iter(range(1, 100))

    def replace(source, target):
        if next(calls) == fails_at:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(FileError, match="cannot write: Input/output error"), Outputs(tmp_path) as outputs:
        for name in ("a", "b", "c"):
            write(outputs, name, b"new")
    assert content(tmp_path) == {"a": b"old", "b": b"old"}


def test_a_folder_in_the_way_of_a_file(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(FileError) as caught, Outputs(tmp_path) as outputs:
        write(outputs, "a", b"1")
        write(outputs, "b", b"2")
    assert str(caught.value) == f"{tmp_path / 'b'}: cannot write: Is a directory"
    assert os.listdir(tmp_path) == ["b"]


def test_output_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError) as caught, Outputs(tmp_path / "file"):
        pass
    assert str(caught.value) == f"{tmp_path / 'file'}: cannot write: is a file, not a folder"
    with pytest.raises(FileError) as caught, Outputs(tmp_path / "file" / "deep" / "er"):
        pass
    assert str(caught.value) == f"{tmp_path / 'file' / 'deep' / 'er'}: cannot write: Not a directory"


def test_unwritable_folder(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(_outputs, "_create", refuse)
    with pytest.raises(FileError) as caught, Outputs(tmp_path / "out"):
        raise AssertionError("must not begin to work")
    assert str(caught.value) == f"{tmp_path / 'out'}: cannot write: Permission denied"
    assert os.listdir(tmp_path) == []


def test_really_unwritable_folder(tmp_path):
    (tmp_path / "out").mkdir(mode=0o555)
    if os.access(tmp_path / "out", os.W_OK):
        pytest.skip("needs a user who can be refused")
    with pytest.raises(FileError) as caught, Outputs(tmp_path / "out"):
        pass
    assert str(caught.value) == f"{tmp_path / 'out'}: cannot write: Permission denied"
