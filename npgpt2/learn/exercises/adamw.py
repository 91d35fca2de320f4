"""One step of AdamW: no gradient, but what is done with it.

p, its gradient g and the moments m and v have one shape; t is the number of this step, counted from
1.

1. Two running averages, of g and of its square:

       m = beta1 m + (1 - beta1) g
       v = beta2 v + (1 - beta2) g**2

2. Both begin at 0, and are too small in the first steps. With a g that is always the same, m after
   t steps is (1 - beta1) (1 + beta1 + ... + beta1**(t-1)) g = (1 - beta1**t) g. So divide by that:

       m_hat = m / (1 - beta1**t)            v_hat = v / (1 - beta2**t)

>>> beta, m = 0.9, 0.0
>>> for t in range(1, 4):
...     m = beta * m + (1 - beta) * 5.0
>>> round(m, 4), round(m / (1 - beta**3), 4)
(1.355, 5.0)

3. Weight decay shrinks matrices (not biases, gains and shifts), by itself: it is not in g, so that
   it is not divided by the root below. That is the W of AdamW.

       p = p - lr * weight_decay * p

4. The step: eps is added to the root, and keeps it from being 0.

       p = p - lr * m_hat / (sqrt(v_hat) + eps)

The first step is lr in size, whatever the size of g: m_hat = g and v_hat = g**2, up to eps.

>>> import numpy as np
>>> settings = dict(t=1, lr=0.1, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0)
>>> p, m, v = answer(np.zeros(2), np.array([3.0, -0.001]), np.zeros(2), np.zeros(2), **settings)
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
from npgpt2.learn.judge.exercise import (
    Answer,
    Arguments,
    Exercise,
    Mistake,
    Sizes,
)
from npgpt2.module import Parameter
from npgpt2.optim import AdamW


def forward(g: Array, m: Array, v: Array, beta1: float, beta2: float) -> Any:
    """Return the new moments, the beginning of a step; p is left to you."""
    m = beta1 * m + (1.0 - beta1) * g
    v = beta2 * v + (1.0 - beta2) * g**2
    return m, v


def answer(
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
) -> tuple[Array, ...]:
    """Return p, m, v."""
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
    """The answer by hand."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    decay = weight_decay * (p.ndim >= 2)
    p = p - lr * decay * p
    p = p - lr * m_hat / (np.sqrt(v_hat) + eps)
    return p, m, v


def _draw(rng: np.random.Generator, n: Sizes) -> Arguments:
    shape = (n.n_out,) if n.B % 2 else (n.n_out, n.n_in)  # vectors too: they do not decay
    p, g, m, root = rng.standard_normal((4, *shape))
    betas = rng.uniform(0.5, 0.8), rng.uniform(0.85, 0.95)
    return p, g, m, root**2, n.T, float(rng.uniform(0.1, 0.5)), *map(float, betas), 0.05, 0.3


def _end_to_end(function: Answer) -> str:
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
            p, m, v = function(p, p - target, m, v, t, *settings)
            if not np.allclose(p, parameter.data, rtol=1e-9, atol=1e-12):
                raise AssertionError(f"after step {t} of shape {shape}, p is not that of AdamW")
    return (
        f"Over {steps} steps from zero moments, of a matrix and of a vector, p stays that of "
        "npgpt2.optim.AdamW."
    )


def _step(
    *arguments: Any,
    moments: Any = lambda m, v, g, b1, b2: (b1 * m + (1.0 - b1) * g, b2 * v + (1.0 - b2) * g * g),
    corrected: Any = lambda m, v, c1, c2: (m / c1, v / c2),
    update: Any = lambda m, v, eps: m / (np.sqrt(v) + eps),
    step: Any = lambda p, lr, decay, u: p - lr * decay * p - lr * u,
    decays: Any = lambda p: p.ndim >= 2,
) -> dict[str, Array]:
    """Return p, m and v: of the right step, but for what is given in place of one of its lines."""
    p, g, m, v, t, lr, beta1, beta2, eps, weight_decay = arguments
    decay = weight_decay if decays(p) else 0.0
    m, v = moments(m, v, g, beta1, beta2)
    u = update(*corrected(m, v, 1.0 - beta1**t, 1.0 - beta2**t), eps)
    return {"p": step(p, lr, decay, u), "m": m, "v": v}


