"""Fixed inputs for checks: ops with their operands, and a small model with a batch of tokens.

They need NumPy alone, because the museum must run without hypothesis. `autograd.testing` and
`npgpt2.testing` know the same ops, with operands that hypothesis draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
from numpy.testing import assert_allclose
from numpy.typing import DTypeLike

from autograd import (
    Array,
    Tensor,
    broadcast_to,
    clip,
    concatenate,
    einsum,
    exp,
    expand_dims,
    log,
    maximum,
    minimum,
    pad,
    reshape,
    split,
    sqrt,
    squeeze,
    stack,
    swapaxes,
    tanh,
    transpose,
    where,
)
from npgpt2 import GPT2Config, GPT2Model, Parameter
from npgpt2 import functional as F

# -- ops and their operands ------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A function of Tensors and its float64 inputs.

    `analytic` is False if the function has a kink at the inputs: a complex step fails there.
    """

    f: Callable[..., Tensor]
    inputs: tuple[Array, ...]
    analytic: bool = True

    def differentiate(self) -> tuple[Array, tuple[Array, ...], Array]:
        """Return the value, the gradients, and the random cotangent of the backward pass."""
        leaves = [Tensor(x, requires_grad=True) for x in self.inputs]
        out = self.f(*leaves)
        g = np.random.default_rng(1).standard_normal(out.shape)
        out.backward(g)
        return out.data, tuple(np.asarray(leaf.grad) for leaf in leaves), g


