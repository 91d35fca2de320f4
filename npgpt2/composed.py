"""The ops of GPT-2 written in autograd primitives: the definitions that `functional.py` must equal.

Read this file before `functional.py`, which has a fused twin of each op, with the same name,
arguments and shapes. No derivative is written by hand here; the engine derives all of them. The ops
do not check their arguments; `functional.py` states the limits and checks them.

Letters: see `config.py`; also N, the product of all leading axes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from autograd import Tensor, clip, exp, log, tanh, where


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """out = x @ weight.T + bias;  (..., n_in) -> (..., n_out)."""
    out = x @ weight.T
    return out if bias is None else out + bias


def embedding(weight: Tensor, ids: ArrayLike) -> Tensor:
    """out = weight[ids];  (...) -> (..., C)."""
    return weight[np.asarray(ids)]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """out = (x - mean) / sqrt(var + eps) * weight + bias, over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    centred = centred - centred.mean(axis=-1, keepdims=True)  # the mean was rounded
    var = (centred * centred).mean(axis=-1, keepdims=True)
    return centred / (var + eps).sqrt() * weight + bias


def gelu(x: Tensor) -> Tensor:
    """out = x/2 * (1 + tanh(u)),  u = sqrt(2/pi) * (x + 0.044715 x**3)."""
    # If |x| is 100 or more, tanh(u) is exactly -1 or 1, and x**3 may be infinite; so x is limited.
    near = clip(x, -100.0, 100.0)
    return 0.5 * x * (1.0 + tanh(math.sqrt(2.0 / math.pi) * (near + 0.044715 * near**3)))


def softmax(x: Tensor) -> Tensor:
    """out = exp(x) / sum(exp(x)), over the last axis; x is shifted so that exp cannot overflow."""
    e = exp(x - x.detach().max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def dropout(x: Tensor, p: float, rng: np.random.Generator) -> Tensor:
    """out = x * mask / (1 - p), where each entry of mask is 0 with probability p, otherwise 1."""
    if p == 0.0:
        return x
    mask = rng.random(x.shape, dtype=np.float32) >= p
    return x * (mask / (1.0 - p))


def causal_attention(
    qkv: Tensor, n_head: int, p: float = 0.0, rng: np.random.Generator | None = None
) -> Tensor:
    """out = softmax(masked q @ k.T / sqrt(D)) @ v, for every head;  (B, T, 3C) -> (B, T, C)."""
    B, T, C = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    D = C // n_head
    q, k, v = (
        qkv[..., i * C : (i + 1) * C].reshape(B, T, n_head, D).swapaxes(1, 2) for i in range(3)
    )  # each (B, H, T, D)
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(D)  # (B, H, T, T)
    visible = np.tri(T, dtype=bool)  # row t sees columns 0 to t
    weights = softmax(where(visible, scores, -np.inf))
    if p:
        assert rng is not None, "dropout needs a generator"
        weights = dropout(weights, p, rng)
    return (weights @ v).swapaxes(1, 2).reshape(B, T, C)


def cross_entropy(logits: Tensor, targets: ArrayLike, ignore_index: int = -100) -> Tensor:
    """Mean of -log softmax(logits)[target] over the targets that are not ignored."""
    z = logits.reshape(-1, logits.shape[-1])  # (N, V)
    labels = np.asarray(targets).reshape(-1)
    rows = np.flatnonzero(labels != ignore_index)
    shifted = z - z.detach().max(axis=-1, keepdims=True)
    log_total = log(exp(shifted).sum(axis=-1))  # (N,)
    return (log_total[rows] - shifted[rows, labels[rows]]).mean()


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: ArrayLike, ignore_index: int = -100
) -> Tensor:
    """cross_entropy(linear(x, weight), targets, ignore_index);  (..., C) -> ()."""
    return cross_entropy(linear(x, weight), targets, ignore_index)
