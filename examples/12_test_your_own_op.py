"""Lesson 12: test your own op, and your own backward, in the same way as the built-in ops.

An `OpSpec` has the name of the op, the op, a reference in plain NumPy that computes the same value,
and a strategy: an object that draws random operands. `check_op` draws many calls of the op, and
checks the properties that all built-in ops have. If a call violates a property, `check_op` shows
the smallest call that it can find. One property is about kinks. A kink is a point where the slope
jumps, such as 0 for max(a, 0).

`check_backward` checks the same properties of plain functions of arrays, from any library. Here it
checks the layer norm of lesson 5. In "nc,c,c" each letter is an axis: x has the shape (n, c), and
weight and bias have the shape (c,).

You need hypothesis: pip install 'npgpt2[testing]'.
"""

import textwrap

import numpy as np

from autograd import Tensor, record
from autograd.testing import (
    OPS,
    PROPERTIES,
    OpSpec,
    check_backward,
    check_op,
    numbers,
    one_operand,
    register,
)


def softplus(a: Tensor, slope=lambda g, x: g / (1.0 + np.exp(-x))) -> Tensor:
    """out = log(1 + exp(a));  da = g * sigmoid(a)."""
    x = a.data
    return record(np.log1p(np.exp(x)), (a,), lambda g: (slope(g, x),))


register(OpSpec("softplus", softplus, lambda x: np.logaddexp(0.0, x), one_operand()))
check_op(OPS["softplus"])
print(f"softplus has all {len(PROPERTIES)} properties:")
print("  " + "\n  ".join(name.replace("_", " ") for name in PROPERTIES))

wrong = OpSpec(
    "wrong softplus",
    lambda a: softplus(a, slope=lambda g, x: g / (1.0 + np.exp(x))),  # the sign of x is wrong
    lambda x: np.logaddexp(0.0, x),
    one_operand(),
    domain=numbers(-2.0, 2.0),
)


def show(name: str, error: AssertionError) -> None:
    """Print an error, the property, and the smallest call."""
    print()
    print(textwrap.fill(f"{name}: {error}", 80, break_on_hyphens=False))
    print(*error.__notes__, sep="\n")


try:
    check_op(wrong)
except AssertionError as error:
    show("wrong softplus", error)


def normalized(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return xhat and rstd. With a small eps, difference quotients are inexact near constant x."""
    centered = x - x.mean(axis=-1, keepdims=True)
    rstd = 1.0 / np.sqrt((centered * centered).mean(axis=-1, keepdims=True) + 0.25)
    return centered * rstd, rstd


def layer_norm(x, weight, bias):
    """out = xhat * weight + bias."""
    return normalized(x)[0] * weight + bias


def layer_norm_backward(g, x, weight, bias):
    """Return dx, dweight and dbias."""
    xhat, rstd = normalized(x)
    dxhat = g * weight
    through_mean = dxhat.mean(axis=-1, keepdims=True)
    through_rstd = xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
    dx = rstd * (dxhat - through_mean - through_rstd)
    return dx, (g * xhat).sum(axis=0), g.sum(axis=0)


def without_the_mean(g, x, weight, bias):
    """Forget the path through the mean."""
    dx, dweight, dbias = layer_norm_backward(g, x, weight, bias)
    return dx + normalized(x)[1] * (g * weight).mean(axis=-1, keepdims=True), dweight, dbias


check_backward(layer_norm, layer_norm_backward, "nc,c,c")
print("\nThe backward of layer norm has all properties.")
try:
    check_backward(layer_norm, without_the_mean, "nc,c,c")
except AssertionError as error:
    show("without the mean", error)
