"""The guard against leaked state finds every leak, and lets no leak reach the next test."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from tests.optional import has, needs

if has("torch"):
    import torch

LEAKS = {
    "recording of graphs (no_grad, enable_grad)": "global g; g = autograd.no_grad(); g.__enter__()",
    "NumPy's error state": "np.seterr(all='ignore')",
    "NumPy's print options": "np.set_printoptions(precision=3)",
    "NumPy's global generator": "np.random.seed(0)",
    "random's global generator": "random.random()",
    "torch's global generator": "import torch; torch.manual_seed(0)",
    "torch's default dtype": "import torch; torch.set_default_dtype(torch.float64)",
    "the garbage collector": "gc.disable()",
}
EACH_LEAK = [
    pytest.param(what, marks=needs("torch")) if what.startswith("torch") else what for what in LEAKS
]


def run(pytester, body):
    """Run a test with this body, then a test that leaks nothing, with the guard of this suite."""
    pytester.makeconftest("from tests.conftest import no_leaked_state")
    pytester.makepyfile(
        f"""
        import gc, random
        import numpy as np
        import autograd

        def test_first():
            {body}

        def test_second():
            assert (autograd.Tensor(1.0, requires_grad=True) * 1.0).requires_grad
        """
    )
    return pytester.runpytest_inprocess("-p", "no:cacheprovider")


@pytest.fixture
def put_back():
    """Undo the leaks in this process too."""
    options = np.get_printoptions()
    dtype = torch.get_default_dtype() if has("torch") else None
    yield
    np.set_printoptions(**options)
    if dtype is not None:
        torch.set_default_dtype(dtype)
    gc.enable()


@pytest.mark.parametrize("what", EACH_LEAK)
def test_a_test_that_leaks_fails_and_the_next_one_does_not(put_back, pytester, what):
    result = run(pytester, LEAKS[what])
    result.assert_outcomes(passed=2, errors=1)  # the guard fails when the test is over
    result.stdout.fnmatch_lines([f"*test changed {what}*"])


def test_a_test_that_leaks_nothing_passes(pytester):
    run(pytester, "np.random.default_rng(0).random()").assert_outcomes(passed=2)
