"""What several test files share."""

from __future__ import annotations

import pytest


@pytest.fixture
def one_thread():
    """Small problems are fastest on one thread."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
