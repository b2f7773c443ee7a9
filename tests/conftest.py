"""What several test files share."""

from __future__ import annotations

import signal

import pytest

# A shell starts what it runs in the background with Ctrl-C ignored, which children inherit: tests of Ctrl-C want it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def one_thread():
    """Small problems are fastest on one thread."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
