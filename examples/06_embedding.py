"""Lesson 6: an embedding looks rows up; its gradient puts them back.

Letters: V vocabulary, P positions, B batch, T time, C channels. Forward:

    out[b, t] = wte[ids[b, t]] + wpe[t]                   (B, T) -> (B, T, C)

Looking up is a product with one-hot rows, out = onehot @ wte with onehot (B*T, V), so by lesson 3

    dwte = onehot.T @ g        row v is the sum of g over all the places where v was looked up
    dwpe = g.sum(axis=0)       position t was used once for every row of the batch (lesson 1)

Nobody makes the one-hot rows: to add each g[b, t] to its row of zeros is the same. Ids are not
numbers that could change a little, and have no gradient.
"""

import numpy as np

from autograd import Tensor
from npgpt2 import functional as F

rng = np.random.default_rng(0)
V, P, C = 6, 4, 3
ids = np.array([[2, 0, 2, 5], [2, 2, 5, 1]])  # 2 four times, 3 and 4 never
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

print("dwte in three ways, largest difference from the engine:")
for name, dwte in (("loop", loop), ("onehot.T @ g", product), ("np.add.at", add_at)):
    assert np.abs(dwte - wte.grad).max() < 1e-14
    print(f"  {name:<13} {np.abs(dwte - wte.grad).max():.0e}")
assert np.abs(g.sum(axis=0) - wpe.grad).max() < 1e-14
print(f"dwpe = g.sum(axis=0)  {np.abs(g.sum(axis=0) - wpe.grad).max():.0e}")

print("\nthe trap: dwte[ids] += g reads every row once, and writes it once; the last one wins")
trap = np.zeros((V, C))
trap[ids] += g
print("  token  uses   norm of dwte   of the trap")
for token in range(V):
    uses = (ids == token).sum()
    norms = np.linalg.norm(loop[token]), np.linalg.norm(trap[token])
    print(f"  {token:5d}  {uses:4d}  {norms[0]:13.3f}  {norms[1]:12.3f}")
    assert np.allclose(trap[token], loop[token]) == (uses < 2)
print("  Right for tokens used once: try ids that repeat, or the test cannot fail.")

total = np.abs(loop.sum(axis=0) - g.sum(axis=(0, 1))).max()
print(f"\nnothing is lost: the rows of dwte sum to all of g, to {total:.0e}")
assert total < 1e-14

print("\nNow you: npgpt2 practice embedding --start embedding.py")
