"""The ops of GPT-2, each fused into one node, with its vjp derived by hand right below.

Every function has a twin of the same name and arguments in `composed.py`, spelled in autograd
primitives. The twin is the definition; the one here is the same mathematics in fewer passes over
memory, and the tests hold both together.

Letters: B batch, T time, C channels, H heads, D = C/H, V vocabulary; `...` any leading axes; N
all of them multiplied. All ops keep the caller's dtype (float32 or float64), and accept complex
arrays in the forward pass for complex-step checks: hence no `abs`, and comparisons on `.real`.
An array in place of a Tensor is a constant.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autograd import Operand, Tensor, as_tensor, record
from npgpt2 import validate

Array = NDArray[Any]


def linear(x: Operand, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """out = x @ weight.T + bias.

    Parameters
    ----------
    x
        (..., n_in).
    weight
        (n_out, n_in), as in torch.
    bias
        (n_out,), or None.

    Returns
    -------
    Tensor
        (..., n_out).

    Raises
    ------
    ValueError
        The shapes do not fit.
    """
    x = as_tensor(x, like=weight)
    if weight.ndim != 2 or x.shape[-1:] != weight.shape[1:]:
        raise ValueError(
            f"linear: x of shape {x.shape} must end in the last axis of the weight, {weight.shape}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: the weight has shape {weight.shape}, but the bias {bias.shape}")
    rows, w = x.data.reshape(-1, x.shape[-1]), weight.data  # (..., n_in) -> (N, n_in)
    out = rows @ w.T  # (N, n_in) @ (n_in, n_out) -> (N, n_out)
    if bias is not None:
        out = _plus(out, bias.data)
    shape = x.shape

    def vjp(g: Array) -> tuple[Array, ...]:
        g = g.reshape(-1, g.shape[-1])  # (N, n_out)
        dx = (g @ w).reshape(shape)
        dw = g.T @ rows
        return (dx, dw) if bias is None else (dx, dw, _sum_rows(g))

    parents = (x, weight) if bias is None else (x, weight, bias)
    return record(out.reshape(*shape[:-1], len(w)), parents, vjp)


def embedding(weight: Tensor, ids: ArrayLike) -> Tensor:
    """out = weight[ids]: the rows of a table.

    Parameters
    ----------
    weight
        (V, C).
    ids
        (...) integers in [0, V).

    Returns
    -------
    Tensor
        (..., C).

    Raises
    ------
    TypeError, IndexError
        An id is not an integer, or out of range (negative ids too).
    ValueError
        The weight is not a table of two axes.
    """
    if weight.ndim != 2:
        raise ValueError(f"embedding: the weight must have shape (V, C), not {weight.shape}")
    w = weight.data
    indices = validate.ids("ids", ids, w.shape[0])

    def vjp(g: Array) -> tuple[Array]:
        # Row v of the table receives the sum of g over all the places where v was looked up.
        dw = np.zeros_like(w)
        order = indices.reshape(-1).argsort(kind="stable")
        ordered = indices.reshape(-1)[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))  # where a new id begins
        dw[ordered[starts]] = np.add.reduceat(g.reshape(-1, w.shape[1])[order], starts, axis=0)
        return (dw,)

    return record(w[indices], (weight,), vjp)


def layer_norm(x: Operand, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """out = (x - mean) / sqrt(var + eps) * weight + bias, over the last axis.

    The variance is the biased one (divided by C). Source: Ba, Kiros & Hinton, Layer
    Normalization, arXiv:1607.06450 (2016), section 3.

    Parameters
    ----------
    x
        (..., C).
    weight, bias
        (C,), the gain and the shift.
    eps
        Added to the variance.

    Returns
    -------
    Tensor
        (..., C).

    Raises
    ------
    ValueError
        The shapes do not fit.
    """
    x = as_tensor(x, like=weight)
    if x.shape[-1:] != weight.shape or weight.shape != bias.shape:
        raise ValueError(
            f"layer_norm: x has shape {x.shape}, but weight {weight.shape} and bias {bias.shape}"
        )
    centred = x.data - x.data.mean(axis=-1, keepdims=True)
    rstd = 1.0 / np.sqrt(_mean_product(centred, centred) + eps)  # (..., 1)
    xhat = np.multiply(centred, rstd, out=centred)
    w = weight.data

    def vjp(g: Array) -> tuple[Array, Array, Array]:
        # forward: xhat = (x - mean) * rstd. Both mean and rstd depend on all of x, and so
        # dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)): what dxhat has along 1
        # and along xhat is taken out, as moving x in those directions leaves xhat unchanged.
        dxhat = g * w
        dx = xhat * -_mean_product(dxhat, xhat)
        dx += dxhat
        dx -= dxhat.mean(axis=-1, keepdims=True)
        dx *= rstd
        channels = g.shape[-1]
        dw = _sum_rows((g * xhat).reshape(-1, channels))
        return dx, dw, _sum_rows(g.reshape(-1, channels))

    return record(_plus(xhat * w, bias.data), (x, weight, bias), vjp)


def gelu(x: Operand) -> Tensor:
    """out = x/2 * (1 + tanh(u)),  u = sqrt(2/pi) * (x + 0.044715 x**3).

    Source: Hendrycks & Gimpel, Gaussian Error Linear Units, arXiv:1606.08415 (2016), section 2.
    This tanh form is the one that GPT-2 was trained with; it differs from the erf form by up to
    4.8e-4.
    """
    x = as_tensor(x)
    a, c = 0.044715, math.sqrt(2.0 / math.pi)
    z = x.data
    s = np.asarray(z * z)  # an array, not a number, where x is 0-d
    s *= a * c
    s += c
    s *= z  # u
    np.tanh(s, out=s)
    s += 1.0
    s *= 0.5  # s = (1 + tanh(u))/2, so that out = x * s

    def vjp(g: Array) -> tuple[Array]:
        # d/dx = s + x * ds/dx,  ds/dx = 2 s (1 - s) * du/dx,  du/dx = c * (1 + 3 a x**2)
        dx = np.asarray(z * z)
        dx *= 6.0 * a * c
        dx += 2.0 * c
        dx *= z  # 2 x du/dx
        dx *= 1.0 - s
        dx += 1.0
        dx *= s
        dx *= g
        return (dx,)

    return record(z * s, (x,), vjp)


def softmax(x: Operand) -> Tensor:
    """out = exp(x) / sum(exp(x)), over the last axis."""
    x = as_tensor(x)
    p = _softmax_inplace(x.data.copy())

    def vjp(g: Array) -> tuple[Array]:
        # dp_i/dx_j = p_i (1[i = j] - p_j), so dx = p * (g - sum(g * p)).
        return (p * (g - np.sum(g * p, axis=-1, keepdims=True)),)

    return record(p, (x,), vjp)


def dropout(x: Operand, p: float, rng: np.random.Generator) -> Tensor:
    """out = x * mask / (1 - p), where each entry of mask is 0 with probability p and else 1.

    Source: Srivastava et al., Dropout, JMLR 15 (2014), section 10 (the inverted form). With
    p = 0 the result is x itself and nothing is drawn.
    """
    x = as_tensor(x)
    if validate.fraction("p", p) == 0.0:
        return x
    scaled_mask = _dropout_mask(x.data, p, rng)

    def vjp(g: Array) -> tuple[Array]:
        return (g * scaled_mask,)

    return record(x.data * scaled_mask, (x,), vjp)


def causal_attention(
    qkv: Operand, n_head: int, p: float = 0.0, rng: np.random.Generator | None = None
) -> Tensor:
    """out = softmax(q @ k.T / sqrt(D), over the positions up to one's own) @ v, for every head.

    Source: Vaswani et al., Attention Is All You Need, arXiv:1706.03762 (2017), section 3.2.

    Parameters
    ----------
    qkv
        (B, T, 3C): queries, keys and values, C channels each; head h has channels hD to (h+1)D.
    n_head
        H.
    p, rng
        Dropout probability of the attention weights and its generator; see `dropout`.

    Returns
    -------
    Tensor
        (B, T, C).

    Raises
    ------
    TypeError, ValueError
        n_head or the shape do not fit, p is outside [0, 1), or p > 0 without a generator.
    """
    qkv, n_head = as_tensor(qkv), validate.integer("n_head", n_head)
    if qkv.ndim != 3 or not qkv.shape[1] or qkv.shape[2] % (3 * n_head):
        raise ValueError(
            f"causal_attention: qkv of shape {qkv.shape} must be (B, T, 3C) "
            f"with T at least 1, and C a multiple of n_head={n_head}"
        )
    B, T, C = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    D = C // n_head
    scale = 1.0 / math.sqrt(D)
    q, k, v = qkv.data.reshape(B, T, 3, n_head, D).transpose(2, 0, 3, 1, 4)  # each (B, H, T, D)

    scores = q @ k.swapaxes(-1, -2)  # (B, H, T, D) @ (B, H, D, T) -> (B, H, T, T)
    scores *= scale
    np.copyto(scores, -np.inf, where=~np.tri(T, dtype=bool))  # row t sees columns 0 to t
    weights = _softmax_inplace(scores)
    kept = weights
    if validate.fraction("p", p):
        if rng is None:
            raise ValueError(f"attention dropout with p={p} needs a generator")
        scaled_mask = _dropout_mask(weights, p, rng)
        kept = weights * scaled_mask
    out = np.empty((B, T, C), dtype=weights.dtype)
    np.matmul(kept, v, out=_heads(out, n_head))

    def vjp(g: Array) -> tuple[Array]:
        dqkv = np.empty((B, T, 3, n_head, D), dtype=g.dtype)
        dq, dk, dv = dqkv.transpose(2, 0, 3, 1, 4)
        dout = _heads(g, n_head)  # (B, H, T, D)
        # forward: out = kept @ v
        np.matmul(kept.swapaxes(-1, -2), dout, out=dv)
        dscores = dout @ v.swapaxes(-1, -2)  # (B, H, T, T)
        if p:
            dscores *= scaled_mask
        # forward: weights = softmax(scores). Its vjp needs sum_j dweights_ij * weights_ij, which
        # is also <dout_i, out_i>: a sum over D entries instead of T. Where the mask made a
        # weight 0, so is its gradient.
        dscores -= np.einsum(
            "bthd,bthd->bht", g.reshape(B, T, n_head, D), out.reshape(B, T, n_head, D)
        )[..., None]
        dscores *= weights
        # forward: scores = scale * q @ k.T
        dscores *= scale
        np.matmul(dscores, k, out=dq)
        np.matmul(dscores.swapaxes(-1, -2), q, out=dk)
        return (dqkv.reshape(B, T, 3 * C),)

    return record(out, (qkv,), vjp)


def cross_entropy(logits: Operand, targets: ArrayLike, ignore_index: int = -100) -> Tensor:
    """Mean of -log softmax(logits)[target], in nats, over the targets that are not ignored.

    Parameters
    ----------
    logits
        (..., V).
    targets
        (...) integers in [0, V), or `ignore_index` where no loss is wanted.
    ignore_index
        Mark of targets that count neither in the sum nor in the mean.

    Returns
    -------
    Tensor
        A scalar.

    Raises
    ------
    TypeError, IndexError
        A target is not an integer, or out of range.
    ValueError
        Targets of the wrong shape, or all of them ignored (their mean would be 0/0).
    """
    logits = as_tensor(logits)
    if not logits.ndim:
        raise ValueError("cross_entropy: logits must have shape (..., V), not ()")
    labels = validate.ids("targets", targets, logits.shape[-1], ignore=ignore_index)
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"targets have shape {labels.shape}, but logits of shape {logits.shape} "
            f"need targets of shape {logits.shape[:-1]}"
        )
    labels = labels.reshape(-1)
    rows = np.flatnonzero(labels != ignore_index)
    if not rows.size:
        raise ValueError(f"all {labels.size} targets are ignored (ignore_index={ignore_index})")
    columns = labels[rows]

    z = logits.data.reshape(-1, logits.shape[-1])  # (N, V)
    z = z - z.real.max(axis=-1, keepdims=True)  # softmax does not change, exp cannot overflow
    of_target = z[rows, columns]
    p = np.exp(z, out=z)
    total = p.sum(axis=-1, keepdims=True)
    loss = np.mean(np.log(total[rows, 0]) - of_target)
    p /= total
    shape = logits.shape

    def vjp(g: Array) -> tuple[Array]:
        # dz = (p - onehot(target)) / n in counted rows, 0 in ignored ones
        share = g / rows.size
        dz = p * share
        dz[rows, columns] -= share
        if rows.size < len(dz):
            dz[labels == ignore_index] = 0.0
        return (dz.reshape(shape),)

    return record(loss, (logits,), vjp)


# -- shared by the kernels above -----------------------------------------------------------------


def _plus(out: Array, b: Array) -> Array:
    """out + b, in place unless b alone is complex."""
    if b.dtype == out.dtype:
        out += b
        return out
    return np.add(out, b)


def _sum_rows(rows: Array) -> Array:
    """(N, C) -> (C,): a product with ones, for BLAS sums faster than `sum`."""
    return np.ones(len(rows), dtype=rows.dtype) @ rows


def _mean_product(a: Array, b: Array) -> Array:
    """(..., C), (..., C) -> (..., 1): the mean of a * b over channels, without a temporary."""
    mean: Array = np.einsum("...c,...c->...", a, b)[..., None] / a.shape[-1]
    return mean


def _softmax_inplace(z: Array) -> Array:
    """Softmax over the last axis, written into z."""
    z -= z.real.max(axis=-1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=-1, keepdims=True)
    return z


def _dropout_mask(like: Array, p: float, rng: np.random.Generator) -> Array:
    """0 with probability p, else 1/(1-p); the same draws for every dtype."""
    keep = rng.random(like.shape, dtype=np.float32) >= p
    return keep.astype(like.real.dtype) * (1.0 / (1.0 - p))


def _heads(a: Array, n_head: int) -> Array:
    """View (B, T, C) as (B, H, T, D)."""
    B, T, C = a.shape
    return a.reshape(B, T, n_head, C // n_head).transpose(0, 2, 1, 3)
