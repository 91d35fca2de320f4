"""Shared by all tests: hypothesis profiles, and a guard against state that leaks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import settings

import autograd

settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_interrupts() -> Iterator[None]:
    """SIGINT as at a prompt: a shell's background jobs, and their children, start ignoring it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def no_leaked_state() -> Iterator[None]:
    """Fail a test that leaves recording off, or NumPy's error state changed."""
    before = np.geterr()
    yield
    x = autograd.Tensor(1.0, requires_grad=True)
    assert (x * x).requires_grad, "the test left no_grad on"
    assert np.geterr() == before, "the test changed NumPy's error state"
