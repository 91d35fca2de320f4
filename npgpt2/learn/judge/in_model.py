"""The backward pass of a small GPT-2, with a learner's function in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from autograd import Array, Tensor, gradcheck
from autograd.backward import topological_order
from npgpt2 import functional, layers, model
from npgpt2.config import GPT2Config
from npgpt2.layers import Dropout
from npgpt2.model import GPT2Model

_CONFIG = GPT2Config(
    vocab_size=7, n_positions=4, n_embd=6, n_layer=1, n_head=2, embd_pdrop=0.25, resid_pdrop=0.25,
    attn_pdrop=0.0,
)  # fmt: skip


@contextmanager
def replaced(owner: ModuleType | type, name: str, value: Any) -> Iterator[None]:
    """Inside this block, owner.name is another value. Not thread-safe."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def ops_replaced(**ops: Any) -> Iterator[Any]:
    """Inside this block, layers and models call other ops; yield `functional` with these ops.

    `npgpt2.functional` itself does not change, because an answer may use it.
    """
    other = SimpleNamespace(**{**vars(functional), **ops})
    with ExitStack() as stack:
        for module in (layers, model):
            names = [name for name, value in vars(module).items() if value is functional]
            assert names, f"{module.__name__} does not import functional as a module"
            for name in names:
                stack.enter_context(replaced(module, name, other))
        yield other


def in_gpt2(**ops: Any) -> str:
    """Replace ops of a small GPT-2, compare its gradients with difference quotients, and say so.

    Raises
    ------
    GradientMismatch
        They disagree.
    """
    rng = np.random.default_rng(0)
    gpt2 = GPT2Model(_CONFIG, rng=rng, dtype=np.float64)
    for parameter in gpt2.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape)
    ids, targets = rng.integers(0, _CONFIG.vocab_size, (2, 2, 4))
    with ops_replaced(**ops) as other:

        def loss(*_: Tensor) -> Tensor:
            for module in gpt2.modules():
                if isinstance(module, Dropout):
                    module.rng = np.random.default_rng(1)  # the same masks every time
            out: Tensor = other.cross_entropy(gpt2(ids), targets)
            return out

        report = gradcheck(loss, dict(gpt2.named_parameters()), directions=1)
    return (
        "In a small GPT-2 with your function in its backward pass, the gradients of the loss with "
        f"respect to all {report.checked} parameters agree with difference quotients of the loss "
        f"(worst relative error {report.relative_error:.0e})."
    )


def part(f: Callable[[Tensor], Tensor], x: Array) -> tuple[Tensor, Callable[[Array], Array]]:
    """Return f(x), and its vjp as a function of arrays.

    The vjp changes no gradient of the parameters in f. They get their gradients from the `backward`
    of the returned Tensor.
    """
    leaf = Tensor(x, requires_grad=True)
    out = f(leaf)

    def backward(g: Array) -> Array:
        nodes = topological_order(out)
        leaves = [node for node in nodes if isinstance(node, Tensor) and not node.parents]
        before = [node.grad for node in leaves]
        leaf.grad = None
        out.backward(g, retain_graph=True)
        dx = np.array(leaf.grad)
        for node, grad in zip(leaves, before, strict=True):
            node.grad = grad
        return dx

    return out, backward
