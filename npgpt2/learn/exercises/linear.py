"""Linear: out = x @ weight.T + bias.

x is (B, T, n_in), weight (n_out, n_in), bias (n_out,), out and g (B, T, n_out). Entry by entry

    out[b,t,o] = sum_i x[b,t,i] weight[o,i] + bias[o]

and the loss changes by sum g * dout, with one product g[b,t,o] for every entry of out. So:

1. x[b,t,i] is in out[b,t,o] for every o, multiplied by weight[o,i]. All of them are summed:

       dx[b,t,i] = sum_o g[b,t,o] weight[o,i]          dx = g @ weight

   The forward has weight.T and the backward weight.

>>> import numpy as np
>>> from npgpt2.learn.exercises.exercise import slope
>>> rng = np.random.default_rng(0)
>>> x, weight, bias = (rng.standard_normal(s) for s in ((2, 3, 4), (5, 4), (5,)))
>>> g = rng.standard_normal((2, 3, 5))
>>> np.allclose(g @ weight, slope(lambda x: forward(x, weight, bias), x, g))
True

2. weight[o,i] is in out[b,t,o] for every b and t: each of the N = B*T positions uses the same
   weight, and what is used many times gets the sum of its gradients. Not their mean:

       dweight[o,i] = sum_bt g[b,t,o] x[b,t,i]         dweight = g2.T @ x2

   with g2 and x2 the same arrays with B and T as one axis, (N, n_out) and (N, n_in).

>>> g2, x2 = g.reshape(-1, 5), x.reshape(-1, 4)  # (2, 3, n) -> (6, n)
>>> np.allclose(g2.T @ x2, slope(lambda weight: forward(x, weight, bias), weight, g))
True

3. bias[o] is in out[b,t,o], multiplied by 1, for every b and t:

       dbias[o] = sum_bt g[b,t,o]                      dbias = g2.sum(axis=0)

>>> np.allclose(g2.sum(axis=0), slope(lambda bias: forward(x, weight, bias), bias, g))
True

In numbers, for one position with x = [1, 2], weight = [[3, 4]] and g = [10]:

>>> answer(np.array([[[10.0]]]), np.array([[[1.0, 2.0]]]), np.array([[3.0, 4.0]]), np.zeros(1))
(array([[[30., 40.]]]), array([[10., 20.]]), array([10.]))

The shapes leave no choice, as long as they are unequal: of g (N, n_out) and weight (n_out, n_in)
there is one product of shape (N, n_in).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd import Tensor, record
from npgpt2 import functional as F
from npgpt2.learn.exercises.exercise import (
    Answer,
    Arguments,
    Array,
    Exercise,
    Mistake,
    Sizes,
    in_gpt2,
    only_last,
    vjp,
)


def forward(x: Array, weight: Array, bias: Array) -> Any:
    """(B, T, n_in) -> (B, T, n_out)."""
    return x @ weight.T + bias


def answer(g: Array, x: Array, weight: Array, bias: Array) -> tuple[Array, ...]:
    """Return dx, dweight, dbias."""
    return vjp(F.linear, g, x, weight, bias)


def _draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    shapes = ((n.B, n.T, n.n_out), (n.B, n.T, n.n_in), (n.n_out, n.n_in), (n.n_out,))
    return tuple(rng.standard_normal(shape) for shape in shapes)


def _end_to_end(function: Answer) -> str:
    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        b = np.zeros(len(weight.data)) if bias is None else bias.data
        parents = (x, weight) if bias is None else (x, weight, bias)

        def vjp(g: Array) -> tuple[Array, ...]:
            gradients: tuple[Array, ...] = function(g, x.data, weight.data, b)
            return gradients[: len(parents)]

        return record(forward(x.data, weight.data, b), parents, vjp)

    return in_gpt2(linear=linear)


_MISTAKES = (
    Mistake(
        "weight-transposed",
        "dx is g @ weight. The forward has weight.T, so the backward has weight; only where "
        "n_in = n_out does the other fit.",
        lambda g, x, weight, bias: {"dx": g @ weight.T},
    ),
    Mistake(
        "dweight-transposed",
        "dweight came out as x.T @ g, of shape (n_in, n_out): it is g.T @ x.",
        lambda g, x, weight, bias: {"dweight": answer(g, x, weight, bias)[1].T},
    ),
    Mistake(
        "dweight-of-last-row",
        "Only the last row of the batch is in dweight: in a loop over the batch the products must "
        "be added (+=), not assigned.",
        lambda g, x, weight, bias: {"dweight": answer(only_last(g), x, weight, bias)[1]},
    ),
    Mistake(
        "dbias-of-last-row",
        "Only the last row of the batch is in dbias: sum over B as well as T.",
        lambda g, x, weight, bias: {"dbias": answer(only_last(g), x, weight, bias)[2]},
    ),
    Mistake(
        "dbias-is-mean",
        "The bias is used at each of the N = B*T positions: its gradient is the sum over them, not "
        "the mean.",
        lambda g, x, weight, bias: {"dbias": g.mean(axis=(0, 1))},
    ),
    Mistake(
        "dweight-is-mean",
        "The weight is used at each of the N = B*T positions: its gradient is the sum over them, "
        "not the mean.",
        lambda g, x, weight, bias: {
            "dweight": answer(g, x, weight, bias)[1] / (g.shape[0] * g.shape[1])
        },
    ),
    Mistake(
        "dbias-over-channels",
        "dbias is summed over the channels, the axis it should keep; sum over B and T.",
        lambda g, x, weight, bias: {"dbias": g.sum(axis=(0, 2))},
    ),
    Mistake(
        "dbias-over-batch-only",
        "dbias is summed over B alone; it must be summed over T too.",
        lambda g, x, weight, bias: {"dbias": g.sum(axis=0)},
    ),
    Mistake(
        "dbias-from-x",
        "dbias is the sum of x; it is the sum of g, for the bias is multiplied by 1.",
        lambda g, x, weight, bias: {"dbias": x.sum(axis=(0, 1))},
    ),
    Mistake(
        "bias-in-dweight",
        "The bias was added to dweight or multiplied in: it is in neither product. The gradient of "
        "a sum does not see its other part.",
        lambda g, x, weight, bias: {"dweight": answer(g, x, weight, bias)[1] + bias[:, None]},
    ),
    Mistake(
        "dx-with-bias",
        "dx has the weight plus the bias as its factor: the bias is only added, so x's gradient "
        "does not see it.",
        lambda g, x, weight, bias: {"dx": g @ (weight + bias[:, None])},
    ),
    Mistake(
        "dweight-is-outer-weight",
        "dweight has the weight as a factor: d(x w)/dw = x, without w.",
        lambda g, x, weight, bias: {"dweight": answer(g, x, weight, bias)[1] * weight},
    ),
)

EXERCISE = Exercise(
    name="linear",
    statement="The gradients of a linear layer: of its input, its weight and its bias.",
    forward=forward,
    function="linear_backward",
    arguments={
        "g": "(B, T, n_out)",
        "x": "(B, T, n_in)",
        "weight": "(n_out, n_in)",
        "bias": "(n_out,)",
    },
    gradients={"dx": "(B, T, n_in)", "dweight": "(n_out, n_in)", "dbias": "(n_out,)"},
    draw=_draw,
    reference=answer,
    mistakes=_MISTAKES,
    hints=(
        "Write out[b,t,o] as a sum over i and ask where x[b,t,i], weight[o,i] and bias[o] stand in "
        "it. Whatever is used several times gets the sum of its gradients.",
        "dx = g @ weight, without a transpose. For dweight make B and T one axis of N rows: the "
        "result is a product of (n_out, N) and (N, n_in).",
        "g2 = g.reshape(-1, g.shape[-1]); x2 = x.reshape(-1, x.shape[-1]); "
        "dweight = g2.T @ x2; dbias = g2.sum(axis=0).",
    ),
    end_to_end=_end_to_end,
    letters=("B", "T", "n_in", "n_out"),
)
