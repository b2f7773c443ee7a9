"""The command line: what it writes, what it says, and what it leaves behind when something is wrong."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import densecrf
from densecrf import _outputs, images, unary
from densecrf.cli import cli

DEMO = Path(__file__).parent.parent / "examples" / "data"
FILES = ["labels.png", "overlay.png", "probs.npy"]
HERE = {
    **os.environ,
    "PYTHONPATH": str(Path(densecrf.__file__).parent.parent),
}  # also where it is not installed


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Each test has a folder of its own, with one photo and its scores, and runs in it."""
    monkeypatch.chdir(tmp_path)
    make("photo", 0)
    return tmp_path


def make(stem: str, seed: int, size=(24, 32), scores=(2, 6, 8)) -> None:
    random = np.random.default_rng(seed)
    Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(f"{stem}.png")
    np.save(f"{stem}.npy", random.normal(size=scores).astype(np.float32))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def refine(*arguments: object) -> Result:
    return run("refine", *arguments, "-o", "out")


def ok(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def tree(folder: str = "out") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


# --- One image ---


def test_writes_three_files():
    result = ok(refine("photo.png", "photo.npy"))
    assert tree() == FILES
    assert result.stderr == ""
    assert result.stdout.startswith("photo.png: 32 x 24, 2 labels, ")
    written = ", ".join(str(Path("out") / name) for name in ("labels.png", "probs.npy", "overlay.png"))
    assert result.stdout.endswith(f"wrote {written}\n")


def test_same_as_python():
    ok(refine("photo.png", "photo.npy"))
    expected = densecrf.refine(images.read_image("photo.png"), logits=np.load("photo.npy"))
    np.testing.assert_array_equal(np.load("out/probs.npy"), expected.probs)
    np.testing.assert_array_equal(images.read_labels("out/labels.png"), expected.labels)


def test_options_reach_the_engine():
    changed = ["--sxy", 20, "--srgb", 7, "--weight", 2, "--spatial-sxy", 2, "--spatial-weight", 1.5]
    changed += ["--iterations", 3, "--method", "classic", "--normalization", "before", "--threads", 1]
    ok(refine("photo.png", "photo.npy", *changed))
    expected = densecrf.refine(
        images.read_image("photo.png"),
        logits=np.load("photo.npy"),
        kernels=[densecrf.Gaussian(sxy=2, weight=1.5), densecrf.Bilateral(sxy=20, srgb=7, weight=2)],
        iterations=3,
        method="classic",
        normalization="before",
        num_threads=1,
    )
    np.testing.assert_array_equal(np.load("out/probs.npy"), expected.probs)


@pytest.mark.parametrize("preset", ["default", "pydensecrf", "deeplab", "crf-as-rnn"])
def test_presets(preset):
    ok(refine("photo.png", "photo.npy", "--preset", preset))
    chosen = getattr(densecrf.presets, preset.replace("-", "_").upper())
    expected = densecrf.refine(images.read_image("photo.png"), logits=np.load("photo.npy"), **chosen)
    np.testing.assert_array_equal(np.load("out/probs.npy"), expected.probs)


def test_weight_zero_leaves_a_kernel_out():
    ok(refine("photo.png", "photo.npy", "--weight", 0))
    expected = densecrf.refine(
        images.read_image("photo.png"),
        logits=np.load("photo.npy"),
        kernels=[densecrf.Gaussian(sxy=1, weight=3)],
    )
    np.testing.assert_array_equal(np.load("out/probs.npy"), expected.probs)


def test_grey_photo_with_scores_of_its_size():
    Image.open("photo.png").convert("L").save("grey.png")
    np.save("full.npy", np.random.default_rng(0).normal(size=(3, 24, 32)).astype(np.float16))
    ok(refine("grey.png", "full.npy"))
    assert np.load("out/probs.npy").shape == (3, 24, 32)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 300)])
def test_extreme_sizes(size):
    make("odd", 1, size, (3, 1, 1))
    ok(refine("odd.png", "odd.npy"))
    assert np.load("out/probs.npy").shape == (3, *size)


def test_no_overlay_and_quiet():
    result = ok(refine("photo.png", "photo.npy", "--no-overlay", "--quiet"))
    assert result.output == ""
    assert tree() == ["labels.png", "probs.npy"]


def test_key():
    np.savez("two.npz", a=np.load("photo.npy"), b=np.zeros((2, 6, 8)))
    ok(refine("photo.png", "two.npz", "--key", "a"))
    first = np.load("out/probs.npy")
    ok(refine("photo.png", "photo.npy"))
    np.testing.assert_array_equal(first, np.load("out/probs.npy"))


