"""Layer norm: out = xhat * weight + bias,  xhat = (x - mean) * rstd,  rstd = 1/sqrt(var + eps).

x, out and g are (B, T, C), weight and bias (C,). mean and var are those of one row, over its C
channels: mean = sum(x)/C, var = sum((x - mean)**2)/C; all sums below are over one row unless they
say otherwise.

1. bias and weight are used at each of the N = B*T positions:

       dbias = sum_bt g            dweight = sum_bt g * xhat

2. xhat gets, entry by entry,

       dxhat = g * weight

3. From xhat to x, for one row. Where d is a change of x,

       dmean = sum(d)/C
       dvar  = 2 sum((x - mean) * (d - dmean))/C = 2 sum((x - mean) * d)/C
                                        (for x - mean sums to 0)
       drstd = -1/2 (var + eps)**(-3/2) dvar = -rstd**3 sum((x - mean) * d)/C
             = -rstd**2 sum(xhat * d)/C                  (for x - mean = xhat / rstd)
       change of xhat = (d - dmean) * rstd + (x - mean) * drstd
                      = rstd * (d - sum(d)/C - xhat * sum(xhat * d)/C)

4. sum(dxhat * change of xhat) is to be sum(dx * d) for every d. Written out, it has the terms
   sum(dxhat * d), sum(dxhat) sum(d)/C and sum(dxhat * xhat) sum(xhat * d)/C, times rstd. What
   multiplies d in each of them is


       dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))

   The second term comes from the mean, the third from the variance. They take out what dxhat has
   along 1 and along xhat: adding a constant to a row leaves xhat as it is, and so does stretching
   the row, up to eps.

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

dx sums to 0 over the channels of every row, which is a check that needs no derivative:

>>> np.abs(dx.sum(axis=-1)).max() < 1e-14
np.True_
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from autograd import Array, Tensor, record
from npgpt2 import functional as F
from npgpt2.learn.judge.exercise import (
    Answer,
    Arguments,
    Exercise,
    Mistake,
    Sizes,
    in_gpt2,
    only_last,
    vjp,
)


def forward(x: Array, weight: Array, bias: Array, eps: float) -> Any:
    """(B, T, C) -> (B, T, C)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    var = (centred**2).mean(axis=-1, keepdims=True)
    xhat = centred / np.sqrt(var + eps)
    return xhat * weight + bias


def answer(g: Array, x: Array, weight: Array, bias: Array, eps: float) -> tuple[Array, ...]:
    """Return dx, dweight, dbias."""
    return vjp(lambda x, w, b: F.layer_norm(x, w, b, eps), g, x, weight, bias)


def solution(g: Array, x: Array, weight: Array, bias: Array, eps: float) -> Any:
    """The answer by hand."""
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


def _mean(a: Array, axis: Any = -1) -> Array:
    m: Array = a.mean(axis=axis, keepdims=True)
    return m


def _normalised(x: Array, eps: float, axis: Any = -1) -> tuple[Array, Array]:
    """Return xhat, (B, T, C), and rstd, (B, T, 1)."""
    centred = x - _mean(x, axis)
    rstd = 1.0 / np.sqrt(_mean(centred**2, axis) + eps)
    return centred * rstd, rstd


def _terms(
    g: Array, x: Array, weight: Array, bias: Array, eps: float
) -> Mapping[str, Mapping[str, Array]]:
    xhat, rstd = _normalised(x, eps)
    dxhat = g * weight
    return {
        "dx": {
            "rstd * dxhat": rstd * dxhat,
            "-rstd * mean(dxhat)": -rstd * _mean(dxhat) + 0.0 * x,
            "-rstd * xhat * mean(dxhat * xhat)": -rstd * xhat * _mean(dxhat * xhat),
        }
    }


def _draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    x = 2.0 * rng.standard_normal((n.B, n.T, n.C)) + 1.0  # not normalised already
    g, (weight, bias) = rng.standard_normal(x.shape), rng.standard_normal((2, n.C))
    return g, x, weight, bias, 1e-5 if n.B == 2 else 0.1


def _end_to_end(function: Answer) -> str:
    def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
        inputs = (x.data, weight.data, bias.data, eps)
        return record(forward(*inputs), (x, weight, bias), lambda g: function(g, *inputs))

    return in_gpt2(layer_norm=layer_norm)


