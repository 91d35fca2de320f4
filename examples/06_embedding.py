"""Lesson 6: an embedding looks up rows, and its backward pass adds up rows.

Letters: V tokens in the vocabulary, P positions, B texts in the batch, T tokens in each, C
channels. wte (V, C) has a row for each token, wpe (P, C) has a row for each position. Forward:

    out[b, t] = wte[ids[b, t]] + wpe[t]                   (B, T) -> (B, T, C)

A lookup is a product with one-hot rows: wte[ids] = onehot @ wte, with onehot (B*T, V). So lesson 3
gives its gradient:

    dwte = onehot.T @ g        row v is the sum of g over all places where v was looked up
    dwpe = g.sum(axis=0)       every text of the batch uses position t once (lesson 1)

You need not build the one-hot rows: start with zeros, and add each g[b, t] to the row ids[b, t].
The ids have no gradient, because an integer cannot change a little.
"""

import numpy as np

from autograd import Tensor
from npgpt2 import functional as F

rng = np.random.default_rng(0)
V, P, C = 6, 4, 3
ids = np.array([[2, 0, 2, 5], [2, 2, 5, 1]])  # token 2 four times, tokens 3 and 4 never
B, T = ids.shape
wte = Tensor(rng.standard_normal((V, C)), requires_grad=True)
wpe = Tensor(rng.standard_normal((P, C)), requires_grad=True)
g = rng.standard_normal((B, T, C))

(F.embedding(wte, ids) + F.embedding(wpe, np.arange(T))).backward(g)

loop = np.zeros((V, C))
for b in range(B):
    for t in range(T):
        loop[ids[b, t]] += g[b, t]
onehot = np.eye(V)[ids.reshape(-1)]  # (B*T, V)
product = onehot.T @ g.reshape(-1, C)
add_at = np.zeros((V, C))
np.add.at(add_at, ids, g)

print("dwte computed in three ways, and the largest difference from the engine:")
for name, dwte in (("loop", loop), ("onehot.T @ g", product), ("np.add.at", add_at)):
    assert np.abs(dwte - wte.grad).max() < 1e-14
    print(f"  {name:<13} {np.abs(dwte - wte.grad).max():.0e}")
assert np.abs(g.sum(axis=0) - wpe.grad).max() < 1e-14
print(f"dwpe = g.sum(axis=0)  {np.abs(g.sum(axis=0) - wpe.grad).max():.0e}")

print("\nThe trap: dwte[ids] += g. If an id repeats, NumPy adds each g to the old row,")
print("and keeps only the last result:")
trap = np.zeros((V, C))
trap[ids] += g
print("  token  uses   norm of dwte  with the trap")
for token in range(V):
    uses = (ids == token).sum()
    norms = np.linalg.norm(loop[token]), np.linalg.norm(trap[token])
    print(f"  {token:5d}  {uses:4d}  {norms[0]:13.3f}  {norms[1]:13.3f}")
    assert np.allclose(trap[token], loop[token]) == (uses < 2)
print("  The trap is right for tokens used at most once. So test with ids that repeat.")

total = np.abs(loop.sum(axis=0) - g.sum(axis=(0, 1))).max()
print(f"\nNothing is lost: the rows of dwte have the same sum as g, up to {total:.0e}")
assert total < 1e-14

print("\nNow you: npgpt2 practice embedding --start embedding.py")