# --- Probabilities and labels ---


def probs_of(scores: np.ndarray) -> np.ndarray:
    return np.exp(-unary.from_logits(scores))


def test_probs_of_the_image_size():
    np.save("probs.npy", probs_of(np.random.default_rng(0).normal(size=(3, 24, 32))))
    ok(refine("photo.png", "probs.npy", "--probs"))
    expected = densecrf.refine(images.read_image("photo.png"), probs=np.load("probs.npy"))
    np.testing.assert_array_equal(np.load("out/probs.npy"), expected.probs)


def test_smaller_probs_are_enlarged_as_scores():
    np.save("probs.npy", probs_of(np.load("photo.npy")))
    ok(refine("photo.png", "probs.npy", "--probs"))
    expected = densecrf.refine(images.read_image("photo.png"), logits=np.load("photo.npy"))
    np.testing.assert_allclose(np.load("out/probs.npy"), expected.probs, atol=1e-4)


def save_labels(name: str, labels: np.ndarray) -> np.ndarray:
    Image.fromarray(labels.astype(np.uint8)).save(name)
    return labels


def some_labels(num_labels: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, num_labels, (24, 32))


def test_label_picture():
    labels = save_labels("labels.png", some_labels(3))
    ok(refine("photo.png", "labels.png", "--labels", "--confidence", 0.8, "--num-labels", 5))
    expected = densecrf.refine(images.read_image("photo.png"), labels=labels, num_labels=5, confidence=0.8)
    np.testing.assert_array_equal(np.load("out/probs.npy"), expected.probs)


@pytest.mark.parametrize(("value", "options"), [(255, []), (9, ["--unknown", 9])])
def test_unknown_labels(value, options):
    labels = some_labels(3)
    labels[:, :5] = value
    save_labels("labels.png", labels)
    ok(refine("photo.png", "labels.png", "--labels", *options))
    labels[:, :5] = -1
    expected = densecrf.refine(images.read_image("photo.png"), labels=labels, num_labels=3)
    np.testing.assert_array_equal(np.load("out/probs.npy"), expected.probs)


def test_black_and_white_mask():
    mask = some_labels(2)
    save_labels("mask.png", mask * 255)
    ok(refine("photo.png", "mask.png", "--binary"))
    expected = densecrf.refine(images.read_image("photo.png"), labels=mask, num_labels=2)
    np.testing.assert_array_equal(np.load("out/probs.npy"), expected.probs)


# --- Many images ---


def test_two_folders():
    for number, stem in enumerate(["a", "b"]):
        make(stem, number)
    os.mkdir("photos")
    os.mkdir("scores")
    for stem in "ab":
        os.rename(f"{stem}.png", f"photos/{stem}.png")
    os.rename("a.npy", "scores/a.npy")
    os.rename("b.npy", "scores/b_scores.npy")
    result = ok(refine("photos", "scores"))
    assert result.stdout == "2 of 2 images refined into out\n"
    assert result.stderr == ""
    assert tree() == [f"{stem}/{name}" for stem in "ab" for name in FILES]


def three() -> None:
    for number, stem in enumerate(["a", "b", "c"]):
        make(stem, number)
    os.remove("photo.png")


@pytest.mark.parametrize(
    "arguments",
    [
        ["*.png", "*.npy"],
        ["[abc].png", "."],
        [".", "."],
        ["a.png", "b.png", "c.png", "."],
        ["a.png", "b.png", "c.png", "--scores", "*.npy"],
        ["a.png", "b.png", "c.png", "a.npy", "b.npy", "c.npy"],
        ["**/*.png", "."],
    ],
    ids=" ".join,
)
def test_patterns_and_lists(arguments):
    three()
    assert ok(refine(*arguments)).stdout == "3 of 3 images refined into out\n"
    assert tree() == [f"{stem}/{name}" for stem in "abc" for name in FILES]


def test_one_image_and_a_folder_of_scores():
    three()
    ok(refine("b.png", "."))
    assert tree() == [f"b/{name}" for name in FILES]


def test_label_pictures_by_folder():
    os.mkdir("masks")
    save_labels("masks/photo_mask.png", some_labels(2))
    ok(refine("photo.png", "masks", "--labels"))
    assert tree() == [f"photo/{name}" for name in FILES]


