"""Softmax: p_i = exp(x_i) / sum_j exp(x_j), over the last axis.

x, p and g are (B, T, V). One row by itself:

1. exp(x_i) depends on x_i alone, the sum on every x_j: d sum/dx_j = exp(x_j). By the quotient
   rule

       dp_i/dx_j = p_i 1[i = j] - p_i p_j = p_i (1[i = j] - p_j)

   On the diagonal that is p_i (1 - p_i), and elsewhere -p_i p_j, which is not 0: every output
   depends on every input.

2. x_j gets a gradient from each p_i, and they are summed:

       dx_j = sum_i g_i p_i (1[i = j] - p_j) = p_j g_j - p_j sum_i g_i p_i
       dx = p * (g - sum(g * p))

>>> import numpy as np
>>> from npgpt2.learn.judge.exercise import slope
>>> rng = np.random.default_rng(0)
>>> x, g = rng.standard_normal((2, 2, 3, 4))
>>> p = forward(x)
>>> dx = p * (g - (g * p).sum(axis=-1, keepdims=True))
>>> np.allclose(dx, slope(forward, x, g))
True

3. What is subtracted is the mean of g, weighted by p. So dx sums to 0 over a row (adding a
   constant to a row changes no p), and a g of ones gives 0, since the p sum to 1 whatever x is:

>>> answer(np.array([1.0, 0.0]), np.log([1.0, 3.0]))[0]
array([ 0.1875, -0.1875])
>>> answer(np.array([1.0, 1.0]), np.log([1.0, 3.0]))[0]
array([0., 0.])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from autograd import Array, Tensor, record
from npgpt2 import composed
from npgpt2 import functional as F
from npgpt2.learn.judge.exercise import (
    Answer,
    Arguments,
    Exercise,
    Mistake,
    Sizes,
    in_gpt2,
    replaced,
    vjp,
)


def forward(x: Array) -> Any:
    """(B, T, V) -> (B, T, V)."""
    e = np.exp(x - x.real.max(axis=-1, keepdims=True))  # so that exp cannot overflow
    return e / e.sum(axis=-1, keepdims=True)


def answer(g: Array, x: Array) -> tuple[Array, ...]:
    """Return (dx,)."""
    return vjp(F.softmax, g, x)


def solution(g: Array, x: Array) -> Any:
    """The answer by hand."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p * (g - (g * p).sum(axis=-1, keepdims=True))


def _terms(g: Array, x: Array) -> Mapping[str, Mapping[str, Array]]:
    p = forward(x)
    return {"dx": {"p * g": p * g, "-p * sum(g * p)": -p * (g * p).sum(axis=-1, keepdims=True)}}


def _draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    return tuple(rng.standard_normal((2, n.B, n.T, n.V)))


def _end_to_end(function: Answer) -> str:
    def softmax(x: Tensor) -> Tensor:
        def vjp(g: Array) -> tuple[Array]:
            flat = (g.shape[0], -1, g.shape[-1])  # (B, H, T, T) -> (B, HT, T)
            (dx,) = function(g.reshape(flat), x.data.reshape(flat))
            return (dx.reshape(g.shape),)

        return record(forward(x.data), (x,), vjp)

    with replaced(composed, "softmax", softmax):
        return in_gpt2(causal_attention=composed.causal_attention)


def _of(change: Any) -> Answer:
    """Make a wrong dx of g, p and x."""
    return lambda g, x: {"dx": change(g, forward(x), x)}


def _over(axis: int, g: Array, x: Array) -> Array:
    p = np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)
    dx: Array = p * (g - (g * p).sum(axis=axis, keepdims=True))
    return dx