def primitive_cases() -> dict[str, Case]:
    """Return the ops of `autograd`, one op per case.

    Most cases have axes of different sizes. Some have equal sizes, because a wrong order of axes
    raises no error there.
    """
    rng = np.random.default_rng(0)
    normal = rng.standard_normal

    def positive(*shape: int) -> Array:
        return rng.uniform(0.5, 2.0, shape)

    a, b, square = normal((2, 3)), normal((2, 3)), normal((3, 3))
    row, column, cube = normal(3), normal((2, 1)), normal((2, 3, 4))
    same = normal((3, 3, 3))
    ties = np.array([[1.0, 3.0, 3.0], [2.0, 0.0, 2.0]])
    rows, mask = np.array([1, 0, 1, 1]), a > 0.0
    return {
        "a + b": Case(lambda x, y: x + y, (a, b)),
        "a + row": Case(lambda x, y: x + y, (a, row)),
        "a + column": Case(lambda x, y: x + y, (a, column)),
        "a - b": Case(lambda x, y: x - y, (a, b)),
        "1 - a": Case(lambda x: 1.0 - x, (a,)),
        "row - column": Case(lambda x, y: x - y, (row, column)),
        "a * b": Case(lambda x, y: x * y, (a, b)),
        "cube * row": Case(lambda x, y: x * y, (cube, normal(4))),
        "column * a": Case(lambda x, y: x * y, (column, a)),
        "a / b": Case(lambda x, y: x / y, (a, positive(2, 3))),
        "a / column": Case(lambda x, y: x / y, (a, positive(2, 1))),
        "1 / a": Case(lambda x: 1.0 / x, (positive(2, 3),)),
        "-a": Case(lambda x: -x, (a,)),
        "a**3": Case(lambda x: x**3, (a,)),
        "a**-0.5": Case(lambda x: x**-0.5, (positive(2, 3),)),
        "a @ b": Case(lambda x, y: x @ y, (a, normal((3, 4)))),
        "square @ square": Case(lambda x, y: x @ y, (square, normal((3, 3)))),
        "cube @ matrix": Case(lambda x, y: x @ y, (cube, normal((4, 2)))),
        "a @ vector": Case(lambda x, y: x @ y, (a, row)),
        "exp": Case(exp, (a,)),
        "log": Case(log, (positive(2, 3),)),
        "tanh": Case(tanh, (a,)),
        "a**b": Case(lambda x, y: x**y, (positive(2, 3), row)),
        "log1p": Case(lambda x: x.log1p(), (positive(2, 3),)),
        "sin": Case(lambda x: x.sin(), (a,)),
        "cos": Case(lambda x: x.cos(), (a,)),
        "sigmoid": Case(lambda x: x.sigmoid(), (a,)),
        "relu": Case(lambda x: x.relu(), (a,)),
        "abs": Case(abs, (a,)),
        "maximum": Case(maximum, (a, row)),
        "minimum": Case(minimum, (a, column)),
        "clip": Case(lambda x: clip(x, -0.5, 0.5), (a,)),
        "sqrt": Case(sqrt, (positive(2, 3),)),
        "where": Case(lambda x, y: where(mask, x, y), (a, row)),
        "sum": Case(lambda x: x.sum(), (a,)),
        "sum, axis 1": Case(lambda x: x.sum(axis=1), (a,)),
        "sum, axis 1 of a square": Case(lambda x: x.sum(axis=1), (square,)),
        "sum, two axes": Case(lambda x: x.sum(axis=(0, 2), keepdims=True), (cube,)),
        "mean, axis 0": Case(lambda x: x.mean(axis=0), (a,)),
        "max": Case(lambda x: x.max(axis=-1), (a,)),
        "max with ties": Case(lambda x: x.max(axis=-1), (ties,), analytic=False),
        "min": Case(lambda x: x.min(axis=0), (a,)),
        "var": Case(lambda x: x.var(axis=-1, ddof=1), (a,)),
        "std": Case(lambda x: x.std(axis=0), (a,)),
        "cumsum": Case(lambda x: x.cumsum(axis=1), (a,)),
        "einsum": Case(lambda x, y: einsum("ij,kj->ik", x, y), (a, square)),
        "einsum of a diagonal": Case(lambda x: einsum("ii->i", x), (square,)),
        "flatten": Case(lambda x: x.flatten(), (a,)),
        "squeeze": Case(squeeze, (column,)),
        "expand_dims": Case(lambda x: expand_dims(x, 1), (a,)),
        "broadcast_to": Case(lambda x: broadcast_to(x, (2, 3)), (column,)),
        "pad": Case(lambda x: pad(x, ((1, 0), (0, 2))), (a,)),
        "reshape": Case(lambda x: reshape(x, 4, 6), (cube,)),
        "transpose": Case(transpose, (cube,)),
        "transpose, a cycle": Case(lambda x: transpose(x, 1, 2, 0), (cube,)),
        "transpose, a cycle of a cube": Case(lambda x: transpose(x, 1, 2, 0), (same,)),
        "swapaxes": Case(lambda x: swapaxes(x, 0, 2), (cube,)),
        "swapaxes of a square": Case(lambda x: swapaxes(x, 0, 1), (square,)),
        "a slice": Case(lambda x: x[:, ::2], (a,)),
        "repeated rows": Case(lambda x: x[rows], (a,)),
        "repeated entries": Case(lambda x: x[rows, rows], (a,)),
        "a mask": Case(lambda x: x[mask], (a,)),
        "concatenate": Case(lambda x, y: concatenate([x, y], axis=1), (a, column)),
        "concatenate, equal sizes": Case(lambda x, y: concatenate([x, y]), (a, b)),
        "stack": Case(lambda x, y: stack([x, y], axis=1), (a, b)),
        "split": Case(lambda x: split(x, [1], axis=1)[1], (a,)),
        "x * x": Case(lambda x: x * x, (a,)),
        "x + x": Case(lambda x: x + x, (a,)),
    }


def graph_cases() -> dict[str, Case]:
    """Return small graphs in which several ops use the same value."""
    a, b = np.random.default_rng(0).standard_normal((2, 2, 3))
    return {
        "residual": Case(lambda x: x + tanh(x * x), (a,)),
        "residual, twice": Case(lambda x: _residual(_residual(x)), (a,)),
        "diamond": Case(lambda x: _diamond(tanh(x)), (a,)),
        "a sum used again": Case(lambda x, y: _used_again(tanh(x), exp(y)), (a, b)),
    }


def _residual(x: Tensor) -> Tensor:
    y = x + tanh(x)
    return y + exp(-y * y)


def _diamond(x: Tensor) -> Tensor:
    return x * exp(x * x)


def _used_again(x: Tensor, y: Tensor) -> Tensor:
    total = x + y
    return (total + x) * y + total


