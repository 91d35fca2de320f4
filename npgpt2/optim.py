"""Optimizers, gradient clipping, and the learning-rate schedule of GPT training.

`AdamW._change` has the formula. The rest of the code for a step, here and in `machine/packs.py`,
only decides which parameters are changed together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from autograd import Array, Tensor
from npgpt2 import validate
from npgpt2.machine import process, work
from npgpt2.machine.packs import flattened, make_packs
from npgpt2.machine.work import BLOCK, blocks

# AdamW uses threads if the largest parameter has more entries than this. For a smaller one, handing
# tasks to threads (0.1 ms each) takes longer than the threads save. Measure it with
# `python -m tests.benchmarks.step char gpt2 --threads 2`: only gpt2 has such parameters.
_LARGE = 1 << 20

# Entries that AdamW changes at a time. With more, the five arrays of the formula do not stay in the
# cache; with fewer, there are more NumPy calls. This number was chosen for speed on 2 cores of an
# AMD EPYC (Zen 3). `python -m tests.benchmarks.step char gpt2` prints the time of the optimizer.
_STRETCH = 1 << 17


class Optimizer:
    """The common part of AdamW and SGD: the list of parameters, and the learning rate.

    Attributes
    ----------
    parameters
        The Parameters (or other leaf Tensors). Each is listed once, even if it was given twice.
    lr
        Learning rate of the next step. You may set it at any time. Like every setting of an
        optimizer, it is checked whenever you set it.
    """

    lr: float = validate.checked(validate.number)

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        self.parameters = _distinct(parameters)
        if not self.parameters:
            raise ValueError("an optimizer needs at least one parameter")
        addresses = [p.data.__array_interface__["data"][0] for p in self.parameters if p.size]
        if len(set(addresses)) < len(addresses):
            raise ValueError(
                "two parameters have the same array, so each step would change it twice; if they "
                "are tied, make them the same Parameter"
            )
        self.lr = lr

    def zero_grad(self) -> None:
        """Set the gradients of all parameters to None."""
        for parameter in self.parameters:
            parameter.grad = None


def _distinct(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Return each parameter once; TypeError if one is not a leaf that can get a gradient."""
    if not isinstance(parameters, Iterable):
        raise _not_parameters(parameters)
    distinct = list({id(p): p for p in parameters}.values())
    for p in distinct:
        if not (isinstance(p, Tensor) and p.requires_grad and p.parents == ()):
            raise _not_parameters(p)
    return distinct


def _not_parameters(given: Any) -> TypeError:
    return TypeError(
        "expected Parameters, e.g. model.parameters(), or a list of other leaf Tensors "
        f"with requires_grad=True, not {type(given).__name__}"
    )


def _betas(name: str, value: Any) -> tuple[float, float]:
    """Return value as two floats in [0, 1)."""
    try:
        beta1, beta2 = value
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be two numbers, beta1 and beta2, not {value!r}") from None
    return validate.fraction("beta1", beta1), validate.fraction("beta2", beta2)


