"""Layer norm: out = xhat * weight + bias,  xhat = (x - mean) * rstd,  rstd = 1/sqrt(var + eps).

x, out and g are (B, T, C), weight and bias (C,). g is the gradient of the loss with respect to out.
A row is the C channels of one position (b, t). Each row has a mean and a variance:

    mean = sum(x)/C             var = sum((x - mean)**2)/C

All sums below are over the channels of one row. Only sum_bt is over the positions. mean(a) stands
for sum(a)/C.

1. bias and weight are used at each of the N = B*T positions, so their gradients are sums over the
   positions. At one position, bias is multiplied by 1 and weight by xhat:

       dbias = sum_bt g            dweight = sum_bt g * xhat

2. xhat is multiplied by weight, entry by entry:

       dxhat = g * weight

3. xhat depends on x in three places: in x itself, in mean and in rstd. Take one row, and let x
   change by a small d, which is a row too. To first order in d:

       change of mean = sum(d)/C
       change of var  = 2 sum((x - mean) * (d - change of mean))/C
                      = 2 sum((x - mean) * d)/C            (x - mean sums to 0)
       change of rstd = -1/2 (var + eps)**(-3/2) * change of var
                      = -rstd**3 sum((x - mean) * d)/C     (rstd = (var + eps)**(-1/2))
                      = -rstd**2 sum(xhat * d)/C           (xhat = (x - mean) * rstd)
       change of xhat = (d - change of mean) * rstd + (x - mean) * change of rstd
                      = rstd * (d - sum(d)/C - xhat * sum(xhat * d)/C)

4. The loss changes by sum(dxhat * change of xhat). In terms of dx, it changes by sum(dx * d). The
   two are equal for every d. Written out, sum(dxhat * change of xhat) is

       rstd * (sum(dxhat * d) - sum(dxhat) sum(d)/C - sum(dxhat * xhat) sum(xhat * d)/C)

   For each channel c, the three terms in parentheses multiply d[c] by dxhat[c], by mean(dxhat) and
   by xhat[c] * mean(dxhat * xhat). In sum(dx * d) the factor of d[c] is dx[c]. So

       dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))

   The second term comes from the mean, the third from the variance. xhat stays the same if you add
   a constant to a row. It also stays the same, up to eps, if you stretch the row. So sum(dx * d)
   must be 0 if d is a row of ones, and, up to eps, if d is xhat. The second and the third term make
   it 0.

>>> import numpy as np
>>> from npgpt2.learn.judge.exercise import slope
>>> rng = np.random.default_rng(0)
>>> x, g = rng.standard_normal((2, 2, 3, 4))
>>> weight, bias = rng.standard_normal((2, 4))
>>> eps = 0.1
>>> def mean(a):
...     return a.mean(axis=-1, keepdims=True)
>>> rstd = 1 / np.sqrt(mean((x - mean(x)) ** 2) + eps)
>>> xhat = (x - mean(x)) * rstd
>>> dxhat = g * weight
>>> dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))
>>> np.allclose(dx, slope(lambda x: forward(x, weight, bias, eps), x, g))
True
>>> dweight, dbias = (g * xhat).sum(axis=(0, 1)), g.sum(axis=(0, 1))
>>> np.allclose(dweight, slope(lambda weight: forward(x, weight, bias, eps), weight, g))
True
>>> np.allclose(dbias, slope(lambda bias: forward(x, weight, bias, eps), bias, g))
True

dx sums to 0 over the channels of every row. You can check this without any derivative:

>>> np.abs(dx.sum(axis=-1)).max() < 1e-14
np.True_
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from autograd import Array, Tensor, record
from npgpt2 import functional as F
from npgpt2.learn.judge.exercise import Answer, Arguments, Sizes, read_mistakes, vjp
from npgpt2.learn.judge.in_model import in_gpt2

STATEMENT = "The gradients of layer norm: of its input, its weight (gain) and its bias (shift)."
ARGUMENTS = {
    "g": "(B, T, C)",
    "x": "(B, T, C)",
    "weight": "(C,)",
    "bias": "(C,)",
    "eps": "a number",
}
GRADIENTS = {"dx": "(B, T, C)", "dweight": "(C,)", "dbias": "(C,)"}
HINTS = (
    "Begin at the end: out = xhat * weight + bias. Which gradients do bias, weight and xhat get? "
    "Then remember that the mean and the variance depend on every entry of the row.",
    "With dxhat = g * weight, dx is rstd times a sum of three terms: dxhat, a term from the mean, "
    "and a term from the variance. dx sums to 0 over the channels.",
    "dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)), with means over the last axis "
    "and keepdims=True; dweight = (g * xhat).sum(axis=(0, 1)); dbias = g.sum(axis=(0, 1)).",
)


def forward(x: Array, weight: Array, bias: Array, eps: float) -> Any:
    """(B, T, C) -> (B, T, C)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    var = (centred**2).mean(axis=-1, keepdims=True)
    xhat = centred / np.sqrt(var + eps)
    return xhat * weight + bias


