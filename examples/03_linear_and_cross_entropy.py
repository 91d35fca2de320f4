"""Lesson 3: linear and cross entropy, the end of the network, where backprop begins.

Letters: N = B*T rows (B texts of T tokens), C channels in, V classes out (the tokens that may come
next). The entries of z are the logits, one score for each class. Forward:

    z = x @ w.T + b                                       (N, C) @ (C, V) -> (N, V)
    loss = mean over rows of (log(sum_v exp(z_nv)) - z_n,target)

Cross entropy. The derivative of log(sum exp(z)) with respect to z_v is exp(z_v) / sum exp(z) = p_v,
the softmax. The derivative of -z_target is -1 at the target, and 0 elsewhere. The mean gives each
row the weight 1/N. With onehot, which is 1 at the target of each row and 0 elsewhere:

    dz = g * (p - onehot) / N          Bishop, Pattern Recognition (2006), equation 4.109

Linear. One entry is z_nv = sum_c x_nc w_vc + b_v. Each gradient sums over the index that it does
not have itself:

    dx_nc = sum_v dz_nv w_vc           dx = dz @ w       (N, V) @ (V, C) -> (N, C)
    dw_vc = sum_n dz_nv x_nc           dw = dz.T @ x     (V, N) @ (N, C) -> (V, C)
    db_v  = sum_n dz_nv                db = dz.sum(axis=0)

(Goodfellow et al., Deep Learning (2016), section 6.5.6.)
"""

import numpy as np

from autograd import Tensor
from npgpt2 import functional as F  # the ops of GPT-2, each with a vjp derived by hand

rng = np.random.default_rng(0)
N, C, V = 6, 4, 4  # C = V on purpose: see the end
x, w, b = rng.standard_normal((N, C)), rng.standard_normal((V, C)), rng.standard_normal(V)
targets = rng.integers(V, size=N)


def by_hand(x, targets, divide=True):
    """Return dz, and (dx, dw, db)."""
    z = x @ w.T + b
    p = np.exp(z - z.max(axis=-1, keepdims=True))  # this shift does not change softmax: lesson 4
    p /= p.sum(axis=-1, keepdims=True)
    dz = p - np.eye(V)[targets]
    if divide:
        dz /= len(z)
    return dz, (dz @ w, dz.T @ x, dz.sum(axis=0))


dz, hand = by_hand(x, targets)
print(f"dz of the first row, whose target is {targets[0]}: {dz[0].round(4)}")
print("  It is below 0 only at the target. A step against dz raises the logit of the")
print("  target, and lowers the others.")
assert (dz < 0).sum() == N and np.abs(dz.sum(axis=-1)).max() < 1e-14
print(f"  Each row of dz sums to 0: {dz.sum(axis=-1).round(12) + 0.0}\n")

leaves = [Tensor(a, requires_grad=True) for a in (x, w, b)]
F.cross_entropy(F.linear(*leaves), targets).backward()
print("Largest difference from the gradients of the engine:")
for name, leaf, mine in zip(("dx", "dw", "db"), leaves, hand, strict=True):
    assert np.abs(leaf.grad - mine).max() < 1e-14
    print(f"  {name}  {np.abs(leaf.grad - mine).max():.0e}")

print("\nUse every row twice: the mean stays the same, and so does dw. Without 1/N, dw")
print("doubles:")
twice, twice_targets = np.concatenate([x, x]), np.concatenate([targets, targets])
for divide in (True, False):
    _, (_, once, _) = by_hand(x, targets, divide)
    _, (_, dw, _) = by_hand(twice, twice_targets, divide)
    print(f"  {'with 1/N' if divide else 'without '}  {np.linalg.norm(dw / once) / V:.1f} times dw")
    assert np.allclose(dw, once if divide else 2 * once, atol=1e-15)

print("\nA wrong transposition has a wrong shape only if the sizes differ. Here C = V, so")
print("every shape fits:")
wrong = {"dx = dz @ w.T": (dz @ w.T, hand[0]), "dw = x.T @ dz": (x.T @ dz, hand[1])}
for name, (guess, right) in wrong.items():
    off = np.abs(guess - right).max()
    assert guess.shape == right.shape and off > 0.01
    print(f"  {name}: the shape {guess.shape} is right, the values are off by {off:.3f}")

print("\nNow you: npgpt2 practice linear --start linear.py, then practice cross_entropy")
