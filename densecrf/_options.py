"""The options of ``densecrf refine`` and what its help says at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from densecrf import _checks, params, presets
from densecrf.images import FileError

PRESETS = {
    "default": presets.DEFAULT,
    "pydensecrf": presets.PYDENSECRF,
    "deeplab": presets.DEEPLAB,
    "crf-as-rnn": presets.CRF_AS_RNN,
}

PRESET_HELP = "Setting to begin with; the options below change it.  [default: default]"
METHOD_HELP = (
    "tuned (default): near the exact answer; classic: pydensecrf's numbers; fast: as far off as classic, in less time; "
    "exact: small images only."
)
NORMALIZATION_HELP = "Of the Gaussian sums.  [default: symmetric]"

EXAMPLES = """\b
Examples:
  One photo and the scores of a network, of the photo's size or smaller:
    densecrf refine photo.jpg scores.npy -o out
\b
  A folder of photos and a folder of scores (a.jpg goes with a.npy or a_scores.npz);
  results go into out/a, out/b, ...:
    densecrf refine photos scores -o out
\b
  Some photos only:
    densecrf refine photos/2024-*.jpg --scores scores -o out
\b
  Probabilities instead of scores; a label picture; a black-and-white mask:
    densecrf refine photo.jpg probs.npy --probs -o out
    densecrf refine photo.jpg labels.png --labels -o out
    densecrf refine photo.jpg mask.png --binary -o out
\b
What to turn: raise --srgb if the result breaks into specks, lower it if the result
crosses edges; raise --sxy and --weight to let the photo say more.
\b
Exit status: 0 all went well, 1 something failed, 2 wrong usage, 130 interrupted.
"""


def _together(*options: Callable[..., Any]) -> Callable[..., Any]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _flag(*names: str, help: str) -> Callable[..., Any]:
    return click.option(*names, is_flag=True, help=help)


def _number(name: str, help: str) -> Callable[..., Any]:
    return click.option(name, type=float, metavar="X", help=help)


def _count(name: str, help: str, *, least: int = 1) -> Callable[..., Any]:
    return click.option(name, type=click.IntRange(least), metavar="N", help=help)


def normalization_option(**more: Any) -> Callable[..., Any]:
    return click.option("--normalization", type=click.Choice(_checks.NORMALIZATIONS), **more)


def params_option(help: str, **more: Any) -> Callable[..., Any]:
    """A parameter file, or several, read: `params.Params`, or None without one."""
    return click.option("--params", metavar="FILE", callback=_params, help=help, **more)


def _params(context: click.Context, option: click.Parameter, given: str | tuple[str, ...] | None) -> Any:
    paths = (given,) if isinstance(given, str) else given
    try:
        return params.load(*paths) if paths else None
    except FileError as error:
        raise click.UsageError(f"--params: {error}") from error


input_options = _together(
    click.option("--scores", metavar="PATH", help="SCORES by name: then every argument is an image."),
    _flag("--probs", help="SCORES are probabilities, not scores before the softmax."),
    _flag("--labels", help="SCORES is a label picture (palette or grey PNG)."),
    _flag("--binary", help="SCORES is a black-and-white mask; all but black is label 1."),
    click.option("--key", metavar="NAME", help="Name of the array, in an .npz that holds several."),
    _count("--num-labels", "With --labels: how many there are; else the largest + 1."),
    click.option("--unknown", default=255, metavar="N", help="With --labels: value for unknown.  [default: 255]"),
    click.option("--confidence", default=0.7, metavar="P", help="Trust in given labels, 0 to 1.  [default: 0.7]"),
)

model_options = _together(
    click.option("--preset", type=click.Choice(list(PRESETS)), help=PRESET_HELP),
    params_option("Setting to begin with, as densecrf tune writes it; instead of --preset."),
    _number("--sxy", "Reach of the colour term, in pixels.  [default: 50]"),
    _number("--srgb", "Colour difference that counts as an edge, of 255.  [default: 4]"),
    _number("--weight", "Weight of the colour term, 0 for none.  [default: 5]"),
    _number("--spatial-sxy", "Reach of the smoothness term, in pixels.  [default: 1]"),
    _number("--spatial-weight", "Weight of the smoothness term, 0 for none.  [default: 3]"),
    _count("--iterations", "Mean field steps.  [default: 5]", least=0),
    click.option("--method", type=click.Choice(_checks.METHODS), default="tuned", help=METHOD_HELP),
    normalization_option(help=NORMALIZATION_HELP),
    click.option(
        "--prune",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.0,
        metavar="P",
        help="Leave out labels that stay below this probability everywhere.  [default: 0, none]",
    ),
)

run_options = _together(
    _count("--threads", "Threads to use.  [default: all cores]"),
    _flag("--no-overlay", help="Do not write overlay.png."),
    _flag("-q", "--quiet", help="Say nothing unless something is wrong."),
    _flag("--debug", help="Show the traceback of an error."),
)

dataset_options = _together(
    click.option(
        "--void",
        type=int,
        multiple=True,
        default=(255,),
        metavar="N",
        help="Label that does not count; repeatable.  [default: 255]",
    ),
    _flag("--probs", help="Scores are probabilities, not scores before the softmax."),
    click.option("--key", metavar="NAME", help="Name of the array, in an .npz that holds several."),
    _count("--stride", "Scores are of the photo padded right and below to a multiple of N pixels, one for each N."),
)
