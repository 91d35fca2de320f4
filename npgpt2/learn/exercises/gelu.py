"""GELU: out = x s,  s = (1 + tanh(u)) / 2,  u = c (x + a x**3),  c = sqrt(2/pi), a = 0.044715.

x, out and g are (B, T, C). g is the gradient of the loss with respect to out. Each entry of out
depends on one entry of x, so there are no sums: dx = g * d out/dx, entry by entry. You need this
one slope, d out/dx.

1. out is the product of x and s, and both depend on x. The product rule:

       d out/dx = s + x ds/dx

2. The derivative of tanh is 1 - tanh**2. The chain rule:

       ds/dx = (1 - tanh(u)**2) / 2 * du/dx

3. u is a polynomial in x:

       du/dx = c (1 + 3 a x**2)

   Put together:

       dx = g * (s + x (1 - tanh(u)**2) / 2 * c (1 + 3 a x**2))

>>> import numpy as np
>>> from npgpt2.learn.judge.exercise import slope
>>> x, g = np.random.default_rng(0).standard_normal((2, 2, 3, 4))
>>> c, a = math.sqrt(2 / math.pi), 0.044715
>>> t = np.tanh(c * (x + a * x**3))
>>> dx = g * ((1 + t) / 2 + x * (1 - t**2) / 2 * c * (1 + 3 * a * x**2))
>>> np.allclose(dx, slope(forward, x, g))
True

At 0 the slope is 1/2. Far to the right it is 1, far to the left it is 0. In between it also takes
values below 0 and above 1:

>>> reference(np.ones(5), np.array([-10.0, -1.0, 0.0, 1.0, 10.0]))[0].round(4) + 0.0
array([ 0.   , -0.083,  0.5  ,  1.083,  1.   ])
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from autograd import Array, Tensor, record
from npgpt2 import functional as F
from npgpt2.learn.judge.exercise import Answer, read_mistakes, vjp
from npgpt2.learn.judge.in_model import in_gpt2

STATEMENT = "The gradient of GELU, in the tanh form that GPT-2 was trained with."
ARGUMENTS = {"g": "(B, T, C)", "x": "(B, T, C)"}
GRADIENTS = {"dx": "(B, T, C)"}
HINTS = (
    "GELU works entry by entry, so dx = g * slope(x). The output is a product, x times "
    "s = (1 + tanh(u)) / 2. Both depend on x.",
    "Product rule: slope = s + x ds/dx. Chain rule: ds/dx = (1 - tanh(u)**2) / 2 * du/dx. "
    "What is du/dx?",
    "du/dx = sqrt(2/pi) * (1 + 3 * 0.044715 * x**2); "
    "dx = g * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * du) with t = tanh(u) and du = du/dx.",
)


def forward(x: Array) -> Any:
    """(B, T, C) -> (B, T, C)."""
    u = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1.0 + np.tanh(u))


def reference(g: Array, x: Array) -> tuple[Array, ...]:
    """Return (dx,)."""
    return vjp(F.gelu, g, x)


def solution(g: Array, x: Array) -> Any:
    """Return dx."""
    a, c = 0.044715, math.sqrt(2 / math.pi)
    u = c * (x + a * x**3)
    t = np.tanh(u)
    du = c * (1 + 3 * a * x**2)
    slope = (1 + t) / 2 + x / 2 * (1 - t**2) * du
    return g * slope


def terms(g: Array, x: Array) -> Mapping[str, Mapping[str, Array]]:
    """Return the terms of the product rule. The second one is split at the sum in du/dx."""
    a, c = 0.044715, math.sqrt(2 / math.pi)
    t = np.tanh(c * (x + a * x**3))
    linear = g * x / 2 * (1 - t**2) * c
    return {
        "dx": {
            "g * (1 + tanh(u)) / 2": g * (1 + t) / 2,
            "g * x * (1 - tanh(u)**2) / 2 * c": linear,
            "g * x * (1 - tanh(u)**2) / 2 * c * 3 a x**2": linear * 3 * a * x**2,
        }
    }


def factors(g: Array, x: Array) -> Mapping[str, float]:
    """Return the two constants."""
    return {"c": math.sqrt(2 / math.pi), "a": 0.044715}


def end_to_end(answer: Answer) -> str:
    """Check a GPT-2 whose GELU has the answer as its backward pass."""

    def gelu(x: Tensor) -> Tensor:
        return record(forward(x.data), (x,), lambda g: answer(g, x.data))

    return in_gpt2(gelu=gelu)


MISTAKES = read_mistakes(
    """
