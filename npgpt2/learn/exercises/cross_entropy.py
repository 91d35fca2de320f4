"""Cross entropy: loss = mean over the N = B*T positions of -log softmax(logits)[target].

logits is (B, T, V), targets (B, T) integers in [0, V); loss and g are scalars. At one position,
with logits z and target y,

    -log softmax(z)[y] = log(sum_j exp(z_j)) - z_y

1. The logarithm of the sum has the softmax for its gradient:

       d/dz_i log(sum_j exp(z_j)) = exp(z_i) / sum_j exp(z_j) = p_i

2. z_y is an entry of z: d z_y/dz_i is 1 for i = y, else 0. So at one position

       p - onehot(y)

   which sums to 0 over V: adding a constant to all logits changes no loss.

>>> import numpy as np
>>> from npgpt2.learn.judge.exercise import slope
>>> z = np.log([[[1.0, 2.0, 5.0]]])  # p = 1/8, 2/8, 5/8
>>> answer(np.array(1.0), z, np.array([[2]]))[0]
array([[[ 0.125,  0.25 , -0.375]]])

3. The loss is the mean over N positions, and each position's logits are in one summand alone:

       dlogits = g * (p - onehot) / N

   Without 1/N it would be the gradient of the sum. A g other than 1 arrives when the loss is
   scaled, or divided by the number of micro-batches.

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
from npgpt2.learn.judge.exercise import (
    Answer,
    Arguments,
    Exercise,
    Mistake,
    Sizes,
    in_gpt2,
    vjp,
)


def forward(logits: Array, targets: Array) -> Any:
    """(B, T, V), (B, T) -> ()."""
    z = logits - logits.real.max(axis=-1, keepdims=True)  # so that exp cannot overflow
    log_total = np.log(np.exp(z).sum(axis=-1))  # (B, T, V) -> (B, T)
    of_target = np.take_along_axis(z, targets[..., None], axis=-1)[..., 0]  # (B, T)
    return np.mean(log_total - of_target)


def answer(g: Array, logits: Array, targets: Array) -> tuple[Array, ...]:
    """Return (dlogits,)."""
    return vjp(lambda logits: F.cross_entropy(logits, targets), g, logits)


def solution(g: Array, logits: Array, targets: Array) -> Any:
    """The answer by hand."""
    B, T, V = logits.shape
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    onehot = np.eye(V)[targets]
    return g * (p - onehot) / (B * T)


def _parts(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Return p and onehot, (B, T, V) both."""
    return F.softmax(logits).data, np.eye(logits.shape[-1])[targets]


def _terms(g: Array, logits: Array, targets: Array) -> Mapping[str, Mapping[str, Array]]:
    p, onehot = _parts(logits, targets)
    return {
        "dlogits": {
            "g * p / N": g * p / targets.size,
            "-g * onehot / N": -g * onehot / targets.size,
        }
    }


def _draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    logits = rng.standard_normal((n.B, n.T, n.V))
    return np.array(rng.uniform(0.3, 0.8)), logits, rng.integers(0, n.V, (n.B, n.T))


def _end_to_end(function: Answer) -> str:
    def cross_entropy(logits: Tensor, targets: Array) -> Tensor:
        value = np.asarray(forward(logits.data, targets))
        return record(value, (logits,), lambda g: function(g, logits.data, targets))

    return in_gpt2(cross_entropy=cross_entropy)


def _of(change: Any) -> Answer:
    """Make a wrong dlogits of g/N, p, onehot, logits and targets."""

    def wrong(g: Array, logits: Array, targets: Array) -> Mapping[str, Array]:
        return {"dlogits": change(g / targets.size, *_parts(logits, targets), logits, targets)}

    return wrong


def _every_row(g: Array, p: Array, onehot: Array, targets: Array) -> Array:
    p = p.reshape(-1, p.shape[-1]).copy()
    p[:, targets.reshape(-1)] -= 1.0
    return g * p.reshape(onehot.shape)


def _twice_through_softmax(g: Array, p: Array, onehot: Array) -> Array:
    d = p - onehot
    dlogits: Array = g * p * (d - (d * p).sum(axis=-1, keepdims=True))
    return dlogits


