"""Embedding: out = weight[ids].

weight is (V, C), ids is (B, T) with integers in [0, V), and out and g are (B, T, C). Each id is
replaced by one row of weight. Entry by entry

    out[b,t,c] = weight[ids[b,t],c]

This is a linear layer without a bias. Its input is the onehot vector of each id: 1[ids[b,t] = v] is
1 where ids[b,t] equals v, and 0 elsewhere.

    out[b,t,c] = sum_v 1[ids[b,t] = v] weight[v,c]

1. weight[v,c] is in every out[b,t,c] with ids[b,t] = v. A value that is used several times gets the
   sum of its gradients:

       dweight[v,c] = sum_bt 1[ids[b,t] = v] g[b,t,c]

   Row v gets the sum of g over all the places where v was looked up. The row of an id that does not
   occur gets 0. The values of weight are not in the formula.

2. As a product, with B and T as one axis, dweight is onehot.T @ g. You can also add up the same sum
   without the onehot vectors:

       dweight = zeros(V, C); for all b, t: dweight[ids[b,t]] += g[b,t]

   np.add.at does this. Here id 1 occurs twice, and id 2 does not occur:

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

3. NumPy's dweight[ids] += g does something else. It reads all the rows, adds g, and then writes all
   the rows back. Both places of id 1 are written to row 1, and only the last one stays:

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
from npgpt2.learn.judge.exercise import Answer, Arguments, Sizes, read_mistakes, vjp
from npgpt2.learn.judge.in_model import in_gpt2

STATEMENT = "The gradient of a table whose rows are looked up, some of them several times."
ARGUMENTS = {"g": "(B, T, C)", "weight": "(V, C)", "ids": "(B, T), integers in [0, V)"}
GRADIENTS = {"dweight": "(V, C)"}
HINTS = (
    "At which places of the output does row v of the table stand? A value that is used several "
    "times gets the sum of its gradients.",
    "Begin with zeros of the table's shape. Add g[b,t] to row ids[b,t], for all b and t. Try what "
    "dweight[ids] += g does with an id that occurs twice.",
    "dweight = np.zeros_like(weight); np.add.at(dweight, ids, g).",
)


def forward(weight: Array, ids: Array) -> Any:
    """(V, C), (B, T) -> (B, T, C)."""
    return weight[ids]


def reference(g: Array, weight: Array, ids: Array) -> tuple[Array, ...]:
    """Return (dweight,)."""
    return vjp(lambda weight: F.embedding(weight, ids), g, weight)


def solution(g: Array, weight: Array, ids: Array) -> Any:
    """Return dweight."""
    onehot = np.eye(len(weight))[ids].reshape(-1, len(weight))
    g2 = g.reshape(-1, g.shape[-1])
    return onehot.T @ g2


def draw_ids(rng: np.random.Generator, n: Sizes) -> Array:
    """Return (B, T) ids. One of them occurs twice in a row of the batch, and in another row too."""
    ids = rng.integers(0, n.V, (n.B, n.T))
    ids[0, 0] = ids[0, 1] = ids[1, -1]
    return ids


def draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    """Return g, weight, ids."""
    ids = draw_ids(rng, n)
    return rng.standard_normal((n.B, n.T, n.C)), rng.standard_normal((n.V, n.C)), ids


def end_to_end(answer: Answer) -> str:
    """Check a GPT-2 whose embeddings have the answer as their backward pass."""

    def embedding(weight: Tensor, ids: Array) -> Tensor:
        def vjp(g: Array) -> tuple[Array, ...]:
            batch = (-1, *g.shape[-2:])  # positions come without a batch: (T, C) -> (1, T, C)
            return answer(g.reshape(batch), weight.data, ids.reshape(-1, ids.shape[-1]))

        return record(forward(weight.data, ids), (weight,), vjp)

    return in_gpt2(embedding=embedding)


MISTAKES = read_mistakes(
    """
duplicates-overwritten
+ dweight = np.zeros_like(weight); dweight[ids] += g; return dweight
An id that occurs twice gets the gradient of its last place only: dweight[ids] = g and dweight[ids]
+= g count it once. Use np.add.at.

first-place-only
+ found, first = np.unique(ids, return_index=True)
+ dweight = np.zeros_like(weight)
+ dweight[found] = g2[first]
+ return dweight
An id that occurs twice gets the gradient of its first place only. Sum over all places.

mean-of-duplicates
+ return onehot.T @ g2 / np.maximum(onehot.sum(axis=0), 1)[:, None]
An id that occurs several times gets the mean of its gradients. It should get their sum.

duplicates-counted-again
+ return onehot.T @ g2 * onehot.sum(axis=0)[:, None]
Each row is multiplied by the number of times that its id occurs. The sum over the places already
counts them.

last-row-of-batch
+ return np.eye(len(weight))[ids[-1]].T @ g[-1]
dweight holds only the last row of the batch. In a loop over the batch, make dweight once, before
the loop, and add to it (+=).

last-in-batch-row-assigned
+ dweight = np.zeros_like(weight)
+ for b in range(len(ids)):
+     dweight[ids[b]] += g[b]
+ return dweight
The sum over the rows of the batch is right. But an id that occurs twice in one row gets the
gradient of one place only.

mean-over-batch
+ return onehot.T @ g2 / len(ids)
dweight is a mean over the rows of the batch. It should be the sum.

added-to-weight
+ return weight + onehot.T @ g2
dweight begins as a copy of weight. It should begin at 0.

times-weight
+ return onehot.T @ g2 * weight
g is multiplied by the rows of weight. The forward pass only looks them up, so they are not in the
gradient.

weight-for-g
+ g2 = weight[ids].reshape(-1, g.shape[-1])
The rows of weight are summed. Sum the rows of g.

ids-in-other-order
+ onehot = np.eye(len(weight))[ids.T].reshape(-1, len(weight))
The ids are in another order than g: ids.T was made flat, but g was not transposed.

gradients-gathered
+ return g2[np.arange(len(weight)) % len(g2)]
dweight[v] is row v of g here. It should be the sum of g[b,t] over all b and t with ids[b,t] = v.

one-off
+ onehot = np.eye(len(weight))[(ids + 1) % len(weight)].reshape(-1, len(weight))
Each gradient is one row too far down. ids begin at 0.

not-summed-over-channels
+ dweight = np.zeros_like(weight)
+ np.add.at(dweight, ids, g.sum(axis=-1, keepdims=True))
+ return dweight
All channels of a row hold the sum over its channels. Each channel has its own g.
"""
)