product-rule-first
+ slope = x / 2 * (1 - t**2) * du
The first term of the product rule is missing: d(x s)/dx = s + x ds/dx.

product-rule-second
+ slope = (1 + t) / 2
The second term of the product rule is missing: d(x s)/dx = s + x ds/dx.

x-forgotten
+ slope = (1 + t) / 2 + (1 - t**2) / 2 * du
ds/dx lacks its factor x: d(x s)/dx = s + x ds/dx.

chain-rule
+ slope = (1 + t) / 2 + x / 2 * (1 - t**2)
du/dx is missing. By the chain rule, the derivative of tanh(u) is tanh'(u) * du/dx.

chain-rule-c
+ du = 1 + 3 * a * x**2
du/dx lacks its factor c = sqrt(2/pi).

chain-rule-3
+ du = c * (1 + a * x**2)
The 3 is missing: d(x**3)/dx = 3 x**2.

chain-rule-cubic
+ du = c
du/dx lacks the part from a x**3: du/dx = c (1 + 3 a x**2).

x-cubed-kept
+ du = c * (1 + 3 * a * x**3)
du/dx still has x**3: d(x**3)/dx = 3 x**2.

square-forgotten
+ slope = (1 + t) / 2 + x / 2 * (1 - t) * du
The square is missing: tanh' = 1 - tanh**2.

tanh-prime-sign
+ slope = (1 + t) / 2 + x / 2 * (1 + t**2) * du
The derivative of tanh has a plus. It should have a minus: tanh' = 1 - tanh**2.

tanh-prime-of-u
+ slope = (1 + t) / 2 + x / 2 * (1 - u**2) * du
1 - u**2 stands in place of tanh'(u). It should be 1 - tanh(u)**2.

half-forgotten-in-second
+ slope = (1 + t) / 2 + x * (1 - t**2) * du
The second term lacks the factor 1/2: s = (1 + tanh(u)) / 2.

half-forgotten-in-first
+ slope = 1 + t + x / 2 * (1 - t**2) * du
The first term lacks the factor 1/2: s = (1 + tanh(u)) / 2.

one-forgotten
+ slope = t / 2 + x / 2 * (1 - t**2) * du
The first term is tanh(u) / 2. It should be (1 + tanh(u)) / 2.

sigmoid-prime
+ s = (1 + t) / 2; slope = s + x * s * (1 - s) * du
ds/dx is s (1 - s) du/dx. It should be twice that: s = (1 + tanh(u)) / 2 is sigmoid(2u).

erf
+ s = (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
+ slope = s + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
This is the gradient of the erf form of GELU. GPT-2 was trained with the tanh form, which differs a
little.

sigmoid-form
+ s = 1 / (1 + np.exp(-1.702 * x)); slope = s + 1.702 * x * s * (1 - s)
This is the gradient of x * sigmoid(1.702 x), another approximation of GELU.

relu
+ slope = x > 0
This is the gradient of ReLU.

value-for-slope
+ slope = x * (1 + t) / 2
This is g times gelu(x). It should be g times the slope of gelu at x.

slope-at-output
+ x = forward(x); u = c * (x + a * x**3)
This is g times the slope at gelu(x), the output. It should be the slope at x.
"""
)