def test_one_bad_file_does_not_stop_the_others():
    three()
    Path("b.png").write_text("not a picture")
    np.save("c.npy", np.full((2, 6, 8), np.nan, np.float32))
    result = refine("*.png", "*.npy")
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[0] == "densecrf: error: 2 of 3 images failed:"
    assert lines[1] == "  b.png: not an image that Pillow can read"
    assert lines[2] == "  c.png: logits: must be finite, got NaN or inf"
    assert len(lines) == 3
    assert result.stdout == "1 of 3 images refined into out\n"
    assert tree() == [f"a/{name}" for name in FILES]
    assert os.listdir("out") == ["a"]


def test_pairing_problems():
    three()
    os.remove("a.npy")
    np.save("b_scores.npy", np.load("b.npy"))
    Image.open("c.png").save("c.bmp")
    result = refine("a.png", "b.png", "c.png", "c.bmp", "gone.png", "--scores", ".")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "densecrf: error: 4 of 5 images failed:",
        "  a.png: no scores found for it (looked for files called a, a_scores, a_logits, a_probs)",
        "  b.png: several scores fit: b.npy, b_scores.npy",
        "  c.bmp: its results would overwrite those of c.png, which has the same name",
        "  gone.png: no such file",
    ]
    assert tree() == [f"c/{name}" for name in FILES]


# --- What is wrong, in one line ---


def bad_scores(array: np.ndarray) -> None:
    np.save("bad.npy", array)


def claim(text: str) -> None:
    Path("bad.npy").write_text(text)


ONE_LINE = {
    "missing image": (lambda: None, ["gone.png", "photo.npy"], "gone.png: no such file"),
    "missing scores": (lambda: None, ["photo.png", "gone.npy"], "gone.npy: no such file"),
    "missing pattern": (lambda: None, ["*.jpg", "photo.npy"], "*.jpg: no such file"),
    "no images": (lambda: os.mkdir("x"), ["x", "photo.npy"], "x: no images in this folder"),
    "no scores": (lambda: os.mkdir("x"), ["photo.png", "x"], "x: no scores in this folder"),
    "no picture": (
        lambda: Path("bad.png").write_text("hello"),
        ["bad.png", "photo.npy"],
        "bad.png: not an image that Pillow can read",
    ),
    "no numbers": (
        lambda: claim("hello"),
        ["photo.png", "bad.npy"],
        "bad.npy: scores must be a .npy or .npz file, this is neither",
    ),
    "rank": (
        lambda: bad_scores(np.zeros((2, 3))),
        ["photo.png", "bad.npy"],
        "bad.npy: scores must have shape [labels, height, width], got [2, 3]",
    ),
    "key": (
        lambda: np.savez("bad.npz", a=np.zeros(2), b=np.zeros(2)),
        ["photo.png", "bad.npz", "--key", "c"],
        "bad.npz: has no array called 'c', it holds a, b",
    ),
    "label size": (
        lambda: save_labels("bad.png", np.zeros((24, 31))),
        ["photo.png", "bad.png", "--labels"],
        "bad.png: a label picture must have the image's size, 32 x 24, got 31 x 24",
    ),
    "mask without --binary": (
        lambda: save_labels("bad.png", some_labels(2) * 255),
        ["photo.png", "bad.png", "--labels"],
        "bad.png: holds 0 and 255 (unknown) only; for a black-and-white mask add --binary",
    ),
    "all unknown": (
        lambda: save_labels("bad.png", np.full((24, 32), 255)),
        ["photo.png", "bad.png", "--labels"],
        "bad.png: every pixel has the value 255, which means unknown",
    ),
    "colour labels": (
        lambda: None,
        ["photo.png", "photo.png", "--labels"],
        "photo.png: labels must be a palette or grey picture, got mode RGB",
    ),
}


@pytest.mark.parametrize("case", ONE_LINE)
def test_error_is_one_line(case):
    prepare, arguments, text = ONE_LINE[case]
    prepare()
    result = refine(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"densecrf: error: {text}\n")
    assert not Path("out").exists()


LARGER = "logits: must have the image's size, or a smaller one to be upsampled from, "
ENGINE = {
    "NaN": ([], np.full((2, 6, 8), np.nan), "logits: must be finite, got NaN or inf"),
    "infinite": ([], np.full((2, 6, 8), np.inf), "logits: must be finite, got NaN or inf"),
    "larger": ([], np.zeros((2, 48, 64)), LARGER + "got (48, 64) for an image of (24, 32)"),
    "empty": ([], np.zeros((2, 0, 8)), "logits: must not be empty, got shape (2, 0, 8)"),
    "no labels": ([], np.zeros((0, 6, 8)), "logits: must not be empty, got shape (0, 6, 8)"),
    "no probabilities": (
        ["--probs"],
        np.full((2, 6, 8), 0.2),
        "probs: must sum to 1 over axis 0, got sums from 0.4 to 0.4",
    ),
    "larger probabilities": (
        ["--probs"],
        np.full((2, 48, 64), 0.5),
        LARGER + "got (48, 64) for an image of (24, 32)",
    ),
}


