"""The front ends: pydensecrf's numbers and words, programs that run unedited, what is forgiven, processes."""

from __future__ import annotations

import inspect
import multiprocessing
import pickle
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import densecrf.compat
from densecrf.compat import pydensecrf as front_end
from densecrf.compat.pydensecrf import densecrf as dcrf
from densecrf.compat.pydensecrf import eigen, utils

DATA = Path(__file__).parent / "data"
PROGRAMS = sorted((DATA / "programs").glob("*.py"))
scripts = runpy.run_path(str(DATA / "compat_cases.py"))
photo, energies = scripts["photo"], scripts["energies"]


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "compat.npz") as cases, np.load(DATA / "compat_programs.npz") as programs:
        return {**cases, **programs}


@pytest.fixture
def clean_imports(monkeypatch):
    """As before `install`, and again afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("pydensecrf", "pydensecrf.densecrf", "pydensecrf.utils", "pydensecrf.eigen"):
        sys.modules.pop(name, None)


def compare(golden, case, found):
    """The arrays of one script against pydensecrf2's."""
    names = [name for name in golden if name.rpartition("/")[0] == case]
    assert names and len(names) == len(found)
    for name, array in found.items():
        expected = golden[f"{case}/{name}"]
        assert array.shape == expected.shape, name
        if name.startswith("Q"):
            assert np.abs(array - expected).max() <= 1e-4, name  # up to 2^-17 of it by the golden array's rounding
            second, best = np.sort(expected, axis=0)[-2:]
            clear = best - second > 2e-4  # twice the tolerance: the others are ties
            assert (array.argmax(axis=0) == expected.argmax(axis=0))[clear].all(), name
        elif name.startswith("KL"):
            np.testing.assert_allclose(array, expected, rtol=1e-3, atol=1e-4, err_msg=name)
        else:
            assert array.dtype == expected.dtype or array.dtype.kind in "iu", name
            np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-6, err_msg=name)


