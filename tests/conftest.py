"""Hypothesis profiles and fixtures for all tests, and a guard against leaked state."""

from __future__ import annotations

import gc
import os
import random
import signal

import numpy as np
import pytest
from hypothesis import settings

import autograd
from npgpt2.machine import process
from tests.optional import has

if has("torch"):
    import torch

settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(autouse=True)
def untuned(monkeypatch):
    """The command line does not tune the process that the tests run in."""
    monkeypatch.setattr(process, "keep_freed_memory", lambda: False)


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_interrupts():
    """Let SIGINT raise KeyboardInterrupt: a shell starts background jobs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def global_state():
    """Return all state that outlives a test and could change the next test."""
    x = autograd.Tensor(1.0, requires_grad=True)
    kind, keys, *rest = np.random.get_state()
    state = {
        "recording of graphs (no_grad, enable_grad)": (x * x).requires_grad,
        "NumPy's error state": (np.geterr(), np.geterrcall()),
        "NumPy's print options": np.get_printoptions(),
        "NumPy's global generator": (kind, keys.tobytes(), *rest),
        "random's global generator": random.getstate(),
        "the garbage collector": gc.isenabled(),
    }
    if has("torch"):
        state["torch's global generator"] = torch.random.get_rng_state().numpy().tobytes()
        state["torch's default dtype"] = torch.get_default_dtype()
    return state


@pytest.fixture(autouse=True)
def no_leaked_state():
    """Fail a test that changes global state, and restore the state for the next test."""
    before = global_state()
    recording, errors = autograd.tensor._mode.recording, np.geterr()
    generators = np.random.get_state(), random.getstate()
    torch_generator = torch.random.get_rng_state() if has("torch") else None
    yield
    after = global_state()
    changed = [name for name, state in before.items() if after[name] != state]
    autograd.tensor._mode.recording = recording
    np.seterr(**errors)
    np.random.set_state(generators[0])
    random.setstate(generators[1])
    if torch_generator is not None:
        torch.random.set_rng_state(torch_generator)
    assert not changed, f"the test changed {', '.join(changed)}"