@pytest.mark.parametrize("case", ENGINE)
def test_errors_of_the_engine_name_the_image(case):
    options, array, text = ENGINE[case]
    bad_scores(array)
    result = refine("photo.png", "bad.npy", *options)
    assert (result.exit_code, result.stderr) == (1, f"densecrf: error: photo.png: {text}\n")
    assert not Path("out").exists()


GOOD = ["refine", "photo.png", "photo.npy", "-o", "out"]
USAGE = [
    (["refine"], "Missing argument 'IMAGE... SCORES'"),
    (["refine", "photo.png", "photo.npy"], "Missing option '-o' / '--output'"),
    (
        ["refine", "photo.png", "-o", "out"],
        "needs an image and its scores, as in: densecrf refine photo.jpg scores.npy -o out",
    ),
    (["refine", "photo.npy", "-o", "out"], "needs an image and its scores"),
    ([*GOOD, "--probs", "--labels"], "--probs and --labels exclude each other"),
    ([*GOOD, "--sxy", "-1"], "--sxy: bandwidths must be positive, got -1.0"),
    ([*GOOD, "--spatial-sxy", "0"], "--spatial-sxy: bandwidths must be positive, got 0.0"),
    ([*GOOD, "--srgb", "nan"], "--srgb: must be finite, got nan"),
    ([*GOOD, "--method", "quick"], "Invalid value for '--method'"),
    ([*GOOD, "--iterations", "-1"], "Invalid value for '--iterations'"),
    ([*GOOD, "--threads", "0"], "Invalid value for '--threads'"),
    (["refien"], "No such command 'refien'"),
]


@pytest.mark.parametrize(("arguments", "text"), USAGE, ids=[" ".join(case[0][1:]) for case in USAGE])
def test_wrong_usage(arguments, text):
    result = run(*arguments)
    assert result.exit_code == 2
    assert text in result.stderr
    assert not Path("out").exists()


def test_stretched_scores_are_warned_about():
    make("photo", 0, (24, 64), (2, 6, 8))
    result = ok(refine("photo.png", "photo.npy"))
    assert result.stderr == (
        "densecrf: warning: photo.png: scores of 8 x 6 are stretched to the image's 64 x 24; right if the "
        "network saw the whole photo squashed, wrong if it saw a crop, a padded or a rotated photo\n"
    )
    assert tree() == FILES


@pytest.mark.parametrize("scores", [(2, 6, 8), (2, 7, 9), (2, 5, 8), (2, 1, 1), (2, 24, 32)])
def test_rounded_scores_are_not_warned_about(scores):
    make("photo", 0, (24, 32), scores)
    assert ok(refine("photo.png", "photo.npy")).stderr == ""


def test_debug_shows_the_traceback():
    result = refine("gone.png", "photo.npy", "--debug")
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "FileNotFoundError" in result.stderr  # the cause is shown too
    assert result.stderr.endswith("densecrf: error: gone.png: no such file\n")


def test_a_mistake_of_ours_is_one_line_too(monkeypatch):
    monkeypatch.setattr(densecrf, "refine", lambda *args, **kwargs: {}["probs"])
    result = refine("photo.png", "photo.npy")
    assert (result.exit_code, result.stderr) == (1, "densecrf: error: photo.png: KeyError: 'probs'\n")
    assert not Path("out").exists()