def _dx(dxhat: Array, xhat: Array, rstd: Array, axis: Any = -1) -> Array:
    dx: Array = rstd * (dxhat - _mean(dxhat, axis) - xhat * _mean(dxhat * xhat, axis))
    return dx


def _other_variance_term(dxhat: Array, other: Array, xhat: Array, rstd: Array) -> Array:
    dx: Array = rstd * (dxhat - _mean(dxhat) - xhat * _mean(other * xhat))
    return dx


def _of(change: Any) -> Answer:
    """Make a wrong dx of dxhat, xhat, rstd and C."""

    def wrong(g: Array, x: Array, weight: Array, bias: Array, eps: float) -> Mapping[str, Array]:
        return {"dx": change(g * weight, *_normalised(x, eps), x.shape[-1])}

    return wrong


def _with(normalised: Any) -> Answer:
    """Make wrong dx and dweight of another xhat and rstd, which are of centred, var, eps, C."""

    def wrong(g: Array, x: Array, weight: Array, bias: Array, eps: float) -> Mapping[str, Array]:
        centred = x - _mean(x)
        xhat, rstd = normalised(centred, _mean(centred**2), eps, x.shape[-1])
        return {"dx": _dx(g * weight, xhat, rstd), "dweight": (g * xhat).sum(axis=(0, 1))}

    return wrong


def _over(axis: Any) -> Answer:
    """Make wrong dx and dweight, normalised over other axes."""

    def wrong(g: Array, x: Array, weight: Array, bias: Array, eps: float) -> Mapping[str, Array]:
        xhat, rstd = _normalised(x, eps, axis)
        dx = _dx(g * weight, xhat, rstd, axis)
        return {"dx": dx, "dweight": (g * xhat).sum(axis=(0, 1))}

    return wrong


def _scaled(rstd: Any) -> Any:
    return lambda c, var, eps, C: (c * rstd(var, eps, C), rstd(var, eps, C))


