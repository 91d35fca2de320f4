"""Cross entropy: loss = mean over the N = B*T positions of -log softmax(logits)[target].

logits is (B, T, V). targets is (B, T), integers in [0, V). loss and g are scalars. Take one
position, with logits z and target y. Its probabilities are p_i = exp(z_i) / sum_j exp(z_j), the
softmax of z, and its loss has two terms:

    -log p_y = log(sum_j exp(z_j)) - z_y

1. The derivative of log(u) is 1/u, and the derivative of the sum with respect to z_i is exp(z_i).
   So the gradient of the first term is the softmax:

       d/dz_i log(sum_j exp(z_j)) = exp(z_i) / sum_j exp(z_j) = p_i

2. z_y is an entry of z: dz_y/dz_i is 1 for i = y and 0 for every other i. These V numbers are
   called onehot(y). So the gradient of the loss of one position is

       p - onehot(y)

   It sums to 0 over V, because p and onehot(y) both sum to 1. Adding the same number to all logits
   of a position does not change the loss.

>>> import numpy as np
>>> from npgpt2.learn.judge.exercise import slope
>>> z = np.log([[[1.0, 2.0, 5.0]]])  # p = 1/8, 2/8, 5/8
>>> reference(np.array(1.0), z, np.array([[2]]))[0]
array([[[ 0.125,  0.25 , -0.375]]])

3. The loss is the mean over N positions. The logits of a position are in only one term of this
   mean. The chain rule multiplies by g:

       dlogits = g * (p - onehot) / N

   Without 1/N this would be the gradient of the sum. g is not 1 if the loss is scaled, for example
   if it is divided by the number of micro-batches.

>>> rng = np.random.default_rng(0)
>>> z, y, g = rng.standard_normal((2, 3, 4)), rng.integers(0, 4, (2, 3)), np.array(0.5)
>>> p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
>>> dlogits = g * (p - np.eye(4)[y]) / 6
>>> np.allclose(dlogits, slope(lambda z: forward(z, y), z, g))
True
>>> np.abs(dlogits.sum(axis=-1)).max() < 1e-15
np.True_
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from autograd import Array, Tensor, record
from npgpt2 import functional as F
from npgpt2.learn.judge.exercise import Answer, Arguments, Sizes, read_mistakes, vjp
from npgpt2.learn.judge.in_model import in_gpt2

STATEMENT = "The gradient of the mean cross entropy with respect to the logits."
ARGUMENTS = {"g": "()", "logits": "(B, T, V)", "targets": "(B, T), integers in [0, V)"}
GRADIENTS = {"dlogits": "(B, T, V)"}
HINTS = (
    "Write the loss of one position as log(sum_j exp(z_j)) - z_y. What is the gradient of each of "
    "the two terms?",
    "The gradient of the first term is p = softmax(z). The gradient of the second is -1 at the "
    "target. How many positions does the mean have, and where does g stand?",
    "p = exp(logits - max) / sum; p[b, t, targets[b, t]] -= 1 for every b and t; "
    "dlogits = g * p / (B * T).",
)


def forward(logits: Array, targets: Array) -> Any:
    """(B, T, V), (B, T) -> ()."""
    z = logits - logits.real.max(axis=-1, keepdims=True)  # so that exp cannot overflow
    log_total = np.log(np.exp(z).sum(axis=-1))  # (B, T, V) -> (B, T)
    of_target = np.take_along_axis(z, targets[..., None], axis=-1)[..., 0]  # (B, T)
    return np.mean(log_total - of_target)


def reference(g: Array, logits: Array, targets: Array) -> tuple[Array, ...]:
    """Return (dlogits,)."""
    return vjp(lambda logits: F.cross_entropy(logits, targets), g, logits)


def solution(g: Array, logits: Array, targets: Array) -> Any:
    """Return dlogits."""
    B, T, V = logits.shape
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    onehot = np.eye(V)[targets]
    return g * (p - onehot) / (B * T)


def terms(g: Array, logits: Array, targets: Array) -> Mapping[str, Mapping[str, Array]]:
    """Return the gradients of the two terms of the loss."""
    p, onehot = F.softmax(logits).data, np.eye(logits.shape[-1])[targets]
    return {
        "dlogits": {
            "g * p / N": g * p / targets.size,
            "-g * onehot / N": -g * onehot / targets.size,
        }
    }


def draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    """Return a g that is not 1, logits and targets."""
    logits = rng.standard_normal((n.B, n.T, n.V))
    return np.array(rng.uniform(0.3, 0.8)), logits, rng.integers(0, n.V, (n.B, n.T))


def end_to_end(answer: Answer) -> str:
    """Check a GPT-2 whose loss has the answer as its backward pass."""

    def cross_entropy(logits: Tensor, targets: Array) -> Tensor:
        value = np.asarray(forward(logits.data, targets))
        return record(value, (logits,), lambda g: answer(g, logits.data, targets))

    return in_gpt2(cross_entropy=cross_entropy)


MISTAKES = read_mistakes(
    """