class AdamW(Optimizer):
    """Adam with decoupled weight decay. Only matrices decay; biases, gains and shifts do not.

    g is the gradient at step t. The first step is t = 1, and all parameters share t:

        m = beta1 m + (1 - beta1) g             v = beta2 v + (1 - beta2) g**2
        p = p - lr * weight_decay * p           p = p - lr * (m / (1 - beta1**t))
                                                        / (sqrt(v / (1 - beta2**t)) + eps)

    If the gradient of a parameter is None, neither the parameter nor its moments change.

    Sources: Kingma & Ba, arXiv:1412.6980 (2014), algorithm 1; Loshchilov & Hutter,
    arXiv:1711.05101 (2017), algorithm 2.
    Derivation: `npgpt2 practice adamw --derivation` (npgpt2.learn.exercises).

    Parameters
    ----------
    parameters
        The parameters to change, such as `model.parameters()`.
    lr
        Learning rate.
    betas
        beta1 and beta2, the decay rates of the two moments, in [0, 1).
    eps
        Added to the root of the second moment.
    weight_decay
        A step shrinks a matrix by the factor 1 - lr * weight_decay.

    Attributes
    ----------
    step_count
        Number of steps done.
    m, v
        First and second moments: a list with one array per parameter. To change a moment, write
        into its array.

    Notes
    -----
    Small parameters are packed into one array and changed together, because for them the number of
    NumPy calls decides the time. Large parameters are changed block by block, and in several
    threads if there are several cores.
    """

    betas: tuple[float, float] = validate.checked(_betas)
    eps: float = validate.checked(validate.positive)
    weight_decay: float = validate.checked(validate.number)
    step_count: int = validate.checked(partial(validate.integer, minimum=0))

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, lr)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.step_count = 0
        self._packs = make_packs(self.parameters)

    @property
    def m(self) -> list[Array]:
        """First moments, one array per parameter."""
        return self._moments("m")

    @property
    def v(self) -> list[Array]:
        """Second moments, one array per parameter."""
        return self._moments("v")

    def _moments(self, name: str) -> list[Array]:
        views = {
            id(p): getattr(pack, name)[at].reshape(p.shape)
            for pack in self._packs
            for p, at in pack.members
        }
        return [views[id(p)] for p in self.parameters]

    @np.errstate(under="ignore")
    def step(self) -> None:
        """Change every parameter that has a gradient, in place.

        Raises
        ------
        ValueError
            A gradient has another shape than its parameter, or a parameter has changed its size. No
            parameter has been changed.
        """
        self._require_fitting_gradients()
        self.step_count += 1
        pieces = [piece for pack in self._packs for piece in pack.pieces()]
        large = self._packs[0].m.size > _LARGE
        changes = [partial(self._change, *piece) for piece in pieces]
        work.side_by_side(changes, process.thread_limit() if large else 1)

    def _require_fitting_gradients(self) -> None:
        for pack in self._packs:
            for p, at in pack.members:
                size = at.stop - at.start
                if p.grad is not None and (p.grad.shape != p.shape or p.size != size):
                    raise ValueError(
                        f"parameter of shape {p.shape}, of {size} entries when the optimizer was "
                        f"made, has a gradient of shape {p.grad.shape}"
                    )

    def _change(self, parameters: list[Tensor], m: Array, v: Array) -> None:
        """Do one step for these parameters, given their moments as flat arrays."""
        beta1, beta2 = self.betas
        # With r = sqrt(1 - beta2**t):  m/(1 - beta1**t) / (sqrt(v)/r + eps)
        #                            =  m * (r/(1 - beta1**t)) / (sqrt(v) + r eps)
        r = math.sqrt(1.0 - beta2**self.step_count)
        step_size = self.lr * r / (1.0 - beta1**self.step_count)
        decay = self.weight_decay if parameters[0].ndim >= 2 else 0.0
        with flattened(parameters) as (all_p, all_g):
            for n in blocks(m, _STRETCH):
                p, g = all_p[n], all_g[n]
                m[n] *= beta1
                update = (1.0 - beta1) * g
                m[n] += update
                np.multiply(g, g, out=update)
                update *= 1.0 - beta2
                v[n] *= beta2
                v[n] += update
                np.sqrt(v[n], out=update)
                update += r * self.eps
                np.divide(m[n], update, out=update)
                update *= step_size
                if decay:
                    p *= 1.0 - self.lr * decay
                p -= update

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that a resumed run needs: step count and moments."""
        return {
            "step_count": self.step_count,
            "m": [m.copy() for m in self.m],
            "v": [v.copy() for v in self.v],
        }

    @np.errstate(under="ignore")
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state that `state_dict` has returned for the same parameters.

        Raises
        ------
        TypeError, ValueError
            Something is missing, or the number or shapes of the moments do not match the
            parameters. The optimizer has not changed.
        """
        way_out = "pass a dict as state_dict() returns it"
        validate.instance("state", state, Mapping, way_out)  # type: ignore[type-abstract]
        missing = {"step_count", "m", "v"} - state.keys()
        if missing:
            raise ValueError(f"optimizer state has no {', '.join(sorted(missing))}")
        step_count = validate.integer("step_count", state["step_count"], minimum=0)
        shapes = [p.shape for p in self.parameters]
        for key in ("m", "v"):
            if not isinstance(state[key], list | tuple):
                validate.instance(f"optimizer state {key!r}", state[key], list, way_out)
            if any(_kind(moment) != "f" for moment in state[key]):
                raise ValueError(f"optimizer state {key!r} must be real floats")
            found = [np.shape(moment) for moment in state[key]]
            if found != shapes:
                raise ValueError(
                    f"optimizer state {key!r} has shapes {found}, but the parameters have {shapes}"
                )
        for key in ("m", "v"):
            for moment, array in zip(self._moments(key), state[key], strict=True):
                moment[...] = array
        self.step_count = step_count


def _kind(moment: Any) -> str:
    try:
        return np.asarray(moment).dtype.kind
    except ValueError:  # rows of different lengths
        return "O"


