"""AdamW: one step of the optimizer. It uses a gradient, and derives none.

p is a parameter, and g is its gradient. m and v are the moments of g: two running averages that the
optimizer keeps from step to step. All four have one shape, and every formula holds entry by entry.
t is the number of this step, counted from 1. A step returns the new p, m and v.

1. m is a running average of g, and v is a running average of its square. Each step keeps the share
   beta of the old average, and adds the share 1 - beta of the new value:

       m = beta1 m + (1 - beta1) g
       v = beta2 v + (1 - beta2) g**2

2. Both averages begin at 0, so they are too small in the first steps. To see how much, take a g
   that is the same in every step. After t steps, m is

       (1 - beta1) (1 + beta1 + ... + beta1**(t-1)) g = (1 - beta1**t) g

   The average of equal values should be that value, g. So divide m by 1 - beta1**t. In the same
   way, divide v by 1 - beta2**t. This is the bias correction:

       m_hat = m / (1 - beta1**t)            v_hat = v / (1 - beta2**t)

   The next step needs m and v themselves. So return them, not m_hat and v_hat.

>>> beta, m = 0.9, 0.0
>>> for t in range(1, 4):
...     m = beta * m + (1 - beta) * 5.0
>>> round(m, 4), round(m / (1 - beta**3), 4)
(1.355, 5.0)

3. Weight decay shrinks p, if p is a matrix. Biases, gains and shifts are vectors, and do not decay.

       p = p - lr * weight_decay * p

   Weight decay is a step by itself. It is not added to g, so the root below does not divide it.
   The W of AdamW stands for this.

4. The step goes against m_hat. eps is added to the root, so that the divisor is never 0.

       p = p - lr * m_hat / (sqrt(v_hat) + eps)

At t = 1, m_hat = g and v_hat = g**2. So the size of the first step is lr, up to eps, for large and
for small g:

>>> import numpy as np
>>> settings = dict(t=1, lr=0.1, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0)
>>> zeros, g = np.zeros(2), np.array([3.0, -0.001])
>>> p, m, v = reference(zeros, g, zeros, zeros, *settings.values())
>>> p.round(4)
array([-0.1,  0.1])

Sources: Kingma & Ba, arXiv:1412.6980 (2014), algorithm 1; Loshchilov & Hutter, arXiv:1711.05101
(2017), algorithm 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from autograd import Array
from npgpt2.learn.judge.exercise import Answer, Arguments, Mistake, Sizes, read_mistakes
from npgpt2.module import Parameter
from npgpt2.optim import AdamW

STATEMENT = "One step of AdamW, with weight decay for matrices only (p.ndim >= 2)."
FUNCTION = "adamw_step"
ARGUMENTS = {
    "p": "(n,) or (n_out, n_in)",
    "g": "gradient of p, of the same shape",
    "m": "first moment, of the same shape",
    "v": "second moment, of the same shape",
    "t": "the number of this step, counted from 1",
    "lr": "a number",
    "beta1": "a number",
    "beta2": "a number",
    "eps": "a number",
    "weight_decay": "a number",
}
GRADIENTS = {name: f"the new {name}, of the same shape" for name in ("p", "m", "v")}
LETTERS = ()
HINTS = (
    "Update the moments first. Then correct their bias. Then apply weight decay. The step comes "
    "last.",
    "m_hat = m / (1 - beta1**t), and v_hat is the same with v and beta2. Return m and v, not m_hat "
    "and v_hat. How much does weight decay take away from p, and when?",
    "decay = weight_decay if p.ndim >= 2 else 0.0; "
    "p = p - lr * decay * p - lr * m_hat / (np.sqrt(v_hat) + eps).",
)


def forward(g: Array, m: Array, v: Array, beta1: float, beta2: float) -> Any:
    """Return the new m and v: the first part of a step. The rest is your task."""
    m = beta1 * m + (1.0 - beta1) * g
    v = beta2 * v + (1.0 - beta2) * g**2
    return m, v


def reference(p: Array, g: Array, *others: Any) -> tuple[Array, ...]:
    """Return p, m, v."""
    m, v, t, lr, beta1, beta2, eps, weight_decay = others
    parameter = Parameter(p.copy())
    parameter.grad = g
    optimizer = AdamW([parameter], lr, (beta1, beta2), eps, weight_decay)
    optimizer.load_state_dict({"step_count": t - 1, "m": [m], "v": [v]})
    optimizer.step()
    return parameter.data, optimizer.m[0], optimizer.v[0]


def solution(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    t: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> Any:
    """Return p, m, v."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    decay = weight_decay * (p.ndim >= 2)
    p = p - lr * decay * p
    p = p - lr * m_hat / (np.sqrt(v_hat) + eps)
    return p, m, v


def draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    """Return the arguments of a step, for a matrix or for a vector. Vectors do not decay."""
    shape = (n.n_out,) if n.B % 2 else (n.n_out, n.n_in)
    p, g, m, root = rng.standard_normal((4, *shape))
    betas = rng.uniform(0.5, 0.8), rng.uniform(0.85, 0.95)
    return p, g, m, root**2, n.T, float(rng.uniform(0.1, 0.5)), *map(float, betas), 0.05, 0.3


def terms(*arguments: Any) -> Mapping[str, Mapping[str, Array]]:
    """Return the two terms of each moment."""
    _, g, m, v, _, _, beta1, beta2, *_ = arguments
    return {
        "m": {"beta1 * m": beta1 * m, "(1 - beta1) * g": (1.0 - beta1) * g},
        "v": {"beta2 * v": beta2 * v, "(1 - beta2) * g**2": (1.0 - beta2) * g * g},
    }


def factors(*arguments: Any) -> Mapping[str, float]:
    """Return the numbers that a step multiplies by."""
    lr, beta1, beta2 = arguments[5:8]
    return {
        "lr": lr,
        "beta1": beta1,
        "beta2": beta2,
        "(1-beta1)": 1.0 - beta1,
        "(1-beta2)": 1.0 - beta2,
    }


def end_to_end(answer: Answer) -> str:
    """Take some steps with the answer and with npgpt2.optim.AdamW, and compare p."""
    rng = np.random.default_rng(0)
    settings = (0.1, 0.9, 0.99, 1e-8, 0.1)
    steps = 10
    for shape in ((3, 4), (4,)):
        target, start = rng.standard_normal((2, *shape))
        parameter = Parameter(start.copy())
        optimizer = AdamW([parameter], settings[0], settings[1:3], *settings[3:])
        p, m, v = start, np.zeros(shape), np.zeros(shape)
        for t in range(1, steps + 1):
            parameter.grad = parameter.data - target
            optimizer.step()
            p, m, v = answer(p, p - target, m, v, t, *settings)
            if not np.allclose(p, parameter.data, rtol=1e-9, atol=1e-12):
                raise AssertionError(
                    f"after step {t} with shape {shape}, p differs from the p of npgpt2.optim.AdamW"
                )
    return (
        f"Over {steps} steps from zero moments, with a matrix and with a vector, your p equals the "
        "p of npgpt2.optim.AdamW."
    )


