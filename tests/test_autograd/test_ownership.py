"""No two leaves share a gradient, and a gradient that nobody else holds is not copied."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autograd import record
from tests.test_autograd.test_tensor import leaf, normal

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("f", [lambda x, y: x + y, lambda x, y: (x + y).sum(), lambda x, y: x])
def test_writing_into_a_gradient_changes_no_other_array(f):
    x, y = leaf(2, 3, seed=1), leaf(2, 3, seed=2)
    out = f(x, y)
    g = normal(*out.shape, seed=3)
    out.backward(g)
    others = [a for a in (g, x.data, y.data, out.data, y.grad) if a is not None]
    values = copy.deepcopy(others)
    x.grad[...] = np.nan  # a broadcast view would refuse this
    assert all(np.array_equal(a, b) for a, b in zip(others, values, strict=True))


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("held", ["by nobody", "by a variable", "as a view", "by the op", "twice"])
def test_a_gradient_that_nobody_else_holds_is_not_copied(held):
    x, y, made, kept = leaf(2, 3), leaf(2, 3), [], []
    saved = np.ones((2, 3))

    def vjp(g):
        gradient = saved if held == "by the op" else 2.0 * g
        made.append(address(gradient))
        if held == "by a variable":
            kept.append(gradient)
        if held == "as a view":
            kept.append(gradient[0])
        return gradient, gradient if held == "twice" else 3.0 * g

    out = record(x.data + y.data, (x, y), vjp)
    out.backward(np.ones((2, 3)))
    handed_over = made[0] in (address(x.grad), address(y.grad))
    assert handed_over == (held in ("by nobody", "twice"))
    assert not np.shares_memory(x.grad, y.grad) and not np.shares_memory(x.grad, saved)
    assert not any(np.shares_memory(x.grad, a) for a in kept)


def test_a_gradient_that_nobody_else_holds_is_added_to_in_place():
    x, made = leaf(2, 3), []

    def doubled():
        def vjp(g):
            gradient = 2.0 * g
            made.append(address(gradient))
            return (gradient,)

        return record(2.0 * x.data, (x,), vjp)

    (doubled() + doubled() + doubled()).sum().backward()
    assert np.array_equal(x.grad, np.full((2, 3), 6.0))
    assert address(x.grad) == made[0]


def test_a_gradient_that_cannot_be_written_to_is_copied():
    x = leaf(2, 3)

    def vjp(g):
        gradient = 2.0 * g
        gradient.setflags(write=False)
        return (gradient,)

    out = record(2.0 * x.data, (x,), vjp)
    for loss in (out.sum(), (record(2.0 * x.data, (x,), vjp) + out + out).sum()):
        loss.backward(retain_graph=True)
        x.grad += 1.0


TRACED = """
import sys
def trace(frame, event, arg):
    frame.f_locals  # Python keeps this dict, and so it keeps the function's variables alive
    return trace
sys.{set}(trace)
import autograd
sys.{set}(None)
import numpy as np
x, y = (autograd.Tensor(np.ones(2), requires_grad=True) for _ in range(2))
saved = np.ones(2)
autograd.record(x.data + y.data, (x, y), lambda g: (saved, saved)).backward(np.ones(2))
assert not np.shares_memory(x.grad, y.grad) and not np.shares_memory(x.grad, saved)
"""


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12),
    reason="Python 3.12 changes module variables when a tracer reads f_locals (until PEP 667)",
)
@pytest.mark.parametrize("set_tracer", ["settrace", "setprofile"])
def test_an_import_under_a_debugger_does_no_harm(set_tracer):
    code = TRACED.format(set=set_tracer)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_sums_of_gradients_change_none_that_others_hold():
    """The vjps keep three of the gradients of x: two arrays, and one that x gets as a view."""
    x, kept = leaf(2, 3), []

    def scaled(factor, give):
        return record(factor * x.data, (x,), lambda g: (give(factor * g),))

    def keep(a):
        kept.append(a)
        return a

    def view(a):
        kept.append(a)
        return a[:]

    loss = (scaled(2.0, keep) + scaled(3.0, view) + scaled(4.0, keep) + (x + x)).sum()
    g = np.full((), 1.0)
    loss.backward(g)
    assert np.array_equal(x.grad, np.full((2, 3), 11.0)) and g == 1.0
    assert sorted(a[0, 0] for a in kept) == [2.0, 3.0, 4.0]
    assert all((a == a[0, 0]).all() for a in kept)
