"""Softmax: p_i = exp(x_i) / sum_j exp(x_j), over the last axis.

x, p and g are (B, T, V). g is the gradient of the loss with respect to p. Each row of V numbers has
a softmax that depends on this row alone, so take one row. Let s = sum_j exp(x_j), and let 1[i = j]
be 1 if i = j and 0 otherwise.

1. exp(x_i) depends on x_i alone, but s depends on every x_j:

       d exp(x_i)/dx_j = exp(x_i) 1[i = j]             ds/dx_j = exp(x_j)

   With the quotient rule, p_i = exp(x_i)/s has the derivatives

       dp_i/dx_j = exp(x_i) 1[i = j] / s - exp(x_i) exp(x_j) / s**2
                 = p_i 1[i = j] - p_i p_j
                 = p_i (1[i = j] - p_j)

   They are the entries of the Jacobian. Its diagonal, i = j, holds p_i (1 - p_i). All other entries
   are -p_i p_j. They are not 0: every output depends on every input.

2. x_j gets a gradient from each p_i. All of them are summed:

       dx_j = sum_i g_i p_i (1[i = j] - p_j)
            = g_j p_j - p_j sum_i g_i p_i
       dx   = p * (g - sum(g * p))

>>> import numpy as np
>>> from npgpt2.learn.judge.exercise import slope
>>> rng = np.random.default_rng(0)
>>> x, g = rng.standard_normal((2, 2, 3, 4))
>>> p = forward(x)
>>> dx = p * (g - (g * p).sum(axis=-1, keepdims=True))
>>> np.allclose(dx, slope(forward, x, g))
True

3. sum(g * p) is the mean of g, weighted by p. So dx sums to 0 over a row. This must be so: p stays
   the same if you add one constant to all x of a row. And if g is 1 everywhere, dx is 0. This must
   be so too: p sums to 1 for every x.

>>> reference(np.array([1.0, 0.0]), np.log([1.0, 3.0]))[0]
array([ 0.1875, -0.1875])
>>> reference(np.array([1.0, 1.0]), np.log([1.0, 3.0]))[0]
array([0., 0.])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from autograd import Array, Tensor, record
from npgpt2 import composed
from npgpt2 import functional as F
from npgpt2.learn.judge.exercise import Answer, read_mistakes, vjp
from npgpt2.learn.judge.in_model import in_gpt2, replaced

STATEMENT = "The gradient of the softmax over the last axis."
ARGUMENTS = {"g": "(B, T, V)", "x": "(B, T, V)"}
GRADIENTS = {"dx": "(B, T, V)"}
HINTS = (
    "Every output depends on every input of its row. Find dp_i/dx_j, first for i = j and then for "
    "i different from j.",
    "dp_i/dx_j = p_i (1[i = j] - p_j), where 1[i = j] is 1 if i = j and 0 otherwise. Multiply by "
    "g_i and sum over i. The first part leaves one term. The second leaves p_j times a sum that is "
    "the same for all j.",
    "p = exp(x - max) / sum; dx = p * (g - np.sum(g * p, axis=-1, keepdims=True)).",
)


def forward(x: Array) -> Any:
    """(B, T, V) -> (B, T, V)."""
    e = np.exp(x - x.real.max(axis=-1, keepdims=True))  # so that exp cannot overflow
    return e / e.sum(axis=-1, keepdims=True)


def reference(g: Array, x: Array) -> tuple[Array, ...]:
    """Return (dx,)."""
    return vjp(F.softmax, g, x)


def solution(g: Array, x: Array) -> Any:
    """Return dx."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p * (g - (g * p).sum(axis=-1, keepdims=True))


def terms(g: Array, x: Array) -> Mapping[str, Mapping[str, Array]]:
    """Return the term of the diagonal, and the term of the sum."""
    p = forward(x)
    return {"dx": {"p * g": p * g, "-p * sum(g * p)": -p * (g * p).sum(axis=-1, keepdims=True)}}


def end_to_end(answer: Answer) -> str:
    """Check a GPT-2 whose attention has the answer as the backward pass of its softmax."""

    def softmax(x: Tensor) -> Tensor:
        def vjp(g: Array) -> tuple[Array]:
            flat = (g.shape[0], -1, g.shape[-1])  # (B, H, T, T) -> (B, HT, T)
            (dx,) = answer(g.reshape(flat), x.data.reshape(flat))
            return (dx.reshape(g.shape),)

        return record(forward(x.data), (x,), vjp)

    with replaced(composed, "softmax", softmax):
        return in_gpt2(causal_attention=composed.causal_attention)


MISTAKES = read_mistakes(
    """
elementwise
+ return g * p * (1 - p)
p (1 - p) is only the diagonal of the Jacobian. Every output depends on every input of its row.

off-diagonal-only
+ return -p * ((g * p).sum(axis=-1, keepdims=True) - g * p)
The diagonal of the Jacobian is missing. dp_i/dx_j is -p_i p_j if i and j differ, and p_i - p_i p_j
if i = j.

unweighted-mean
+ return p * (g - g.mean(axis=-1, keepdims=True))
The plain mean of g is subtracted. It should be the mean weighted by p, sum(g * p).

unweighted-sum
+ return p * (g - g.sum(axis=-1, keepdims=True))
sum(g) is subtracted. It should be sum(g * p).

p-forgotten-before
+ return g - (g * p).sum(axis=-1, keepdims=True)
The factor p in front is missing: dx = p * (g - sum(g * p)).

sum-without-p-in-front
+ return p * g - (g * p).sum(axis=-1, keepdims=True)
The sum is subtracted without its factor p: dx = p * g - p * sum(g * p).

p-squared
+ return p * p * (g - (g * p).sum(axis=-1, keepdims=True))
The factor in front is p * p. It should be p: dx = p * (g - sum(g * p)).

g-for-p-in-front
+ return g * (p - (g * p).sum(axis=-1, keepdims=True))
g and p are exchanged: dx = p * (g - sum(g * p)). In sum_i g_i p_i p_j you can move p_j in front of
the sum, but not g_i.

cotangent-of-the-row-lost
+ return p * (g - (p * p).sum(axis=-1, keepdims=True))
sum(p * p) is subtracted. It should be sum(g * p).

summed-over-time
+ return p * (g - (g * p).sum(axis=1, keepdims=True))
g * p is summed over T. Sum over V, the axis of the softmax.

summed-over-batch
+ return p * (g - (g * p).sum(axis=0, keepdims=True))
g * p is summed over B. Sum over V, the axis of the softmax.

summed-over-all
+ return p * (g - (g * p).sum())
g * p is summed over everything. Each row needs a separate sum (axis=-1).

mean-for-sum
+ return p * (g - (g * p).mean(axis=-1, keepdims=True))
The mean of g * p is subtracted. It should be the sum: p already holds the weights of the mean.

softmax-over-time
+ e = np.exp(x)
+ p = e / e.sum(axis=1, keepdims=True)
+ return p * (g - (g * p).sum(axis=1, keepdims=True))
The softmax is over T. It should be over V, the last axis.

softmax-over-batch
+ e = np.exp(x)
+ p = e / e.sum(axis=0, keepdims=True)
+ return p * (g - (g * p).sum(axis=0, keepdims=True))
The softmax is over B. It should be over V, the last axis.

not-normalised
+ p = np.exp(x)
exp(x) stands in place of p. Divide it by its sum over the row.

x-for-p
+ p = x
x stands in place of p = softmax(x).

of-log-softmax
+ return g - p * g.sum(axis=-1, keepdims=True)
This is the gradient of log(softmax(x)), g - p * sum(g).
"""
)
