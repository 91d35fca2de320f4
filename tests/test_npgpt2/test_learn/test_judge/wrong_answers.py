"""Answers to the exercises as people write them: wrong ones, labelled in words, and right ones.

They were written without a look at the judge or its catalogue, to measure how often the judge names
the mistake. Each answer is a whole function in a different style. `differs` has the positions of
its wrong gradients; the others are right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Answer:
    """A function for an exercise. Its label describes the mistake; "" if the answer is right."""

    exercise: str
    function: Callable[..., Any]
    label: str
    differs: tuple[int, ...]

    @property
    def name(self):
        return self.function.__name__


ANSWERS = []


def wrong(exercise, label, *differs):
    def register(function):
        ANSWERS.append(Answer(exercise, function, label, differs or (0,)))
        return function

    return register


def right(exercise):
    def register(function):
        ANSWERS.append(Answer(exercise, function, "", ()))
        return function

    return register


def onehot(ids, n):
    return np.eye(n)[ids]


# -- linear --------------------------------------------------------------------------------------


@wrong("linear", "sums the bias gradient over time only", 2)
def linear_bias_over_time_only(dy, x, W, b):
    dx = dy @ W
    dW = np.einsum("bto,bti->oi", dy, x)
    db = dy.sum(1)
    return dx, dW, db


@wrong("linear", "transposes the weight in dx once more", 0)
def linear_weight_transposed_again(g, x, weight, bias):
    g2 = g.reshape(-1, g.shape[-1])
    x2 = x.reshape(-1, x.shape[-1])
    dx = (g2 @ weight.T).reshape(x.shape)
    return dx, g2.T @ x2, g2.sum(0)


@wrong("linear", "averages the bias gradient over the rows", 2)
def linear_bias_averaged(g, inp, w, bias):
    return np.einsum("bto,oi->bti", g, w), np.einsum("bto,bti->oi", g, inp), g.mean(axis=(0, 1))


@wrong("linear", "keeps the weight gradient of the last row only, = instead of +=", 1)
def linear_last_row_only(g, x, W, b):
    B, T, _ = x.shape
    dx = np.zeros_like(x)
    dW = np.zeros_like(W)
    db = np.zeros_like(b)
    for i in range(B):
        for t in range(T):
            dx[i, t] = W.T @ g[i, t]
            dW = np.outer(g[i, t], x[i, t])
            db += g[i, t]
    return dx, dW, db


@wrong("linear", "adds the bias to dx, as in the forward pass", 0)
def linear_bias_in_dx(dout, x, weight, bias):
    n_in, n_out = weight.shape[1], weight.shape[0]
    dx = dout @ weight + bias.mean()
    dweight = dout.reshape(-1, n_out).T @ x.reshape(-1, n_in)
    return dx, dweight, dout.reshape(-1, n_out).sum(axis=0)


@wrong("linear", "pairs each output gradient with the inputs of all times of its sequence", 1)
def linear_all_pairs_of_times(g, x, weight, bias):
    dweight = np.einsum("bto,bsi->oi", g, x)
    return g @ weight, dweight, np.einsum("bto->o", g)


@wrong("linear", "takes the bias for a factor: its gradient is multiplied by it", 2)
def linear_bias_as_factor(g, x, W, b):
    flat = g.reshape(-1, len(b))
    return (flat @ W).reshape(x.shape), flat.T @ x.reshape(len(flat), -1), (flat * b).sum(axis=0)


@wrong("linear", "divides the weight gradient by the batch size", 1)
def linear_weight_averaged_over_batch(g, x, W, b):
    B = len(g)
    dW = sum(g[i].T @ x[i] for i in range(B)) / B
    db = sum(g[i].sum(axis=0) for i in range(B))
    return np.stack([g[i] @ W for i in range(B)]), dW, db


@right("linear")
def linear_with_loops(g, x, weight, bias):
    dx, dw, db = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(bias.shape)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            for o in range(weight.shape[0]):
                db[o] += g[b, t, o]
                dw[o] += g[b, t, o] * x[b, t]
                dx[b, t] += g[b, t, o] * weight[o]
    return dx, dw, db


# -- cross entropy -------------------------------------------------------------------------------


@wrong("cross_entropy", "forgets that the loss is a mean: no division by B*T")
def cross_entropy_summed(g, logits, targets):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    V = logits.shape[-1]
    return g * (p - onehot(targets, V))


@wrong("cross_entropy", "forgets the upstream gradient g")
def cross_entropy_without_g(g, z, y):
    B, T, V = z.shape
    p = np.exp(z) / np.exp(z).sum(axis=2, keepdims=True)
    for b in range(B):
        for t in range(T):
            p[b, t, y[b, t]] -= 1.0
    return p / (B * T)


@wrong("cross_entropy", "divides by B only: a mean over the batch, but a sum over time")
def cross_entropy_mean_over_batch(g, logits, targets):
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    dlogits = probs
    b, t = np.indices(targets.shape)
    dlogits[b, t, targets] -= 1
    return g * dlogits / len(logits)


@wrong(
    "cross_entropy", "goes through the softmax a second time: its Jacobian applied to p - onehot"
)
def cross_entropy_softmax_twice(g, logits, targets):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True)
    dp = (p - onehot(targets, logits.shape[-1])) / targets.size * g
    return p * (dp - (dp * p).sum(-1, keepdims=True))


@wrong("cross_entropy", "gives a gradient to the target's logit alone")
def cross_entropy_target_only(g, logits, targets):
    N = targets.size
    z = logits.reshape(N, -1)
    y = targets.reshape(N)
    d = np.zeros_like(z)
    for n in range(N):
        p = np.exp(z[n] - z[n].max())
        p /= p.sum()
        d[n, y[n]] = (p[y[n]] - 1) * g / N
    return d.reshape(logits.shape)


@wrong("cross_entropy", "stops at the probabilities: -1/p at the target is dL/dp, not dL/dz")
def cross_entropy_gradient_of_p(g, logits, targets):
    ex = np.exp(logits)
    p = ex / ex.sum(axis=-1, keepdims=True)
    return -g * onehot(targets, p.shape[-1]) / p / targets.size


@wrong("cross_entropy", "takes the softmax over time instead of the vocabulary")
def cross_entropy_softmax_over_time(g, logits, targets):
    B, T, V = logits.shape
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return g / (B * T) * (p - onehot(targets, V))


@wrong("cross_entropy", "wrong sign, and no division by B*T")
def cross_entropy_sign_and_sum(g, logits, targets):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return g * (onehot(targets, logits.shape[-1]) - np.exp(logp))


@wrong("cross_entropy", "never subtracts the one-hot target")
def cross_entropy_no_target(g, z, y):
    z = z - z.max(axis=-1, keepdims=True)
    softmax = np.exp(z) / np.sum(np.exp(z), axis=-1, keepdims=True)
    return softmax * (g / y.size)


@wrong("cross_entropy", "takes the target that follows: the targets are shifted by one")
def cross_entropy_targets_shifted(g, logits, targets):
    y = np.roll(targets, -1, axis=1)
    e = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return (e / e.sum(axis=-1, keepdims=True) - onehot(y, e.shape[-1])) * g / y.size


@right("cross_entropy")
def cross_entropy_by_jacobian(g, logits, targets):
    B, T, V = logits.shape
    out = np.empty_like(logits)
    for b in range(B):
        for t in range(T):
            p = np.exp(logits[b, t] - logits[b, t].max())
            p /= p.sum()
            dp = np.zeros(V)
            dp[targets[b, t]] = -g / p[targets[b, t]] / (B * T)
            out[b, t] = (np.diag(p) - np.outer(p, p)) @ dp
    return out


# -- softmax -------------------------------------------------------------------------------------


def soft(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@wrong("softmax", "takes only the diagonal of the Jacobian: p (1 - p)")
def softmax_diagonal(g, x):
    p = soft(x)
    return g * p * (1 - p)


@wrong("softmax", "subtracts the plain sum of g instead of the one weighted by p")
def softmax_plain_sum(g, x):
    y = np.exp(x) / np.exp(x).sum(-1)[..., None]
    return y * (g - g.sum(-1)[..., None])


@wrong("softmax", "forgets the factor p in front")
def softmax_no_p_in_front(dy, x):
    y = soft(x)
    dot = np.einsum("btv,btv->bt", dy, y)
    return dy - dot[:, :, None]


@wrong("softmax", "sums g * p over time instead of over the row")
def softmax_sum_over_time(g, x):
    p = soft(x)
    return p * (g - (g * p).sum(axis=1, keepdims=True))


@wrong("softmax", "adds the off-diagonal part of the Jacobian: + p_i p_j")
def softmax_off_diagonal_sign(g, x):
    p = soft(x)
    V = x.shape[-1]
    J = np.zeros((*p.shape, V))
    for i in range(V):
        for j in range(V):
            J[..., i, j] = p[..., i] * (1 - p[..., i]) if i == j else p[..., i] * p[..., j]
    return np.einsum("bti,btij->btj", g, J)


@wrong("softmax", "differentiates log-softmax: g - p * sum(g)")
def softmax_of_log(g, x):
    p = soft(x)
    return g - p * g.sum(axis=-1, keepdims=True)


@wrong("softmax", "uses the Jacobian of each sequence's first row for all its rows")
def softmax_jacobian_of_first_row(g, x):
    dx = np.empty_like(x)
    for b, row in enumerate(soft(x)[:, 0]):
        J = np.diag(row) - np.outer(row, row)
        dx[b] = g[b] @ J
    return dx


@wrong("softmax", "forgets the normaliser: differentiates exp alone, g * p")
def softmax_normaliser_constant(g, x):
    return g * soft(x)


@right("softmax")
def softmax_by_complex_step(g, x):
    dx = np.empty_like(x)
    for v in range(x.shape[-1]):
        z = x - x.max(axis=-1, keepdims=True) + 0j
        z[..., v] += 1e-30j
        p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
        dx[..., v] = (g * p.imag / 1e-30).sum(axis=-1)
    return dx


# -- GELU ----------------------------------------------------------------------------------------


@wrong("gelu", "differentiates the exact form, with erf")
def gelu_of_erf(g, x):
    cdf = np.vectorize(lambda v: 0.5 * (1 + math.erf(v / math.sqrt(2))))(x)
    pdf = np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    return g * (cdf + x * pdf)


@wrong("gelu", "forgets the square in 1 - tanh**2")
def gelu_tanh_not_squared(g, x):
    k = np.sqrt(2 / np.pi)
    t = np.tanh(k * (x + 0.044715 * x**3))
    return g * (0.5 * (1 + t) + 0.5 * x * (1 - t) * k * (1 + 3 * 0.044715 * x**2))


@wrong("gelu", "differentiates x sigmoid(1.702 x), the quick form")
def gelu_quick(g, x):
    s = 1 / (1 + np.exp(-1.702 * x))
    return g * (s + 1.702 * x * s * (1 - s))


@wrong("gelu", "forgets the inner derivative du/dx")
def gelu_no_inner_derivative(g, x):
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * np.power(x, 3))
    th = np.tanh(u)
    left = 0.5 * (1.0 + th)
    rght = 0.5 * x * (1.0 - th * th)
    return g * (left + rght)


@wrong("gelu", "forgets 1/2 in the second term of the product rule")
def gelu_half_forgotten(dy, x):
    c, a = math.sqrt(2 / math.pi), 0.044715
    u = c * x * (1 + a * x * x)
    sech2 = 1 / np.cosh(u) ** 2
    du = c * (1 + 3 * a * x * x)
    return dy * ((1 + np.tanh(u)) / 2 + x * sech2 * du)


@wrong("gelu", "takes tanh' at x instead of at u")
def gelu_tanh_slope_at_x(g, x):
    c = math.sqrt(2 / math.pi)
    t = np.tanh(c * (x + 0.044715 * x**3))
    dtanh = 1 - np.tanh(x) ** 2
    return g * (0.5 * (1 + t) + 0.5 * x * dtanh * c * (1 + 0.134145 * x**2))


@wrong("gelu", "treats the gate as a constant: only the first term of the product rule")
def gelu_gate_constant(g, x):
    gate = 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return g * gate


@wrong("gelu", "misremembers the constant: sqrt(2)/pi instead of sqrt(2/pi)")
def gelu_root_of_two_over_pi(g, x):
    c = math.sqrt(2) / math.pi
    t = np.tanh(c * (x + 0.044715 * x**3))
    return g * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * c * (1 + 3 * 0.044715 * x**2))


@right("gelu")
def gelu_by_sigmoid(g, x):
    s = 1 / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ds = 2 * math.sqrt(2 / math.pi) * (1 + 0.134145 * x**2) * s * (1 - s)
    return g * (s + x * ds)


# -- embedding -----------------------------------------------------------------------------------


@wrong("embedding", "dW[ids] += g: of a token used several times only the last counts")
def embedding_fancy_plus_equals(g, weight, ids):
    dW = np.zeros_like(weight)
    dW[ids] += g
    return dW


@wrong("embedding", "averages over the uses of a token instead of summing")
def embedding_averaged(g, W, ids):
    dW = np.zeros(W.shape)
    np.add.at(dW, ids, g)
    count = np.bincount(ids.ravel(), minlength=len(W))
    return dW / np.maximum(count, 1)[:, None]


@wrong("embedding", "counts only the first use of each token")
def embedding_first_use(g, weight, ids):
    flat, rows = ids.ravel(), g.reshape(-1, g.shape[-1])
    tokens, first = np.unique(flat, return_index=True)
    dweight = np.zeros_like(weight)
    dweight[tokens] = rows[first]
    return dweight


@wrong("embedding", "multiplies by the looked-up row, as if it were a product")
def embedding_times_weight(g, weight, ids):
    dweight = np.zeros_like(weight)
    B, T = ids.shape
    for b in range(B):
        for t in range(T):
            dweight[ids[b, t]] += g[b, t] * weight[ids[b, t]]
    return dweight


@wrong("embedding", "starts to accumulate from the weight instead of from zeros")
def embedding_starts_from_weight(g, weight, ids):
    out = weight.copy()
    np.add.at(out, ids.reshape(-1), g.reshape(-1, weight.shape[1]))
    return out


@wrong("embedding", "gives each row the gradient of the position after it")
def embedding_off_by_one(g, weight, ids):
    V, C = weight.shape
    oh = onehot(ids[:, :-1].ravel(), V)
    return oh.T @ g[:, 1:].reshape(-1, C)


@wrong("embedding", "reads the ids in another order than g: time first, batch second")
def embedding_ids_transposed(g, weight, ids):
    dweight = np.zeros(weight.shape)
    for token, row in zip(ids.T.reshape(-1), g.reshape(-1, weight.shape[1]), strict=True):
        dweight[token] += row
    return dweight


@right("embedding")
def embedding_by_onehot(g, weight, ids):
    return np.einsum("btv,btc->vc", onehot(ids, len(weight)), g)


# -- layer norm ----------------------------------------------------------------------------------


@wrong("layer_norm", "forgets the path through the mean", 0)
def layer_norm_no_mean_path(g, x, weight, bias, eps):
    mu = x.mean(-1, keepdims=True)
    rstd = (((x - mu) ** 2).mean(-1, keepdims=True) + eps) ** -0.5
    xhat = (x - mu) * rstd
    dxhat = g * weight
    dx = rstd * (dxhat - xhat * (dxhat * xhat).mean(-1, keepdims=True))
    return dx, (g * xhat).sum((0, 1)), g.sum((0, 1))


@wrong("layer_norm", "treats the standard deviation as a constant", 0)
def layer_norm_std_constant(dout, x, gamma, beta, eps):
    C = x.shape[-1]
    xc = x - x.mean(axis=-1, keepdims=True)
    std = np.sqrt((xc**2).sum(axis=-1, keepdims=True) / C + eps)
    d = dout * gamma / std
    dx = d - d.sum(axis=-1, keepdims=True) / C
    return dx, np.einsum("btc,btc->c", dout, xc / std), dout.reshape(-1, C).sum(axis=0)


@wrong("layer_norm", "multiplies by the gain at the end, after the means were taken", 0)
def layer_norm_gain_last(g, x, weight, bias, eps):
    m, v = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    xhat = (x - m) / np.sqrt(v + eps)
    core = g - g.mean(-1, keepdims=True) - xhat * (g * xhat).mean(-1, keepdims=True)
    dx = weight * core / np.sqrt(v + eps)
    return dx, (g * xhat).sum(axis=(0, 1)), g.sum(axis=(0, 1))


@wrong("layer_norm", "forgets the 2 of the square: the path through the variance is halved", 0)
def layer_norm_half_variance_path(dy, x, w, b, eps):
    C = x.shape[-1]
    mean = x.mean(-1, keepdims=True)
    var = x.var(-1, keepdims=True)
    inv = 1 / np.sqrt(var + eps)
    xh = (x - mean) * inv
    dxh = dy * w
    dvar = (dxh * (x - mean) * -0.5 * inv**3).sum(-1, keepdims=True)
    dmean = (-dxh * inv).sum(-1, keepdims=True)
    dx = dxh * inv + dvar * (x - mean) / C + dmean / C
    return dx, (dy * xh).sum(0).sum(0), dy.sum(0).sum(0)


@wrong("layer_norm", "takes the two means over time instead of over the channels", 0)
def layer_norm_means_over_time(g, x, weight, bias, eps):
    mean, var = x.mean(2, keepdims=True), x.var(2, keepdims=True)
    r = 1 / np.sqrt(var + eps)
    n = (x - mean) * r
    h = g * weight
    dx = r * (h - h.mean(1, keepdims=True) - n * (h * n).mean(1, keepdims=True))
    return dx, np.sum(g * n, axis=(0, 1)), np.sum(g, axis=(0, 1))


@wrong("layer_norm", "swaps dweight and dbias", 1, 2)
def layer_norm_swapped(g, x, weight, bias, eps):
    mu = x.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt(x.var(-1, keepdims=True) + eps)
    xhat = (x - mu) * rstd
    a = g * weight
    a = a - a.mean(-1, keepdims=True) - xhat * np.mean(a * xhat, -1, keepdims=True)
    return a * rstd, g.sum((0, 1)), (g * xhat).sum((0, 1))


@wrong("layer_norm", "dweight takes x - mean, not divided by the standard deviation", 1)
def layer_norm_dweight_of_centred(g, x, weight, bias, eps):
    C = x.shape[2]
    xc = x - x.mean(2)[..., None]
    s = np.sqrt((xc * xc).mean(2)[..., None] + eps)
    y = xc / s
    q = g * weight
    dx = (C * q - q.sum(2)[..., None] - y * (q * y).sum(2)[..., None]) / (C * s)
    return dx, (g * xc).sum((0, 1)), g.sum((0, 1))


@wrong("layer_norm", "leaves eps out of the backward pass", 0, 1)
def layer_norm_no_eps(g, x, weight, bias, eps):
    mu, sd = x.mean(-1, keepdims=True), x.std(-1, keepdims=True)
    xhat = (x - mu) / sd
    dxhat = g * weight
    m1, m2 = dxhat.mean(-1, keepdims=True), (dxhat * xhat).mean(-1, keepdims=True)
    return (dxhat - m1 - xhat * m2) / sd, (g * xhat).sum((0, 1)), g.sum((0, 1))


@wrong("layer_norm", "multiplies by the standard deviation instead of dividing by it", 0)
def layer_norm_times_std(g, x, weight, bias, eps):
    mu = x.mean(-1, keepdims=True)
    sigma = np.sqrt(x.var(-1, keepdims=True) + eps)
    xhat = (x - mu) / sigma
    d = g * weight
    dx = sigma * (d - d.mean(-1, keepdims=True) - xhat * (d * xhat).mean(-1, keepdims=True))
    return dx, (g * xhat).sum((0, 1)), g.sum((0, 1))


@right("layer_norm")
def layer_norm_by_steps(dout, x, gamma, beta, eps):
    """Each line of the forward pass backwards, with nothing simplified."""
    C = x.shape[-1]
    mu = x.mean(axis=-1, keepdims=True)
    xmu = x - mu
    var = (xmu**2).mean(axis=-1, keepdims=True)
    sqrtvar = np.sqrt(var + eps)
    ivar = 1.0 / sqrtvar
    xhat = xmu * ivar
    dbeta = dout.sum(axis=(0, 1))
    dgamma = (dout * xhat).sum(axis=(0, 1))
    dxhat = dout * gamma
    divar = (dxhat * xmu).sum(axis=-1, keepdims=True)
    dxmu = dxhat * ivar
    dsqrtvar = -divar / sqrtvar**2
    dvar = 0.5 * dsqrtvar / sqrtvar
    dxmu = dxmu + 2.0 * xmu * dvar / C
    dmu = -dxmu.sum(axis=-1, keepdims=True)
    return dxmu + dmu / C, dgamma, dbeta


# -- causal attention ----------------------------------------------------------------------------


def masked_weights(q, k, scale=None, diagonal=0):
    T, D = q.shape[-2:]
    s = q @ k.swapaxes(-1, -2) * (1 / np.sqrt(D) if scale is None else scale)
    return soft(np.where(np.tril(np.ones((T, T)), diagonal) == 1, s, -1e300))


@wrong("causal_attention", "forgets 1/sqrt(D) on the way back", 0, 1)
def attention_no_scale(g, q, k, v):
    A = masked_weights(q, k)
    dA = np.einsum("bhtd,bhsd->bhts", g, v)
    dS = A * (dA - (A * dA).sum(-1, keepdims=True))
    dq = np.einsum("bhts,bhsd->bhtd", dS, k)
    dk = np.einsum("bhts,bhtd->bhsd", dS, q)
    return dq, dk, np.einsum("bhts,bhtd->bhsd", A, g)


@wrong("causal_attention", "does not transpose dscores for dk", 1)
def attention_dk_untransposed(dout, q, k, v):
    B, H, T, D = q.shape
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for b in range(B):
        for h in range(H):
            P = masked_weights(q[b, h], k[b, h])
            dv[b, h] = P.T @ dout[b, h]
            dP = dout[b, h] @ v[b, h].T
            dS = P * (dP - np.sum(dP * P, axis=1, keepdims=True)) / math.sqrt(D)
            dq[b, h] = dS @ k[b, h]
            dk[b, h] = dS @ q[b, h]
    return dq, dk, dv


@wrong("causal_attention", "recomputes the weights without the mask", 0, 1, 2)
def attention_no_mask(g, q, k, v):
    d = q.shape[-1] ** 0.5
    att = soft(q @ k.transpose(0, 1, 3, 2) / d)
    dv = att.transpose(0, 1, 3, 2) @ g
    datt = g @ v.transpose(0, 1, 3, 2)
    ds = att * (datt - (att * datt).sum(-1, keepdims=True)) / d
    return ds @ k, ds.transpose(0, 1, 3, 2) @ q, dv


@wrong("causal_attention", "scales by 1/D instead of 1/sqrt(D), in weights and gradients", 0, 1, 2)
def attention_scale_by_d(g, q, k, v):
    D = q.shape[-1]
    w = masked_weights(q, k, 1 / D)
    dw = g @ v.swapaxes(2, 3)
    ds = w * (dw - (w * dw).sum(-1, keepdims=True)) / D
    return ds @ k, ds.swapaxes(2, 3) @ q, w.swapaxes(2, 3) @ g


@wrong("causal_attention", "keys and values keep the last row's part: = instead of +=", 1, 2)
def attention_rows_overwrite(g, q, k, v):
    T, D = q.shape[2:]
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for t in range(T):
        w = soft((q[:, :, t, None] * k[:, :, : t + 1]).sum(-1) / math.sqrt(D))  # (B, H, t+1)
        dv[:, :, : t + 1] = w[..., None] * g[:, :, t, None]
        dw = (g[:, :, t, None] * v[:, :, : t + 1]).sum(-1)
        ds = w * (dw - (w * dw).sum(-1, keepdims=True)) / math.sqrt(D)
        dq[:, :, t] = (ds[..., None] * k[:, :, : t + 1]).sum(2)
        dk[:, :, : t + 1] = ds[..., None] * q[:, :, t, None]
    return dq, dk, dv


@wrong("causal_attention", "sums the softmax's inner product over the queries, not the keys", 0, 1)
def attention_inner_over_queries(g, q, k, v):
    w = masked_weights(q, k)
    dw = g @ np.swapaxes(v, -1, -2)
    ds = w * (dw - (w * dw).sum(axis=-2, keepdims=True))
    ds /= np.sqrt(q.shape[-1])
    return ds @ k, np.swapaxes(ds, -1, -2) @ q, np.swapaxes(w, -1, -2) @ g


@wrong("causal_attention", "dv takes the scores instead of the weights after softmax", 2)
def attention_dv_of_scores(g, q, k, v):
    B, H, T, D = q.shape
    keep = np.tril(np.ones((T, T)))
    scores = np.einsum("bhid,bhjd->bhij", q, k) / np.sqrt(D)
    P = masked_weights(q, k)
    dP = np.einsum("bhid,bhjd->bhij", g, v)
    dS = P * (dP - np.einsum("bhij,bhij->bhi", P, dP)[..., None]) / np.sqrt(D)
    dv = np.einsum("bhij,bhid->bhjd", scores * keep, g)
    return dS @ k, np.einsum("bhij,bhid->bhjd", dS, q), dv


@wrong("causal_attention", "scales q first, and then divides dk by sqrt(D) once more", 1)
def attention_dk_scaled_twice(g, q, k, v):
    D = q.shape[-1]
    qs = q / math.sqrt(D)
    w = masked_weights(qs, k, 1.0)
    dw = g @ v.swapaxes(-2, -1)
    ds = w * (dw - (dw * w).sum(-1, keepdims=True))
    dq = ds @ k / math.sqrt(D)
    dk = ds.swapaxes(-2, -1) @ qs / math.sqrt(D)
    return dq, dk, w.swapaxes(-2, -1) @ g


@wrong("causal_attention", "the mask hides one's own position too few: it shows one ahead", 0, 1, 2)
def attention_mask_one_ahead(g, q, k, v):
    p = masked_weights(q, k, diagonal=1)
    dp = np.matmul(g, v.swapaxes(-1, -2))
    ds = p * (dp - np.sum(p * dp, axis=-1, keepdims=True)) / q.shape[-1] ** 0.5
    return np.matmul(ds, k), np.matmul(ds.swapaxes(-1, -2), q), np.matmul(p.swapaxes(-1, -2), g)


@right("causal_attention")
def attention_row_by_row(g, q, k, v):
    B, H, T, D = q.shape
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for b, h, t in np.ndindex(B, H, T):
        K, V, u = k[b, h, : t + 1], v[b, h, : t + 1], g[b, h, t]
        w = soft(K @ q[b, h, t] / math.sqrt(D))
        dw = V @ u
        ds = (np.diag(w) - np.outer(w, w)) @ dw / math.sqrt(D)
        dv[b, h, : t + 1] += np.outer(w, u)
        dq[b, h, t] = ds @ K
        dk[b, h, : t + 1] += np.outer(ds, q[b, h, t])
    return dq, dk, dv


# -- residual ------------------------------------------------------------------------------------


@wrong("residual", "forgets the identity path")
def residual_branch_only(g, x, f_backward):
    return f_backward(g)


@wrong("residual", "counts the identity path twice")
def residual_identity_twice(g, x, f_backward):
    dx = g.copy()
    dbranch = g
    dx += g + f_backward(dbranch)
    return dx


@wrong("residual", "averages the two paths")
def residual_averaged(g, x, f_backward):
    return np.mean([g, f_backward(g)], axis=0)


@wrong("residual", "multiplies the two paths instead of adding them")
def residual_product(g, x, f_backward):
    identity = g
    branch = f_backward(g)
    return identity * branch


@wrong("residual", "adds x, as the forward pass does, instead of g")
def residual_adds_x(dout, x, f_backward):
    dx = f_backward(dout)
    return x + dx


@wrong("residual", "hands x instead of the gradient to the branch")
def residual_x_to_branch(g, x, f_backward):
    return g + f_backward(x)


@wrong("residual", "hands the branch what the two paths sum to, and so goes through it twice")
def residual_through_twice(g, x, f_backward):
    total = g + f_backward(g)
    return g + f_backward(total)


@right("residual")
def residual_by_accumulation(g, x, f_backward):
    dx = np.zeros_like(x)
    for path in (f_backward, lambda a: a):
        dx += path(g.copy())
    return dx


# -- dropout -------------------------------------------------------------------------------------


@wrong("dropout", "forgets the factor 1/(1 - p)")
def dropout_unscaled(g, x, mask, p):
    return g * mask


@wrong("dropout", "divides by p, the share that is dropped")
def dropout_divided_by_p(g, x, mask, p):
    return np.where(mask == 1, g / p, 0.0)


@wrong("dropout", "multiplies by 1 - p, to undo the forward scaling")
def dropout_times_keep(g, x, mask, p):
    keep = 1.0 - p
    return mask * g * keep


@wrong("dropout", "keeps the input x as a factor")
def dropout_times_x(g, x, mask, p):
    out = x * mask / (1 - p)
    return g * out


@wrong("dropout", "lets the gradient through where the input was dropped")
def dropout_inverted_mask(g, x, mask, p):
    dropped = mask == 0
    dx = np.zeros_like(g)
    dx[dropped] = g[dropped] / (1 - p)
    return dx


@wrong("dropout", "scales by the share kept in this mask instead of by 1 - p")
def dropout_scaled_by_share_kept(g, x, mask, p):
    share = mask.sum() / mask.size
    return g * mask / share


@wrong("dropout", "draws a new mask")
def dropout_new_mask(g, x, mask, p):
    rng = np.random.default_rng(1234)
    mask = (rng.random(g.shape) > p).astype(float)
    return g * mask / (1 - p)


@wrong("dropout", "applies the scale twice")
def dropout_scaled_twice(g, x, mask, p):
    scale = 1 / (1 - p)
    dscaled = g * scale
    return dscaled * (mask * scale)


@right("dropout")
def dropout_by_selection(g, x, mask, p):
    dx = np.zeros_like(x)
    kept = mask > 0.5
    dx[kept] = g[kept] / (1.0 - p)
    return dx


# -- the tied head -------------------------------------------------------------------------------


@wrong("tied_head", "forgets the use of the weight as embedding")
def tied_head_only(g, weight, ids, h, body_backward):
    V, C = weight.shape
    return g.reshape(-1, V).T @ h.reshape(-1, C)


@wrong("tied_head", "forgets the use of the weight in the head")
def tied_embedding_only(g, W, ids, h, body_backward):
    dh = g @ W
    demb = body_backward(dh)
    dW = np.zeros_like(W)
    for b in range(ids.shape[0]):
        for t in range(ids.shape[1]):
            dW[ids[b, t]] += demb[b, t]
    return dW


@wrong("tied_head", "skips the body: dh goes to the embedding as it is")
def tied_body_skipped(g, weight, ids, h, body_backward):
    dweight = np.einsum("btv,btc->vc", g, h)
    np.add.at(dweight, ids, g @ weight)
    return dweight


@wrong("tied_head", "pairs the head's gradient with the embeddings instead of with h")
def tied_head_with_embeddings(g, weight, ids, h, body_backward):
    emb = weight[ids]
    dweight = np.einsum("btv,btc->vc", g, emb)
    np.add.at(dweight, ids, body_backward(g @ weight))
    return dweight


@wrong("tied_head", "averages the two uses")
def tied_uses_averaged(g, weight, ids, h, body_backward):
    head = np.tensordot(g, h, axes=([0, 1], [0, 1]))
    lookup = np.tensordot(onehot(ids, len(weight)), body_backward(g @ weight), ([0, 1], [0, 1]))
    return (head + lookup) / 2


@wrong("tied_head", "adds the embedding's part with [ids] +=: repeated tokens count once")
def tied_repeated_lost(g, weight, ids, h, body_backward):
    dweight = g.reshape(-1, len(weight)).T @ h.reshape(-1, h.shape[-1])
    dweight[ids] += body_backward(g @ weight)
    return dweight


@wrong("tied_head", "takes the head's part of the last position only, as in generation")
def tied_head_last_position(g, weight, ids, h, body_backward):
    head = g[:, -1].T @ h[:, -1]
    lookup = np.zeros_like(weight)
    np.add.at(lookup, ids, body_backward(g @ weight))
    return head + lookup


@right("tied_head")
def tied_by_loops(g, weight, ids, h, body_backward):
    dweight = np.zeros_like(weight)
    demb = body_backward(np.einsum("btv,vc->btc", g, weight))
    for b, t in np.ndindex(*ids.shape):
        dweight += np.outer(g[b, t], h[b, t])
        dweight[ids[b, t]] += demb[b, t]
    return dweight


# -- the block -----------------------------------------------------------------------------------


@wrong("block", "forgets the residual path around the attention")
def block_no_attention_residual(g, ln_1_backward, attn_backward, ln_2_backward, mlp_backward):
    dmid = g + ln_2_backward(mlp_backward(g))
    return ln_1_backward(attn_backward(dmid))


@wrong("block", "forgets the residual path around the MLP")
def block_no_mlp_residual(g, ln1, attn, ln2, mlp):
    d = ln2(mlp(g))
    d = d + ln1(attn(d))
    return d


@wrong("block", "as if attention and MLP were side by side: attention gets g alone")
def block_in_parallel(g, ln1, attn, ln2, mlp):
    via_mlp = ln2(mlp(g))
    via_attn = ln1(attn(g))
    return g + via_mlp + via_attn


@wrong("block", "goes through each layer norm before its sublayer, in forward order")
def block_norms_first(g, ln1_b, attn_b, ln2_b, mlp_b):
    x1 = g + mlp_b(ln2_b(g))
    return x1 + attn_b(ln1_b(x1))


@wrong("block", "goes through the attention first and the MLP second, in forward order")
def block_attention_first(g, ln_1_backward, attn_backward, ln_2_backward, mlp_backward):
    g1 = g + ln_1_backward(attn_backward(g))
    g2 = g1 + ln_2_backward(mlp_backward(g1))
    return g2


@wrong("block", "forgets ln_2 on the way back")
def block_without_ln_2(g, l1, a, l2, m):
    h = g + m(g)
    return h + l1(a(h))


@wrong("block", "takes the layer norms for those after the sum, as in the post-norm transformer")
def block_post_norm(g, ln_1_backward, attn_backward, ln_2_backward, mlp_backward):
    d2 = ln_2_backward(g)
    d1 = d2 + mlp_backward(d2)
    d1 = ln_1_backward(d1)
    return d1 + attn_backward(d1)


@wrong("block", "adds g once more at the end")
def block_g_once_more(g, ln1, attn, ln2, mlp):
    dx = g.copy()
    dmid = g + ln2(mlp(g))
    dx += dmid
    dx += ln1(attn(dmid))
    return dx


@right("block")
def block_by_four_paths(g, ln1, attn, ln2, mlp):
    m = ln2(mlp(g))
    return g + m + ln1(attn(g)) + ln1(attn(m))


# -- AdamW ---------------------------------------------------------------------------------------


@wrong("adamw", "leaves out the bias correction", 0)
def adamw_uncorrected(p, g, m, v, t, lr, beta1, beta2, eps, wd):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    if p.ndim >= 2:
        p = p * (1 - lr * wd)
    return p - lr * m / (np.sqrt(v) + eps), m, v


@wrong("adamw", "puts the decay into the gradient, as L2 regularisation does", 0, 1, 2)
def adamw_coupled(theta, grad, m, v, t, lr, b1, b2, eps, weight_decay):
    if theta.ndim > 1:
        grad = grad + weight_decay * theta
    m = b1 * m + (1 - b1) * grad
    v = b2 * v + (1 - b2) * grad**2
    mhat = m / (1 - b1**t)
    vhat = v / (1 - b2**t)
    return theta - lr * mhat / (np.sqrt(vhat) + eps), m, v


@wrong("adamw", "decays biases and gains too", 0)
def adamw_decays_all(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    m1, v1 = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    step = m1 / (1 - beta1**t) / (np.sqrt(v1 / (1 - beta2**t)) + eps)
    return p - lr * (step + weight_decay * p), m1, v1


@wrong("adamw", "counts steps from 0: the correction is that of step t + 1", 0)
def adamw_step_after(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    t = t + 1
    m = m * beta1 + g * (1 - beta1)
    v = v * beta2 + g**2 * (1 - beta2)
    update = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    decay = weight_decay if p.ndim >= 2 else 0.0
    return p - lr * decay * p - lr * update, m, v


@wrong("adamw", "keeps the corrected moments, and so corrects them again at each step", 1, 2)
def adamw_keeps_corrected(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    m = (beta1 * m + (1 - beta1) * g) / (1 - beta1**t)
    v = (beta2 * v + (1 - beta2) * g**2) / (1 - beta2**t)
    new = p - lr * m / (np.sqrt(v) + eps)
    if p.ndim >= 2:
        new -= lr * weight_decay * p
    return new, m, v


@wrong("adamw", "decays the new weights, after the step", 0)
def adamw_decay_after(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    new = p - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    if p.ndim >= 2:
        new = new - lr * weight_decay * new
    return new, m, v


@wrong("adamw", "forgets the root: divides by v", 0)
def adamw_no_root(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    wd = lr * weight_decay * p * (p.ndim >= 2)
    return p - wd - lr * (m / (1 - beta1**t)) / (v / (1 - beta2**t) + eps), m, v


@wrong("adamw", "steps along g instead of its running mean", 0)
def adamw_raw_gradient(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * np.square(g)
    denom = np.sqrt(v) / np.sqrt(1 - beta2**t) + eps
    if p.ndim >= 2:
        p = p - lr * weight_decay * p
    return p - lr * g / denom, m, v


@wrong("adamw", "the second moment averages m**2 instead of g**2", 0, 2)
def adamw_square_of_m(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * m**2
    p = p - lr * (weight_decay if p.ndim >= 2 else 0) * p
    return p - lr * m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps), m, v


@right("adamw")
def adamw_as_in_torch(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    new = p * (1 - lr * weight_decay) if p.ndim >= 2 else p.copy()
    m = m + (g - m) * (1 - beta1)
    v = v * beta2 + (1 - beta2) * g * g
    denom = np.sqrt(v) / math.sqrt(1 - beta2**t) + eps
    new -= lr / (1 - beta1**t) * m / denom
    return new, m, v
