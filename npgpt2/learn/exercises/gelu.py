"""GELU: out = x s,  s = (1 + tanh(u)) / 2,  u = c (x + a x**3),  c = sqrt(2/pi), a = 0.044715.

x, out and g are (B, T, C). Entry by entry, without sums: what is wanted is one slope d out/dx.

1. The product rule, for x and s both depend on x:

       d out/dx = s + x ds/dx

2. tanh' = 1 - tanh**2:

       ds/dx = (1 - tanh(u)**2) / 2 * du/dx

3. du/dx = c (1 + 3 a x**2)

   so that dx = g * (s + x (1 - tanh(u)**2) / 2 * c (1 + 3 a x**2)).

>>> import numpy as np
>>> from npgpt2.learn.judge.exercise import slope
>>> x, g = np.random.default_rng(0).standard_normal((2, 2, 3, 4))
>>> c, a = math.sqrt(2 / math.pi), 0.044715
>>> t = np.tanh(c * (x + a * x**3))
>>> dx = g * ((1 + t) / 2 + x * (1 - t**2) / 2 * c * (1 + 3 * a * x**2))
>>> np.allclose(dx, slope(forward, x, g))
True

At 0 the slope is 1/2; far to the right it is 1, far to the left 0. In between it leaves [0, 1]:

>>> answer(np.ones(5), np.array([-10.0, -1.0, 0.0, 1.0, 10.0]))[0].round(4) + 0.0
array([ 0.   , -0.083,  0.5  ,  1.083,  1.   ])
"""

from __future__ import annotations

import math
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
    vjp,
)


def forward(x: Array) -> Any:
    """(B, T, C) -> (B, T, C)."""
    u = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1.0 + np.tanh(u))


def answer(g: Array, x: Array) -> tuple[Array, ...]:
    """Return (dx,)."""
    return vjp(F.gelu, g, x)


def solution(g: Array, x: Array) -> Any:
    """The answer by hand."""
    a, c = 0.044715, math.sqrt(2 / math.pi)
    u = c * (x + a * x**3)
    t = np.tanh(u)
    du = c * (1 + 3 * a * x**2)
    slope = (1 + t) / 2 + x / 2 * (1 - t**2) * du
    return g * slope


_A, _C = 0.044715, math.sqrt(2.0 / math.pi)


def _tanh(x: Array) -> Array:
    t: Array = np.tanh(_C * (x + _A * x**3))
    return t


def _terms(g: Array, x: Array) -> Mapping[str, Mapping[str, Array]]:
    t = _tanh(x)
    inner = g * x * 0.5 * (1.0 - t * t) * _C
    return {
        "dx": {
            "g * (1 + tanh(u)) / 2": g * 0.5 * (1.0 + t),
            "g * x * (1 - tanh(u)**2) / 2 * c": inner,
            "g * x * (1 - tanh(u)**2) / 2 * c * 3 a x**2": inner * 3.0 * _A * x * x,
        }
    }


def _draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    return tuple(rng.standard_normal((2, n.B, n.T, n.C)))


def _end_to_end(function: Answer) -> str:
    def gelu(x: Tensor) -> Tensor:
        return record(forward(x.data), (x,), lambda g: function(g, x.data))

    return in_gpt2(gelu=gelu)


def _of(slope: Any) -> Answer:
    """Make a wrong dx with a slope of x, t = tanh(u) and du = du/dx."""
    return lambda g, x: {"dx": g * slope(x, _tanh(x), _C * (1.0 + 3.0 * _A * x * x))}


def _of_erf(x: Array) -> Array:
    phi = 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))
    slope: Array = phi + x * np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return slope


def _of_sigmoid(x: Array) -> Array:
    s = 1.0 / (1.0 + np.exp(-1.702 * x))
    return s + 1.702 * x * s * (1.0 - s)