def fused_cases(ops: ModuleType = F) -> dict[str, Case]:
    """Return the ops of GPT-2 from one module: `functional`, or `composed` for their twins."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal
    x, logits, qkv = normal((2, 2, 4)), normal((2, 2, 5)), normal((1, 3, 12))
    ids = np.array([[3, 1], [3, 0]])
    some = np.array([[0, -100], [-100, 2]])

    def dropped(x: Tensor) -> Tensor:
        return ops.dropout(x, 0.4, np.random.default_rng(5))  # type: ignore[no-any-return]

    def dropped_attention(x: Tensor) -> Tensor:
        return ops.causal_attention(x, 2, 0.4, np.random.default_rng(5))  # type: ignore[no-any-return]

    return {
        "linear": Case(ops.linear, (x, normal((5, 4)), normal(5))),
        "linear, square": Case(ops.linear, (x, normal((4, 4)), normal(4))),
        "linear without bias": Case(ops.linear, (x, normal((5, 4)))),
        "embedding": Case(lambda w: ops.embedding(w, ids), (normal((5, 4)),)),
        "layer_norm": Case(ops.layer_norm, (3.0 * x, normal(4), normal(4))),
        "layer_norm, eps 0.5": Case(
            lambda *inputs: ops.layer_norm(*inputs, eps=0.5), (x, normal(4), normal(4))
        ),
        "gelu": Case(ops.gelu, (2.0 * x,)),
        "softmax": Case(ops.softmax, (logits,)),
        "softmax of large logits": Case(ops.softmax, (logits + [[[800.0]], [[-800.0]]],)),
        "dropout": Case(dropped, (x,)),
        "attention, 1 head": Case(lambda x: ops.causal_attention(x, 1), (qkv,)),
        "attention, 2 heads": Case(lambda x: ops.causal_attention(x, 2), (qkv,)),
        "attention with dropout": Case(dropped_attention, (qkv,)),
        "cross_entropy": Case(lambda z: ops.cross_entropy(z, ids), (logits,)),
        "cross_entropy of large logits": Case(
            lambda z: ops.cross_entropy(z, ids), (logits + [[[800.0]], [[-800.0]]],)
        ),
        "cross_entropy, some ignored": Case(lambda z: ops.cross_entropy(z, some), (logits,)),
        "linear_cross_entropy": Case(
            lambda x, w: ops.linear_cross_entropy(x, w, some), (x, normal((5, 4)))
        ),
    }


# -- a small model ---------------------------------------------------------------------------------

CONFIG = GPT2Config(
    vocab_size=11, n_positions=6, n_embd=8, n_layer=2, n_head=2, n_inner=5,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
)  # fmt: skip
SMALLER = replace(CONFIG, vocab_size=4, n_positions=3, n_embd=3, n_layer=1, n_head=1, n_inner=2)
IDS = np.array([[3, 10, 3, 0, 7], [1, 4, 4, 9, 2]])
TARGETS = np.array([[10, 3, 0, 7, 5], [4, 4, 9, 2, 1]])


def with_dropout(p: float, config: GPT2Config = CONFIG) -> GPT2Config:
    """Return the config with probability p for every dropout."""
    return replace(config, resid_pdrop=p, embd_pdrop=p, attn_pdrop=p)


def make_model(config: GPT2Config = CONFIG, dtype: DTypeLike = np.float64) -> GPT2Model:
    """Return a model in which all parameters are random, also biases (not 0) and gains (not 1)."""
    model, rng = GPT2Model(config, dtype=dtype), np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        around = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        parameter.data[...] = rng.normal(around, 0.4, parameter.shape)
    return model


def model_case() -> tuple[Callable[..., Tensor], dict[str, Parameter]]:
    """Return the loss of a tiny model, as a function, and the parameters of the model by name.

    Every call draws the same dropout masks. The function ignores its arguments: the model holds
    the parameters.
    """
    model = make_model(with_dropout(0.2, SMALLER))
    ids, targets = np.array([[3, 0, 3], [2, 1, 0]]), np.array([[0, 3, -100], [1, 0, 2]])
    start = model.rng.bit_generator.state

    def loss(*_: Tensor) -> Tensor:
        model.rng.bit_generator.state = start
        return F.cross_entropy(model(ids), targets)

    return loss, dict(model.named_parameters())


# -- how close two arrays must be ------------------------------------------------------------------


def assert_close(actual: Array, expected: Array) -> None:
    """Fail unless all entries agree to 9 digits, or to 1e-12 of the largest expected entry."""
    assert_allclose(actual, expected, 1e-9, 1e-12 * float(np.max(np.abs(expected), initial=0.0)))
