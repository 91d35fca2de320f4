"""Tied head: one weight is the table of the embedding, and the matrix of the head.

    x = weight[ids]          (B, T)    -> (B, T, C)
    h = body(x)              (B, T, C) -> (B, T, C)
    logits = h @ weight.T    (B, T, C) -> (B, T, V)

weight is (V, C); g has the shape of the logits. In GPT-2 the body is all that lies between. Its
backward pass is given: body_backward takes the gradient of h, and returns that of x.

1. The weight is used twice, far apart, and gets the sum of two gradients.

2. The head is a linear layer (see there). With B and T as one axis of N rows:

       dh    = g @ weight
       dhead = g2.T @ h2                     (N, V), (N, C) -> (V, C)

   All rows of dhead are different from 0: each step changes every token's logit.

3. From h the gradient goes through the body to x, and x was looked up (see embedding):

       dx = body_backward(dh)
       dembedding[v] = sum of dx[b,t] over all b, t with ids[b,t] = v

4.     dweight = dhead + dembedding

>>> import numpy as np
>>> from npgpt2.learn.judge.exercise import slope
>>> rng = np.random.default_rng(0)
>>> weight, ids = rng.standard_normal((5, 4)), np.array([[1, 3, 1], [0, 2, 2]])
>>> g, x = rng.standard_normal((2, 3, 5)), weight[ids]
>>> h = x**3  # a body
>>> dh = g @ weight
>>> dhead = g.reshape(6, 5).T @ h.reshape(6, 4)
>>> dembedding = np.zeros((5, 4))
>>> np.add.at(dembedding, ids, 3 * x**2 * dh)
>>> np.allclose(dhead + dembedding, slope(lambda w: forward(w, ids, lambda x: x**3), weight, g))
True

A token that is not in the batch gets nothing from the embedding, and something from the head:

>>> dembedding[4].any(), dhead[4].any()
(np.False_, np.True_)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from autograd import Array, Tensor, record
from npgpt2.learn.exercises.embedding import added, assigned, draw_ids
from npgpt2.learn.judge.exercise import (
    Answer,
    Arguments,
    Exercise,
    Mistake,
    Sizes,
    in_gpt2,
    only_last,
    part,
    replaced,
    some_backward,
)
from npgpt2.model import GPT2Model

Backward = Callable[[Array], Array]


def forward(weight: Array, ids: Array, body: Callable[[Array], Array]) -> Any:
    """(V, C), (B, T) -> (B, T, V)."""
    x = weight[ids]  # (B, T) -> (B, T, C)
    h = body(x)
    return h @ weight.T  # (B, T, C) -> (B, T, V)


def _head(g: Array, h: Array) -> Array:
    """(B, T, V), (B, T, C) -> (V, C)."""
    product: Array = g.reshape(-1, g.shape[-1]).T @ h.reshape(-1, h.shape[-1])
    return product


def _terms(
    g: Array, weight: Array, ids: Array, h: Array, body_backward: Backward
) -> Mapping[str, Mapping[str, Array]]:
    dx = body_backward(g @ weight)
    return {
        "dweight": {
            "of the head": _head(g, h),
            "of the embedding": added(np.zeros_like(weight), ids, dx),
        }
    }


def answer(
    g: Array, weight: Array, ids: Array, h: Array, body_backward: Backward
) -> tuple[Array, ...]:
    """Return (dweight,)."""
    parts = _terms(g, weight, ids, h, body_backward)["dweight"]
    return (parts["of the head"] + parts["of the embedding"],)


def solution(g: Array, weight: Array, ids: Array, h: Array, body_backward: Backward) -> Any:
    """The answer by hand."""
    dhead = g.reshape(-1, g.shape[-1]).T @ h.reshape(-1, h.shape[-1])
    dh = g @ weight
    dx = body_backward(dh)
    onehot = np.eye(len(weight))[ids].reshape(-1, len(weight))
    dembedding = onehot.T @ dx.reshape(-1, dx.shape[-1])
    return dhead + dembedding


def _draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    weight, h = rng.standard_normal((n.V, n.C)), rng.standard_normal((n.B, n.T, n.C))
    g, ids = rng.standard_normal((n.B, n.T, n.V)), draw_ids(rng, n)
    return g, weight, ids, h, some_backward(rng, h.shape)


def _end_to_end(function: Answer) -> str:
    def logits(self: GPT2Model, ids: Array) -> Tensor:
        def body(x: Tensor) -> Tensor:
            x = self.drop(x + self.wpe(np.arange(ids.shape[1])))
            for block in self.h:
                x = block(x)
            return self.ln_f(x)

        weight = self.wte.weight
        h, body_backward = part(body, weight.data[ids])

        def vjp(g: Array) -> tuple[Array, ...]:
            h.backward(g @ weight.data, retain_graph=True)  # for the parameters of the body
            gradients: tuple[Array, ...] = function(g, weight.data, ids, h.data, body_backward)
            return gradients

        return record(h.data @ weight.data.T, (weight,), vjp)

    with replaced(GPT2Model, "forward", logits):
        return in_gpt2()


def _of(change: Any) -> Answer:
    """Make a wrong dweight of head, dx, zeros and all arguments."""

    def wrong(g: Array, w: Array, ids: Array, h: Array, body: Backward) -> Mapping[str, Array]:
        zeros = np.zeros_like(w)
        return {"dweight": change(_head(g, h), body(g @ w), zeros, g, w, ids, h, body)}

    return wrong


_MISTAKES = (
    Mistake(
        "embedding-use-forgotten",
        "The use as a table is forgotten: the weight is used by the head and by the embedding, and "
        "gets both gradients.",
        _of(lambda head, dx, zeros, *_: head),
    ),
    Mistake(
        "head-use-forgotten",
        "The use by the head is forgotten: the weight is used by the head and by the embedding, "
        "and gets both gradients.",
        _of(lambda head, dx, zeros, g, w, ids, h, body: added(zeros, ids, dx)),
    ),
    Mistake(
        "averaged",
        "The two gradients are averaged; they are summed.",
        _of(lambda head, dx, zeros, g, w, ids, h, body: 0.5 * added(head, ids, dx)),
    ),
    Mistake(
        "body-skipped",
        "The gradient of h was taken for that of x: body_backward(dh) is missing.",
        _of(lambda head, dx, zeros, g, w, ids, h, body: added(head, ids, g @ w)),
    ),
    Mistake(
        "body-skipped-head-forgotten",
        "The use by the head is forgotten, and the gradient of h was taken for that of x.",
        _of(lambda head, dx, zeros, g, w, ids, h, body: added(zeros, ids, g @ w)),
    ),
    Mistake(
        "body-of-h",
        "body_backward was given h; it takes the gradient of h, g @ weight.",
        _of(lambda head, dx, zeros, g, w, ids, h, body: added(head, ids, body(h))),
    ),
    Mistake(
        "body-twice",
        "The gradient goes through the body twice.",
        _of(lambda head, dx, zeros, g, w, ids, h, body: added(head, ids, body(dx))),
    ),
    Mistake(
        "duplicates-overwritten",
        "An id that occurs twice keeps one of its places only in the embedding's gradient: use "
        "np.add.at on an array of zeros.",
        _of(lambda head, dx, zeros, g, w, ids, h, body: head + assigned(zeros, ids, dx)),
    ),
    Mistake(
        "duplicates-overwritten-head-forgotten",
        "The use by the head is forgotten, and an id that occurs twice keeps one of its places "
        "only.",
        _of(lambda head, dx, zeros, g, w, ids, h, body: assigned(zeros, ids, dx)),
    ),
    Mistake(
        "rows-overwritten",
        "The rows of ids that occur were assigned (dweight[ids] = dx), which loses the head's "
        "gradient there; they are to be added to.",
        _of(
            lambda head, dx, zeros, g, w, ids, h, body: np.where(
                np.isin(np.arange(len(w)), ids)[:, None], assigned(zeros, ids, dx), head
            )
        ),
    ),
    Mistake(
        "last-row-of-batch-in-embedding",
        "Only the last row of the batch is in the embedding's gradient.",
        _of(lambda head, dx, zeros, g, w, ids, h, body: added(head, ids, only_last(dx))),
    ),
    Mistake(
        "last-row-of-batch-in-head",
        "Only the last row of the batch is in the head's gradient.",
        _of(lambda head, dx, zeros, g, w, ids, h, body: added(_head(only_last(g), h), ids, dx)),
    ),
    Mistake(
        "head-of-embedding",
        "The head's gradient has weight[ids] as its factor; the head reads h.",
        _of(lambda head, dx, zeros, g, w, ids, h, body: added(_head(g, w[ids]), ids, dx)),
    ),
    Mistake(
        "head-is-mean",
        "The head's gradient is a mean over the N = B*T positions; it is the sum.",
        _of(lambda head, dx, zeros, g, w, ids, h, body: added(head / ids.size, ids, dx)),
    ),
    Mistake(
        "added-to-weight",
        "dweight began as a copy of weight; it begins at 0.",
        _of(lambda head, dx, zeros, g, w, ids, h, body: added(w + head, ids, dx)),
    ),
    Mistake(
        "embedding-of-h",
        "h was added to the rows of the ids; it is dx = body_backward(g @ weight).",
        _of(lambda head, dx, zeros, g, w, ids, h, body: added(head, ids, h)),
    ),
)

EXERCISE = Exercise(
    name="tied_head",
    statement="The gradient of the weight that embedding and head share.",
    forward=forward,
    function="tied_head_backward",
    arguments={
        "g": "(B, T, V)",
        "weight": "(V, C)",
        "ids": "(B, T), integers in [0, V)",
        "h": "(B, T, C), body(weight[ids])",
        "body_backward": "function: gradient of h -> gradient of weight[ids], (B, T, C) both",
    },
    gradients={"dweight": "(V, C)"},
    draw=_draw,
    reference=answer,
    solution=solution,
    mistakes=_MISTAKES,
    hints=(
        "How often is weight used, and what does a value that is used several times get?",
        "From the head: as in linear. From the embedding: take g back to h, through the body to "
        "x = weight[ids], and then as in embedding.",
        "dweight = g2.T @ h2, with B and T as one axis; "
        "np.add.at(dweight, ids, body_backward(g @ weight)).",
    ),
    end_to_end=_end_to_end,
    letters=("B", "T", "C", "V"),
    terms=_terms,
)