def reference(g: Array, x: Array, weight: Array, bias: Array, eps: float) -> tuple[Array, ...]:
    """Return dx, dweight, dbias."""
    return vjp(lambda x, w, b: F.layer_norm(x, w, b, eps), g, x, weight, bias)


def solution(g: Array, x: Array, weight: Array, bias: Array, eps: float) -> Any:
    """Return dx, dweight, dbias."""
    mean = x.mean(axis=-1, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt(var + eps)
    xhat = (x - mean) * rstd
    dbias = g.sum(axis=(0, 1))
    dweight = (g * xhat).sum(axis=(0, 1))
    dxhat = g * weight
    by_mean = dxhat.mean(axis=-1, keepdims=True)
    by_var = xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    dx = rstd * (dxhat - by_mean - by_var)
    return dx, dweight, dbias


def terms(
    g: Array, x: Array, weight: Array, bias: Array, eps: float
) -> Mapping[str, Mapping[str, Array]]:
    """Return the terms of dx: from x itself, from the mean and from the variance."""
    rstd = 1 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    xhat = (x - x.mean(axis=-1, keepdims=True)) * rstd
    dxhat = g * weight
    by_mean = np.broadcast_to(dxhat.mean(axis=-1, keepdims=True), x.shape)
    by_var = xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    return {
        "dx": {
            "rstd * dxhat": rstd * dxhat,
            "-rstd * mean(dxhat)": -rstd * by_mean,
            "-rstd * xhat * mean(dxhat * xhat)": -rstd * by_var,
        }
    }


def draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    """Return normal numbers and eps."""
    x = 2.0 * rng.standard_normal((n.B, n.T, n.C)) + 1.0  # not normalised already
    g, (weight, bias) = rng.standard_normal(x.shape), rng.standard_normal((2, n.C))
    return g, x, weight, bias, 1e-5 if n.B == 2 else 0.1


def end_to_end(answer: Answer) -> str:
    """Check a GPT-2 whose layer norms have the answer as their backward pass."""

    def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
        inputs = (x.data, weight.data, bias.data, eps)
        return record(forward(*inputs), (x, weight, bias), lambda g: answer(g, *inputs))

    return in_gpt2(layer_norm=layer_norm)


MISTAKES = read_mistakes(
    """
mean-term
+ dx = rstd * (dxhat - by_var)
The term of the mean, -mean(dxhat), is missing. The mean depends on x too.

variance-term
+ dx = rstd * (dxhat - by_mean)
The term of the variance, -xhat * mean(dxhat * xhat), is missing. The variance depends on x too.

mean-and-variance-terms
+ dx = rstd * dxhat
The terms of mean and variance are missing, as if both were constants. Both depend on x.

sums-for-means
+ by_mean = dxhat.sum(axis=-1, keepdims=True)
+ by_var = xhat * (dxhat * xhat).sum(axis=-1, keepdims=True)
The two means in dx are sums here. 1/C is missing in both.

rstd-forgotten
+ dx = dxhat - by_mean - by_var
The factor rstd of dx is missing: xhat = (x - mean) * rstd.

rstd-squared
+ dx = rstd**2 * (dxhat - by_mean - by_var)
dx has the factor rstd**2. It should be rstd.

std-for-rstd
+ dx = (dxhat - by_mean - by_var) / rstd
dx is multiplied by the standard deviation. It should be divided by it.

rstd-on-first-term-only
+ dx = rstd * dxhat - by_mean - by_var
rstd multiplies only the first term of dx. It should multiply all three.

variance-term-without-xhat
+ by_var = (dxhat * xhat).mean(axis=-1, keepdims=True)
The term of the variance lacks the factor xhat in front of its mean.

variance-term-without-xhat-inside
+ by_var = xhat * dxhat.mean(axis=-1, keepdims=True)
The term of the variance has mean(dxhat). It should have mean(dxhat * xhat).

variance-term-of-centred
+ by_var = (x - mean) * (dxhat * (x - mean)).mean(axis=-1, keepdims=True)
The term of the variance has x - mean in place of xhat = (x - mean) * rstd, both times.

variance-term-of-centred-outside
+ by_var = (x - mean) * (dxhat * xhat).mean(axis=-1, keepdims=True)
The term of the variance has the factor x - mean in front of its mean. It should be xhat = (x -
mean) * rstd.

gain-forgotten
+ dxhat = g
The weight is missing in dx: dxhat = g * weight. In a fresh model the weight is 1, which hides this
mistake.

gain-outside
+ dxhat = g; dx = weight * rstd * (dxhat - by_mean - by_var)
The weight multiplies dx at the end. It should multiply g before the means are taken: dxhat = g *
weight.

gain-not-in-means
+ by_mean = g.mean(axis=-1, keepdims=True); by_var = xhat * (g * xhat).mean(axis=-1, keepdims=True)
The means in dx have g. They should have dxhat = g * weight.

gain-not-in-mean-term
+ by_mean = g.mean(axis=-1, keepdims=True)
The term of the mean has mean(g). It should have mean(dxhat), with dxhat = g * weight.

gain-not-in-variance-term
+ by_var = xhat * (g * xhat).mean(axis=-1, keepdims=True)
The term of the variance has mean(g * xhat). It should have mean(dxhat * xhat), with dxhat = g *
weight.

gain-divided
+ dxhat = g / weight
dxhat is g / weight. It should be g * weight.

means-over-time
+ by_mean = dxhat.mean(axis=1, keepdims=True)
+ by_var = xhat * (dxhat * xhat).mean(axis=1, keepdims=True)
The means in dx are over T. They should be over the channels, the axis of the norm.

means-over-all
+ by_mean = dxhat.mean(); by_var = xhat * (dxhat * xhat).mean()
The means in dx are over everything. Each row needs separate means, over its channels.

means-over-batch
+ by_mean = dxhat.mean(axis=(0, 1)); by_var = xhat * (dxhat * xhat).mean(axis=(0, 1))
The means in dx are over B and T. They should be over the channels.

unbiased-variance
+ var = x.var(axis=-1, ddof=1, keepdims=True)
The variance is divided by C - 1 (ddof=1). Layer norm divides it by C.

eps-forgotten
+ rstd = 1 / np.sqrt(var)
eps is missing: rstd = 1/sqrt(var + eps).

eps-outside
+ rstd = 1 / (np.sqrt(var) + eps)
eps is added to the standard deviation. It should be added to the variance, under the root.

eps-of-1e-5
+ rstd = 1 / np.sqrt(var + 1e-5)
eps is always 1e-5 here. It should be the eps that is given.

root-forgotten
+ rstd = 1 / (var + eps)
x - mean is divided by var + eps. It should be divided by the root of var + eps.

normalised-over-time
+ mean = x.mean(axis=1, keepdims=True)
+ var = x.var(axis=1, keepdims=True)
+ by_mean = dxhat.mean(axis=1, keepdims=True)
+ by_var = xhat * (dxhat * xhat).mean(axis=1, keepdims=True)
Mean and variance are over T. They should be over the channels, the last axis.

normalised-over-batch
+ mean = x.mean(axis=(0, 1))
+ var = x.var(axis=(0, 1))
+ by_mean = dxhat.mean(axis=(0, 1))
+ by_var = xhat * (dxhat * xhat).mean(axis=(0, 1))
Mean and variance are over B and T, as in a batch norm. They should be over the channels.

normalised-over-all
+ mean = x.mean(); var = x.var(); by_mean = dxhat.mean(); by_var = xhat * (dxhat * xhat).mean()
Mean and variance are over everything. Each row needs a separate mean and variance.

dweight-of-x
+ dweight = (g * x).sum(axis=(0, 1))
dweight is the sum of g * x. The weight multiplies xhat, so it should be the sum of g * xhat.

dweight-of-centred
+ dweight = (g * (x - mean)).sum(axis=(0, 1))
dweight is the sum of g * (x - mean). The weight multiplies xhat = (x - mean) * rstd.

dweight-of-out
+ dweight = (g * (xhat * weight + bias)).sum(axis=(0, 1))
dweight is the sum of g * out. The weight multiplies xhat, so it should be the sum of g * xhat.

dweight-of-scaled-xhat
+ dweight = (g * xhat * weight).sum(axis=(0, 1))
dweight has the weight as a factor. The derivative of xhat * w with respect to w is xhat, without w.

dbias-of-scaled-g
+ dbias = (g * weight).sum(axis=(0, 1))
dbias has the weight as a factor. The bias is added after the weight is multiplied, so the weight is
not in its gradient.

dweight-is-mean
+ dweight = (g * xhat).mean(axis=(0, 1))
The weight is used at each of the N = B*T positions. Its gradient is the sum over them, not the
mean.

dbias-is-mean
+ dbias = g.mean(axis=(0, 1))
The bias is used at each of the N = B*T positions. Its gradient is the sum over them, not the mean.

dweight-over-batch-only
+ dweight = (g * xhat).sum(axis=0)
dweight is summed over B alone. Sum over T too.

dbias-over-batch-only
+ dbias = g.sum(axis=0)
dbias is summed over B alone. Sum over T too.

dbias-over-channels
+ dbias = g.sum(axis=-1)
dbias is summed over the channels, the axis that it should keep. Sum over B and T.

dweight-of-last-row
+ dweight = (g * xhat)[-1].sum(axis=0)
dweight holds only the last row of the batch. Sum over B as well as over T.

dbias-of-last-row
+ dbias = g[-1].sum(axis=0)
dbias holds only the last row of the batch. Sum over B as well as over T.
"""
)
