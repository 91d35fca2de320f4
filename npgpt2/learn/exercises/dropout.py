"""Dropout: out = x * mask / (1 - p). Each entry of mask is 0 with probability p, otherwise 1.

x, mask, out and g are (B, T, C), and p is a number in [0, 1). The forward pass drew the mask. The
backward pass uses the same mask, so the mask is a constant.

1. Each entry of out is an entry of x times a number, mask/(1 - p). So the gradient of that entry of
   x is g times the same number:

       dx = g * mask / (1 - p)

   Dropped entries get no gradient. Kept entries were multiplied by 1/(1 - p), so that the mean of
   out over all masks is x. Their gradient is multiplied by 1/(1 - p) too.

>>> import numpy as np
>>> from npgpt2.learn.judge.exercise import slope
>>> x, g = np.random.default_rng(0).standard_normal((2, 1, 2, 3))
>>> mask = np.array([[[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]])
>>> np.allclose(g * mask / (1 - 0.25), slope(lambda x: forward(x, mask, 0.25), x, g))
True

In numbers, for one kept and one dropped entry, with g = [3, 3], x = [5, 7] and p = 0.25:

>>> reference(np.array([3.0, 3.0]), np.array([5.0, 7.0]), np.array([1.0, 0.0]), 0.25)
(array([4., 0.]),)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from autograd import Array, Tensor, record
from npgpt2.learn.judge.exercise import Answer, Arguments, Sizes, read_mistakes, vjp
from npgpt2.learn.judge.in_model import in_gpt2

STATEMENT = "The gradient of dropout, given the mask of the forward pass."
ARGUMENTS = {
    "g": "(B, T, C)",
    "x": "(B, T, C)",
    "mask": "(B, T, C), each entry 0.0 or 1.0",
    "p": "a number, the probability that an entry of mask is 0",
}
GRADIENTS = {"dx": "(B, T, C)"}
HINTS = (
    "By which number does the forward pass multiply one entry of x?",
    "By mask/(1-p), which is a constant in the backward pass. What is the gradient of x * constant "
    "with respect to x?",
    "dx = g * mask / (1 - p).",
)


def forward(x: Array, mask: Array, p: float) -> Any:
    """(B, T, C) -> (B, T, C)."""
    return x * mask / (1.0 - p)


def reference(g: Array, x: Array, mask: Array, p: float) -> tuple[Array, ...]:
    """Return (dx,)."""
    return vjp(lambda x: x * (mask / (1.0 - p)), g, x)


def solution(g: Array, x: Array, mask: Array, p: float) -> Any:
    """Return dx."""
    return g * mask / (1 - p)


def factors(g: Array, x: Array, mask: Array, p: float) -> Mapping[str, float]:
    """Return the factors that are made of p."""
    return {"p": p, "(1-p)": 1.0 - p, "(1-p)**2": (1.0 - p) ** 2}


def draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    """Return g, x, mask and p. At least one entry is dropped, and at least one is kept."""
    g, x = rng.standard_normal((2, n.B, n.T, n.C))
    p = float(rng.uniform(0.2, 0.45))
    mask = (rng.random(x.shape) >= p).astype(float)
    mask[0, 0, :2] = 0.0, 1.0
    return g, x, mask, p


def end_to_end(answer: Answer) -> str:
    """Check a GPT-2 whose dropout has the answer as its backward pass."""

    def dropout(x: Tensor, p: float, rng: np.random.Generator) -> Tensor:
        mask = (rng.random(x.shape) >= p).astype(float)
        return record(forward(x.data, mask, p), (x,), lambda g: answer(g, x.data, mask, p))

    return in_gpt2(dropout=dropout)


MISTAKES = read_mistakes(
    """
mask-forgotten
+ return g / (1 - p)
The mask is missing: dropped entries get a gradient here. They should get 0.

mask-and-scale-forgotten
+ return g.copy()
dx is just g. The forward pass multiplies x by the mask and by 1/(1-p), so the backward pass
multiplies g by both.

scale-forgotten
+ return g * mask
The factor 1/(1-p) is missing. The forward pass has it, so the backward pass has it too.

scale-twice
+ return g * mask / (1 - p) ** 2
The factor 1/(1-p) is applied twice.

scale-inverted
+ return g * mask * (1 - p)
dx is multiplied by 1-p. Divide by 1-p: the forward pass divides by it too.

scale-of-p
+ return g * mask / p
dx is divided by p, the probability of dropping an entry. Divide by 1-p, the probability of keeping
it.

times-p
+ return g * mask * p
dx is multiplied by p. Divide by 1-p instead.

scale-of-share-kept
+ return g * mask / mask.mean()
dx is divided by the share of entries that this mask kept. Divide by 1-p, the probability of keeping
an entry.

scaled-where-dropped
+ return np.where(mask > 0, g / (1 - p), g)
Dropped entries get g, without the factor 1/(1-p). They should get 0.

mask-inverted
+ return g * (1 - mask) / (1 - p)
The mask is inverted: dropped entries get the gradient, and kept entries get 0.

mask-inverted-unscaled
+ return g * (1 - mask)
The mask is inverted, and the factor 1/(1-p) is missing.

times-x
+ return g * x * mask / (1 - p)
dx has x as a factor. The derivative of x * m with respect to x is m, without x.

x-for-g
+ return x * mask / (1 - p)
This is the forward pass of x. The backward pass multiplies g by mask/(1-p), not x.

new-mask
+ return g * (x > 0) / (1 - p)
Entries are dropped where x is negative. Drop them where the mask is 0.
"""
)
