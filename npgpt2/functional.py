"""The ops of GPT-2, each fused into one node, with its vjp, derived by hand, right below it.

Each op has a twin in `composed.py` with the same name and arguments, written in autograd
primitives. The twin is the definition. The op here computes the same in fewer passes over memory,
and the tests compare both. (`cached_attention` has no twin. It computes a part of
`causal_attention`, without a gradient.) The line "Derivation" in a docstring names the command that
prints how to derive the gradient on paper.

Letters: see `config.py`; also N, the product of all leading axes `...`, and n, the number of
targets that are not ignored.

All ops keep the caller's dtype (float32 or float64). In the forward pass they also accept complex
arrays, for complex-step checks. This is why they avoid `abs`, and compare only `.real`. An array in
place of a Tensor is a constant.

An op that makes several passes over its operands works block by block, so that a block stays in the
processor's cache from the first pass to the last. Sums over rows or channels are products with a
vector of ones, because BLAS computes them faster than `sum` does.

A result that is too small for the dtype becomes 0. This is no error, neither in an op nor in a
backward pass, even under `np.errstate(under="raise")`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from autograd import Array, Operand, Rows, Tensor, as_tensor, is_recorded, record
from npgpt2 import validate
from npgpt2.cache import Past
from npgpt2.machine.work import blocks

# These sizes were chosen for speed on 2 cores of an AMD EPYC (Zen 3). To choose one for another
# machine, change it, and compare the times that the command prints.

# Rows of attention weights in a block. With more rows, a block computes more weights that the
# causal mask hides; with fewer, there are more and smaller matrix products. Measure it with
# `python -m tests.benchmarks.step base`: the other configs have at most 64 positions.
_ROWS = 64

# Attention weights in a block. With more, a block does not stay in the cache; with fewer, there are
# more NumPy calls. Measure it with `python -m tests.benchmarks.step char gpt2`.
_SCORES = 1 << 17

# From this number of rows on, linear computes rows @ w.T. For fewer rows (but not for one), the
# copy of w that BLAS makes first takes too long, so linear computes (w @ rows.T).T, and copies only
# this small result. Measure it with `python -m tests.benchmarks.decode gpt2`: for the first token,
# the prompt has 16 rows.
_FEW = 32

# Logits in memory at a time, if no graph is recorded. With more, the loss takes more memory; with
# fewer, there are more passes over the weight. Measure it with `npgpt2 eval` on a GPT-2 directory.
_LOGITS = 1 << 22

# Rows that one product adds up. With more, a float32 sum has larger rounding errors; with fewer,
# there are more NumPy calls. Measure it with `python -m tests.benchmarks.step tiny char`.
_TERMS = 128


@np.errstate(under="ignore")
def linear(x: Operand, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """out = x @ weight.T + bias.

    Derivation: `npgpt2 practice linear --derivation` (npgpt2.learn.exercises).

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
    x, w = as_tensor(x, like=weight), weight.data
    shape = x.shape
    if w.ndim != 2 or shape[-1:] != w.shape[1:]:
        raise ValueError(
            f"linear: x of shape {shape} must end in the last axis of the weight, {w.shape}"
        )
    if bias is not None and bias.shape != w.shape[:1]:
        raise ValueError(f"linear: the weight has shape {w.shape}, but the bias {bias.shape}")
    rows = x.data.reshape(-1, shape[-1])  # (..., n_in) -> (N, n_in)
    out = _times_transposed(rows, w)  # (N, n_in) @ (n_in, n_out) -> (N, n_out)
    if bias is not None:
        out = _plus(out, bias.data)

    def vjp(g: Array) -> tuple[Array, ...]:
        g = g.reshape(-1, g.shape[-1])  # (N, n_out)
        dx = (g @ w).reshape(shape)
        dw = g.T @ rows
        return (dx, dw) if bias is None else (dx, dw, _sum_rows(g))

    parents = (x, weight) if bias is None else (x, weight, bias)
    return record(out.reshape(*shape[:-1], len(w)), parents, vjp)