_MISTAKES = (
    Mistake(
        "elementwise",
        "p (1 - p) is only the diagonal of the Jacobian: every output depends on every input of "
        "its row.",
        _of(lambda g, p, x: g * p * (1.0 - p)),
    ),
    Mistake(
        "off-diagonal-only",
        "-p_i p_j holds for i different from j; on the diagonal p_i is to be added.",
        _of(lambda g, p, x: -p * ((g * p).sum(axis=-1, keepdims=True) - g * p)),
    ),
    Mistake(
        "unweighted-mean",
        "The mean of g is subtracted; it is the mean weighted by p, sum(g * p).",
        _of(lambda g, p, x: p * (g - g.mean(axis=-1, keepdims=True))),
    ),
    Mistake(
        "unweighted-sum",
        "sum(g) is subtracted; it is sum(g * p).",
        _of(lambda g, p, x: p * (g - g.sum(axis=-1, keepdims=True))),
    ),
    Mistake(
        "p-forgotten-before",
        "The factor p in front is missing: p * (g - sum(g * p)).",
        _of(lambda g, p, x: g - (g * p).sum(axis=-1, keepdims=True)),
    ),
    Mistake(
        "sum-without-p-in-front",
        "The sum is subtracted without its factor p: p * g - p * sum(g * p).",
        _of(lambda g, p, x: p * g - (g * p).sum(axis=-1, keepdims=True)),
    ),
    Mistake(
        "p-squared",
        "There is one p too many in front.",
        _of(lambda g, p, x: p * p * (g - (g * p).sum(axis=-1, keepdims=True))),
    ),
    Mistake(
        "g-for-p-in-front",
        "g stands in front, where p should: g_i p_i 1[i = j] - g_i p_i p_j is summed over i, so "
        "that g is left inside the sum.",
        _of(lambda g, p, x: g * (p - (g * p).sum(axis=-1, keepdims=True))),
    ),
    Mistake(
        "cotangent-of-the-row-lost",
        "sum(p * p) is subtracted; it is sum(g * p).",
        _of(lambda g, p, x: p * (g - (p * p).sum(axis=-1, keepdims=True))),
    ),
    Mistake(
        "summed-over-time",
        "g * p is summed over T; it is over V, the axis of the softmax.",
        _of(lambda g, p, x: p * (g - (g * p).sum(axis=1, keepdims=True))),
    ),
    Mistake(
        "summed-over-batch",
        "g * p is summed over B; it is over V, the axis of the softmax.",
        _of(lambda g, p, x: p * (g - (g * p).sum(axis=0, keepdims=True))),
    ),
    Mistake(
        "summed-over-all",
        "g * p is summed over everything; each row has a sum of its own (axis=-1).",
        _of(lambda g, p, x: p * (g - (g * p).sum())),
    ),
    Mistake(
        "mean-for-sum",
        "The mean of g * p is subtracted; it is the sum, for the p are the weights already.",
        _of(lambda g, p, x: p * (g - (g * p).mean(axis=-1, keepdims=True))),
    ),
    Mistake(
        "softmax-over-time",
        "The softmax is taken over T; it is over V, the last axis.",
        _of(lambda g, p, x: _over(1, g, x)),
    ),
    Mistake(
        "softmax-over-batch",
        "The softmax is taken over B; it is over V, the last axis.",
        _of(lambda g, p, x: _over(0, g, x)),
    ),
    Mistake(
        "not-normalised",
        "exp(x) stands where p should: it is to be divided by its sum.",
        _of(lambda g, p, x: np.exp(x) * (g - (g * np.exp(x)).sum(axis=-1, keepdims=True))),
    ),
    Mistake(
        "x-for-p",
        "x stands where p = softmax(x) should.",
        _of(lambda g, p, x: x * (g - (g * x).sum(axis=-1, keepdims=True))),
    ),
    Mistake(
        "of-log-softmax",
        "This is the gradient of log(softmax(x)), g - p * sum(g).",
        _of(lambda g, p, x: g - p * g.sum(axis=-1, keepdims=True)),
    ),
)

EXERCISE = Exercise(
    name="softmax",
    statement="The gradient of the softmax over the last axis.",
    forward=forward,
    function="softmax_backward",
    arguments={"g": "(B, T, V)", "x": "(B, T, V)"},
    gradients={"dx": "(B, T, V)"},
    draw=_draw,
    reference=answer,
    solution=solution,
    mistakes=_MISTAKES,
    hints=(
        "Every output depends on every input of its row: what is dp_i/dx_j for i = j, and for "
        "others?",
        "dp_i/dx_j = p_i (1[i = j] - p_j). Multiply by g_i and sum over i: the first part leaves "
        "one term, the second a sum that is the same for all j.",
        "p = exp(x - max) / sum; dx = p * (g - np.sum(g * p, axis=-1, keepdims=True)).",
    ),
    end_to_end=_end_to_end,
    letters=("B", "T", "V"),
    terms=_terms,
)
