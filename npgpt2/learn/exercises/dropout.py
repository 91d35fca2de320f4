"""Dropout: out = x * mask / (1 - p), mask being 0 with probability p and else 1.

x, mask, out and g are (B, T, C), p a number in [0, 1). The mask was drawn in the forward pass; in
the backward pass it is what it was, a constant.

1. Entry by entry, out is x times a number, mask/(1 - p), and so is the gradient g times it:

       dx = g * mask / (1 - p)

   What was dropped gets no gradient. What was kept was enlarged by 1/(1 - p), so that the mean over
   all masks is x, and its gradient is enlarged as much.

>>> import numpy as np
>>> from npgpt2.learn.judge.exercise import slope
>>> x, g = np.random.default_rng(0).standard_normal((2, 1, 2, 3))
>>> mask = np.array([[[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]])
>>> np.allclose(g * mask / (1 - 0.25), slope(lambda x: forward(x, mask, 0.25), x, g))
True

>>> answer(np.array([3.0, 3.0]), np.array([5.0, 7.0]), np.array([1.0, 0.0]), 0.25)
(array([4., 0.]),)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd import Array, Tensor, record
from npgpt2.learn.judge.exercise import (
    Answer,
    Arguments,
    Exercise,
    Mistake,
    Sizes,
    in_gpt2,
    vjp,
)


def forward(x: Array, mask: Array, p: float) -> Any:
    """(B, T, C) -> (B, T, C)."""
    return x * mask / (1.0 - p)


def answer(g: Array, x: Array, mask: Array, p: float) -> tuple[Array, ...]:
    """Return (dx,)."""
    return vjp(lambda x: x * (mask / (1.0 - p)), g, x)


def solution(g: Array, x: Array, mask: Array, p: float) -> Any:
    """The answer by hand."""
    return g * mask / (1 - p)


def _draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    g, x = rng.standard_normal((2, n.B, n.T, n.C))
    p = float(rng.uniform(0.2, 0.45))
    mask = (rng.random(x.shape) >= p).astype(float)
    mask[0, 0, :2] = 0.0, 1.0
    return g, x, mask, p


def _end_to_end(function: Answer) -> str:
    def dropout(x: Tensor, p: float, rng: np.random.Generator) -> Tensor:
        mask = (rng.random(x.shape) >= p).astype(float)
        return record(forward(x.data, mask, p), (x,), lambda g: function(g, x.data, mask, p))

    return in_gpt2(dropout=dropout)


def _of(change: Any) -> Answer:
    return lambda g, x, mask, p: {"dx": change(g, x, mask, p)}


_MISTAKES = (
    Mistake(
        "mask-forgotten",
        "The mask is missing: what was dropped still gets a gradient.",
        _of(lambda g, x, mask, p: g / (1.0 - p)),
    ),
    Mistake(
        "mask-and-scale-forgotten",
        "g is passed on as it is: mask and 1/(1-p) of the forward pass belong into the backward "
        "pass too.",
        _of(lambda g, x, mask, p: g.copy()),
    ),
    Mistake(
        "scale-forgotten",
        "The factor 1/(1-p) of the forward pass is missing: it belongs into the backward pass too.",
        _of(lambda g, x, mask, p: g * mask),
    ),
    Mistake(
        "scale-twice",
        "The factor 1/(1-p) is applied twice.",
        _of(lambda g, x, mask, p: g * mask / (1.0 - p) ** 2),
    ),
    Mistake(
        "scale-inverted",
        "Multiplied by 1-p; it is divided by it, as in the forward pass.",
        _of(lambda g, x, mask, p: g * mask * (1.0 - p)),
    ),
    Mistake(
        "scale-of-p",
        "Divided by p, the probability to drop; it is divided by 1-p, the one to keep.",
        _of(lambda g, x, mask, p: g * mask / p),
    ),
    Mistake(
        "times-p",
        "Multiplied by p; it is divided by 1-p.",
        _of(lambda g, x, mask, p: g * mask * p),
    ),
    Mistake(
        "scale-of-share-kept",
        "Divided by the share that this mask kept; the forward pass has the probability, 1-p.",
        _of(lambda g, x, mask, p: g * mask / mask.mean()),
    ),
    Mistake(
        "scaled-where-dropped",
        "What was dropped gets g, unscaled; it gets 0.",
        _of(lambda g, x, mask, p: np.where(mask > 0.0, g / (1.0 - p), g)),
    ),
    Mistake(
        "mask-inverted",
        "The mask is inverted: what was dropped gets the gradient.",
        _of(lambda g, x, mask, p: g * (1.0 - mask) / (1.0 - p)),
    ),
    Mistake(
        "mask-inverted-unscaled",
        "The mask is inverted, and 1/(1-p) is missing.",
        _of(lambda g, x, mask, p: g * (1.0 - mask)),
    ),
    Mistake(
        "times-x",
        "x is a factor of dx: d(x m)/dx = m, without x.",
        _of(lambda g, x, mask, p: g * x * mask / (1.0 - p)),
    ),
    Mistake(
        "x-for-g",
        "This is the forward pass of x; g goes through mask and scale.",
        _of(lambda g, x, mask, p: x * mask / (1.0 - p)),
    ),
    Mistake(
        "new-mask",
        "Entries are dropped where x is negative; they are where the mask is 0.",
        _of(lambda g, x, mask, p: g * (x > 0.0) / (1.0 - p)),
    ),
)

EXERCISE = Exercise(
    name="dropout",
    statement="The gradient of dropout, given the mask of the forward pass.",
    forward=forward,
    function="dropout_backward",
    arguments={
        "g": "(B, T, C)",
        "x": "(B, T, C)",
        "mask": "(B, T, C), of 0.0 and 1.0",
        "p": "a number, the probability of 0",
    },
    gradients={"dx": "(B, T, C)"},
    draw=_draw,
    reference=answer,
    solution=solution,
    mistakes=_MISTAKES,
    hints=(
        "By what number is one entry of x multiplied in the forward pass?",
        "By mask/(1-p), a constant in the backward pass. What is the gradient of x * constant?",
        "dx = g * mask / (1 - p).",
    ),
    end_to_end=_end_to_end,
    factors=lambda g, x, mask, p: {"p": p, "(1-p)": 1.0 - p, "(1-p)**2": (1.0 - p) ** 2},
)