not-averaged
+ return g * (p - onehot)
1/N is missing. The loss is a mean over N = B*T positions, and this is the gradient of the sum.

averaged-over-batch-only
+ return g * (p - onehot) / B
dlogits is divided by B. The mean is over B*T positions.

averaged-over-time-only
+ return g * (p - onehot) / T
dlogits is divided by T. The mean is over B*T positions.

averaged-over-vocabulary
+ return g * (p - onehot) / (B * T * V)
dlogits is divided by B*T*V, the number of logits. The mean is over B*T positions.

onehot-forgotten
+ return g * p / (B * T)
The onehot of the target is missing. The loss contains -z_y, and the gradient of -z_y is -1 at the
target.

wrong-sign
+ return g * (onehot - p) / (B * T)
The sign is wrong: dlogits is onehot - p here. It should be p - onehot: if you subtract it from the
logits, the loss goes down.

softmax-over-time
+ e = np.exp(logits); p = e / e.sum(axis=1, keepdims=True)
The softmax is taken over T. Take it over the vocabulary, the last axis.

softmax-over-all
+ e = np.exp(logits); p = e / e.sum()
exp(logits) is divided by its sum over everything. Take a separate sum for each position.

not-normalised
+ p = np.exp(logits)
exp(logits) is not divided by its sum.

logits-for-p
+ p = logits
The logits stand where the probabilities p should stand.

log-p-for-p
+ p = np.log(e / e.sum(axis=-1, keepdims=True))
log p stands where p should stand.

one-from-all
+ return g * (p - 1) / (B * T)
1 is subtracted from all entries. Subtract it from the entry of the target alone.

targets-of-every-row
+ p[:, :, targets] -= 1; return g * p / (B * T)
At each position, 1 is subtracted at the targets of all positions: an index such as p[:, targets]
means the columns of all targets in every row. Each row has one target. For p of shape (N, V) and
targets of shape (N,), write p[np.arange(N), targets] -= 1.

of-target-only
+ return g * onehot * (p - 1) / (B * T)
Only the logit of the target has a gradient. The other logits are in the sum of the softmax, so they
have a gradient too.

not-of-target
+ return g * p * (1 - onehot) / (B * T)
The entry of the target is 0. It should be p - 1.

of-the-probabilities
+ return -g * onehot / p / (B * T)
-onehot / p is the gradient with respect to the probabilities. It still has to go backwards through
the softmax.

twice-through-softmax
+ d = p - onehot; return g * p * (d - (d * p).sum(axis=-1, keepdims=True)) / (B * T)
p - onehot is already the gradient with respect to the logits. Here it goes through the softmax
again.

log-base-2
+ return g * (p - onehot) / (B * T) / np.log(2)
This is the gradient of a loss in bits. The loss is in nats: it has the natural logarithm.

target-shifted
+ onehot = np.eye(V)[np.roll(targets, 1, axis=1)]
The onehot stands one position too late. targets already holds the next token of each position, so
do not shift it.
"""
)