_MISTAKES = (
    Mistake(
        "not-averaged",
        "1/N is missing: the loss is a mean over N = B*T positions, this is the gradient of the "
        "sum.",
        _of(lambda g, p, onehot, z, y: g * y.size * (p - onehot)),
    ),
    Mistake(
        "averaged-over-batch-only",
        "Divided by B; the mean is over B*T positions.",
        _of(lambda g, p, onehot, z, y: g * y.shape[1] * (p - onehot)),
    ),
    Mistake(
        "averaged-over-time-only",
        "Divided by T; the mean is over B*T positions.",
        _of(lambda g, p, onehot, z, y: g * y.shape[0] * (p - onehot)),
    ),
    Mistake(
        "averaged-over-vocabulary",
        "Divided by B*T*V, the number of logits; the mean is over B*T positions.",
        _of(lambda g, p, onehot, z, y: g / z.shape[-1] * (p - onehot)),
    ),
    Mistake(
        "onehot-forgotten",
        "The onehot of the target is missing: z_y stands in the loss, and has the gradient -1.",
        _of(lambda g, p, onehot, z, y: g * p),
    ),
    Mistake(
        "wrong-sign",
        "The sign is wrong: it is p - onehot, which lowers the loss when it is subtracted.",
        _of(lambda g, p, onehot, z, y: g * (onehot - p)),
    ),
    Mistake(
        "softmax-over-time",
        "The softmax was taken over T; it is over the vocabulary, the last axis.",
        _of(lambda g, p, onehot, z, y: g * (np.exp(z) / np.exp(z).sum(1, keepdims=True) - onehot)),
    ),
    Mistake(
        "softmax-over-all",
        "exp is divided by its sum over everything; each position has a softmax of its own.",
        _of(lambda g, p, onehot, z, y: g * (np.exp(z) / np.exp(z).sum() - onehot)),
    ),
    Mistake(
        "not-normalised",
        "exp(logits) is not divided by its sum.",
        _of(lambda g, p, onehot, z, y: g * (np.exp(z) - onehot)),
    ),
    Mistake(
        "logits-for-p",
        "The logits stand where the probabilities should.",
        _of(lambda g, p, onehot, z, y: g * (z - onehot)),
    ),
    Mistake(
        "log-p-for-p",
        "log p stands where p should.",
        _of(lambda g, p, onehot, z, y: g * (np.log(p) - onehot)),
    ),
    Mistake(
        "one-from-all",
        "1 is subtracted from all entries; only that of the target has it.",
        _of(lambda g, p, onehot, z, y: g * (p - 1.0)),
    ),
    Mistake(
        "targets-of-every-row",
        "p[:, targets] -= 1 changes the columns of all targets in every row; each row has its own: "
        "p[np.arange(N), targets] -= 1.",
        _of(lambda g, p, onehot, z, y: _every_row(g, p, onehot, y)),
    ),
    Mistake(
        "of-target-only",
        "Only the target's logit has a gradient; the others are in the sum of the softmax.",
        _of(lambda g, p, onehot, z, y: g * onehot * (p - 1.0)),
    ),
    Mistake(
        "not-of-target",
        "At the target there is 0; there it is p - 1.",
        _of(lambda g, p, onehot, z, y: g * p * (1.0 - onehot)),
    ),
    Mistake(
        "of-the-probabilities",
        "-onehot / p is the gradient of the probabilities; it has yet to go through the softmax.",
        _of(lambda g, p, onehot, z, y: -g * onehot / p),
    ),
    Mistake(
        "twice-through-softmax",
        "p - onehot is the gradient of the logits already, and went through the softmax again.",
        _of(lambda g, p, onehot, z, y: _twice_through_softmax(g, p, onehot)),
    ),
    Mistake(
        "log-base-2",
        "This is the gradient of a loss in bits; it is in nats, with the natural logarithm.",
        _of(lambda g, p, onehot, z, y: g * (p - onehot) / np.log(2.0)),
    ),
    Mistake(
        "target-shifted",
        "The onehot stands one place too far: targets are already the next tokens.",
        _of(lambda g, p, onehot, z, y: g * (p - np.roll(onehot, 1, axis=1))),
    ),
)

EXERCISE = Exercise(
    name="cross_entropy",
    statement="The gradient of the mean cross entropy with respect to the logits.",
    forward=forward,
    function="cross_entropy_backward",
    arguments={"g": "()", "logits": "(B, T, V)", "targets": "(B, T), integers in [0, V)"},
    gradients={"dlogits": "(B, T, V)"},
    draw=_draw,
    reference=answer,
    solution=solution,
    mistakes=_MISTAKES,
    hints=(
        "Write the loss of one position as log(sum_j exp(z_j)) - z_y, and differentiate the two "
        "terms by themselves.",
        "The first gives p = softmax(z), the second -1 at the target. How many positions does the "
        "mean have, and where is g?",
        "p = exp(logits - max) / sum; p[b, t, targets[b, t]] -= 1 for every b and t; "
        "dlogits = g * p / (B * T).",
    ),
    end_to_end=_end_to_end,
    letters=("B", "T", "V"),
    terms=_terms,
)
