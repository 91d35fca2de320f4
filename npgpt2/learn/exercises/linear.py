"""Linear: out = x @ weight.T + bias.

x is (B, T, n_in), weight (n_out, n_in), bias (n_out,), out and g (B, T, n_out). Entry by entry

    out[b,t,o] = sum_i x[b,t,i] weight[o,i] + bias[o]

g[b,t,o] is the derivative of the loss with respect to out[b,t,o]. A value may be in several entries
of out. By the chain rule, its gradient is a sum over these entries: g at the entry, times the
derivative of the entry with respect to the value.

1. x[b,t,i] is in out[b,t,o] for every o. There it is multiplied by weight[o,i]. So the sum is over
   o:

       dx[b,t,i] = sum_o g[b,t,o] weight[o,i]          dx = g @ weight

   The forward pass has weight.T, and the backward pass has weight.

>>> import numpy as np
>>> from npgpt2.learn.judge.exercise import slope
>>> rng = np.random.default_rng(0)
>>> x, weight, bias = (rng.standard_normal(s) for s in ((2, 3, 4), (5, 4), (5,)))
>>> g = rng.standard_normal((2, 3, 5))
>>> np.allclose(g @ weight, slope(lambda x: forward(x, weight, bias), x, g))
True

2. weight[o,i] is in out[b,t,o] for every b and t: each of the N = B*T positions uses the same
   weight. A value that is used many times gets the sum of its gradients, not their mean:

       dweight[o,i] = sum_bt g[b,t,o] x[b,t,i]         dweight = g2.T @ x2

   Here g2 and x2 are the same arrays with B and T as one axis: (N, n_out) and (N, n_in).

>>> g2, x2 = g.reshape(-1, 5), x.reshape(-1, 4)  # (2, 3, n) -> (6, n)
>>> np.allclose(g2.T @ x2, slope(lambda weight: forward(x, weight, bias), weight, g))
True

3. bias[o] is in out[b,t,o] for every b and t. There it is multiplied by 1:

       dbias[o] = sum_bt g[b,t,o]                      dbias = g2.sum(axis=0)

>>> np.allclose(g2.sum(axis=0), slope(lambda bias: forward(x, weight, bias), bias, g))
True

In numbers, for one position with x = [1, 2], weight = [[3, 4]] and g = [10]:

>>> reference(np.array([[[10.0]]]), np.array([[[1.0, 2.0]]]), np.array([[3.0, 4.0]]), np.zeros(1))
(array([[[30., 40.]]]), array([[10., 20.]]), array([10.]))

If all sizes are different, the shapes leave no choice: g (N, n_out) and weight (n_out, n_in) have
only one product of shape (N, n_in).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd import Array, Tensor, record
from npgpt2 import functional as F
from npgpt2.learn.judge.exercise import Answer, read_mistakes, vjp
from npgpt2.learn.judge.in_model import in_gpt2

STATEMENT = "The gradients of a linear layer: of its input, its weight and its bias."
ARGUMENTS = {
    "g": "(B, T, n_out)",
    "x": "(B, T, n_in)",
    "weight": "(n_out, n_in)",
    "bias": "(n_out,)",
}
GRADIENTS = {"dx": "(B, T, n_in)", "dweight": "(n_out, n_in)", "dbias": "(n_out,)"}
HINTS = (
    "Write out[b,t,o] as a sum over i. Where do x[b,t,i], weight[o,i] and bias[o] stand in it? A "
    "value that is used several times gets the sum of its gradients.",
    "dx = g @ weight, without a transpose. For dweight, make B and T one axis of N rows: the "
    "result is a product of (n_out, N) and (N, n_in).",
    "g2 = g.reshape(-1, g.shape[-1]); x2 = x.reshape(-1, x.shape[-1]); "
    "dweight = g2.T @ x2; dbias = g2.sum(axis=0).",
)


def forward(x: Array, weight: Array, bias: Array) -> Any:
    """(B, T, n_in) -> (B, T, n_out)."""
    return x @ weight.T + bias


def reference(g: Array, x: Array, weight: Array, bias: Array) -> tuple[Array, ...]:
    """Return dx, dweight, dbias."""
    return vjp(F.linear, g, x, weight, bias)


def solution(g: Array, x: Array, weight: Array, bias: Array) -> Any:
    """Return dx, dweight, dbias."""
    g2 = g.reshape(-1, g.shape[-1])
    x2 = x.reshape(-1, x.shape[-1])
    dx = g @ weight
    dweight = g2.T @ x2
    dbias = g2.sum(axis=0)
    return dx, dweight, dbias


def end_to_end(answer: Answer) -> str:
    """Train a linear layer with the answer in its backward pass."""

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        b = np.zeros(len(weight.data)) if bias is None else bias.data
        parents = (x, weight) if bias is None else (x, weight, bias)

        def vjp(g: Array) -> tuple[Array, ...]:
            return answer(g, x.data, weight.data, b)[: len(parents)]

        return record(forward(x.data, weight.data, b), parents, vjp)

    return in_gpt2(linear=linear)


MISTAKES = read_mistakes(
    """
weight-transposed
+ dx = g @ weight.T
dx is g @ weight.T here. It should be g @ weight: the forward pass has weight.T, so the backward
pass has weight. Both products run only if n_in = n_out.

dweight-transposed
+ dweight = x2.T @ g2
dweight is x.T @ g here, of shape (n_in, n_out). It should be g.T @ x.

dweight-of-last-row
+ dweight = g[-1].T @ x[-1]
dweight holds only the last row of the batch. In a loop over the batch, add the products (+=)
instead of assigning them.

dbias-of-last-row
+ dbias = g[-1].sum(axis=0)
dbias holds only the last row of the batch. Sum over B as well as over T.

dbias-is-mean
+ dbias = g2.mean(axis=0)
The bias is used at each of the N = B*T positions. Its gradient is the sum over them, not the mean.

dweight-is-mean
+ dweight = g2.T @ x2 / len(g2)
The weight is used at each of the N = B*T positions. Its gradient is the sum over them, not the
mean.

dbias-over-channels
+ dbias = g.sum(axis=(0, 2))
dbias is summed over the channels, the axis that it should keep. Sum over B and T.

dbias-over-batch-only
+ dbias = g.sum(axis=0)
dbias is summed over B alone. Sum over T too.

dbias-from-x
+ dbias = x2.sum(axis=0)
dbias is the sum of x. It should be the sum of g, because the bias is multiplied by 1.

bias-in-dweight
+ dweight = g2.T @ x2 + bias[:, None]
dweight contains the bias. The forward pass only adds the bias, so it is not in the gradient of the
weight.

dx-with-bias
+ dx = g @ (weight + bias[:, None])
dx has the factor weight + bias. The bias is only added, so it is not in the gradient of x.

dweight-is-outer-weight
+ dweight = g2.T @ x2 * weight
dweight has the weight as a factor. The derivative of x * w with respect to w is x, without w.
"""
)