def _of(**changed: Any) -> Answer:
    return lambda *arguments: _step(*arguments, **changed)


def _with(change: Any) -> Answer:
    """Make a wrong step of other arguments: change is given the right ones by name."""

    def wrong(*arguments: Any) -> Mapping[str, Array]:
        named = dict(zip(EXERCISE.arguments, arguments, strict=True))
        return _step(*(named | change(**named)).values())

    return wrong


def _old_moments(*arguments: Any) -> Mapping[str, Array]:
    p, _, m, v, t, lr, beta1, beta2, eps, weight_decay = arguments
    same = _step(*arguments, moments=lambda m, v, *_: (m, v))
    return _step(*arguments) | {"p": same["p"]}


def _coupled(*arguments: Any) -> Mapping[str, Array]:
    p, g, *others, weight_decay = arguments
    return _step(p, g + weight_decay * p * (p.ndim >= 2), *others, 0.0)


def _of_vectors_too(mistake: Mistake) -> Mistake:
    """Return the mistake together with weight decay of vectors, as if they were matrices."""

    def wrong(*arguments: Any) -> Mapping[str, Array]:
        shape = arguments[0].shape
        as_matrices = (a.reshape(len(a), -1) for a in arguments[:4])
        made = mistake.answer(*as_matrices, *arguments[4:])
        return {n: a.reshape(shape) for n, a in made.items()}

    return Mistake(
        f"{mistake.name}-and-decay-of-vectors",
        f"{mistake.lesson} Besides, vectors decay too; only matrices do (p.ndim >= 2).",
        wrong,
    )