_OF_MATRICES = read_mistakes(
    """
no-bias-correction
+ m_hat = m; v_hat = v
The bias correction is missing. m and v begin at 0, so divide each by its 1 - beta**t.

no-bias-correction-of-m
+ m_hat = m
The bias correction of m is missing: m_hat = m / (1 - beta1**t).

no-bias-correction-of-v
+ v_hat = v
The bias correction of v is missing: v_hat = v / (1 - beta2**t).

bias-corrections-exchanged
+ m_hat = m / (1 - beta2**t); v_hat = v / (1 - beta1**t)
The bias corrections are exchanged. m needs beta1 and v needs beta2.

bias-correction-multiplied
+ m_hat = m * (1 - beta1**t); v_hat = v * (1 - beta2**t)
The moments are multiplied by 1 - beta**t. Divide them by it.

bias-correction-without-t
+ m_hat = m / (1 - beta1); v_hat = v / (1 - beta2)
The bias correction has 1 - beta without the power t. Divide by 1 - beta**t.

step-counted-from-0
+ m_hat = m / (1 - beta1 ** (t - 1)); v_hat = v / (1 - beta2 ** (t - 1))
The bias correction has t - 1 in place of t. t is already counted from 1.

step-counted-twice
+ m_hat = m / (1 - beta1 ** (t + 1)); v_hat = v / (1 - beta2 ** (t + 1))
The bias correction has t + 1 in place of t. t is the number of this step, counted from 1.

betas-swapped
+ beta1, beta2 = beta2, beta1; m = beta1 * m + (1 - beta1) * g
beta1 and beta2 are exchanged. m needs beta1 and v needs beta2.

beta-for-one-minus-beta
+ m = (1 - beta1) * m + beta1 * g; v = (1 - beta2) * v + beta2 * g**2
beta and 1 - beta are exchanged. The old moment is multiplied by beta, the new value by 1 - beta.

eps-under-the-root
+ p = p - lr * decay * p - lr * m_hat / np.sqrt(v_hat + eps)
eps is under the root. Add it to the root: sqrt(v_hat) + eps.

eps-forgotten
+ p = p - lr * decay * p - lr * m_hat / np.sqrt(v_hat)
eps is missing. The divisor is sqrt(v_hat) + eps.

eps-before-correction
+ p = p - lr * decay * p - lr * m_hat * np.sqrt(1 - beta2**t) / (np.sqrt(v) + eps)
eps is added to sqrt(v), before the bias correction. Add it to sqrt(v_hat).

root-forgotten
+ p = p - lr * decay * p - lr * m_hat / (v_hat + eps)
The root is missing. Divide m_hat by sqrt(v_hat) + eps.

multiplied-by-root
+ p = p - lr * decay * p - lr * m_hat * (np.sqrt(v_hat) + eps)
m_hat is multiplied by sqrt(v_hat) + eps. Divide m_hat by it.

not-divided
+ p = p - lr * decay * p - lr * m_hat
m_hat is not divided by sqrt(v_hat) + eps.

g-for-m
+ m_hat = g
The step uses g in place of m_hat.

old-moments-used
+ old_m, old_v = m, v
+ m = beta1 * m + (1 - beta1) * g
+ m_hat = old_m / (1 - beta1**t)
+ v_hat = old_v / (1 - beta2**t)
The step uses the moments from before this step. Update them first.

m-of-sum
+ m = beta1 * m + g
In m the factor 1 - beta1 is missing: m = beta1 * m + (1 - beta1) * g.

v-of-sum
+ v = beta2 * v + g**2
In v the factor 1 - beta2 is missing: v = beta2 * v + (1 - beta2) * g**2.

moments-of-sums
+ m = beta1 * m + g; v = beta2 * v + g**2
In both moments the factor 1 - beta is missing.

v-of-g
+ v = beta2 * v + (1 - beta2) * g
v is an average of g. It should be an average of g**2.

v-of-abs-g
+ v = beta2 * v + (1 - beta2) * np.abs(g)
v is an average of |g|. It should be an average of g**2.

v-of-m
+ v = beta2 * v + (1 - beta2) * m**2
v is an average of m**2. It should be an average of g**2.

v-with-beta1
+ v = beta1 * v + (1 - beta1) * g**2
v is averaged with beta1. It should be averaged with beta2.

wrong-sign
+ p = p - lr * decay * p + lr * m_hat / (np.sqrt(v_hat) + eps)
The step has the wrong sign. It should go down, against m_hat.

lr-forgotten
+ p = p - lr * decay * p - m_hat / (np.sqrt(v_hat) + eps)
The step is not multiplied by lr.

decay-coupled
+ g = g + weight_decay * p * (p.ndim >= 2)
+ m = beta1 * m + (1 - beta1) * g
+ p = p - lr * m_hat / (np.sqrt(v_hat) + eps)
Weight decay is added to g, as in Adam with an L2 penalty. In AdamW it does not go through the
moments.

decay-without-lr
+ p = p - decay * p - lr * m_hat / (np.sqrt(v_hat) + eps)
Weight decay is not multiplied by lr. Subtract lr * weight_decay * p.

decay-after-the-step
+ p = p - lr * m_hat / (np.sqrt(v_hat) + eps); p = p - lr * decay * p
Weight decay is computed from p after the step. Compute it from p before the step.

decay-sign
+ p = p + lr * decay * p - lr * m_hat / (np.sqrt(v_hat) + eps)
Weight decay has the wrong sign: it makes p larger.

update-returned
+ p = -lr * decay * p - lr * m_hat / (np.sqrt(v_hat) + eps)
The change of p is returned. Return p itself, after the step.
"""
)

MISTAKES = (
    *_OF_MATRICES,
    *(  # the same with decay of vectors; decay-coupled has the condition in another line
        Mistake(
            f"{mistake.name}-and-decay-of-vectors",
            mistake.wrong.replace(" * (p.ndim >= 2)", "") + "; decay = weight_decay",
            f"{mistake.lesson} In addition, vectors decay. Only matrices should (p.ndim >= 2).",
        )
        for mistake in _OF_MATRICES
    ),
    *read_mistakes(
        """
corrected-moments-returned
+ return p, m_hat, v_hat
m and v are returned after their bias correction. The next step needs them without it.

decay-forgotten
+ p = p - lr * m_hat / (np.sqrt(v_hat) + eps)
Weight decay is missing.

decay-of-vectors
+ decay = weight_decay
Vectors decay too. Only matrices should (p.ndim >= 2), not biases, gains and shifts.

decay-of-vectors-only
+ decay = weight_decay * (p.ndim < 2)
Vectors decay and matrices do not. It should be the other way round.

old-moments-returned
+ old_m, old_v = m, v; m = beta1 * m + (1 - beta1) * g; return p, old_m, old_v
The moments are returned as they were before the step. Return the new ones.
"""
    ),
)