_MISTAKES = (
    Mistake(
        "mean-term",
        "The term of the mean, -mean(dxhat), is missing: the mean depends on x too.",
        _of(lambda d, xhat, rstd, C: rstd * (d - xhat * _mean(d * xhat))),
    ),
    Mistake(
        "variance-term",
        "The term of the variance, -xhat * mean(dxhat * xhat), is missing: the variance depends on "
        "x too.",
        _of(lambda d, xhat, rstd, C: rstd * (d - _mean(d))),
    ),
    Mistake(
        "mean-and-variance-terms",
        "Mean and variance are taken for constants: both depend on x, and each has a term.",
        _of(lambda d, xhat, rstd, C: rstd * d),
    ),
    Mistake(
        "sums-for-means",
        "The means over the channels are sums here: 1/C is missing in both.",
        _of(lambda d, xhat, rstd, C: rstd * (d - C * _mean(d) - C * xhat * _mean(d * xhat))),
    ),
    Mistake(
        "rstd-forgotten",
        "The factor rstd of dx is missing: xhat is (x - mean) times rstd.",
        _of(lambda d, xhat, rstd, C: _dx(d, xhat, 1.0 + 0.0 * rstd)),
    ),
    Mistake(
        "rstd-squared",
        "dx has its factor rstd twice.",
        _of(lambda d, xhat, rstd, C: rstd * _dx(d, xhat, rstd)),
    ),
    Mistake(
        "std-for-rstd",
        "dx is multiplied by the standard deviation; it is divided by it.",
        _of(lambda d, xhat, rstd, C: _dx(d, xhat, 1.0 / rstd)),
    ),
    Mistake(
        "rstd-on-first-term-only",
        "rstd multiplies only the first term; it multiplies all three.",
        _of(lambda d, xhat, rstd, C: rstd * d - _mean(d) - xhat * _mean(d * xhat)),
    ),
    Mistake(
        "variance-term-without-xhat",
        "The term of the variance lacks the factor xhat outside of its mean.",
        _of(lambda d, xhat, rstd, C: rstd * (d - _mean(d) - _mean(d * xhat))),
    ),
    Mistake(
        "variance-term-without-xhat-inside",
        "The term of the variance has mean(dxhat); it is mean(dxhat * xhat).",
        _of(lambda d, xhat, rstd, C: rstd * (d - _mean(d) - xhat * _mean(d))),
    ),
    Mistake(
        "variance-term-of-centred",
        "The term of the variance has x - mean where xhat = (x - mean) * rstd should be.",
        _of(lambda d, xhat, rstd, C: rstd * (d - _mean(d) - xhat / rstd * _mean(d * xhat / rstd))),
    ),
    Mistake(
        "variance-term-of-centred-outside",
        "The term of the variance has one factor x - mean, where xhat = (x - mean) * rstd should "
        "be.",
        _of(lambda d, xhat, rstd, C: rstd * (d - _mean(d) - xhat / rstd * _mean(d * xhat))),
    ),
    Mistake(
        "gain-forgotten",
        "The weight is forgotten in dx: dxhat = g * weight. It is 1 in a fresh model, which hides "
        "this.",
        lambda g, x, w, b, eps: {"dx": _dx(g, *_normalised(x, eps))},
    ),
    Mistake(
        "gain-outside",
        "The weight multiplies dx at the end; it belongs into dxhat, before the means.",
        lambda g, x, w, b, eps: {"dx": w * _dx(g, *_normalised(x, eps))},
    ),
    Mistake(
        "gain-not-in-means",
        "The means are those of g; they are those of dxhat = g * weight.",
        lambda g, x, w, b, eps: {
            "dx": _dx(g, *_normalised(x, eps)) + _normalised(x, eps)[1] * g * (w - 1.0)
        },
    ),
    Mistake(
        "gain-not-in-mean-term",
        "The term of the mean has mean(g); it is mean(dxhat), with dxhat = g * weight.",
        lambda g, x, w, b, eps: {
            "dx": _dx(g * w, *_normalised(x, eps)) + _normalised(x, eps)[1] * _mean(g * w - g)
        },
    ),
    Mistake(
        "gain-not-in-variance-term",
        "The term of the variance has mean(g * xhat); it is mean(dxhat * xhat), with dxhat = "
        "g * weight.",
        lambda g, x, w, b, eps: {"dx": _other_variance_term(g * w, g, *_normalised(x, eps))},
    ),
    Mistake(
        "gain-divided",
        "dxhat is g * weight, not g / weight.",
        lambda g, x, w, b, eps: {"dx": _dx(g / w, *_normalised(x, eps))},
    ),
    Mistake(
        "means-over-time",
        "The means in dx are over T; they are over the channels, the axis of the norm.",
        _of(lambda d, xhat, rstd, C: rstd * (d - _mean(d, 1) - xhat * _mean(d * xhat, 1))),
    ),
    Mistake(
        "means-over-all",
        "The means in dx are over everything; each row has its own, over its channels.",
        _of(lambda d, xhat, rstd, C: rstd * (d - d.mean() - xhat * (d * xhat).mean())),
    ),
    Mistake(
        "means-over-batch",
        "The means in dx are over B and T; they are over the channels.",
        _of(
            lambda d, xhat, rstd, C: rstd * (d - _mean(d, (0, 1)) - xhat * _mean(d * xhat, (0, 1)))
        ),
    ),
    Mistake(
        "unbiased-variance",
        "The variance is divided by C - 1 (ddof=1); that of layer norm by C.",
        _with(_scaled(lambda var, eps, C: 1.0 / np.sqrt(var * C / (C - 1) + eps))),
    ),
    Mistake(
        "eps-forgotten",
        "eps is missing: rstd = 1/sqrt(var + eps).",
        _with(_scaled(lambda var, eps, C: 1.0 / np.sqrt(var))),
    ),
    Mistake(
        "eps-outside",
        "eps is added to the standard deviation; it is added to the variance, under the root.",
        _with(_scaled(lambda var, eps, C: 1.0 / (np.sqrt(var) + eps))),
    ),
    Mistake(
        "eps-of-1e-5",
        "eps is 1e-5 here, whatever eps is given.",
        _with(_scaled(lambda var, eps, C: 1.0 / np.sqrt(var + 1e-5))),
    ),
    Mistake(
        "root-forgotten",
        "x - mean is divided by var + eps; it is divided by its root.",
        _with(_scaled(lambda var, eps, C: 1.0 / (var + eps))),
    ),
    Mistake(
        "normalised-over-time",
        "Mean and variance are taken over T; they are over the channels, the last axis.",
        _over(1),
    ),
    Mistake(
        "normalised-over-batch",
        "Mean and variance are taken over B and T, as a batch norm does; they are over the "
        "channels.",
        _over((0, 1)),
    ),
    Mistake(
        "normalised-over-all",
        "Mean and variance are taken over everything; each row has its own.",
        _over((0, 1, 2)),
    ),
    Mistake(
        "dweight-of-x",
        "dweight is the sum of g * x; the weight multiplies xhat.",
        lambda g, x, w, b, eps: {"dweight": (g * x).sum(axis=(0, 1))},
    ),
    Mistake(
        "dweight-of-centred",
        "dweight is the sum of g * (x - mean); the weight multiplies xhat = (x - mean) * rstd.",
        lambda g, x, w, b, eps: {"dweight": (g * (x - _mean(x))).sum(axis=(0, 1))},
    ),
    Mistake(
        "dweight-of-out",
        "dweight is the sum of g * out; the weight multiplies xhat.",
        lambda g, x, w, b, eps: {"dweight": (g * forward(x, w, b, eps)).sum(axis=(0, 1))},
    ),
    Mistake(
        "dweight-of-scaled-xhat",
        "dweight has the weight in it: d(xhat w)/dw = xhat.",
        lambda g, x, w, b, eps: {"dweight": (g * w * _normalised(x, eps)[0]).sum(axis=(0, 1))},
    ),
    Mistake(
        "dbias-of-scaled-g",
        "dbias has the weight in it: the bias is added after the weight has been multiplied.",
        lambda g, x, w, b, eps: {"dbias": (g * w).sum(axis=(0, 1))},
    ),
    Mistake(
        "dweight-is-mean",
        "The weight is used at each of the N = B*T positions: its gradient is the sum, not the "
        "mean.",
        lambda g, x, w, b, eps: {"dweight": (g * _normalised(x, eps)[0]).mean(axis=(0, 1))},
    ),
    Mistake(
        "dbias-is-mean",
        "The bias is used at each of the N = B*T positions: its gradient is the sum, not the mean.",
        lambda g, x, w, b, eps: {"dbias": g.mean(axis=(0, 1))},
    ),
    Mistake(
        "dweight-over-batch-only",
        "dweight is summed over B alone; it must be summed over T too.",
        lambda g, x, w, b, eps: {"dweight": (g * _normalised(x, eps)[0]).sum(axis=0)},
    ),
    Mistake(
        "dbias-over-batch-only",
        "dbias is summed over B alone; it must be summed over T too.",
        lambda g, x, w, b, eps: {"dbias": g.sum(axis=0)},
    ),
    Mistake(
        "dbias-over-channels",
        "dbias is summed over the channels, the axis it should keep; sum over B and T.",
        lambda g, x, w, b, eps: {"dbias": g.sum(axis=-1)},
    ),
    Mistake(
        "dweight-of-last-row",
        "Only the last row of the batch is in dweight: sum over B as well as T.",
        lambda g, x, w, b, eps: {"dweight": answer(only_last(g), x, w, b, eps)[1]},
    ),
    Mistake(
        "dbias-of-last-row",
        "Only the last row of the batch is in dbias: sum over B as well as T.",
        lambda g, x, w, b, eps: {"dbias": answer(only_last(g), x, w, b, eps)[2]},
    ),
)

EXERCISE = Exercise(
    name="layer_norm",
    statement="The gradients of layer norm: of its input, its gain and its shift.",
    forward=forward,
    function="layer_norm_backward",
    arguments={
        "g": "(B, T, C)",
        "x": "(B, T, C)",
        "weight": "(C,)",
        "bias": "(C,)",
        "eps": "a number",
    },
    gradients={"dx": "(B, T, C)", "dweight": "(C,)", "dbias": "(C,)"},
    draw=_draw,
    reference=answer,
    solution=solution,
    mistakes=_MISTAKES,
    hints=(
        "Begin at the end: out = xhat * weight + bias. What do bias, weight and xhat get? Then "
        "remember that mean and variance depend on every entry of the row.",
        "With dxhat = g * weight, dx is rstd times three terms: dxhat, one through the mean, and "
        "one through the variance. dx sums to 0 over the channels.",
        "dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)), means over the last axis "
        "with keepdims=True; dweight = (g * xhat).sum(axis=(0, 1)); dbias = g.sum(axis=(0, 1)).",
    ),
    end_to_end=_end_to_end,
    terms=_terms,
)