_OF_MATRICES = (
    Mistake(
        "no-bias-correction",
        "The bias correction is missing: m and v begin at 0, and are divided by 1 - beta**t.",
        _of(corrected=lambda m, v, c1, c2: (m, v)),
    ),
    Mistake(
        "no-bias-correction-of-m",
        "The bias correction of m is missing: m_hat = m / (1 - beta1**t).",
        _of(corrected=lambda m, v, c1, c2: (m, v / c2)),
    ),
    Mistake(
        "no-bias-correction-of-v",
        "The bias correction of v is missing: v_hat = v / (1 - beta2**t).",
        _of(corrected=lambda m, v, c1, c2: (m / c1, v)),
    ),
    Mistake(
        "bias-corrections-exchanged",
        "The bias corrections are exchanged: that of m has beta1, that of v beta2.",
        _of(corrected=lambda m, v, c1, c2: (m / c2, v / c1)),
    ),
    Mistake(
        "bias-correction-multiplied",
        "The moments are multiplied by 1 - beta**t; they are divided by it.",
        _of(corrected=lambda m, v, c1, c2: (m * c1, v * c2)),
    ),
    Mistake(
        "bias-correction-without-t",
        "The bias correction lacks its power: 1 - beta**t, not 1 - beta.",
        lambda *a: _step(*a[:4], 1, *a[5:]),
    ),
    Mistake(
        "step-counted-from-0",
        "The bias correction has t - 1: t is counted from 1 already.",
        _with(lambda t, **_: {"t": t - 1}),
    ),
    Mistake(
        "step-counted-twice",
        "The bias correction has t + 1: t is the number of this step, counted from 1.",
        _with(lambda t, **_: {"t": t + 1}),
    ),
    Mistake(
        "betas-swapped",
        "beta1 and beta2 are exchanged: beta1 is that of m, beta2 that of v.",
        _with(lambda beta1, beta2, **_: {"beta1": beta2, "beta2": beta1}),
    ),
    Mistake(
        "beta-for-one-minus-beta",
        "beta and 1 - beta are exchanged: the old moment is weighted by beta, g by 1 - beta.",
        _of(moments=lambda m, v, g, b1, b2: ((1.0 - b1) * m + b1 * g, (1.0 - b2) * v + b2 * g * g)),
    ),
    Mistake(
        "eps-under-the-root",
        "eps is under the root: sqrt(v_hat + eps); it is added to the root.",
        _of(update=lambda m, v, eps: m / np.sqrt(v + eps)),
    ),
    Mistake(
        "eps-forgotten",
        "eps is missing: sqrt(v_hat) + eps.",
        _of(update=lambda m, v, eps: m / np.sqrt(v)),
    ),
    Mistake(
        "eps-before-correction",
        "eps is added to sqrt(v) before the bias correction; it is added to sqrt(v_hat).",
        lambda p, g, m, v, t, lr, b1, b2, eps, decay: _step(
            p, g, m, v, t, lr, b1, b2, eps / float(np.sqrt(1.0 - b2**t)), decay
        ),
    ),
    Mistake(
        "root-forgotten",
        "The root is missing: m_hat is divided by sqrt(v_hat) + eps.",
        _of(update=lambda m, v, eps: m / (v + eps)),
    ),
    Mistake(
        "multiplied-by-root",
        "m_hat is multiplied by sqrt(v_hat) + eps; it is divided by it.",
        _of(update=lambda m, v, eps: m * (np.sqrt(v) + eps)),
    ),
    Mistake(
        "not-divided",
        "m_hat is not divided by sqrt(v_hat) + eps.",
        _of(update=lambda m, v, eps: m),
    ),
    Mistake(
        "g-for-m",
        "The step is made of g; it is made of m_hat.",
        lambda p, g, *a: (
            _step(p, g, *a)
            | {"p": _step(p, g, *a, corrected=lambda m, v, c1, c2: (g, v / c2))["p"]}
        ),
    ),
    Mistake(
        "old-moments-used",
        "The step is made of the moments before this step; they are updated first.",
        _old_moments,
    ),
    Mistake(
        "m-of-sum",
        "m lacks its factor 1 - beta1: m = beta1 * m + (1 - beta1) * g.",
        _of(moments=lambda m, v, g, b1, b2: (b1 * m + g, b2 * v + (1.0 - b2) * g * g)),
    ),
    Mistake(
        "v-of-sum",
        "v lacks its factor 1 - beta2: v = beta2 * v + (1 - beta2) * g**2.",
        _of(moments=lambda m, v, g, b1, b2: (b1 * m + (1.0 - b1) * g, b2 * v + g * g)),
    ),
    Mistake(
        "moments-of-sums",
        "m and v lack their factors 1 - beta.",
        _of(moments=lambda m, v, g, b1, b2: (b1 * m + g, b2 * v + g * g)),
    ),
    Mistake(
        "v-of-g",
        "v is an average of g; it is one of g**2.",
        _of(moments=lambda m, v, g, b1, b2: (b1 * m + (1.0 - b1) * g, b2 * v + (1.0 - b2) * g)),
    ),
    Mistake(
        "v-of-abs-g",
        "v is an average of |g|; it is one of g**2.",
        _of(
            moments=lambda m, v, g, b1, b2: (
                b1 * m + (1.0 - b1) * g,
                b2 * v + (1.0 - b2) * np.abs(g),
            )
        ),
    ),
    Mistake(
        "v-of-m",
        "v is an average of m**2; it is one of g**2.",
        _of(
            moments=lambda m, v, g, b1, b2: (
                b1 * m + (1.0 - b1) * g,
                b2 * v + (1.0 - b2) * (b1 * m + (1.0 - b1) * g) ** 2,
            )
        ),
    ),
    Mistake(
        "v-with-beta1",
        "v has beta1; it has beta2.",
        _of(
            moments=lambda m, v, g, b1, b2: (
                b1 * m + (1.0 - b1) * g,
                b1 * v + (1.0 - b1) * g * g,
            )
        ),
    ),
    Mistake(
        "wrong-sign",
        "The sign of the step is wrong: it goes against m_hat, down.",
        _of(step=lambda p, lr, decay, u: p - lr * decay * p + lr * u),
    ),
    Mistake(
        "lr-forgotten",
        "The step lacks lr.",
        _of(step=lambda p, lr, decay, u: p - lr * decay * p - u),
    ),
    Mistake(
        "decay-coupled",
        "The weight decay is added to g, as in Adam with L2; in AdamW it does not go through the "
        "moments.",
        _coupled,
    ),
    Mistake(
        "decay-without-lr",
        "The weight decay lacks lr: p is shrunk by lr * weight_decay.",
        _of(step=lambda p, lr, decay, u: p - decay * p - lr * u),
    ),
    Mistake(
        "decay-after-the-step",
        "The weight decay is that of p after the step; it is that of p before it.",
        _of(step=lambda p, lr, decay, u: (p - lr * u) * (1.0 - lr * decay)),
    ),
    Mistake(
        "decay-sign",
        "The weight decay has the wrong sign: it makes p larger.",
        _of(step=lambda p, lr, decay, u: p + lr * decay * p - lr * u),
    ),
    Mistake(
        "update-returned",
        "The change of p is returned; it is p itself, after the step.",
        _of(step=lambda p, lr, decay, u: -lr * decay * p - lr * u),
    ),
)

