"""Memory of calls and results is kept and handed out again, and nobody may notice."""

from __future__ import annotations

import multiprocessing
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from densecrf import Gaussian, _native, refine

SHAPE, L = (340, 330), 20  # results of 9 MB, in huge pages


def logits_of(seed):
    return np.random.default_rng(seed).normal(size=(L, *SHAPE)).astype(np.float32)


def run(seed, threads=1):
    return refine(logits=logits_of(seed), kernels=[Gaussian(2)], iterations=1, num_threads=threads).probs


@pytest.fixture(scope="module")
def expected():
    return [run(seed).copy() for seed in range(3)]


def test_a_result_stays_what_it_is(expected):
    first = run(0)
    view = first[3:5, ::2]
    others = [run(seed) for seed in (1, 2)]
    for found, seed in zip([first, *others], range(3), strict=True):
        np.testing.assert_array_equal(found, expected[seed])
    del first, found
    run(1)
    np.testing.assert_array_equal(view, expected[0][3:5, ::2])


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux' /proc")
def test_no_more_is_kept_than_told():
    run(0)
    before = resident()
    _native.keep_memory(0)
    try:
        after = resident()
        run(0)
        assert before - after > 8 << 20  # something was kept, and is no longer
        assert resident() - after < 8 << 20
    finally:
        _native.keep_memory(1 << 30)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux' /proc")
def test_what_earlier_sizes_needed_is_not_kept():
    _native.keep_memory(0)
    _native.keep_memory(1 << 30)
    grown = []
    for side in range(400, 640, 30):  # less than a quarter larger each time, so that some blocks could serve again
        logits = np.zeros((L, side, side), np.float32)
        before = resident()
        refine(logits=logits, kernels=[Gaussian(2)], iterations=1, num_threads=1)
        grown.append(resident() - before)
    assert sum(grown) < 7 * logits.nbytes  # 3 of the largest call, 15 where all is kept


FIRST_CALL = """
import sys
import numpy as np
from densecrf import _native, refine
_native.keep_memory(int(sys.argv[1]))
image = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)  # as many vertices as can be
logits = np.zeros((2, 300, 400), np.float32)
refine(image[:9, :9], logits=logits[:, :9, :9], iterations=1, num_threads=1)
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
before = peak()
refine(image, logits=logits, iterations=1, num_threads=1)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="peak memory is read from Linux' /proc")
def test_what_the_first_build_grew_out_of_is_not_kept():
    peaks = [
        int(subprocess.run([sys.executable, "-c", FIRST_CALL, str(kept)], capture_output=True, check=True).stdout)
        for kept in (0, 1 << 30)
    ]
    assert peaks[1] < 1.4 * peaks[0]  # 1.2; 2.1 where nothing goes


def test_several_threads_at_once(expected):
    wrong = []

    def work(seed):
        for _ in range(6):
            if not np.array_equal(run(seed), expected[seed]):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def child(queue):
    queue.put(run(2).sum(axis=(1, 2)))


def test_a_forked_process(expected):
    held = run(1)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    np.testing.assert_array_equal(queue.get(timeout=60), expected[2].sum(axis=(1, 2)))
    process.join()
    np.testing.assert_array_equal(held, expected[1])