def embedding(weight: Tensor, ids: ArrayLike) -> Tensor:
    """out = weight[ids], rows of a table;  dweight = 0 with g added at these rows.

    Derivation: `npgpt2 practice embedding --derivation` (npgpt2.learn.exercises).

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
        An id is not an integer, or is out of range; negative ids are out of range too.
    ValueError
        The weight does not have two axes.
    """
    if weight.ndim != 2:
        raise ValueError(f"embedding: the weight must have shape (V, C), not {weight.shape}")
    w = weight.data
    indices = validate.ids("ids", ids, w.shape[0])

    def vjp(g: Array) -> tuple[Rows]:
        # The gradient of row v is the sum of g over all places at which ids has v.
        return (Rows(w.shape, indices.reshape(-1), g.reshape(-1, w.shape[1])),)

    return record(w.take(indices, axis=0), (weight,), vjp)


@np.errstate(under="ignore")
def layer_norm(x: Operand, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """out = (x - mean) / sqrt(var + eps) * weight + bias, over the last axis.

    The variance is the biased one (divided by C). Source: Ba, Kiros & Hinton, Layer
    Normalization, arXiv:1607.06450 (2016), section 3.
    Derivation: `npgpt2 practice layer_norm --derivation` (npgpt2.learn.exercises).

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
        The shapes do not fit, or there are no channels.
    """
    x = as_tensor(x, like=weight)
    if x.shape[-1:] != weight.shape or weight.shape != bias.shape or not weight.size:
        raise ValueError(
            f"layer_norm: x has shape {x.shape}, but weight {weight.shape} and bias {bias.shape}"
        )
    C, w, shape = x.shape[-1], weight.data, x.shape
    rows = x.data.reshape(-1, C)  # (..., C) -> (N, C)
    centred = rows - _sum_channels(rows) / C
    centred -= _sum_channels(centred) / C  # the mean was rounded; now constant rows are exactly 0
    rstd = _rstd(centred, eps)  # (N, 1)
    xhat = np.multiply(centred, rstd, out=centred)

    def vjp(g: Array) -> tuple[Array, Array, Array]:
        # forward: xhat = (x - mean) * rstd. Both mean and rstd depend on all of x, so
        # dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)). The last two terms remove
        # the components of dxhat along 1 and along xhat, because moving x in these directions
        # leaves xhat unchanged. With dxhat = g * w, the means are g @ w / C and g_xhat @ w / C.
        g = g.reshape(-1, C)
        g_xhat = g * xhat
        dw, db = _sum_rows(g_xhat), _sum_rows(g)
        along_1, along_xhat = (g @ w)[:, None] / C, (g_xhat @ w)[:, None] / C
        dx = g * w  # dxhat
        dx -= np.multiply(xhat, along_xhat, out=g_xhat)
        dx -= along_1
        dx *= rstd
        return dx.reshape(shape), dw, db

    return record(_plus(xhat * w, bias.data).reshape(shape), (x, weight, bias), vjp)


def gelu(x: Operand) -> Tensor:
    """out = x/2 * (1 + tanh(u)),  u = sqrt(2/pi) * (x + 0.044715 x**3).

    Source: Hendrycks & Gimpel, Gaussian Error Linear Units, arXiv:1606.08415 (2016), section 2.
    GPT-2 was trained with this tanh form, which differs from the erf form by up to 4.73e-4.
    Derivation: `npgpt2 practice gelu --derivation` (npgpt2.learn.exercises).
    """
    x = as_tensor(x)
    a, c = 0.044715, math.sqrt(2.0 / math.pi)
    z = x.data.reshape(-1)
    out = np.empty_like(z)
    slope = np.empty_like(z) if is_recorded(x) else None
    with np.errstate(over="ignore", under="ignore"):  # exp(-2u) = inf is right: then s = 0
        for n in blocks(z):
            # Beyond +-100, s is exactly 0 or 1. So numbers that large are clipped: x**3 is finite.
            clipped = z[n].clip(-100.0, 100.0, out=out[n])
            zz = clipped * clipped
            s = zz * (-2.0 * a * c)
            s -= 2.0 * c
            s *= clipped  # -2u
            if z.dtype.kind == "c":  # otherwise exp(-2u) may be inf + inf j, and s NaN
                np.minimum(s.real, math.log(np.finfo(z.dtype).max) - 1.0, out=s.real)
            np.exp(s, out=s)
            s += 1.0
            np.divide(1.0, s, out=s)  # s = 1/(1 + exp(-2u)) = (1 + tanh(u))/2, so out = x * s
            if slope is not None:
                # d/dx = s + x * ds/dx,  ds/dx = 2 s (1 - s) * du/dx,  du/dx = c * (1 + 3 a x**2)
                zz *= 6.0 * a * c
                zz += 2.0 * c
                zz *= clipped  # 2 x du/dx
                d = np.subtract(1.0, s, out=slope[n])
                d *= zz
                d += 1.0
                d *= s
            np.multiply(z[n], s, out=out[n])
    shape = x.shape

    def vjp(g: Array) -> tuple[Array]:
        assert slope is not None
        return (g * slope.reshape(shape),)

    return record(out.reshape(shape), (x,), vjp)


def softmax(x: Operand) -> Tensor:
    """out = exp(x) / sum(exp(x)), over the last axis; ValueError if x has no axis.

    Derivation: `npgpt2 practice softmax --derivation` (npgpt2.learn.exercises).
    """
    x = as_tensor(x)
    if not x.ndim:
        raise ValueError("softmax: x must have shape (..., n), not ()")
    p = _softmax_inplace(x.data.copy())

    def vjp(g: Array) -> tuple[Array]:
        # dp_i/dx_j = p_i (1[i = j] - p_j), so dx = p * (g - sum(g * p)).
        return (p * (g - np.sum(g * p, axis=-1, keepdims=True)),)

    return record(p, (x,), vjp)


@np.errstate(under="ignore")
def dropout(x: Operand, p: float, rng: np.random.Generator) -> Tensor:
    """out = x * mask / (1 - p), where each entry of mask is 0 with probability p, otherwise 1.

    x has any shape. With p = 0 the result is x itself, and nothing is drawn. ValueError if p is
    outside [0, 1).
    Source: Srivastava et al., Dropout, JMLR 15 (2014), section 10 (the inverted form).
    Derivation: `npgpt2 practice dropout --derivation` (npgpt2.learn.exercises).
    """
    x = as_tensor(x)
    if validate.fraction("p", p) == 0.0:
        return x
    scaled_mask = _dropout_mask(x.shape, x.data.real.dtype, p, rng)

    def vjp(g: Array) -> tuple[Array]:
        return (g * scaled_mask,)

    return record(x.data * scaled_mask, (x,), vjp)


@np.errstate(under="ignore")
def causal_attention(
    qkv: Operand, n_head: int, p: float = 0.0, rng: np.random.Generator | None = None
) -> Tensor:
    """out = softmax(masked q @ k.T / sqrt(D)) @ v, per head; position t sees positions 0 to t.

    Source: Vaswani et al., Attention Is All You Need, arXiv:1706.03762 (2017), section 3.2.
    Derivation: `npgpt2 practice causal_attention --derivation` (npgpt2.learn.exercises).

    Parameters
    ----------
    qkv
        (B, T, 3C): queries, keys and values, C channels each. In each of the three, head h has the
        channels hD to (h+1)D - 1.
    n_head
        H.
    p, rng
        Probability and generator for dropout of the attention weights; see `dropout`.

    Returns
    -------
    Tensor
        (B, T, C).

    Raises
    ------
    TypeError, ValueError
        n_head or the shape does not fit, p is outside [0, 1), or p > 0 without a generator.
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
    if validate.fraction("p", p):
        if rng is None:
            raise ValueError(f"attention dropout with p={p} needs a generator")
        scaled_mask = _dropout_mask((B, n_head, T, T), q.real.dtype, p, rng)

    # A block is a part b of the batch, and some rows t of the (T, T) weights. Row t sees columns 0
    # to t, so a block has only the columns that its last row sees.
    out, saved = np.empty((B, T, C), dtype=q.dtype), []
    for b, t in _attention_blocks(B, n_head, T, T):
        seen = slice(t.stop)
        scores = q[b, :, t] @ k[b, :, seen].swapaxes(-1, -2)
        scores *= scale
        np.copyto(scores[..., t], -np.inf, where=_hidden(t.stop - t.start))
        weights = kept = _softmax_inplace(scores)
        if p:
            kept = weights * scaled_mask[b, :, t, seen]
        np.matmul(kept, v[b, :, seen], out=_heads(out, n_head)[b, :, t])
        if is_recorded(qkv):
            saved.append((b, t, weights, kept))

    def vjp(g: Array) -> tuple[Array]:
        dqkv = np.empty((B, T, 3, n_head, D), dtype=g.dtype)
        dq, dk, dv = dqkv.transpose(2, 0, 3, 1, 4)
        dout = _heads(g, n_head)  # (B, H, T, D)
        # forward: weights = softmax(scores). Its vjp needs sum_j dweights_ij * weights_ij. This sum
        # equals <dout_i, out_i>, which adds D terms instead of T.
        inner = _dot(dout, _heads(out, n_head))[..., None]
        for b, t, weights, kept in reversed(saved):  # the last rows first, which see all columns
            seen, first = slice(t.stop), t.stop == T
            # forward: out = kept @ v
            _add_product(kept.swapaxes(-1, -2), dout[b, :, t], dv[b, :, seen], first)
            dscores = dout[b, :, t] @ v[b, :, seen].swapaxes(-1, -2)
            if p:
                dscores *= scaled_mask[b, :, t, seen]
            dscores -= inner[b, :, t]
            dscores *= weights  # if the causal mask made a weight 0, its gradient is 0 too
            # forward: scores = scale * q @ k.T
            dscores *= scale
            np.matmul(dscores, k[b, :, seen], out=dq[b, :, t])
            _add_product(dscores.swapaxes(-1, -2), q[b, :, t], dk[b, :, seen], first)
        return (dqkv.reshape(B, T, 3 * C),)

    return record(out, (qkv,), vjp)


@np.errstate(under="ignore")
def cached_attention(qkv: Operand, n_head: int, past: Past) -> Tensor:
    """causal_attention for T new positions that follow the cached ones; no gradient.

    Parameters
    ----------
    qkv
        (B, T, 3C), as for `causal_attention`, of the new positions `past.positions`.
    n_head
        H.
    past
        The cached keys and values. The op adds the new ones; then there are S positions.

    Returns
    -------
    Tensor
        (B, T, C).
    """
    qkv = as_tensor(qkv)
    (B, T), C = qkv.shape[:2], qkv.shape[2] // 3
    split = qkv.data.reshape(B, T, 3, n_head, C // n_head).transpose(2, 0, 3, 1, 4)
    q, kv = split[0], split[1:]
    keys, values = past.extend(kv)  # (2, B, H, T, D) -> (2, B, H, S, D)
    S = keys.shape[2]
    out = np.empty((B, T, C), dtype=q.dtype)
    for b, t in _attention_blocks(B, n_head, T, S):
        seen = slice(S - T + t.stop)  # the columns that the last row of the block sees
        scores = q[b, :, t] @ keys[b, :, seen].swapaxes(-1, -2)
        scores *= 1.0 / math.sqrt(C // n_head)
        if T > 1 or past.start is None:  # otherwise there is one row, and it sees all
            hidden = np.arange(seen.stop) > past.positions[b, t, None]  # (B, T, S)
            np.copyto(scores, -np.inf, where=hidden[:, None])
        np.matmul(_softmax_inplace(scores), values[b, :, seen], out=_heads(out, n_head)[b, :, t])
    return Tensor(out)


def cross_entropy(logits: Operand, targets: ArrayLike, ignore_index: int = -100) -> Tensor:
    """Mean of -log softmax(logits)[target], in nats, over the targets that are not ignored.

    Derivation: `npgpt2 practice cross_entropy --derivation` (npgpt2.learn.exercises).

    Parameters
    ----------
    logits
        (..., V).
    targets
        (...) integers in [0, V), or `ignore_index` for positions without a loss.
    ignore_index
        Targets with this value count neither in the sum nor in the number of targets.

    Returns
    -------
    Tensor
        A scalar.

    Raises
    ------
    TypeError, IndexError
        A target is not an integer, or is out of range.
    ValueError
        The targets have the wrong shape, or all are ignored (then the mean would be 0/0).
    """
    logits = as_tensor(logits)
    rows, columns = _counted(logits.shape, targets, ignore_index)
    shape = logits.shape
    dz = logits.data.reshape(-1, shape[-1])[rows]  # (N, V) -> (n, V), without ignored rows
    total = _cross_entropy_inplace(dz, columns)

    def vjp(g: Array) -> tuple[Array]:
        return (_scatter_rows(dz * (g / len(dz)), rows, shape),)

    return record(total / len(dz), (logits,), vjp)


@np.errstate(under="ignore")
def linear_cross_entropy(
    x: Operand, weight: Tensor, targets: ArrayLike, ignore_index: int = -100
) -> Tensor:
    """cross_entropy(linear(x, weight), targets, ignore_index), without keeping the logits.

    With a vocabulary of 50,257, the logits are the largest array of a small GPT-2. This op makes
    only one array of this size: the forward pass turns the logits into their gradient, and the
    backward pass uses this gradient. If no graph is recorded, it makes no such array, but adds up
    the loss over parts of the rows. So the last bits of the loss may differ.
    Derivation: `npgpt2 practice linear --derivation` (npgpt2.learn.exercises).
    Derivation: `npgpt2 practice cross_entropy --derivation` (npgpt2.learn.exercises).

    Parameters
    ----------
    x
        (..., C).
    weight
        (V, C).
    targets, ignore_index
        As for `cross_entropy`. The errors are the same too.

    Returns
    -------
    Tensor
        A scalar.
    """
    x = as_tensor(x, like=weight)
    if weight.ndim != 2 or x.shape[-1:] != weight.shape[1:]:
        raise ValueError(
            f"linear_cross_entropy: x of shape {x.shape} must end in the last axis of the weight, "
            f"{weight.shape}"
        )
    shape, w = x.shape, weight.data
    rows, columns = _counted((*shape[:-1], len(w)), targets, ignore_index)
    counted = x.data.reshape(-1, shape[-1])[rows]  # (n, C)
    n = len(counted)
    if is_recorded(x, weight):
        dz = counted @ w.T  # (n, C) @ (C, V) -> (n, V)
        total = _cross_entropy_inplace(dz, columns)
    else:
        step = max(1, _LOGITS // len(w))
        parts = (slice(i, i + step) for i in range(0, n, step))
        total = np.sum([_cross_entropy_inplace(counted[i] @ w.T, columns[i]) for i in parts])

    def vjp(g: Array) -> tuple[Array, Array]:
        # forward: z = counted @ w.T. dz / n is the gradient for g = 1. The factor g / n multiplies
        # (n, C) arrays, and not dz, which is larger.
        share = g / n
        return _scatter_rows((dz @ w) * share, rows, shape), dz.T @ (counted * share)

    return record(total / n, (x, weight), vjp)


# -- shared by the kernels above -----------------------------------------------------------------


def _times_transposed(rows: Array, w: Array) -> Array:
    """Return rows @ w.T. For few rows, choose the order in which BLAS does not copy all of w."""
    if 1 < len(rows) < _FEW and w.flags.c_contiguous:
        return np.ascontiguousarray((w @ rows.T).T)
    return rows @ w.T


def _plus(out: Array, b: Array) -> Array:
    """Return out + b, in place unless only b is complex."""
    if b.dtype == out.dtype:
        out += b
        return out
    return np.add(out, b)


def _counted(shape: tuple[int, ...], targets: ArrayLike, ignore_index: int) -> tuple[Array, Array]:
    """Return (rows, targets), both (n,), for the rows of (..., V) logits that are not ignored."""
    if not shape:
        raise ValueError("cross_entropy: logits must have shape (..., V), not ()")
    labels = validate.ids("targets", targets, shape[-1], ignore=ignore_index)
    if labels.shape != shape[:-1]:
        raise ValueError(
            f"targets have shape {labels.shape}, but logits of shape {shape} "
            f"need targets of shape {shape[:-1]}"
        )
    labels = labels.reshape(-1)
    rows = np.flatnonzero(labels != ignore_index)
    if not rows.size:
        raise ValueError(f"all {labels.size} targets are ignored (ignore_index={ignore_index})")
    return rows, labels[rows]


@np.errstate(over="ignore", under="ignore")
def _cross_entropy_inplace(z: Array, columns: Array) -> Any:
    """Return the sum of the losses of (n, V) logits, and write its gradient into z.

    dz = softmax(z) - onehot(target). As in `_softmax_inplace`, a difference may overflow.
    """
    losses = np.empty(len(z), dtype=z.dtype)
    for n in blocks(z):
        p, at_target = z[n], (np.arange(n.stop - n.start), columns[n])
        p -= p.real.max(axis=-1, keepdims=True)  # softmax does not change, exp cannot overflow
        of_target = p[at_target]
        np.exp(p, out=p)
        total = _sum_channels(p)
        losses[n] = np.log(total[:, 0]) - of_target
        p /= total
        p[at_target] -= 1.0
    return losses.sum()


def _scatter_rows(values: Array, rows: Array, shape: tuple[int, ...]) -> Array:
    """Return an array of shape (..., C) with the (n, C) values in these rows, and 0 elsewhere."""
    if values.size == math.prod(shape):
        return values.reshape(shape)
    out = np.zeros((math.prod(shape[:-1]), shape[-1]), dtype=values.dtype)
    out[rows] = values
    return out.reshape(shape)


@np.errstate(over="ignore", under="ignore")
def _rstd(centred: Array, eps: float) -> Array:
    """Return 1 / sqrt(var + eps) of rows with mean 0;  (N, C) -> (N, 1)."""
    C = centred.shape[1]
    rstd: Array = 1.0 / np.sqrt(_dot(centred, centred)[:, None] / C + eps)
    if not rstd.all():  # squares were infinite, so divide by the largest entry first
        peak = np.maximum(np.abs(centred.real).max(axis=1, keepdims=True), 1.0)
        scaled = centred / peak
        rstd = 1.0 / np.sqrt(_dot(scaled, scaled)[:, None] / C + eps / peak / peak) / peak
    return rstd


def _sum_rows(rows: Array) -> Array:
    """Sum the rows, (N, C) -> (C,), as a product with ones, because BLAS is faster than `sum`.

    Each product adds up at most _TERMS rows, so the rounding error hardly grows with N.
    """
    N, C = rows.shape
    if N <= _TERMS:
        return _ones(N, rows.dtype) @ rows
    M, rest = divmod(N, _TERMS)
    # Row m of the M sums is the sum of the rows m, M + m, 2M + m, ...
    sums = _ones(_TERMS, rows.dtype) @ rows[: N - rest].reshape(_TERMS, M * C)
    total = _sum_rows(sums.reshape(M, C))
    return total + _sum_rows(rows[N - rest :]) if rest else total


def _sum_channels(rows: Array) -> Array:
    """Sum the channels, (..., C) -> (..., 1), as a product with ones."""
    return rows @ _ones(rows.shape[-1], rows.dtype)[:, None]


@lru_cache(maxsize=64)
def _ones(n: int, dtype: np.dtype[Any]) -> Array:
    """Return (n,) ones, read-only because all callers share them."""
    ones = np.ones(n, dtype=dtype)
    ones.setflags(write=False)
    return ones


def _attention_blocks(B: int, H: int, T: int, S: int) -> Iterator[tuple[slice, slice]]:
    """Cut (B, H, T, S) weights into blocks; yield (slice of the batch, slice of the rows)."""
    rows = min(T, _ROWS)
    step = max(1, _SCORES // (H * rows * S))
    return (
        (slice(b, min(b + step, B)), slice(t, min(t + rows, T)))
        for b in range(0, B, step)
        for t in range(0, T, rows)
    )


@lru_cache(maxsize=64)
def _hidden(n: int) -> Array:
    """Return (n, n) booleans: True right of the diagonal, where the causal mask hides weights."""
    hidden = ~np.tri(n, dtype=bool)
    hidden.setflags(write=False)
    return hidden


def _add_product(a: Array, b: Array, out: Array, first: bool) -> None:
    """Add a @ b to out, in place; the first product replaces the old values."""
    if first:
        np.matmul(a, b, out=out)
    else:
        out += a @ b


def _dot(a: Array, b: Array) -> Array:
    """Sum a * b over the last axis, also for complex numbers;  (..., n), (..., n) -> (...)."""
    products: Array = np.vecdot(a.conj(), b)  # conj(), because vecdot conjugates a again
    return products


@np.errstate(over="ignore", under="ignore")
def _softmax_inplace(z: Array) -> Array:
    """Write the softmax of z, over the last axis, into z; return z.

    A difference may overflow to -inf. Then exp is 0, which is right.
    """
    z -= np.maximum.reduce(z.real, axis=-1, keepdims=True)
    np.exp(z, out=z)
    z /= _sum_channels(z)
    return z


def _dropout_mask(
    shape: tuple[int, ...], dtype: np.dtype[Any], p: float, rng: np.random.Generator
) -> Array:
    """Draw entries: 0 with probability p, otherwise 1/(1-p); the same draws for every dtype."""
    keep = rng.random(shape, dtype=np.float32) >= p
    return keep.astype(dtype) * (1.0 / (1.0 - p))


def _heads(a: Array, n_head: int) -> Array:
    """Return a view of (B, T, C) as (B, H, T, D)."""
    B, T, C = a.shape
    return a.reshape(B, T, n_head, C // n_head).transpose(0, 2, 1, 3)
