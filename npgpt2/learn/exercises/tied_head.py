"""Tied head: one weight is the table of the embedding and also the matrix of the head.

    x = weight[ids]          (B, T)    -> (B, T, C)
    h = body(x)              (B, T, C) -> (B, T, C)
    logits = h @ weight.T    (B, T, C) -> (B, T, V)

weight is (V, C), and g has the shape of the logits. In GPT-2 the body is everything between the
embedding and the head. Its backward pass is given: body_backward takes the gradient of h and
returns the gradient of x.

1. The weight is used twice, first in the embedding and then in the head. A value that is used twice
   gets the sum of two gradients. Call them dembedding and dhead.

2. The head is a linear layer without a bias (see linear). With B and T as one axis of N rows, g
   becomes g2 and h becomes h2:

       dh    = g @ weight
       dhead = g2.T @ h2                     (V, N), (N, C) -> (V, C)

   All rows of dhead differ from 0, because every position has a logit for every token. So each
   training step changes the row of every token.

3. The gradient goes from h through the body to x. x was looked up in weight (see embedding), so row
   v gets the gradients of all places where v was looked up:

       dx = body_backward(dh)
       dembedding[v] = sum of dx[b,t] over all b, t with ids[b,t] = v

4. dweight is the sum of both:

       dweight = dhead + dembedding

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

Token 4 is not in the batch. It gets no gradient from the embedding, but it gets one from the head:

>>> dembedding[4].any(), dhead[4].any()
(np.False_, np.True_)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from autograd import Array, Tensor, record
from npgpt2.learn.exercises.embedding import draw_ids
from npgpt2.learn.judge.exercise import Answer, Arguments, Sizes, read_mistakes, some_backward
from npgpt2.learn.judge.in_model import in_gpt2, part, replaced
from npgpt2.model import GPT2Model

Function = Callable[[Array], Array]

STATEMENT = "The gradient of the weight that embedding and head share."
ARGUMENTS = {
    "g": "(B, T, V)",
    "weight": "(V, C)",
    "ids": "(B, T), integers in [0, V)",
    "h": "(B, T, C), the result of body(weight[ids])",
    "body_backward": "function: gradient of h -> gradient of weight[ids], both (B, T, C)",
}
GRADIENTS = {"dweight": "(V, C)"}
HINTS = (
    "How often is weight used? What gradient does a value get if it is used several times?",
    "The head's part is dweight of linear. For the embedding's part, take g back to h, then "
    "through the body to x = weight[ids], then into the rows of weight as in embedding.",
    "dweight = g2.T @ h2, with B and T as one axis; "
    "np.add.at(dweight, ids, body_backward(g @ weight)).",
)


def forward(weight: Array, ids: Array, body: Function) -> Any:
    """(V, C), (B, T) -> (B, T, V)."""
    x = weight[ids]  # (B, T) -> (B, T, C)
    h = body(x)
    return h @ weight.T  # (B, T, C) -> (B, T, V)


def solution(g: Array, weight: Array, ids: Array, h: Array, body_backward: Function) -> Any:
    """Return dweight."""
    dhead = g.reshape(-1, g.shape[-1]).T @ h.reshape(-1, h.shape[-1])
    dh = g @ weight
    dx = body_backward(dh)
    onehot = np.eye(len(weight))[ids].reshape(-1, len(weight))
    dembedding = onehot.T @ dx.reshape(-1, dx.shape[-1])
    return dhead + dembedding


def terms(
    g: Array, weight: Array, ids: Array, h: Array, body_backward: Function
) -> Mapping[str, Mapping[str, Array]]:
    """Return one term for each use of the weight."""
    dhead = g.reshape(-1, g.shape[-1]).T @ h.reshape(-1, h.shape[-1])
    dembedding = np.zeros_like(weight)
    np.add.at(dembedding, ids, body_backward(g @ weight))
    return {"dweight": {"the part from the head": dhead, "the part from the embedding": dembedding}}


def reference(*arguments: Any) -> tuple[Array, ...]:
    """Return (dweight,). The body is given, so the library has no op for this."""
    dhead, dembedding = terms(*arguments)["dweight"].values()
    return (dhead + dembedding,)


def draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    """Return g, weight, ids, h, and a backward pass."""
    weight, h = rng.standard_normal((n.V, n.C)), rng.standard_normal((n.B, n.T, n.C))
    g, ids = rng.standard_normal((n.B, n.T, n.V)), draw_ids(rng, n)
    return g, weight, ids, h, some_backward(rng, h.shape)


def end_to_end(answer: Answer) -> str:
    """Check a GPT-2 whose shared weight gets its gradient from the answer."""

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
            return answer(g, weight.data, ids, h.data, body_backward)

        return record(h.data @ weight.data.T, (weight,), vjp)

    with replaced(GPT2Model, "forward", logits):
        return in_gpt2()


MISTAKES = read_mistakes(
    """
embedding-use-forgotten
+ return dhead
The gradient from the embedding is missing. The head and the embedding both use the weight, so add
both gradients.

head-use-forgotten
+ return dembedding
The gradient from the head is missing. The head and the embedding both use the weight, so add both
gradients.

averaged
+ return (dhead + dembedding) / 2
The two gradients are averaged. They should be summed.

body-skipped
+ dx = dh
The gradient of h is used as the gradient of x: dx = body_backward(dh) is missing.

body-skipped-head-forgotten
+ dx = dh; return dembedding
The gradient from the head is missing, and the gradient of h is used as the gradient of x.

body-of-h
+ dx = body_backward(h)
body_backward was given h. It takes the gradient of h, g @ weight.

body-twice
+ dx = body_backward(body_backward(dh))
The gradient goes through the body twice.

duplicates-overwritten
+ dembedding = np.zeros_like(weight); dembedding[ids] += dx; return dhead + dembedding
In the embedding's gradient, an id that occurs twice gets one of its places only. Use np.add.at on
an array of zeros.

duplicates-overwritten-head-forgotten
+ dembedding = np.zeros_like(weight); dembedding[ids] += dx; return dembedding
The gradient from the head is missing, and an id that occurs twice gets one of its places only.

rows-overwritten
+ dhead[ids] = dx; return dhead
The rows of the ids were assigned (dweight[ids] = dx), so they lose the gradient from the head. Add
to them, with np.add.at.

last-row-of-batch-in-embedding
+ dembedding = np.eye(len(weight))[ids[-1]].T @ dx[-1]
The embedding's gradient holds only the last row of the batch.

last-row-of-batch-in-head
+ dhead = g[-1].T @ h[-1]
The head's gradient holds only the last row of the batch.

head-of-embedding
+ dhead = g.reshape(-1, g.shape[-1]).T @ weight[ids].reshape(-1, h.shape[-1])
The head's gradient has weight[ids] as a factor. The head reads h, so the factor is h.

head-is-mean
+ return dhead / ids.size + dembedding
The head's gradient is a mean over the N = B*T positions. It should be the sum.

added-to-weight
+ return weight + dhead + dembedding
dweight begins as a copy of weight. It should begin at 0.

embedding-of-h
+ dx = h
h is added to the rows of the ids. Add dx = body_backward(g @ weight) instead.
"""
)
