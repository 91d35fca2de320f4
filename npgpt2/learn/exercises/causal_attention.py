"""Causal attention, one head: S = q @ k.T / sqrt(D),  P = softmax(mask(S)),  out = P @ v.

q, k, v, out and g are (B, H, T, D); S and P are (B, H, T, T), row t of it the position that reads,
column s the one that is read. The mask puts -inf where s > t, so that P is 0 there. Heads and rows
of the batch are alike and do not mix; all lines are for one of them.

1. out = P @ v is a product of two matrices, and each gets g times the other, transposed:

       dv[s] = sum_t P[t,s] g[t]                dv = P.T @ g
       dP[t,s] = <g[t], v[s]>                   dP = g @ v.T

   v[s] is read by all t >= s, hence the transpose: column s of P says by whom.

2. P = softmax of each row (see that exercise), and its rows sum to 1:

       dS = P * (dP - sum_s(dP * P))

   Where the mask is, P = 0 and therefore dS = 0: the mask needs no line of its own in the backward
   pass, as long as P is the masked one.

3. S = q @ k.T / sqrt(D), a product again, times a number, which stays in the gradient:

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

The rows of dS sum to 0: the same number added to a row of S changes no P. So dk sums to 0 over the
positions, and the gradient of GPT-2's key bias, which is that sum, is exactly 0:

>>> np.abs(dS.sum(axis=-1)).max() < 1e-15
np.True_
>>> np.abs(answer(g, q, k, v)[1].sum(axis=2)).max() < 1e-14
np.True_

The first position reads itself alone, P = 1 whatever q is, and its dq is 0:

>>> np.abs(answer(g, q, k, v)[0][:, :, 0]).max() < 1e-15
np.True_
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


def answer(g: Array, q: Array, k: Array, v: Array) -> tuple[Array, ...]:
    """Return dq, dk, dv."""
    H = q.shape[1]
    (dqkv,) = vjp(lambda qkv: F.causal_attention(qkv, H), _joined(g), _joined(q, k, v))
    return tuple(_heads(a, H) for a in np.split(dqkv, 3, axis=-1))


def solution(g: Array, q: Array, k: Array, v: Array) -> Any:
    """The answer by hand."""
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


def _t(a: Array) -> Array:
    return a.swapaxes(-1, -2)


def _softmax(scores: Array, axis: int = -1) -> Array:
    e = np.exp(scores - scores.max(axis=axis, keepdims=True))
    p: Array = e / e.sum(axis=axis, keepdims=True)
    return p


def _seen(q: Array) -> Array:
    return np.tri(q.shape[-2], dtype=bool)


def _masked(scores: Array, seen: Array) -> Array:
    return np.where(seen, scores, -np.inf)


def _scores(q: Array, k: Array) -> Array:
    s: Array = q @ _t(k) / math.sqrt(q.shape[-1])
    return s


def _terms(g: Array, q: Array, k: Array, v: Array) -> Mapping[str, Mapping[str, Array]]:
    p, scale = _softmax(_masked(_scores(q, k), _seen(q))), 1.0 / math.sqrt(q.shape[-1])
    dp = g @ _t(v)
    first, second = scale * p * dp, -scale * p * (p * dp).sum(axis=-1, keepdims=True)
    return {
        "dq": {"(P * dP) @ k / sqrt(D)": first @ k, "-(P * sum(dP * P)) @ k / sqrt(D)": second @ k},
        "dk": {
            "(P * dP).T @ q / sqrt(D)": _t(first) @ q,
            "-(P * sum(dP * P)).T @ q / sqrt(D)": _t(second) @ q,
        },
    }


def _draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    return tuple(rng.standard_normal((4, n.B, n.H, n.T, n.D)))


def _end_to_end(function: Answer) -> str:
    def causal_attention(qkv: Tensor, n_head: int, *_: Any) -> Tensor:
        q, k, v = (_heads(a, n_head) for a in np.split(qkv.data, 3, axis=-1))

        def vjp(g: Array) -> tuple[Array]:
            return (_joined(*function(_heads(g, n_head), q, k, v)),)

        return record(_joined(forward(q, k, v)), (qkv,), vjp)

    return in_gpt2(causal_attention=causal_attention)


def _backward(
    g: Array, q: Array, k: Array, v: Array, p: Array, scale: float | None = None
) -> Mapping[str, Array]:
    """Return the gradients for given weights p."""
    dp = g @ _t(v)
    return _from_scores(p * (dp - (dp * p).sum(axis=-1, keepdims=True)), q, k, scale) | {
        "dv": _t(p) @ g
    }


def _from_scores(ds: Array, q: Array, k: Array, scale: float | None = None) -> dict[str, Array]:
    ds = ds * (1.0 / math.sqrt(q.shape[-1]) if scale is None else scale)
    return {"dq": ds @ k, "dk": _t(ds) @ q}


def _weights(change: Any) -> Answer:
    """Make wrong gradients of other weights, which are of q and k."""
    return lambda g, q, k, v: _backward(g, q, k, v, change(q, k))


def _of(change: Any, *names: str) -> Answer:
    """Make wrong gradients of p, dp, g, q, k and v."""

    def wrong(g: Array, q: Array, k: Array, v: Array) -> Mapping[str, Array]:
        p = _softmax(_masked(_scores(q, k), _seen(q)))
        made = change(p, g @ _t(v), g, q, k, v)
        return made if isinstance(made, dict) else {names[0]: made}

    return wrong


def _inner(p: Array, dp: Array, axis: Any = -1) -> Array:
    s: Array = (dp * p).sum(axis=axis, keepdims=True)
    return s


def _ds(p: Array, dp: Array) -> Array:
    ds: Array = p * (dp - _inner(p, dp))
    return ds


def _by_all_channels(g: Array, q: Array, k: Array, v: Array) -> Mapping[str, Array]:
    scale = 1.0 / math.sqrt(q.shape[1] * q.shape[-1])
    p = _softmax(_masked(q @ _t(k) * scale, _seen(q)))
    return _backward(g, q, k, v, p, scale)


_MISTAKES = (
    Mistake(
        "scale-forgotten",
        "1/sqrt(D) is missing in the backward pass: the scores are divided by sqrt(D), and so are "
        "the gradients of q and k.",
        _of(lambda p, dp, g, q, k, v: _from_scores(_ds(p, dp), q, k, 1.0)),
    ),
    Mistake(
        "scale-twice",
        "1/sqrt(D) is applied twice.",
        _of(lambda p, dp, g, q, k, v: _from_scores(_ds(p, dp), q, k, 1.0 / q.shape[-1])),
    ),
    Mistake(
        "scale-inverted",
        "Multiplied by sqrt(D); it is divided by it, as the scores are.",
        _of(lambda p, dp, g, q, k, v: _from_scores(_ds(p, dp), q, k, math.sqrt(q.shape[-1]))),
    ),
    Mistake(
        "scale-of-all-channels",
        "The scale is 1/sqrt(H*D), that of all channels; it is that of one head, 1/sqrt(D).",
        _by_all_channels,
    ),
    Mistake(
        "scale-not-in-scores",
        "The weights P were computed from scores that are not divided by sqrt(D).",
        _weights(lambda q, k: _softmax(_masked(q @ _t(k), _seen(q)))),
    ),
    Mistake(
        "scale-nowhere",
        "1/sqrt(D) is missing everywhere, in the scores and in the gradients.",
        lambda g, q, k, v: _backward(g, q, k, v, _softmax(_masked(q @ _t(k), _seen(q))), 1.0),
    ),
    Mistake(
        "mask-forgotten",
        "The mask is not applied in the backward pass: P is computed without it, so that gradients "
        "flow to positions that were never read.",
        _weights(lambda q, k: _softmax(_scores(q, k))),
    ),
    Mistake(
        "mask-after-softmax",
        "The mask is applied after the softmax: the rows of P no longer sum to 1.",
        _weights(lambda q, k: np.where(_seen(q), _softmax(_scores(q, k)), 0.0)),
    ),
    Mistake(
        "mask-of-zeros",
        "The masked scores are 0; they are -inf, for exp(0) = 1 is not nothing.",
        _weights(lambda q, k: _softmax(np.where(_seen(q), _scores(q, k), 0.0))),
    ),
    Mistake(
        "mask-off-by-one",
        "The mask lets each position see the next one too (k=1).",
        _weights(lambda q, k: _softmax(_masked(_scores(q, k), np.tri(q.shape[-2], k=1) > 0))),
    ),
    Mistake(
        "mask-upside-down",
        "The mask is upside down: position t sees t and what follows.",
        _weights(lambda q, k: _softmax(_masked(_scores(q, k), _seen(q).T))),
    ),
    Mistake(
        "mask-in-p-not-in-ds",
        "dS is not 0 where the mask is: the sum was subtracted from dP without the factor P.",
        _of(lambda p, dp, g, q, k, v: _from_scores(p * dp - _inner(p, dp), q, k)),
    ),
    Mistake(
        "softmax-over-rows",
        "The softmax is taken over the positions that read; it is over those that are read, the "
        "last axis.",
        _weights(lambda q, k: _softmax(_masked(_scores(q, k), _seen(q)), axis=-2)),
    ),
    Mistake(
        "softmax-elementwise",
        "p (1 - p) is only the diagonal of the softmax's Jacobian: dS = P * (dP - sum(dP * P)).",
        _of(lambda p, dp, g, q, k, v: _from_scores(p * (1.0 - p) * dp, q, k)),
    ),
    Mistake(
        "softmax-sum-missing",
        "The softmax's second term is missing: dS = P * (dP - sum(dP * P)).",
        _of(lambda p, dp, g, q, k, v: _from_scores(p * dp, q, k)),
    ),
    Mistake(
        "softmax-skipped",
        "dP is taken for dS (with the mask): it has yet to go through the softmax.",
        _of(lambda p, dp, g, q, k, v: _from_scores(np.where(_seen(q), dp, 0.0), q, k)),
    ),
    Mistake(
        "softmax-skipped-unmasked",
        "dP is taken for dS: it has yet to go through the softmax, which also masks it.",
        _of(lambda p, dp, g, q, k, v: _from_scores(dp, q, k)),
    ),
    Mistake(
        "softmax-p-in-front-missing",
        "The softmax's factor P in front is missing: dS = P * (dP - sum(dP * P)).",
        _of(lambda p, dp, g, q, k, v: _from_scores(dp - _inner(p, dp), q, k)),
    ),
    Mistake(
        "softmax-sum-unweighted",
        "sum(dP) is subtracted; it is sum(dP * P).",
        _of(
            lambda p, dp, g, q, k, v: _from_scores(p * (dp - dp.sum(axis=-1, keepdims=True)), q, k)
        ),
    ),
    Mistake(
        "softmax-mean-unweighted",
        "The mean of dP is subtracted; it is sum(dP * P).",
        _of(
            lambda p, dp, g, q, k, v: _from_scores(p * (dp - dp.mean(axis=-1, keepdims=True)), q, k)
        ),
    ),
    Mistake(
        "softmax-mean-of-products",
        "The mean of dP * P is subtracted; it is the sum.",
        _of(lambda p, dp, g, q, k, v: _from_scores(p * (dp - _inner(p, dp) / q.shape[-2]), q, k)),
    ),
    Mistake(
        "softmax-sum-over-rows",
        "dP * P is summed over the positions that read; it is over the last axis.",
        _of(lambda p, dp, g, q, k, v: _from_scores(p * (dp - _inner(p, dp, -2)), q, k)),
    ),
    Mistake(
        "dk-untransposed",
        "dk is dS @ q; it is dS.T @ q: k[s] gets from all the positions that read it.",
        _of(lambda p, dp, g, q, k, v: _ds(p, dp) @ q / math.sqrt(q.shape[-1]), "dk"),
    ),
    Mistake(
        "dq-transposed",
        "dq is dS.T @ k; it is dS @ k, without a transpose.",
        _of(lambda p, dp, g, q, k, v: _t(_ds(p, dp)) @ k / math.sqrt(q.shape[-1]), "dq"),
    ),
    Mistake(
        "dv-untransposed",
        "dv is P @ g; it is P.T @ g: v[s] gets from all the positions that read it.",
        _of(lambda p, dp, g, q, k, v: p @ g, "dv"),
    ),
    Mistake(
        "dq-of-q",
        "dq has q as its factor; S = q @ k.T, so that q gets k.",
        _of(lambda p, dp, g, q, k, v: _ds(p, dp) @ q / math.sqrt(q.shape[-1]), "dq"),
    ),
    Mistake(
        "dk-of-k",
        "dk has k as its factor; S = q @ k.T, so that k gets q.",
        _of(lambda p, dp, g, q, k, v: _t(_ds(p, dp)) @ k / math.sqrt(q.shape[-1]), "dk"),
    ),
    Mistake(
        "dv-of-scores",
        "dv has the scores as its factor; v is multiplied by the weights P, after the softmax.",
        _of(lambda p, dp, g, q, k, v: _t(np.where(_seen(q), _scores(q, k), 0.0)) @ g, "dv"),
    ),
    Mistake(
        "dv-of-ds",
        "dv has dS as its factor; out = P @ v, so that dv = P.T @ g.",
        _of(lambda p, dp, g, q, k, v: _t(_ds(p, dp)) @ g, "dv"),
    ),
    Mistake(
        "dv-scaled",
        "dv is divided by sqrt(D); only the scores are.",
        _of(lambda p, dp, g, q, k, v: _t(p) @ g / math.sqrt(q.shape[-1]), "dv"),
    ),
    Mistake(
        "dv-of-v",
        "dv is P.T @ v; it is P.T @ g.",
        _of(lambda p, dp, g, q, k, v: _t(p) @ v, "dv"),
    ),
    Mistake(
        "dp-of-output",
        "dP is out @ v.T; it is g @ v.T.",
        _of(lambda p, dp, g, q, k, v: _from_scores(_ds(p, p @ v @ _t(v)), q, k)),
    ),
)

EXERCISE = Exercise(
    name="causal_attention",
    statement="The gradients of causal attention: of queries, keys and values, for every head.",
    forward=forward,
    function="causal_attention_backward",
    arguments={n: "(B, H, T, D)" for n in ("g", "q", "k", "v")},
    gradients={n: "(B, H, T, D)" for n in ("dq", "dk", "dv")},
    draw=_draw,
    reference=answer,
    solution=solution,
    mistakes=_MISTAKES,
    hints=(
        "Go backwards through out = P @ v, P = softmax(S), S = q @ k.T / sqrt(D), one at a time. "
        "Of a product of matrices each factor gets the gradient times the other, transposed.",
        "dv = P.T @ g and dP = g @ v.T. Then dS is the softmax's gradient, over the last axis, "
        "with the masked P. Does the mask need anything else? And where does sqrt(D) go?",
        "dS = P * (dP - (dP * P).sum(-1, keepdims=True)); dq = dS @ k / sqrt(D); "
        "dk = dS.swapaxes(-1, -2) @ q / sqrt(D).",
    ),
    end_to_end=_end_to_end,
    letters=("B", "H", "T", "D"),
    terms=_terms,
)