class SGD(Optimizer):
    """Gradient descent with momentum:  buffer = momentum * buffer + g,  p = p - lr * buffer.

    Parameters
    ----------
    parameters
        The parameters to change.
    lr
        Learning rate.
    momentum
        In [0, 1); with 0 this is plain gradient descent.
    """

    momentum: float = validate.checked(validate.fraction)

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.0) -> None:
        super().__init__(parameters, lr)
        self.momentum = momentum
        self.buffers = [np.zeros_like(p.data) for p in self.parameters]

    @np.errstate(under="ignore")
    def step(self) -> None:
        """Change every parameter that has a gradient, in place."""
        for parameter, buffer in zip(self.parameters, self.buffers, strict=True):
            if parameter.grad is not None:
                buffer *= self.momentum
                buffer += parameter.grad
                parameter.data -= self.lr * buffer


@np.errstate(under="ignore")
def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients by one factor, in place, so that their joint norm is at most max_norm.

    The factor is min(1, max_norm / (norm + 1e-6)), as in torch. Source: Pascanu, Mikolov &
    Bengio, arXiv:1211.5063 (2012), section 3.2.

    Returns
    -------
    float
        The joint norm before clipping.

    Raises
    ------
    ValueError
        There are no parameters; for example, a generator gives its parameters only once.
    FloatingPointError
        The norm is infinite or NaN; no gradient has been changed.
    """
    max_norm = validate.positive("max_norm", max_norm)
    distinct = _distinct(parameters)
    if not distinct:
        raise ValueError("clip_grad_norm needs at least one parameter, e.g. model.parameters()")
    gradients = [p.grad for p in distinct if p.grad is not None]
    norm = joint_norm(gradients)
    if not math.isfinite(norm):
        raise FloatingPointError(f"gradient norm is {norm}; lower the learning rate")
    factor = max_norm / (norm + 1e-6)
    if factor < 1.0:
        # Below 1e-38, float32 has fewer digits or none, so a factor that small becomes two.
        factors = [factor] if factor > 1e-30 else [1e-30, 1e30 * factor]
        for g in gradients:
            for part in factors:
                g *= part
    return norm


@np.errstate(over="ignore", under="ignore")
def joint_norm(arrays: Iterable[Array]) -> float:
    """Return the root of the sum of the squares of all entries.

    The result is right even if the squares themselves overflow or underflow.

    >>> joint_norm([np.array([3e300]), np.array([[4e300]])])
    5e+300
    """
    flat = [a.reshape(-1) for a in arrays]
    squares = sum(map(_sum_of_squares, flat))
    if 1e-30 < squares < math.inf:
        return math.sqrt(squares)
    # Too small even for float32, or too large: divide by the largest entry before squaring.
    peak = float(np.max([np.abs(a).max(initial=0.0) for a in flat], initial=0.0))
    finite = 0.0 < peak < math.inf
    return peak * joint_norm(a / peak for a in flat) if finite else peak


def _sum_of_squares(flat: Array) -> float:
    # Sum block by block, because one float32 sum over millions of squares loses digits.
    if flat.size > BLOCK:
        return sum(_sum_of_squares(flat[n]) for n in blocks(flat))
    return float(np.vdot(flat, flat))


def cosine_schedule(
    step: int, *, max_lr: float, min_lr: float, warmup_steps: int, total_steps: int
) -> float:
    """Return the learning rate of a step: linear warm-up to max_lr, then half a cosine to min_lr.

    Source: Loshchilov & Hutter, arXiv:1608.03983 (2016), equation 5, without restarts; with the
    warm-up of GPT (Radford et al. 2018, section 4.1).

    Parameters
    ----------
    step
        Number of the step, counted from 0.
    max_lr, min_lr
        Learning rate at the peak, and at the end.
    warmup_steps
        Steps until the peak. Step s of the warm-up has the rate max_lr * (s + 1) / warmup_steps.
    total_steps
        From this step on, the rate is min_lr.

    Examples
    --------
    >>> lr = [cosine_schedule(s, max_lr=1.0, min_lr=0.1, warmup_steps=2, total_steps=6)
    ...       for s in (0, 1, 2, 4, 6)]
    >>> [round(x, 2) for x in lr]
    [0.5, 1.0, 1.0, 0.55, 0.1]
    """
    step = validate.integer("step", step, minimum=0)
    max_lr = validate.number("max_lr", max_lr)
    min_lr = validate.number("min_lr", min_lr, maximum=max_lr)
    warmup_steps = validate.integer("warmup_steps", warmup_steps, minimum=0)
    total_steps = validate.integer("total_steps", total_steps, minimum=0)
    if warmup_steps > total_steps:
        raise ValueError(f"warmup_steps={warmup_steps} must be at most total_steps={total_steps}")
    if step < warmup_steps:
        return max_lr * ((step + 1) / warmup_steps)
    if step >= total_steps:
        return min_lr
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_lr + 0.5 * (max_lr - min_lr) * (1.0 + math.cos(math.pi * progress))