_MISTAKES = (
    *_OF_MATRICES,
    *(_of_vectors_too(mistake) for mistake in _OF_MATRICES),
    Mistake(
        "corrected-moments-returned",
        "m and v are returned after their bias correction; what is kept for the next step is "
        "before it.",
        lambda p, g, m, v, t, lr, b1, b2, *a: {
            "m": (b1 * m + (1.0 - b1) * g) / (1.0 - b1**t),
            "v": (b2 * v + (1.0 - b2) * g * g) / (1.0 - b2**t),
        },
    ),
    Mistake(
        "decay-forgotten",
        "The weight decay is missing.",
        _of(decays=lambda p: False),
    ),
    Mistake(
        "decay-of-vectors",
        "Vectors decay too: only matrices do (p.ndim >= 2), not biases, gains and shifts.",
        _of(decays=lambda p: True),
    ),
    Mistake(
        "decay-of-vectors-only",
        "Vectors decay, and matrices do not: it is the other way.",
        _of(decays=lambda p: p.ndim < 2),
    ),
    Mistake(
        "old-moments-returned",
        "The moments are returned as they were before the step.",
        lambda p, g, m, v, *_: {"m": m, "v": v},
    ),
)

EXERCISE = Exercise(
    name="adamw",
    statement="One step of AdamW, with weight decay of matrices only (p.ndim >= 2).",
    forward=forward,
    function="adamw_step",
    arguments={
        "p": "(n,) or (n_out, n_in)",
        "g": "its gradient",
        "m": "first moment",
        "v": "second moment, all of one shape",
        "t": "the number of this step, counted from 1",
        "lr": "a number",
        "beta1": "a number",
        "beta2": "a number",
        "eps": "a number",
        "weight_decay": "a number",
    },
    gradients={n: "the new one, of the same shape" for n in ("p", "m", "v")},
    draw=_draw,
    reference=answer,
    solution=solution,
    mistakes=_MISTAKES,
    hints=(
        "The moments first, then their bias correction, then weight decay, then the step.",
        "m_hat = m / (1 - beta1**t), v_hat likewise with beta2; return m and v, not these. What "
        "does weight decay take away from p, and when?",
        "decay = weight_decay if p.ndim >= 2 else 0.0; "
        "p = p - lr * decay * p - lr * m_hat / (np.sqrt(v_hat) + eps).",
    ),
    end_to_end=_end_to_end,
    letters=(),
    factors=lambda p, g, m, v, t, lr, beta1, beta2, eps, weight_decay: {
        "lr": lr,
        "beta1": beta1,
        "beta2": beta2,
        "(1-beta1)": 1.0 - beta1,
        "(1-beta2)": 1.0 - beta2,
    },
    terms=lambda p, g, m, v, t, lr, beta1, beta2, eps, weight_decay: {
        "m": {"beta1 * m": beta1 * m, "(1 - beta1) * g": (1.0 - beta1) * g},
        "v": {"beta2 * v": beta2 * v, "(1 - beta2) * g**2": (1.0 - beta2) * g * g},
    },
)