# ---- the same numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", scripts["CASES"])
def test_numbers_of_pydensecrf(golden, case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        compare(golden, case, scripts["CASES"][case](dcrf, utils, eigen))


def run_program(path, *args):
    command = [sys.executable, "-m", "densecrf.compat.pydensecrf", str(path), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_programs_run_unedited(golden, tmp_path, program):
    said = run_program(program, tmp_path / "out.npz")
    assert bool(said) == (program.stem == "scribbles")  # what the program itself prints, nothing else
    with np.load(tmp_path / "out.npz") as file:
        compare(golden, program.stem, dict(file))


def test_programs_of_several_processes(golden, tmp_path):
    run_program(DATA / "programs" / "deeplab_evaluation.py", tmp_path / "out.npz", "spawn")
    with np.load(tmp_path / "out.npz") as file:
        compare(golden, "deeplab_evaluation", dict(file))


def test_generic_and_image_forms_agree(tmp_path):
    for name in ("2d", "generic"):
        run_program(DATA / "programs" / "scribbles.py", tmp_path / f"{name}.npz", name)
    with np.load(tmp_path / "2d.npz") as a, np.load(tmp_path / "generic.npz") as b:
        assert np.abs(a["Q"] - b["Q"]).max() < 0.05  # rows first there: the lattice lies otherwise
        assert np.mean(a["coloured"] == b["coloured"]) > 0.99


def small(**options):
    """A CRF of 5 x 4 pixels and 3 labels, ready to run."""
    crf = dcrf.DenseCRF2D(5, 4, 3)
    crf.setUnaryEnergy(options.get("u", energies(3, 20)))
    crf.addPairwiseGaussian(2, 3)
    crf.addPairwiseBilateral(5, 20, options.get("rgbim", photo(4, 5)), options.get("compat", 2))
    return crf


def test_method(monkeypatch):
    classic = small().inference(5)
    monkeypatch.setattr(front_end, "method", "tuned")
    tuned = small().inference(5)
    assert 1e-3 < np.abs(classic - tuned).max() < 0.3
    same = densecrf.refine(
        photo(4, 5),
        unary=energies(3, 20).reshape(3, 4, 5),
        kernels=[densecrf.Gaussian(2, 3), densecrf.Bilateral(5, 20, 2)],
    )
    np.testing.assert_allclose(tuned, same.probs.reshape(3, 20), atol=1e-6)
    monkeypatch.setattr(front_end, "method", "fast")
    with pytest.raises(ValueError, match=r"densecrf.compat.pydensecrf.method: must be one of classic, tuned"):
        small()


def test_steps_build_nothing_and_continue_from_any_q(monkeypatch):
    crf = small()
    monkeypatch.setattr("densecrf.terms.prepare", None)
    monkeypatch.setattr("densecrf.terms.Lattice", None)
    Q, tmp1, tmp2 = crf.startInference()
    whole, address = crf.inference(3), Q.ctypes.data
    for _ in range(3):
        assert crf.stepInference(Q, tmp1, tmp2) is None
    assert Q.ctypes.data == address
    np.testing.assert_allclose(Q, whole, atol=1e-6)
    plain = np.array(crf.startInference()[0], dtype=np.float64, order="F")
    for _ in range(3):
        crf.stepInference(plain, None, None)
    np.testing.assert_allclose(plain, whole, atol=1e-6)


def test_what_is_given_is_copied():
    u, image = energies(3, 20), photo(4, 5)
    crf = small(u=u, rgbim=image)
    expected = np.array(crf.inference(2))
    u[:], image[:] = 0, 0
    np.testing.assert_array_equal(crf.inference(2), expected)


# ---- the wrappers around it ---------------------------------------------------------------------------------


def test_deeplab_wrapper(golden, clean_imports):
    front_end.install()
    image, logits, _ = runpy.run_path(str(DATA / "programs" / "deeplab_evaluation.py"))["load"](0)
    p = np.exp(logits) / np.exp(logits).sum(0)
    crf = densecrf.compat.DeepLabCRF(iter_max=10, pos_xy_std=1, pos_w=3, bi_xy_std=67, bi_rgb_std=3, bi_w=4)
    Q = crf(image, p)
    assert Q.shape == p.shape and type(Q) is np.ndarray
    assert np.abs(Q - golden["deeplab_evaluation/Q"][:, 0]).max() <= 1e-4
    np.testing.assert_array_equal(densecrf.compat.DeepLabCRF(10, 3, 1, 4, 67, 3)(image, p), Q)
    with pytest.raises(ValueError, match=re.escape("probmap: must have shape [L, H, W], got shape (17, 19)")):
        crf(image, p[0])


def test_simplecrf():
    image = photo(9, 11)
    P = np.random.default_rng(0).dirichlet(np.ones(3), (9, 11)).astype(np.float32)
    found = densecrf.compat.densecrf(image, P, (10.0, 20, 13, 3.0, 2, 4.0))
    out = densecrf.refine(
        image,
        unary=-np.log(np.clip(P, 0.01, 0.99)).transpose(2, 0, 1),
        kernels=[densecrf.Gaussian(2, 3), densecrf.Bilateral(20, 13, 10)],
        iterations=4,
        method="classic",
    )
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, out.labels)
    many = np.random.default_rng(0).random((3, 4, 150))
    assert densecrf.compat.densecrf(photo(3, 4), many, (1, 2, 3, 1, 1, 1)).dtype == np.int32
    for wrong, message in (((P[0], (1,) * 6), "P: must have shape [H, W, L]"), ((P, (1,) * 5), "param: must be (w1,")):
        with pytest.raises(ValueError, match=re.escape(message)):
            densecrf.compat.densecrf(image, *wrong)


# ---- names --------------------------------------------------------------------------------------------------


def test_install(clean_imports):
    front_end.install()
    front_end.install()
    import pydensecrf
    import pydensecrf.densecrf as by_name
    from pydensecrf.utils import unary_from_softmax

    assert by_name is dcrf and pydensecrf.eigen is eigen and unary_from_softmax is utils.unary_from_softmax
    assert pydensecrf is front_end
    assert sum(Path(entry).name == "path" for entry in sys.path) == 1


def test_found_in_a_process_that_has_the_path_alone(clean_imports):
    front_end.install()
    code = f"import sys; sys.path[:] = {sys.path!r}; import pydensecrf.utils as u; print(u.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "densecrf.compat.pydensecrf.utils\n"


def test_signatures():
    expected = {
        dcrf.DenseCRF: "(nvar, nlabels, *_, **__)",
        dcrf.DenseCRF2D: "(w, h, nlabels, *_, **__)",
        dcrf.DenseCRF.addPairwiseEnergy: "(self, features, compat, kernel=1, normalization=3)",
        dcrf.DenseCRF2D.addPairwiseGaussian: "(self, sxy, compat, kernel=1, normalization=3)",
        dcrf.DenseCRF2D.addPairwiseBilateral: "(self, sxy, srgb, rgbim, compat, kernel=1, normalization=3)",
        dcrf.DenseCRF.setUnary: "(self, u)",
        dcrf.DenseCRF.setUnaryEnergy: "(self, u, f=None)",
        dcrf.DenseCRF.inference: "(self, niter)",
        dcrf.DenseCRF.startInference: "(self)",
        dcrf.DenseCRF.stepInference: "(self, Q, tmp1, tmp2)",
        dcrf.DenseCRF.klDivergence: "(self, Q)",
        dcrf.ConstUnary: "(u)",
        dcrf.LogisticUnary: "(L, f)",
        utils.unary_from_labels: "(labels, n_labels, gt_prob, zero_unsure=True)",
        utils.unary_from_softmax: "(sm, scale=None, clip=1e-05)",
        utils.compute_unary: "(labels, M, GT_PROB=0.5)",
        utils.softmax_to_unary: "(sm, GT_PROB=1)",
        utils.create_pairwise_gaussian: "(sdims, shape)",
        utils.create_pairwise_bilateral: "(sdims, schan, img, chdim=-1)",
        eigen.vectorXf: "(arr)",
        eigen.matrixXf: "(arr)",
    }
    for function, wanted in expected.items():
        signature = inspect.signature(function)
        parameters = [
            p.replace(annotation=inspect.Parameter.empty, default=getattr(p.default, "value", p.default))
            for p in signature.parameters.values()
        ]
        plain = signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
        assert str(plain) == wanted


def test_constants():
    assert (dcrf.CONST_KERNEL, dcrf.DIAG_KERNEL, dcrf.FULL_KERNEL) == (0, 1, 2)
    names = ("NO_NORMALIZATION", "NORMALIZE_BEFORE", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC")
    assert [getattr(dcrf, name) for name in names] == [0, 1, 2, 3]
    assert all(getattr(dcrf.NormalizationType, name) is getattr(dcrf, name) for name in names)
    assert issubclass(dcrf.DenseCRF2D, dcrf.DenseCRF) and issubclass(dcrf.LogisticUnary, dcrf.Unary)


def test_matrix():
    Q = small().inference(2)
    assert isinstance(Q, eigen.MatrixXf)
    assert memoryview(Q).format == "f" and memoryview(Q).shape == (3, 20) and not memoryview(Q).readonly
    assert type(np.array(Q)) is np.ndarray
    np.testing.assert_array_equal(np.argmax(Q, axis=0).reshape(4, 5), np.array(Q).argmax(axis=0).reshape(4, 5))
    np.testing.assert_array_equal(Q[1].reshape(4, 5), np.array(Q).reshape(3, 4, 5)[1])
    assert eigen.MatrixXf().shape == (0, 0) and eigen.VectorXf().shape == (0,)
    copy = pickle.loads(pickle.dumps(Q))
    np.testing.assert_array_equal(copy, Q)
    assert isinstance(copy, eigen.MatrixXf)


# ---- what is forgiven ---------------------------------------------------------------------------------------


def strided(array):
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


FORMS = {
    "float64": (lambda a: a.astype(np.float64), lambda a: a.astype(np.int64)),
    "float16": (lambda a: a.astype(np.float16), lambda a: a.astype(np.float16)),
    "fortran": (np.asfortranarray, np.asfortranarray),
    "strided": (strided, strided),
    "read-only": (read_only, read_only),
    "list": (np.ndarray.tolist, np.ndarray.tolist),
    "unflattened": (lambda a: a.reshape(-1, 4, 5), lambda a: a),
    "big endian": (lambda a: a.astype(">f4"), lambda a: a.astype(">i2")),
}


@pytest.mark.parametrize("form", FORMS)
def test_forgives(form):
    of_floats, of_pixels = FORMS[form]
    u = energies(3, 20).astype(np.float16).astype(np.float32)
    features = np.round(utils.create_pairwise_gaussian((2, 4), (4, 5)) * 4) / 4
    compat = np.array([-2, -1, -1.5], np.float32)
    of_vector = of_floats if form != "unflattened" else (lambda a: a)

    def answer(floats, pixels, vector):
        crf = small(u=floats(u), rgbim=pixels(photo(4, 5)), compat=vector(compat))
        crf.addPairwiseEnergy(floats(features), vector(compat))
        Q = crf.inference(3)
        return np.array(Q), crf.klDivergence(vector(np.array(Q)) if form != "float16" else Q)

    (Q, kl), (expected, expected_kl) = answer(of_floats, of_pixels, of_vector), answer(*[lambda a: a] * 3)
    np.testing.assert_allclose(Q, expected, atol=1e-6)
    assert kl == pytest.approx(expected_kl, rel=1e-6)


def test_forgives_torch():
    torch = pytest.importorskip("torch")
    u, image = energies(3, 20), photo(4, 5)
    expected = small(u=u, rgbim=image).inference(3)
    given = torch.tensor(u.reshape(3, 4, 5), requires_grad=True)
    np.testing.assert_array_equal(small(u=given, rgbim=torch.tensor(image)).inference(3), expected)
    half = torch.tensor(u).to(torch.bfloat16)
    np.testing.assert_array_equal(small(u=half).inference(3), small(u=half.float().numpy()).inference(3))
    np.testing.assert_array_equal(
        utils.unary_from_softmax(given.softmax(0)), utils.unary_from_softmax(given.softmax(0).detach().numpy())
    )


def test_torch_is_not_imported():
    code = "import sys, densecrf.compat; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_forgives_numbers():
    crf = dcrf.DenseCRF2D(np.int64(5), 4.0, np.uint8(3), "ignored", also="ignored")
    crf.setUnaryEnergy(energies(3, 20))
    crf.addPairwiseGaussian(np.array([2, 2]), np.array(3.0))
    crf.addPairwiseGaussian([2, 2, 9], True, 0, 3.0)
    again = dcrf.DenseCRF2D(5, 4, 3)
    again.setUnary(one := dcrf.ConstUnary(energies(3, 20)))
    again.setUnary(one)  # pydensecrf has taken its energies away by now
    again.addPairwiseGaussian((2, 2), 3)
    again.addPairwiseGaussian(2, 1)
    np.testing.assert_array_equal(crf.inference(2.7), again.inference(2))
    np.testing.assert_array_equal(crf.inference(-1), again.inference(0))


def test_float_images_are_not_rounded():
    image = photo(4, 5)
    np.testing.assert_allclose(small(rgbim=image / 1.0).inference(3), small(rgbim=image).inference(3), atol=1e-6)
    with pytest.warns(UserWarning, match="multiply the image by 255") as record:
        small(rgbim=image / 255)
    assert record[0].filename == __file__


class Subclass(dcrf.DenseCRF2D):
    """Cython's class cannot be used as a base; this one can."""

    def best(self, niter):
        return self.inference(niter).argmax(axis=0)


def test_subclass():
    crf = Subclass(5, 4, 3)
    crf.setUnaryEnergy(energies(3, 20))
    np.testing.assert_array_equal(crf.best(0), energies(3, 20).argmin(axis=0))


# ---- what is not --------------------------------------------------------------------------------------------

RGB_ONLY = "addPairwiseBilateral only works for RGB images. For other types, use `utils.create_pairwise_bilateral`"


def crf2d():
    return dcrf.DenseCRF2D(5, 4, 3)


def bilateral(image, **options):
    return crf2d().addPairwiseBilateral(**{"sxy": 3, "srgb": 13, "rgbim": image, "compat": 3, **options})


def energy(features, **options):
    return crf2d().addPairwiseEnergy(features, **{"compat": 3, **options})


def const(u):
    return crf2d().setUnaryEnergy(u)


U = np.zeros((3, 20), np.float32)
ERRORS = {
    "unary size": (lambda: const(U[:, :10]), ValueError, "Bad shape for unary energy (Need (3, 20), got (3, 10))"),
    "unary transposed": (lambda: const(U.T), ValueError, "got (20, 3)); pixels come last: u.T"),
    "unary, labels last": (lambda: const(U.T.reshape(4, 5, 3)), ValueError, "pixels come last: np.moveaxis(u, -1, 0)"),
    "unary, height first": (lambda: const(U.reshape(3, 5, 4)), ValueError, "takes the width first: DenseCRF2D(w, h"),
    "unary, batch": (lambda: const(U.reshape(1, 3, 4, 5)), ValueError, "leave out the batch axis: u[0]"),
    "unary None": (lambda: const(None), TypeError, "Argument 'u' must not be None"),
    "unary NaN": (lambda: const(U * np.nan), ValueError, "unary energy: must not hold NaN; energies are -log p"),
    "unary text": (lambda: const([["a"]]), TypeError, "u: must be an array of real numbers, got str"),
    "unary class": (lambda: crf2d().setUnary(U), TypeError, "use setUnaryEnergy(u)"),
    "const size": (lambda: crf2d().setUnary(dcrf.ConstUnary(U[:2])), ValueError, "Need (3, 20), got (2, 20)"),
    "logistic": (lambda: dcrf.LogisticUnary(U, U), ValueError, "L, f: must have shapes [L, F] and [F, N], got (3, 20)"),
    "features": (lambda: energy(U[:, :9]), ValueError, "Bad shape for pairwise energy (Need (?, 20), got (3, 9))"),
    "features.T": (lambda: energy(U.T), ValueError, "got (20, 3)); pixels come last: features.T"),
    "chdim": (
        lambda: energy(utils.create_pairwise_bilateral((3, 3), 13, photo(4, 5))),
        ValueError,
        "chdim=-1 means that there is none",
    ),
    "features NaN": (lambda: energy(U * np.nan), ValueError, "features: must be finite, got NaN or inf"),
    "features far": (lambda: energy(np.arange(60.0).reshape(3, 20) * 1e20), ValueError, "features: must span fewer"),
    "compat 3-D": (
        lambda: energy(U, compat=np.zeros((3, 3, 3))),
        ValueError,
        "LabelCompatibility of dimension >2 not meaningful.",
    ),
    "compat size": (lambda: energy(U, compat=np.zeros(4)), ValueError, "compat: must be a number, [3] or [3, 3], got"),
    "compat text": (lambda: energy(U, compat="potts"), TypeError, "compat: must be an array of real numbers"),
    "compat complex": (lambda: energy(U, compat=1j), TypeError, "complex"),
    "normalization": (
        lambda: energy(U, normalization=7),
        ValueError,
        "normalization: must be one of NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC, got 7",
    ),
    "kernel": (lambda: energy(U, kernel="diag"), TypeError, "an integer is required"),
    "image turned": (
        lambda: bilateral(photo(5, 4)),
        ValueError,
        "Bad shape for pairwise bilateral (Need (4, 5, 3), got [5, 4, 3]); DenseCRF2D takes the width first",
    ),
    "image CHW": (
        lambda: bilateral(photo(4, 5).transpose(2, 0, 1)),
        ValueError,
        "channels come last: np.moveaxis(rgbim, 0, -1)",
    ),
    "image size": (lambda: bilateral(photo(9, 9)), ValueError, "(Need (4, 5, 3), got [9, 9, 3])"),
    "grey image": (lambda: bilateral(photo(4, 5)[..., 0]), ValueError, RGB_ONLY),
    "two channels": (lambda: bilateral(photo(4, 5, channels=2)), ValueError, RGB_ONLY),
    "image None": (lambda: bilateral(None), TypeError, "Argument 'rgbim' must not be None"),
    "image NaN": (lambda: bilateral(photo(4, 5) * np.nan), ValueError, "rgbim: must be finite, got NaN or inf"),
    "srgb": (lambda: bilateral(photo(4, 5), srgb=0), ValueError, "srgb: bandwidths must be positive, got 0"),
    "srgb count": (lambda: bilateral(photo(4, 5), srgb=(1, 2)), IndexError, "out of range"),
    "sxy": (lambda: crf2d().addPairwiseGaussian((1, -1), 3), ValueError, "sxy: bandwidths must be positive"),
    "sizes": (lambda: dcrf.DenseCRF("5", 3), TypeError, "an integer is required"),
    "no points": (lambda: dcrf.DenseCRF2D(0, 3, 3), ValueError, "w: must be at least 1, got 0"),
    "niter": (lambda: small().inference(None), TypeError, "an integer is required"),
    "Q": (lambda: small().stepInference(U[:2], None, None), TypeError, "Q: must be the [3, 20] matrix that startInf"),
    "Q list": (lambda: small().stepInference(U.tolist(), None, None), TypeError, "Q: must be the [3, 20] matrix that"),
    "Q NaN": (lambda: small().stepInference(U * np.nan, None, None), ValueError, "Q: must be finite, got NaN or inf"),
    "KL": (lambda: small().klDivergence(U[:2]), ValueError, "Bad shape for Q (Need (3, 20), got (2, 20))"),
    "eigen": (lambda: eigen.vectorXf(U), ValueError, "Buffer has wrong number of dimensions (expected 1, got 2)"),
    "eigen None": (lambda: eigen.matrixXf(None), TypeError, "Argument 'arr' must not be None"),
    "gt_prob": (lambda: utils.unary_from_labels([1, 2], 2, 1.0), AssertionError, "`gt_prob must be in (0,1)."),
    "scale": (lambda: utils.unary_from_softmax(U, scale=2), AssertionError, "`scale` needs to be in (0,1]"),
    "label": (
        lambda: utils.unary_from_labels([0, 255], 2, 0.7),
        IndexError,
        "labels: must be integers from 0 to 2 (zero_unsure=True, n_labels=2), got 255; give void pixels the label 0",
    ),
    "label -1": (lambda: utils.unary_from_labels([0, -1], 2, 0.7, False), IndexError, "must be integers from 0 to 1"),
    "half a label": (lambda: utils.unary_from_labels([0.5], 2, 0.7), IndexError, "got 0.5"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    "args, message", [([], "usage: python -m densecrf.compat.pydensecrf script.py"), (["no.py"], "no.py: no such file")]
)
def test_command_line_errors(args, message):
    command = [sys.executable, "-m", "densecrf.compat.pydensecrf", *args]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr


def test_command_line_looks_like_the_script_alone(tmp_path):
    (tmp_path / "helper.py").write_text("import pydensecrf.densecrf as dcrf\n")
    script = tmp_path / "script.py"
    script.write_text("import sys, helper\nprint(sys.argv, __name__, __file__, helper.dcrf.__name__, sys.path[0])\n")
    said = run_program(script, "--flag", "x")
    expected = [[str(script), "--flag", "x"], "__main__", script, "densecrf.compat.pydensecrf.densecrf", tmp_path]
    assert said == " ".join(map(str, expected)) + "\n"


# ---- processes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["classic", "tuned"])
def test_pickling(monkeypatch, method):
    monkeypatch.setattr(front_end, "method", method)
    crf = small(compat=np.float32([-1, -2, -3]))
    copy = pickle.loads(pickle.dumps(crf))
    np.testing.assert_array_equal(copy.inference(3), crf.inference(3))
    copy.addPairwiseGaussian(1, 1)
    assert np.abs(copy.inference(3) - crf.inference(3)).max() > 1e-4
    unary = pickle.loads(pickle.dumps(dcrf.ConstUnary(energies(3, 20))))
    crf.setUnary(unary)


def refined(crf):
    return crf.inference(3), crf.klDivergence(crf.startInference()[0])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_multiprocessing(start):
    crfs = [small(u=energies(3, 20, seed)) for seed in range(3)]
    here = [refined(crf) for crf in crfs]  # threads have run in this process when it forks
    with multiprocessing.get_context(start).Pool(2) as pool:
        there = pool.map(refined, crfs)
    for (Q, kl), (expected, expected_kl) in zip(there, here, strict=True):
        np.testing.assert_array_equal(Q, expected)
        assert kl == expected_kl


def test_prints_nothing(capfd):
    crf = small()
    Q, tmp1, tmp2 = crf.startInference()
    crf.stepInference(Q, tmp1, tmp2)
    crf.klDivergence(Q)
    crf.inference(5)
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # as Python does unless told otherwise
        utils.compute_unary([1, 2], 2)
        utils.softmax_to_unary(np.ones((2, 3)))
    assert capfd.readouterr() == ("", "")
