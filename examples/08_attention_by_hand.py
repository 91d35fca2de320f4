"""Lesson 8: causal attention by hand, and a gradient that is exactly 0.

Attention lets each of T positions read from the others. Every position has a query q_t, a key k_t
and a value v_t. Position t reads most from positions whose keys fit its query. It is causal: t
reads from itself and earlier positions only. For each head, with q, k, v of shape (T, D), forward:

    scores = q @ k.T / sqrt(D)                            (T, D) @ (D, T) -> (T, T)
    scores = -inf right of the diagonal (the mask)        row t sees columns 0 to t
    weights = softmax(scores)                             row by row
    out = weights @ v                                     (T, T) @ (T, D) -> (T, D)

Backward goes from the end to the start, in four steps that you know, given g = dL/dout, (T, D):

    a product (lesson 3)       dweights = g @ v.T,        dv = weights.T @ g
    a softmax (lesson 4)       dscores = weights * (dweights - sum over the row of dweights*weights)
    the mask                   nothing to do: if a weight is 0, its dscores is 0 too
    a scaled product           dq = dscores @ k / sqrt(D),  dk = dscores.T @ q / sqrt(D)

(Vaswani et al., Attention Is All You Need, arXiv:1706.03762 (2017), section 3.2.)
"""

import numpy as np

from autograd import Tensor
from npgpt2 import composed
from npgpt2 import functional as F

rng = np.random.default_rng(0)
B, T, H, D = 2, 4, 2, 3
C = H * D
x = rng.standard_normal((B, T, C))
# c_attn is the linear layer that makes q, k and v from x.
w, bias = rng.standard_normal((3 * C, C)) / 2, rng.standard_normal(3 * C)
g = rng.standard_normal((B, T, C))


def heads(a):
    """(B, T, C) -> (B, H, T, D): head h has the channels hD to (h+1)D."""
    return a.reshape(B, T, H, D).swapaxes(1, 2)


def merged(a):
    """(B, H, T, D) -> (B, T, C), the way back."""
    return a.swapaxes(1, 2).reshape(B, T, C)


qkv = x @ w.T + bias  # (B, T, C) -> (B, T, 3C)
q, k, v = (heads(part) for part in np.split(qkv, 3, axis=-1))
scores = q @ k.swapaxes(-1, -2) / np.sqrt(D)  # (B, H, T, T)
scores[..., ~np.tri(T, dtype=bool)] = -np.inf
weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
weights /= weights.sum(axis=-1, keepdims=True)

dout = heads(g)
dweights, dv = dout @ v.swapaxes(-1, -2), weights.swapaxes(-1, -2) @ dout
dscores = weights * (dweights - (dweights * weights).sum(axis=-1, keepdims=True))
dq, dk = dscores @ k / np.sqrt(D), dscores.swapaxes(-1, -2) @ q / np.sqrt(D)
dqkv = np.concatenate([merged(dq), merged(dk), merged(dv)], axis=-1)

with np.printoptions(precision=3, suppress=True):
    print(f"The weights of one head; each row sums to 1:\n{weights[0, 0]}")
    print(f"Its dscores; each row sums to 0:\n{dscores[0, 0] + 0.0}")
assert np.abs(dscores.sum(axis=-1)).max() < 1e-14
assert not dscores[..., ~np.tri(T, dtype=bool)].any()
print("The first row has one weight, which is always 1. So the gradients of its scores")
print("and of its query are 0.")
assert not dq[:, :, 0].any()

bias_gradients = []
for where in (F, composed):
    leaves = [Tensor(a, requires_grad=True) for a in (x, w, bias)]
    out = where.linear(*leaves)
    where.causal_attention(out, H).backward(g)
    bias_gradients.append(leaves[2].grad)
(engine,) = F.causal_attention(Tensor(qkv, requires_grad=True), H).vjp(g)
print(f"\nLargest difference of dqkv from the engine: {np.abs(dqkv - engine).max():.0e}")
assert np.abs(dqkv - engine).max() < 1e-14

print("\nThe gradient of the bias of c_attn, (3C,), in its three parts, once from")
print("functional and once from composed (lesson 5):")
fused, spelled_out = (np.split(grad, 3) for grad in bias_gradients)
for name, one, other in zip(("queries", "keys", "values"), fused, spelled_out, strict=True):
    norm, gap = np.linalg.norm(one), np.linalg.norm(one - other)
    print(f"  {name:<8} norm {norm:7.1e}; the two differ by {gap / norm:.0e} of the norm")
assert np.linalg.norm(fused[1]) < 1e-14 < 1e-2 < np.linalg.norm(fused[0])
print("A bias b of the keys adds the same number, q_t . b, to all scores of row t. This")
print("does not change the softmax (lesson 4). So the gradient of b is exactly 0, and")
print("its norm above is rounding error. Compare it with 0: its relative error says")
print("nothing.")

print("\nNow you: npgpt2 practice causal_attention --start causal_attention.py")
