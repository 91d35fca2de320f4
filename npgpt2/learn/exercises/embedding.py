"""Embedding: out = weight[ids].

weight is (V, C), ids (B, T) integers in [0, V), out and g (B, T, C). Entry by entry

    out[b,t,c] = weight[ids[b,t],c]

which is a linear layer whose input is the onehot of the id: out[b,t,c] = sum_v 1[ids[b,t] = v]
weight[v,c].

1. weight[v,c] is in out[b,t,c] wherever ids[b,t] = v:

       dweight[v,c] = sum_bt 1[ids[b,t] = v] g[b,t,c]

   Row v gets the sum of g over all the places where v was looked up; rows of ids that do not
   occur get 0. The values of weight are not in it.

2. As a product that is onehot.T @ g, and without the onehots

       dweight = zeros(V, C); for all b, t: dweight[ids[b,t]] += g[b,t]

>>> import numpy as np
>>> from npgpt2.learn.judge.exercise import slope
>>> ids = np.array([[1, 0, 1]])
>>> g = np.array([[[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]]])
>>> dweight = np.zeros((3, 2))
>>> np.add.at(dweight, ids, g)
>>> dweight
array([[ 10.,  20.],
       [101., 202.],
       [  0.,   0.]])
>>> np.allclose(dweight, slope(lambda weight: forward(weight, ids), np.ones((3, 2)), g))
True

3. NumPy's dweight[ids] += g is not that: it reads, adds and writes back, so that of an id that
   occurs twice only one place is kept.

>>> dweight = np.zeros((3, 2))
>>> dweight[ids] += g
>>> dweight
array([[ 10.,  20.],
       [100., 200.],
       [  0.,   0.]])
"""

from __future__ import annotations

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


def forward(weight: Array, ids: Array) -> Any:
    """(V, C), (B, T) -> (B, T, C)."""
    return weight[ids]


def answer(g: Array, weight: Array, ids: Array) -> tuple[Array, ...]:
    """Return (dweight,)."""
    return vjp(lambda weight: F.embedding(weight, ids), g, weight)


def solution(g: Array, weight: Array, ids: Array) -> Any:
    """The answer by hand."""
    onehot = np.eye(len(weight))[ids].reshape(-1, len(weight))
    g2 = g.reshape(-1, g.shape[-1])
    return onehot.T @ g2


def draw_ids(rng: np.random.Generator, n: Sizes) -> Array:
    """Return (B, T) ids of which some occur twice, and in two rows of the batch."""
    ids = rng.integers(0, n.V, (n.B, n.T))
    ids[0, 0] = ids[0, 1] = ids[1, -1]
    return ids


def _draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    ids = draw_ids(rng, n)
    return rng.standard_normal((n.B, n.T, n.C)), rng.standard_normal((n.V, n.C)), ids


def _end_to_end(function: Answer) -> str:
    def embedding(weight: Tensor, ids: Array) -> Tensor:
        def vjp(g: Array) -> tuple[Array, ...]:
            batch = (-1, *g.shape[-2:])  # the positions come without a batch: (T, C) -> (1, T, C)
            gradients: tuple[Array, ...] = function(
                g.reshape(batch), weight.data, ids.reshape(-1, ids.shape[-1])
            )
            return gradients

        return record(forward(weight.data, ids), (weight,), vjp)

    return in_gpt2(embedding=embedding)


def assigned(start: Array, ids: Array, g: Array) -> Array:
    """Return start with start[ids] += g, in which repeated ids count once."""
    out = start.copy()
    out[ids] += g
    return out


def added(start: Array, ids: Array, g: Array) -> Array:
    """Return start with all of g added at the rows ids."""
    out = start.copy()
    np.add.at(out, ids, g)
    return out


def _first(weight: Array, ids: Array, g: Array) -> Array:
    backwards = ids.reshape(-1)[::-1], g.reshape(-1, g.shape[-1])[::-1]
    return assigned(np.zeros_like(weight), *backwards)


def _of(change: Any) -> Answer:
    return lambda g, weight, ids: {"dweight": change(g, weight, ids)}


def _counts(weight: Array, ids: Array) -> Array:
    return np.maximum(np.bincount(ids.reshape(-1), minlength=len(weight)), 1)[:, None]


