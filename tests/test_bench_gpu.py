"""The baselines of the GPU benchmark compute what they say, and the script runs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import densecrf

torch = pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parent.parent


def test_a_window_over_the_whole_image_is_the_exact_model(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import torch_baselines

    rng = np.random.default_rng(0)
    logits, image = rng.normal(size=(2, 3, 9, 12)) * 2, rng.uniform(0, 255, (2, 3, 9, 12))
    scores = torch_baselines.windowed_mean_field(
        torch.from_numpy(logits), torch.from_numpy(image), 2 * 12 - 1, (3.0, 3.0), (20.0, 40.0, 4.0), 3
    )
    kernels = [densecrf.Gaussian(3, 3), densecrf.Bilateral(20, 40, 4)]
    for scores_of_one, logits_of_one, pixels in zip(scores, logits, image, strict=True):
        wanted = densecrf.refine(
            np.moveaxis(pixels, 0, -1), logits=logits_of_one, kernels=kernels, iterations=3, method="exact"
        )
        np.testing.assert_allclose(scores_of_one.softmax(0).numpy(), wanted.probs, atol=1e-5)


def test_the_script_runs_without_a_gpu():
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "bench_gpu", "--rehearse", "--rounds", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "1 x 32x24, L=3, T=2: Q to 0e+00 of the CPU's, 0 labels differ" in run.stdout
