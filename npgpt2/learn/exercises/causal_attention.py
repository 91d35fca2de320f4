"""Causal attention, one head: S = q @ k.T / sqrt(D),  P = softmax(mask(S)),  out = P @ v.

q, k, v, out and g are (B, H, T, D). g is the gradient of the loss with respect to out. The scores S
and the weights P are (B, H, T, T). Their row t belongs to the position that reads, and their column
s to the position that is read. The mask puts -inf where s > t, so that P is 0 there. The heads do
not mix, and the rows of the batch do not mix. So all formulas are for one head of one row, where q,
k, v, out and g are (T, D) and S and P are (T, T).

1. out = P @ v is a product of two matrices: out[t] = sum_s P[t,s] v[s]. In it, v[s] is multiplied
   by P[t,s], for every position t that reads it. P[t,s] is multiplied by v[s], in out[t] alone:

       dv[s] = sum_t P[t,s] g[t]                dv = P.T @ g
       dP[t,s] = <g[t], v[s]>                   dP = g @ v.T

   <a, b> is the inner product of two vectors. Each factor gets g times the other factor,
   transposed. The positions t >= s read v[s]. Their weights are column s of P, which is row s of
   P.T.

2. P is the softmax of each row of S, so each row of P sums to 1. The exercise softmax derives its
   gradient:

       dS = P * (dP - sum_s(dP * P))

   sum_s runs along each row. At the masked entries P = 0, so dS = 0 there. The backward pass needs
   no line for the mask, as long as P is computed with the mask.

3. S = q @ k.T / sqrt(D) is again a product, times a number. The number stays in the gradient:

       dq[t] = sum_s dS[t,s] k[s] / sqrt(D)     dq = dS @ k / sqrt(D)
       dk[s] = sum_t dS[t,s] q[t] / sqrt(D)     dk = dS.T @ q / sqrt(D)

>>> import numpy as np
>>> from npgpt2.learn.judge.exercise import slope
>>> q, k, v, g = np.random.default_rng(0).standard_normal((4, 1, 2, 3, 4))
>>> S = q @ k.swapaxes(-1, -2) / math.sqrt(4)
>>> e = np.where(np.tri(3, dtype=bool), np.exp(S), 0.0)
>>> P = e / e.sum(axis=-1, keepdims=True)
>>> dv = P.swapaxes(-1, -2) @ g
>>> np.allclose(dv, slope(lambda v: forward(q, k, v), v, g))
True
>>> dP = g @ v.swapaxes(-1, -2)
>>> dS = P * (dP - (dP * P).sum(axis=-1, keepdims=True))
>>> np.allclose(dS @ k / math.sqrt(4), slope(lambda q: forward(q, k, v), q, g))
True
>>> np.allclose(dS.swapaxes(-1, -2) @ q / math.sqrt(4), slope(lambda k: forward(q, k, v), k, g))
True

Each row of dS sums to 0, because adding the same number to a row of S does not change P. So dk sums
to 0 over the positions:

    sum_s dk[s] = sum_t (sum_s dS[t,s]) q[t] / sqrt(D) = 0

GPT-2 adds the same key bias at every position. The gradient of the key bias is this sum, so it is
exactly 0:

>>> np.abs(dS.sum(axis=-1)).max() < 1e-15
np.True_
>>> np.abs(reference(g, q, k, v)[1].sum(axis=2)).max() < 1e-14
np.True_

The first position reads only itself. Its weight is 1 for every q, so its dq is 0:

>>> np.abs(reference(g, q, k, v)[0][:, :, 0]).max() < 1e-15
np.True_
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

STATEMENT = "The gradients of causal attention: of queries, keys and values, for every head."
ARGUMENTS = dict.fromkeys(("g", "q", "k", "v"), "(B, H, T, D)")
GRADIENTS = dict.fromkeys(("dq", "dk", "dv"), "(B, H, T, D)")
HINTS = (
    "Go backwards through out = P @ v, P = softmax(S) and S = q @ k.T / sqrt(D), one by one. In a "
    "product of two matrices, each factor gets the gradient times the other factor, transposed.",
    "dv = P.T @ g and dP = g @ v.T. Then dS is the gradient of the softmax, over the last axis, "
    "with the masked P. Does the mask need anything else? And where does sqrt(D) stand?",
    "dS = P * (dP - (dP * P).sum(-1, keepdims=True)); dq = dS @ k / sqrt(D); "
    "dk = dS.swapaxes(-1, -2) @ q / sqrt(D).",
)


def forward(q: Array, k: Array, v: Array) -> Any:
    """(B, H, T, D) -> (B, H, T, D)."""
    T, D = q.shape[-2:]
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(D)  # (B, H, T, T)
    scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)  # row t sees columns 0 to t
    e = np.exp(scores - scores.real.max(axis=-1, keepdims=True))
    weights = e / e.sum(axis=-1, keepdims=True)
    return weights @ v


def _joined(*parts: Array) -> Array:
    """Each (B, H, T, D) -> (B, T, HD), side by side."""
    B, H, T, D = parts[0].shape
    return np.concatenate([a.swapaxes(1, 2).reshape(B, T, H * D) for a in parts], axis=-1)


def _heads(a: Array, H: int) -> Array:
    """(B, T, HD) -> (B, H, T, D)."""
    B, T, C = a.shape
    return a.reshape(B, T, H, C // H).swapaxes(1, 2)


def reference(g: Array, q: Array, k: Array, v: Array) -> tuple[Array, ...]:
    """Return dq, dk, dv."""
    H = q.shape[1]
    (dqkv,) = vjp(lambda qkv: F.causal_attention(qkv, H), _joined(g), _joined(q, k, v))
    return tuple(_heads(a, H) for a in np.split(dqkv, 3, axis=-1))


def solution(g: Array, q: Array, k: Array, v: Array) -> Any:
    """Return dq, dk, dv."""
    T, D = q.shape[-2:]
    S = q @ k.swapaxes(-1, -2) / np.sqrt(D)
    S = np.where(np.tri(T, dtype=bool), S, -np.inf)
    e = np.exp(S - S.max(axis=-1, keepdims=True))
    P = e / e.sum(axis=-1, keepdims=True)
    dv = P.swapaxes(-1, -2) @ g
    dP = g @ v.swapaxes(-1, -2)
    dS = P * (dP - (dP * P).sum(axis=-1, keepdims=True))
    dq = dS @ k / np.sqrt(D)
    dk = dS.swapaxes(-1, -2) @ q / np.sqrt(D)
    return dq, dk, dv


def terms(g: Array, q: Array, k: Array, v: Array) -> Mapping[str, Mapping[str, Array]]:
    """Return the parts of dq and dk that come from the two terms of dS."""
    T, D = q.shape[-2:]
    P, dP = forward(q, k, np.eye(T)), g @ v.swapaxes(-1, -2)
    one = P * dP / math.sqrt(D)
    two = -P * (dP * P).sum(axis=-1, keepdims=True) / math.sqrt(D)
    return {
        "dq": {"(P * dP) @ k / sqrt(D)": one @ k, "-(P * sum(dP * P)) @ k / sqrt(D)": two @ k},
        "dk": {
            "(P * dP).T @ q / sqrt(D)": one.swapaxes(-1, -2) @ q,
            "-(P * sum(dP * P)).T @ q / sqrt(D)": two.swapaxes(-1, -2) @ q,
        },
    }


def end_to_end(answer: Answer) -> str:
    """Check a GPT-2 whose attention has the answer as its backward pass."""

    def causal_attention(qkv: Tensor, n_head: int, *_: Any) -> Tensor:
        q, k, v = (_heads(a, n_head) for a in np.split(qkv.data, 3, axis=-1))

        def vjp(g: Array) -> tuple[Array]:
            return (_joined(*answer(_heads(g, n_head), q, k, v)),)

        return record(_joined(forward(q, k, v)), (qkv,), vjp)

    return in_gpt2(causal_attention=causal_attention)


MISTAKES = read_mistakes(
    """