_MISTAKES = (
    Mistake(
        "duplicates-overwritten",
        "An id that occurs twice keeps the gradient of its last place only: dweight[ids] = g and "
        "dweight[ids] += g count it once. Use np.add.at.",
        _of(lambda g, w, ids: assigned(np.zeros_like(w), ids, g)),
    ),
    Mistake(
        "first-place-only",
        "An id that occurs twice keeps the gradient of its first place only; all are summed.",
        _of(lambda g, w, ids: _first(w, ids, g)),
    ),
    Mistake(
        "mean-of-duplicates",
        "An id that occurs several times gets the mean of its gradients; it is their sum.",
        _of(lambda g, w, ids: answer(g, w, ids)[0] / _counts(w, ids)),
    ),
    Mistake(
        "duplicates-counted-again",
        "Rows are multiplied by how often their id occurs; the sum over the places has that "
        "already.",
        _of(lambda g, w, ids: answer(g, w, ids)[0] * _counts(w, ids)),
    ),
    Mistake(
        "last-row-of-batch",
        "Only the last row of the batch is in dweight: dweight must not be made anew, or assigned "
        "to, for each.",
        _of(lambda g, w, ids: answer(only_last(g), w, ids)[0]),
    ),
    Mistake(
        "last-in-batch-row-assigned",
        "A row of the batch at a time is right between rows, but within a row an id that occurs "
        "twice keeps one place only.",
        _of(
            lambda g, w, ids: sum(
                assigned(np.zeros_like(w), i, d) for i, d in zip(ids, g, strict=True)
            )
        ),
    ),
    Mistake(
        "mean-over-batch",
        "The rows of the batch are averaged; they are summed.",
        _of(lambda g, w, ids: answer(g, w, ids)[0] / len(ids)),
    ),
    Mistake(
        "added-to-weight",
        "dweight began as a copy of weight; it begins at 0.",
        _of(lambda g, w, ids: added(w, ids, g)),
    ),
    Mistake(
        "times-weight",
        "g is multiplied by the rows of weight: the forward only looks them up.",
        _of(lambda g, w, ids: answer(g * w[ids], w, ids)[0]),
    ),
    Mistake(
        "weight-for-g",
        "The rows of weight are summed, where g should be.",
        _of(lambda g, w, ids: answer(w[ids], w, ids)[0]),
    ),
    Mistake(
        "ids-in-other-order",
        "The ids are taken in another order than g: ids.T was made flat, g was not transposed.",
        _of(lambda g, w, ids: answer(g, w, ids.T.reshape(ids.shape))[0]),
    ),
    Mistake(
        "gradients-gathered",
        "dweight[v] is looked up in g by v; it is the other way: g[b,t] goes to row ids[b,t].",
        _of(lambda g, w, ids: g.reshape(-1, g.shape[-1])[np.arange(len(w)) % ids.size]),
    ),
    Mistake(
        "one-off",
        "The rows are one too far down: ids begin at 0.",
        _of(lambda g, w, ids: answer(g, w, (ids + 1) % len(w))[0]),
    ),
    Mistake(
        "not-summed-over-channels",
        "All channels of a row have the sum over its channels; each channel has its own g.",
        _of(lambda g, w, ids: answer(0.0 * g + g.sum(-1, keepdims=True), w, ids)[0]),
    ),
)

EXERCISE = Exercise(
    name="embedding",
    statement="The gradient of a table whose rows are looked up, some of them several times.",
    forward=forward,
    function="embedding_backward",
    arguments={"g": "(B, T, C)", "weight": "(V, C)", "ids": "(B, T), integers in [0, V)"},
    gradients={"dweight": "(V, C)"},
    draw=_draw,
    reference=answer,
    solution=solution,
    mistakes=_MISTAKES,
    hints=(
        "Which places of the output does row v of the table go to? What is used several times gets "
        "the sum of its gradients.",
        "Begin with zeros of the table's shape, and add g[b,t] to row ids[b,t], for all b and t. "
        "Try what dweight[ids] += g does with an id that occurs twice.",
        "dweight = np.zeros_like(weight); np.add.at(dweight, ids, g).",
    ),
    end_to_end=_end_to_end,
    letters=("B", "T", "C", "V"),
)