_MISTAKES = (
    Mistake(
        "product-rule-first",
        "The first term of the product rule is missing: d(x s)/dx = s + x ds/dx.",
        _of(lambda x, t, du: x * 0.5 * (1.0 - t * t) * du),
    ),
    Mistake(
        "product-rule-second",
        "The second term of the product rule is missing: d(x s)/dx = s + x ds/dx.",
        _of(lambda x, t, du: 0.5 * (1.0 + t)),
    ),
    Mistake(
        "x-forgotten",
        "ds/dx lacks its factor x: d(x s)/dx = s + x ds/dx.",
        _of(lambda x, t, du: 0.5 * (1.0 + t) + 0.5 * (1.0 - t * t) * du),
    ),
    Mistake(
        "chain-rule",
        "du/dx is missing: the chain rule asks for tanh'(u) * du/dx.",
        _of(lambda x, t, du: 0.5 * (1.0 + t) + x * 0.5 * (1.0 - t * t)),
    ),
    Mistake(
        "chain-rule-c",
        "du/dx lacks its factor c = sqrt(2/pi).",
        _of(lambda x, t, du: 0.5 * (1.0 + t) + x * 0.5 * (1.0 - t * t) * du / _C),
    ),
    Mistake(
        "chain-rule-3",
        "d(x**3)/dx = 3 x**2: the 3 is missing.",
        _of(lambda x, t, du: 0.5 * (1.0 + t) + x * 0.5 * (1.0 - t * t) * _C * (1.0 + _A * x * x)),
    ),
    Mistake(
        "chain-rule-cubic",
        "du/dx lacks the cubic part: it is c (1 + 3 a x**2).",
        _of(lambda x, t, du: 0.5 * (1.0 + t) + x * 0.5 * (1.0 - t * t) * _C),
    ),
    Mistake(
        "x-cubed-kept",
        "x**3 was kept: d(x**3)/dx = 3 x**2.",
        _of(
            lambda x, t, du: (
                0.5 * (1.0 + t) + x * 0.5 * (1.0 - t * t) * _C * (1.0 + 3.0 * _A * x**3)
            )
        ),
    ),
    Mistake(
        "square-forgotten",
        "tanh' = 1 - tanh**2: the square is missing.",
        _of(lambda x, t, du: 0.5 * (1.0 + t) + x * 0.5 * (1.0 - t) * du),
    ),
    Mistake(
        "tanh-prime-sign",
        "tanh' = 1 - tanh**2, with a minus.",
        _of(lambda x, t, du: 0.5 * (1.0 + t) + x * 0.5 * (1.0 + t * t) * du),
    ),
    Mistake(
        "tanh-prime-of-u",
        "1 - u**2 stands for tanh'(u); it is 1 - tanh(u)**2.",
        _of(lambda x, t, du: 0.5 * (1.0 + t) + x * 0.5 * (1.0 - (_C * (x + _A * x**3)) ** 2) * du),
    ),
    Mistake(
        "half-forgotten-in-second",
        "The second term lacks the factor 1/2: s is (1 + tanh(u)) / 2.",
        _of(lambda x, t, du: 0.5 * (1.0 + t) + x * (1.0 - t * t) * du),
    ),
    Mistake(
        "half-forgotten-in-first",
        "The first term lacks the factor 1/2: s is (1 + tanh(u)) / 2.",
        _of(lambda x, t, du: (1.0 + t) + x * 0.5 * (1.0 - t * t) * du),
    ),
    Mistake(
        "one-forgotten",
        "The first term is tanh(u) / 2; it is (1 + tanh(u)) / 2.",
        _of(lambda x, t, du: 0.5 * t + x * 0.5 * (1.0 - t * t) * du),
    ),
    Mistake(
        "sigmoid-prime",
        "ds/dx is s (1 - s) du/dx; with s = (1 + tanh(u))/2 = sigmoid(2u) it is twice as much.",
        _of(lambda x, t, du: 0.5 * (1.0 + t) + x * 0.25 * (1.0 - t * t) * du),
    ),
    Mistake(
        "erf",
        "This is the gradient of the erf form; GPT-2 was trained with the tanh form, which differs "
        "a little.",
        _of(lambda x, t, du: _of_erf(x)),
    ),
    Mistake(
        "sigmoid-form",
        "This is the gradient of x * sigmoid(1.702 x), another approximation.",
        _of(lambda x, t, du: _of_sigmoid(x)),
    ),
    Mistake(
        "relu",
        "This is the gradient of ReLU.",
        _of(lambda x, t, du: (x > 0.0).astype(float)),
    ),
    Mistake(
        "value-for-slope",
        "This is g * gelu(x), the value; it is g times the slope.",
        _of(lambda x, t, du: forward(x)),
    ),
    Mistake(
        "slope-at-output",
        "This is the slope at gelu(x), the output; it is the slope at x.",
        lambda g, x: {"dx": answer(g, forward(x))[0]},
    ),
)

EXERCISE = Exercise(
    name="gelu",
    statement="The gradient of GELU, in the tanh form that GPT-2 was trained with.",
    forward=forward,
    function="gelu_backward",
    arguments={"g": "(B, T, C)", "x": "(B, T, C)"},
    gradients={"dx": "(B, T, C)"},
    draw=_draw,
    reference=answer,
    solution=solution,
    mistakes=_MISTAKES,
    hints=(
        "It works entry by entry: dx = g * slope(x). The output is a product, x times "
        "(1 + tanh(u)) / 2, and both depend on x.",
        "Product rule: slope = s + x ds/dx. Chain rule: ds/dx = (1 - tanh(u)**2) / 2 * du/dx. "
        "What is du/dx?",
        "du/dx = sqrt(2/pi) * (1 + 3 * 0.044715 * x**2); "
        "dx = g * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * du) with t = tanh(u).",
    ),
    end_to_end=_end_to_end,
    terms=_terms,
    factors=lambda g, x: {"c": _C, "a": _A},
)