scale-forgotten
+ dq = dS @ k; dk = dS.swapaxes(-1, -2) @ q
1/sqrt(D) is missing in the backward pass. The scores are divided by sqrt(D), so the gradients of q
and k are divided by it too.

scale-twice
+ dq = dS @ k / D; dk = dS.swapaxes(-1, -2) @ q / D
1/sqrt(D) is applied twice.

scale-inverted
+ dq = dS @ k * np.sqrt(D); dk = dS.swapaxes(-1, -2) @ q * np.sqrt(D)
dq and dk are multiplied by sqrt(D). Divide them by sqrt(D): the scores are divided by it too.

scale-of-all-channels
+ T, D = q.shape[2], q.shape[1] * q.shape[3]
The scale is 1/sqrt(H*D), with the channels of all heads. It should be 1/sqrt(D), with the channels
of one head.

scale-not-in-scores
+ S = np.where(np.tri(T, dtype=bool), q @ k.swapaxes(-1, -2), -np.inf)
The weights P are computed from scores that are not divided by sqrt(D).

scale-nowhere
+ S = np.where(np.tri(T, dtype=bool), q @ k.swapaxes(-1, -2), -np.inf)
+ dq = dS @ k
+ dk = dS.swapaxes(-1, -2) @ q
1/sqrt(D) is missing everywhere, in the scores and in the gradients.

