"""Lesson 10: dropout remembers its mask, AdamW remembers two running means.

Dropout. Each entry of the mask is 0 with probability p, and 1 otherwise. Forward draws it once:

    out = x * mask / (1 - p)           so dx = g * mask / (1 - p), with the same mask

(Srivastava et al., Dropout, JMLR 15 (2014), section 10, scale the kept entries in this way.)

AdamW computes no gradient. It uses the gradient g of a parameter p to change p, at the steps
t = 1, 2, ...:

    m = beta1 m + (1 - beta1) g        a running mean of g
    v = beta2 v + (1 - beta2) g**2     a running mean of g**2
    p = p - lr * decay * p             weight decay, for matrices only
    p = p - lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)

m and v start at 0, so at first they are too small, by the factors 1 - beta1**t and 1 - beta2**t.
The last line corrects them: it divides by these factors. The weight decay is decoupled: it changes
p directly, and does not enter m and v.

(Kingma & Ba, arXiv:1412.6980 (2014), algorithm 1 and section 3; Loshchilov & Hutter,
arXiv:1711.05101 (2017), algorithm 2.)
"""

import numpy as np

from autograd import Tensor
from npgpt2 import AdamW, Parameter
from npgpt2 import functional as F

rng = np.random.default_rng(0)
p, x, g = 0.25, rng.standard_normal((200, 50)), rng.standard_normal((200, 50))
leaf = Tensor(x, requires_grad=True)
out = F.dropout(leaf, p, np.random.default_rng(1))
(dx,) = out.vjp(g)
mask = np.random.default_rng(1).random(x.shape, dtype=np.float32) >= p  # the same seed and draw
assert np.array_equal(out.data == 0.0, ~mask) and np.abs(dx - g * mask / (1 - p)).max() < 1e-14
print(f"Dropout: {1 - mask.mean():.3f} of the entries are 0, and so are the same entries of dx.")
print("  If backward draws another mask, no shape, mean or norm shows the mistake:")
again = np.random.default_rng(2).random(x.shape, dtype=np.float32) >= p
anew = g * again / (1 - p)
norms = [np.linalg.norm(a) for a in (dx, anew, dx - anew)]
print("  norm of dx {:.1f}, with a new mask {:.1f}, of their difference {:.1f}".format(*norms))
assert abs(norms[1] / norms[0] - 1) < 0.02 and norms[2] > norms[0] / 2

print("\nAdamW by hand and from the library, for three steps of a matrix and a bias:")
lr, (beta1, beta2), eps, weight_decay = 0.1, (0.9, 0.95), 1e-8, 0.1
parameters = [Parameter(rng.standard_normal(shape)) for shape in ((3, 4), (3,))]
hand = [parameter.data.copy() for parameter in parameters]
start = [parameter.data.copy() for parameter in parameters]
m, v = ([np.zeros_like(a) for a in hand] for _ in "mv")
optimizer = AdamW(parameters, lr, (beta1, beta2), eps, weight_decay)
for t in (1, 2, 3):
    for i, parameter in enumerate(parameters):
        parameter.grad = grad = 10.0 ** (1 - t) * rng.standard_normal(parameter.shape)
        m[i] = beta1 * m[i] + (1 - beta1) * grad
        v[i] = beta2 * v[i] + (1 - beta2) * grad**2
        if parameter.ndim == 2:
            hand[i] = hand[i] - lr * weight_decay * hand[i]
        m_hat, v_hat = m[i] / (1 - beta1**t), v[i] / (1 - beta2**t)
        hand[i] = hand[i] - lr * m_hat / (np.sqrt(v_hat) + eps)
        if t == 1:
            first = hand[i] - start[i] * (1 - lr * weight_decay * (parameter.ndim == 2))
            assert np.allclose(first, -lr * np.sign(grad))
    optimizer.step()
    gap = max(np.abs(p.data - mine).max() for p, mine in zip(parameters, hand, strict=True))
    print(f"  step {t}: largest difference {gap:.0e}")
    assert gap < 1e-14
print("At step 1 the corrected m and sqrt(v) are g and |g|. So each entry changes by")
print("-lr * sign(g), apart from the decay. A constant factor on g cancels at every")
print("step, so a summed loss trains in the same way as an averaged loss.")

print("\nNow you: npgpt2 practice dropout --start dropout.py, then practice adamw")