def test_out_of_memory(monkeypatch):
    def refuse(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(densecrf, "refine", refuse)
    assert refine("photo.png", "photo.npy").stderr == "densecrf: error: photo.png: MemoryError\n"


# --- Disks ---


def test_output_is_a_file():
    Path("out").write_text("precious")
    result = refine("photo.png", "photo.npy")
    assert (result.exit_code, result.stderr) == (
        1,
        "densecrf: error: out: cannot write: is a file, not a folder\n",
    )
    assert Path("out").read_text() == "precious"


def test_unwritable_folder(monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(_outputs, "_create", refuse)
    result = refine("photo.png", "photo.npy")
    assert (result.exit_code, result.stderr) == (1, "densecrf: error: out: cannot write: Permission denied\n")
    assert not Path("out").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("name", FILES)
def test_full_disk_leaves_nothing(monkeypatch, name):
    create = _outputs._create

    def full(path):
        file = create(path)
        if name not in path.name:
            return file
        file.close()
        return open("/dev/full", "wb")

    monkeypatch.setattr(_outputs, "_create", full)
    result = refine("photo.png", "photo.npy")
    said = f"densecrf: error: {Path('out') / name}: cannot write: No space left on device\n"
    assert (result.exit_code, result.stderr) == (1, said)
    assert not Path("out").exists()


def test_old_results_survive_a_failure(monkeypatch):
    ok(refine("photo.png", "photo.npy"))
    old = {name: (Path("out") / name).read_bytes() for name in FILES}
    np.save("photo.npy", -np.load("photo.npy"))

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(images, "write_picture", fail)
    assert refine("photo.png", "photo.npy").exit_code == 1
    assert {name: (Path("out") / name).read_bytes() for name in os.listdir("out")} == old


def test_unreadable_folder(monkeypatch):
    def refuse(folder):
        raise PermissionError(errno.EACCES, "Permission denied")

    os.mkdir("photos")
    monkeypatch.setattr(Path, "iterdir", refuse)
    result = refine("photos", "photo.npy")
    said = "densecrf: error: photos: cannot read: Permission denied\n"
    assert (result.exit_code, result.stderr) == (1, said)


# --- Interrupts ---


def test_ctrl_c(monkeypatch):
    three()
    calls = []

    def second_time(image, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return SimpleNamespace(probs=np.zeros((2, 24, 32), np.float32), labels=np.zeros((24, 32), np.uint8))

    monkeypatch.setattr(densecrf, "refine", second_time)
    result = refine("*.png", "*.npy")
    assert (result.exit_code, result.stderr) == (130, "densecrf: interrupted\n")
    assert tree() == [f"a/{name}" for name in FILES]
    assert os.listdir("out") == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_nothing(number, status):
    make("large", 0, (600, 800), (21, 60, 80))
    command = [sys.executable, "-m", "densecrf", "refine", "large.png", "large.npy", "-o", "out"]
    process = subprocess.Popen([*command, "--iterations", "1000"], stderr=subprocess.PIPE, env=HERE, text=True)
    deadline = time.monotonic() + 60
    while not Path("out").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    said = process.communicate(timeout=300)[1]
    assert (process.returncode, said) == (status, "densecrf: interrupted\n" if status == 130 else "")
    assert not Path("out").exists()


def test_the_status_after_an_interrupt_in_the_middle_of_an_import():
    said = "from densecrf import _console\ntry:\n    exec('raise KeyboardInterrupt')\nexcept KeyboardInterrupt:\n"
    Path("program.py").write_text(f"{said}    _console.interrupted(_console.stderr())\n")
    done = subprocess.run([sys.executable, "-m", "program"], env=HERE, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "densecrf: interrupted\n")


# --- The rest ---


def python_m(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "densecrf", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=HERE, timeout=300)


def test_module_can_be_run():
    done = python_m("refine", "photo.png", "photo.npy", "-o", "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert tree() == FILES
    done = python_m("refine", "gone.png", "photo.npy", "-o", "out")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "densecrf: error: gone.png: no such file\n")
    assert python_m("refine").returncode == 2


def test_info():
    result = ok(run("info"))
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert rows["densecrf"] == densecrf.__version__
    assert rows["NumPy"] == np.__version__
    assert int(rows["threads"]) >= 1
    assert rows["CUDA"] in ("built in", "not built in")
    assert rows["SIMD"]


def test_help_and_version():
    assert "refine" in ok(run("--help")).stdout
    text = ok(run("refine", "--help")).stdout
    for piece in ("labels.png", "probs.npy", "overlay.png", "densecrf refine photo.jpg scores.npy -o out"):
        assert piece in text
    assert ok(run("--version")).stdout.startswith(f"densecrf, version {densecrf.__version__}")


@pytest.mark.parametrize("stem", ["astronaut", "camera"])
def test_demo(stem):
    """The shipped photos: the result moves towards the network's full output; only borders change."""
    ok(refine(DEMO / f"{stem}.png", DEMO / f"{stem}_scores.npz"))
    labels = images.read_labels("out/labels.png")
    before = images.enlarged_labels(images.read_scores(DEMO / f"{stem}_scores.npz"), labels.shape)
    full = images.enlarged_labels(images.read_scores(DEMO / f"{stem}_scores_256.npz"), labels.shape)
    assert 0.004 < np.mean(labels != before) < 0.02
    assert np.mean(labels != full) < np.mean(before != full)