mask-forgotten
+ S = q @ k.swapaxes(-1, -2) / np.sqrt(D)
The mask is missing in the backward pass. P is computed without it, so gradients flow to positions
that were never read.

mask-after-softmax
+ S = q @ k.swapaxes(-1, -2) / np.sqrt(D); P = np.tril(e / e.sum(axis=-1, keepdims=True))
The mask is applied after the softmax, so the rows of P no longer sum to 1. Apply it to the scores.

mask-of-zeros
+ S = np.tril(q @ k.swapaxes(-1, -2) / np.sqrt(D))
The masked scores are 0, and exp(0) = 1, so these positions still get a weight. The masked scores
should be -inf.

mask-off-by-one
+ S = np.where(np.tri(T, k=1, dtype=bool), q @ k.swapaxes(-1, -2) / np.sqrt(D), -np.inf)
The mask lets each position see the next position too (k=1).

mask-upside-down
+ S = np.where(np.tri(T, dtype=bool).T, q @ k.swapaxes(-1, -2) / np.sqrt(D), -np.inf)
The mask is upside down: position t sees itself and the positions after it. It should see itself and
the positions before it.

mask-in-p-not-in-ds
+ dS = P * dP - (dP * P).sum(axis=-1, keepdims=True)
dS is not 0 at the masked entries, because the sum is subtracted without the factor P.

softmax-over-rows
+ e = np.exp(S - S.max(axis=-2, keepdims=True)); P = e / e.sum(axis=-2, keepdims=True)
The softmax is taken over the positions that read. Take it over the positions that are read, the
last axis.

softmax-elementwise
+ dS = P * (1 - P) * dP
P * (1 - P) is only the diagonal of the softmax's Jacobian. The whole Jacobian gives dS = P * (dP -
sum(dP * P)).

softmax-sum-missing
+ dS = P * dP
The second term of the softmax's gradient is missing: dS = P * (dP - sum(dP * P)).

softmax-skipped
+ dS = np.tril(dP)
dP, with the mask, stands where dS should stand. dP still has to go backwards through the softmax.

softmax-skipped-unmasked
+ dS = dP
dP stands where dS should stand. dP still has to go backwards through the softmax, which also makes
it 0 at the masked entries.

softmax-p-in-front-missing
+ dS = dP - (dP * P).sum(axis=-1, keepdims=True)
The factor P in front is missing: dS = P * (dP - sum(dP * P)).

softmax-sum-unweighted
+ dS = P * (dP - dP.sum(axis=-1, keepdims=True))
sum(dP) is subtracted from dP. Subtract sum(dP * P).

softmax-mean-unweighted
+ dS = P * (dP - dP.mean(axis=-1, keepdims=True))
The mean of dP is subtracted from dP. Subtract sum(dP * P).

softmax-mean-of-products
+ dS = P * (dP - (dP * P).mean(axis=-1, keepdims=True))
The mean of dP * P is subtracted from dP. Subtract the sum.

softmax-sum-over-rows
+ dS = P * (dP - (dP * P).sum(axis=-2, keepdims=True))
dP * P is summed over the positions that read. Sum over the positions that are read, the last axis.

dk-untransposed
+ dk = dS @ q / np.sqrt(D)
dk is dS @ q here. It should be dS.T @ q: k[s] gets a gradient from all positions that read it.

dq-transposed
+ dq = dS.swapaxes(-1, -2) @ k / np.sqrt(D)
dq is dS.T @ k here. It should be dS @ k, without a transpose.

dv-untransposed
+ dv = P @ g
dv is P @ g here. It should be P.T @ g: v[s] gets a gradient from all positions that read it.

dq-of-q
+ dq = dS @ q / np.sqrt(D)
dq has q as a factor. S = q @ k.T, so the factor of dq is k.

dk-of-k
+ dk = dS.swapaxes(-1, -2) @ k / np.sqrt(D)
dk has k as a factor. S = q @ k.T, so the factor of dk is q.

dv-of-scores
+ dv = np.tril(S).swapaxes(-1, -2) @ g
dv has the scores as a factor. v is multiplied by P, the weights after the softmax.

dv-of-ds
+ return dq, dk, dS.swapaxes(-1, -2) @ g
dv has dS as a factor. out = P @ v, so dv = P.T @ g.

dv-scaled
+ dv = P.swapaxes(-1, -2) @ g / np.sqrt(D)
dv is divided by sqrt(D). Only the scores are, and v is not in the scores.

dv-of-v
+ dv = P.swapaxes(-1, -2) @ v
dv is P.T @ v here. It should be P.T @ g.

dp-of-output
+ dP = P @ v @ v.swapaxes(-1, -2)
dP is out @ v.T here. It should be g @ v.T.
"""
)
