"""What is done to see whether code is right, and which check sees which bug.

A detector is a function without arguments that exercises the library and raises where something
looks wrong. They stand in the order of what they cost to think of: shapes; the gradient of a sum;
"the loss goes down"; gradient checks with random cotangents, by differences and by complex steps;
equality with a second implementation; and statements that hold of any GPT-2. None of them knows
of a particular bug.

>>> from npgpt2.learn.bugs import BUGS
>>> few = [BUGS["softmax-unweighted-mean"], BUGS["gelu-cubic-coefficient"]]
>>> print(format_matrix(measure(few, DETECTORS)))
                         shapes
                         |  sum
                         |  |  loss goes down
                         |  |  |  random cotangent
                         |  |  |  |  complex step
                         |  |  |  |  |  twin
                         |  |  |  |  |  |  properties
softmax-unweighted-mean  .  .  .  x  x  x  .
gelu-cubic-coefficient   .  .  .  .  .  x  x
caught, of 2             0  0  0  1  1  2  1
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import Literal, TypeAlias, cast

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import DTypeLike

from autograd import (
    Array,
    GradientMismatch,
    Tensor,
    concatenate,
    exp,
    gradcheck,
    log,
    record,
    reshape,
    sqrt,
    swapaxes,
    tanh,
    transpose,
    where,
)
from npgpt2 import (
    SGD,
    AdamW,
    GPT2Config,
    GPT2Model,
    Parameter,
    TransformerBlock,
    clip_grad_norm,
    composed,
    cosine_schedule,
)
from npgpt2 import functional as F
from npgpt2.generation.generation import complete
from npgpt2.generation.sampling import Sampling
from npgpt2.learn.bugs import Bug
from npgpt2.parameter_table import count_parameters
from npgpt2.training import data

Detector: TypeAlias = Callable[[], None]

# -- what is checked: ops and their inputs, and a model --------------------------------------------


@dataclass(frozen=True)
class Case:
    """A function of Tensors, and float64 inputs; `analytic` unless it has a kink there."""

    f: Callable[..., Tensor]
    inputs: tuple[Array, ...]
    analytic: bool = True

    def run(self) -> tuple[Array, tuple[Array, ...], Array]:
        """Return value, gradients and the random cotangent they belong to."""
        leaves = [Tensor(x, requires_grad=True) for x in self.inputs]
        out = self.f(*leaves)
        g = np.random.default_rng(1).standard_normal(out.shape)
        out.backward(g)
        return out.data, tuple(np.asarray(leaf.grad) for leaf in leaves), g


def primitive_cases() -> dict[str, Case]:
    """Return the ops of `autograd`, each by itself: with different and equal sizes, broadcast."""
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
        "sqrt": Case(sqrt, (positive(2, 3),)),
        "where": Case(lambda x, y: where(mask, x, y), (a, row)),
        "sum": Case(lambda x: x.sum(), (a,)),
        "sum, axis 1": Case(lambda x: x.sum(axis=1), (a,)),
        "sum, axis 1 of a square": Case(lambda x: x.sum(axis=1), (square,)),
        "sum, two axes": Case(lambda x: x.sum(axis=(0, 2), keepdims=True), (cube,)),
        "mean, axis 0": Case(lambda x: x.mean(axis=0), (a,)),
        "max": Case(lambda x: x.max(axis=-1), (a,)),
        "max with ties": Case(lambda x: x.max(axis=-1), (ties,), analytic=False),
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
        "x * x": Case(lambda x: x * x, (a,)),
        "x + x": Case(lambda x: x + x, (a,)),
    }


def graph_cases() -> dict[str, Case]:
    """Return small graphs in which one value has several consumers, at several depths."""
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
    """Return the ops of GPT-2, those of `functional` or their twins of `composed`."""
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


CONFIG = GPT2Config(
    vocab_size=11, n_positions=6, n_embd=8, n_layer=2, n_head=2, n_inner=5,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
)  # fmt: skip
SMALLER = replace(CONFIG, vocab_size=4, n_positions=3, n_embd=3, n_layer=1, n_head=1, n_inner=2)
IDS = np.array([[3, 10, 3, 0, 7], [1, 4, 4, 9, 2]])
TARGETS = np.array([[10, 3, 0, 7, 5], [4, 4, 9, 2, 1]])


def with_dropout(p: float, config: GPT2Config = CONFIG) -> GPT2Config:
    """Return the config with the same dropout everywhere."""
    return replace(config, resid_pdrop=p, embd_pdrop=p, attn_pdrop=p)


def make_model(config: GPT2Config = CONFIG, dtype: DTypeLike = np.float64) -> GPT2Model:
    """Return a model with every parameter random: in a fresh one biases are 0 and gains 1."""
    model, rng = GPT2Model(config, dtype=dtype), np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        around = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        parameter.data[...] = rng.normal(around, 0.4, parameter.shape)
    return model


def model_case() -> tuple[Callable[..., Tensor], dict[str, Parameter]]:
    """Return the loss of a tiny model, with the same dropout every time, and its parameters."""
    model = make_model(with_dropout(0.2, SMALLER))
    ids, targets = np.array([[3, 0, 3], [2, 1, 0]]), np.array([[0, 3, -100], [1, 0, 2]])
    start = model.rng.bit_generator.state

    def loss(*_: Tensor) -> Tensor:
        model.rng.bit_generator.state = start
        return F.cross_entropy(model(ids), targets)

    return loss, dict(model.named_parameters())


# -- what many do ----------------------------------------------------------------------------------


def shapes() -> None:
    """Shapes and dtypes of logits, loss, gradients, changed weights and generated ids."""
    model = make_model(with_dropout(0.1), np.float32)
    for training in (True, False):
        model.train(training).zero_grad()
        logits = model(IDS)
        loss = F.cross_entropy(logits, TARGETS)
        loss.backward()
        _has_shape(logits.data, (*IDS.shape, CONFIG.vocab_size))
        _has_shape(loss.data, ())
        for parameter in model.parameters():
            assert parameter.grad is not None
            _has_shape(parameter.grad, parameter.shape)
    before = model.state_dict()
    clip_grad_norm(model.parameters(), 1.0)
    AdamW(model.parameters()).step()
    for name, parameter in model.named_parameters():
        _has_shape(parameter.data, before[name].shape)
    assert model.generate(IDS[:, :3], 3, top_k=2, rng=0).shape == (2, 6)


def _has_shape(array: Array, shape: tuple[int, ...]) -> None:
    assert array.shape == shape and array.dtype == np.float32


def gradient_of_sum() -> None:
    """Gradients of `f(x).sum()`, op by op, against differences: the cotangent is 1 everywhere."""
    for case in (primitive_cases() | fused_cases()).values():
        gradcheck(partial(_sum_of, case.f), case.inputs, cotangent=1.0, directions=1)


def _sum_of(f: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    return f(*inputs).sum()


def loss_goes_down() -> None:
    """Fifty steps on one batch, after which the loss shall have gone down by a fifth."""
    config = with_dropout(0.1, replace(CONFIG, n_layer=1))
    model = GPT2Model(config)
    tokens = np.random.default_rng(0).integers(config.vocab_size, size=40)
    inputs, targets = data.windows(tokens, np.array([0, 9, 21]), config.n_positions)
    optimizer = AdamW(model.parameters(), lr=0.02)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# -- numeric derivatives ---------------------------------------------------------------------------


def _check_gradients(mode: Literal["directional", "complex"]) -> None:
    for case in (primitive_cases() | graph_cases() | fused_cases()).values():
        if case.analytic or mode != "complex":
            gradcheck(case.f, case.inputs, mode=mode, directions=1)
    loss, parameters = model_case()
    gradcheck(loss, parameters, mode=mode, directions=1)


def random_cotangent() -> None:
    """Gradients against differences, with random cotangents: of all ops and of a whole model."""
    _check_gradients("directional")


def complex_step() -> None:
    """The same against complex steps, which are exact to rounding."""
    _check_gradients("complex")


# -- a second implementation -----------------------------------------------------------------------


def twin() -> None:
    """Every fused op against the same spelled in primitives: values and gradients."""
    for ours, theirs in zip(fused_cases().values(), fused_cases(composed).values(), strict=True):
        value, gradients, _ = ours.run()
        expected, expected_gradients, _ = theirs.run()
        _close(value, expected)
        for gradient, other in zip(gradients, expected_gradients, strict=True):
            _close(gradient, other)


def _close(actual: Array, expected: Array) -> None:
    """Same to 9 digits, or to 12 of the largest entry."""
    assert_allclose(actual, expected, 1e-9, 1e-12 * float(np.max(np.abs(expected), initial=0.0)))


# -- statements that hold of any GPT-2 -------------------------------------------------------------


def gradients_of_two_passes_add_up() -> None:
    """A leaf's .grad is the sum over backward passes, until it is forgotten."""
    x = Tensor([1.0, -2.0], requires_grad=True)
    for n in (1.0, 2.0):
        (x * x).backward([1.0, 1.0])
        assert_array_equal(x.grad, n * 2.0 * x.data)


def every_leaf_owns_its_gradient() -> None:
    """No two gradients share memory, nor does one with the cotangent: clipping works in place."""
    a, b = (Tensor(np.ones(3), requires_grad=True) for _ in range(2))
    g = np.ones(3)
    (a + b).backward(g)
    assert not any(np.shares_memory(x, y) for x, y in ((a.grad, b.grad), (a.grad, g)))


def backward_visits_every_node_once() -> None:
    """However many paths lead to a node, its vjp runs once, with the sum of what they bring."""
    visits = 0

    def identity(a: Tensor) -> Tensor:
        def vjp(g: Array) -> tuple[Array]:
            nonlocal visits
            visits += 1
            return (g,)

        return record(a.data, (a,), vjp)

    x = Tensor(1.0, requires_grad=True)
    y = x
    for _ in range(6):
        y = identity(y) + y
    y.backward()
    assert x.grad == 2.0**6 and visits == 6


def long_chains_run_backward() -> None:
    """The depth of a graph is not limited by the interpreter's stack."""
    x = Tensor(1.0, requires_grad=True)
    y = x
    for _ in range(1_200):
        y = y + 1.0
    y.backward()
    assert x.grad == 1.0


def gradient_checks_reject_a_gradient_that_is_slightly_off() -> None:
    """By one part in two thousand: a check that cannot fail shows nothing."""

    def square(a: Tensor) -> Tensor:
        x = a.data
        return record(x * x, (a,), lambda g: (g * 2.001 * x,))

    for mode in ("directional", "full", "complex"):
        try:
            gradcheck(square, [np.array([1.0, 2.0])], mode=mode)
        except GradientMismatch:
            continue
        raise AssertionError(f"the {mode} check accepts it")


def ops_change_nothing_they_were_given() -> None:
    """Neither inputs nor the cotangent, in the forward and the backward pass."""
    for case in (primitive_cases() | graph_cases() | fused_cases()).values():
        before = [x.copy() for x in case.inputs]
        _, _, g = case.run()
        for x, y in zip(case.inputs, before, strict=True):
            assert_array_equal(x, y)
        assert_array_equal(g, np.random.default_rng(1).standard_normal(g.shape))


def float32_stays_float32() -> None:
    """Values and gradients have the precision of the inputs."""
    for case in (primitive_cases() | fused_cases()).values():
        case = replace(case, inputs=tuple(x.astype(np.float32) for x in case.inputs))
        value, gradients, _ = case.run()
        assert {a.dtype for a in (value, *gradients)} == {np.dtype(np.float32)}


def gelu_has_its_published_values() -> None:
    """gelu(x) - gelu(-x) = x, and the tanh form is near the exact one, but is not it."""
    x = np.linspace(-5.0, 5.0, 401)
    y = F.gelu(Tensor(x)).data
    _close(y - F.gelu(Tensor(-x)).data, x)
    exact = x * np.array([0.5 + 0.5 * math.erf(t / math.sqrt(2.0)) for t in x])
    assert 1e-4 < np.abs(y - exact).max() < 4.8e-4


def softmax_does_not_see_a_shift() -> None:
    """Probabilities sum to 1, and are the same for logits that are all larger by 1000."""
    z = np.random.default_rng(0).standard_normal((3, 5))
    p = F.softmax(Tensor(z)).data
    assert_allclose(p.sum(axis=-1), 1.0)
    for shift in (-1000.0, 1000.0):
        assert_allclose(F.softmax(Tensor(z + shift)).data, p, rtol=1e-9)


def layer_norm_gives_mean_0_and_variance_1() -> None:
    """The variance is var / (var + eps), and a row of equal numbers gives the shift."""
    one, zero = Tensor(np.ones(6)), Tensor(np.zeros(6))
    for size in (1e-3, 1.0):
        x = size * np.random.default_rng(0).standard_normal((4, 6))
        y, var = F.layer_norm(Tensor(x), one, zero, eps=1e-6).data, x.var(axis=-1)
        assert_allclose(y.mean(axis=-1), 0.0, atol=1e-12)
        assert_allclose(y.var(axis=-1), var / (var + 1e-6), rtol=1e-9)
    assert_array_equal(F.layer_norm(Tensor(np.full((1, 6), 2.0)), one, one).data, 1.0)


def dropout_keeps_the_mean() -> None:
    """A share p is 0, the mean stays; and with ones all along, the gradient is the output."""
    x = Tensor(np.ones(10_000), requires_grad=True)
    y = F.dropout(x, 0.3, np.random.default_rng(0))
    assert abs(np.mean(y.data == 0.0) - 0.3) < 0.02 and abs(y.data.mean() - 1.0) < 0.03
    y.backward(np.ones(x.shape))
    assert_array_equal(x.grad, y.data)


def attention_averages_values() -> None:
    """Weights sum to 1: the same value everywhere is the result, and the first sees only itself."""
    qkv = np.random.default_rng(0).standard_normal((2, 4, 12))
    out = F.causal_attention(Tensor(qkv), 2).data
    _close(out[:, 0], qkv[:, 0, 8:])
    qkv[..., 8:] = [1.0, -2.0, 3.0, 0.5]
    _close(F.causal_attention(Tensor(qkv), 2).data, qkv[..., 8:])


def attention_reads_what_it_should() -> None:
    """A query matters for its own position, a key or value from its own on; a head for itself."""
    start = np.random.default_rng(0).standard_normal((1, 4, 12))
    before = F.causal_attention(Tensor(start), 2).data
    for channel in range(12):
        qkv = start.copy()
        qkv[0, 1, channel] += 1.0
        changed = F.causal_attention(Tensor(qkv), 2).data != before
        head = channel % 4 // 2
        assert not changed[..., [2, 3] if head == 0 else [0, 1]].any()
        positions = np.flatnonzero(changed.any(axis=(0, 2)))
        assert_array_equal(positions, [1] if channel < 4 else [1, 2, 3])


def no_gradient_flows_to_later_positions() -> None:
    """What a position did not see has no influence on it."""
    qkv = Tensor(np.random.default_rng(0).standard_normal((1, 4, 12)), requires_grad=True)
    F.causal_attention(qkv, 2)[:, 1].backward(np.ones((1, 4)))
    assert not np.asarray(qkv.grad)[:, 2:].any()


def uniform_logits_cost_the_logarithm_of_their_number() -> None:
    """However large they are: ln V nats."""
    for shift in (0.0, 1000.0):
        logits = Tensor(np.full((2, 3, 7), shift))
        assert_allclose(F.cross_entropy(logits, np.zeros((2, 3), int)).data, math.log(7.0))


def ignored_targets_do_not_count() -> None:
    """Neither in the mean nor in the gradient, which sums to 0 over the vocabulary in every row."""
    z = np.random.default_rng(0).standard_normal((5, 7))
    targets = np.array([3, -100, 0, -100, 6])
    counted = targets >= 0
    logits = Tensor(z, requires_grad=True)
    loss = F.cross_entropy(logits, targets)
    _close(loss.data, F.cross_entropy(Tensor(z[counted]), targets[counted]).data)
    loss.backward()
    assert_array_equal(np.asarray(logits.grad).any(axis=1), counted)
    assert_allclose(np.asarray(logits.grad).sum(axis=1), 0.0, atol=1e-12)


def ids_outside_the_vocabulary_are_errors() -> None:
    """Also negative ones; and so is a sequence longer than n_positions."""
    model = make_model()
    for wrong in (-1, CONFIG.vocab_size):
        _raises(IndexError, partial(F.embedding, model.wte.weight, [[0, wrong]]))
        _raises(IndexError, partial(model, [[0, wrong]]))
    _raises(ValueError, partial(model, np.zeros((1, CONFIG.n_positions + 1), int)))


def _raises(error: type[Exception], f: Callable[[], object]) -> None:
    try:
        f()
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def the_future_changes_nothing_and_the_past_does() -> None:
    """A token changes all logits from its own position on; cutting or batching changes none."""
    model = make_model()
    before = model(IDS).data
    for t in range(IDS.shape[1]):
        ids = IDS.copy()
        ids[:, t] = (ids[:, t] + 1) % CONFIG.vocab_size
        after = model(ids).data
        _close(after[:, :t], before[:, :t])
        assert (np.abs(after - before)[:, t:].max(axis=-1) > 1e-9).all()
        _close(model(IDS[:, : t + 1]).data, before[:, : t + 1])
    _close(model(IDS[1:]).data, before[1:])


def the_order_of_tokens_matters() -> None:
    """The same token everywhere gives other logits at the next position, up to the last."""
    logits = make_model()(np.full((1, CONFIG.n_positions), 3)).data[0]
    assert (np.abs(np.diff(logits, axis=0)).max(axis=1) > 1e-6).all()


def every_parameter_gets_a_gradient() -> None:
    """None is 0, except those of positions and of nothing else that did not occur."""
    model = make_model()
    F.cross_entropy(model(IDS), TARGETS).backward()
    assert sum(p.size for p in model.parameters()) == count_parameters(CONFIG)
    for parameter in model.parameters():
        assert parameter.grad is not None and np.abs(parameter.grad).max() > 1e-9
    assert_array_equal(np.asarray(model.wpe.weight.grad).any(axis=1), np.arange(6) < IDS.shape[1])


def a_constant_in_all_channels_changes_nothing() -> None:
    """Whatever reads the residual stream normalises it first."""
    model = make_model()
    before = model(IDS).data
    model.wpe.weight.data += 3.0
    assert_allclose(model(IDS).data, before, rtol=1e-9, atol=1e-9)


def a_block_that_adds_nothing_is_the_identity() -> None:
    """With all weights 0, the residual stream passes through."""
    block = TransformerBlock(CONFIG, dtype=np.float64)
    x = np.random.default_rng(0).standard_normal((1, 3, 8))
    assert_array_equal(block(Tensor(x)).data, x)


def the_mlp_is_not_linear() -> None:
    """f(x) + f(-x) would be 2 f(0) if it were."""
    mlp = make_model().h[0].mlp
    x = np.random.default_rng(0).standard_normal((1, 3, 8))
    plus, minus, zero = (mlp(Tensor(s * x)).data for s in (1.0, -1.0, 0.0))
    assert np.abs(plus + minus - 2.0 * zero).max() > 1e-3


def initial_weights_have_their_deviations() -> None:
    """initializer_range, and less by sqrt(2 n_layer) where the residual stream is added to."""
    config = replace(CONFIG, vocab_size=64, n_positions=64, n_embd=32, n_inner=64)
    for name, parameter in GPT2Model(config).named_parameters():
        if parameter.ndim == 2:
            std = 0.02 / (math.sqrt(4.0) if "c_proj" in name else 1.0)
            assert abs(parameter.data.std() / std - 1.0) < 0.1


def every_setting_has_an_effect() -> None:
    """A model that differs in one setting has other logits, in training mode."""

    def logits(config: GPT2Config) -> Array:
        return make_model(config).train()(IDS).data

    plain = logits(CONFIG)
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "layer_norm_epsilon", "n_head"):
        value = 4 if name == "n_head" else 0.5
        assert np.abs(logits(replace(CONFIG, **{name: value})) - plain).max() > 1e-3  # type: ignore[arg-type]


def there_is_no_dropout_in_evaluation() -> None:
    """Nor in generation, which leaves the mode as it was."""
    plain, model = make_model(), make_model(with_dropout(0.5))
    assert_array_equal(model.eval()(IDS).data, plain(IDS).data)
    one, other = (m.train().generate(IDS[:, :3], 3, temperature=0.0) for m in (model, plain))
    assert_array_equal(one, other)
    assert all(module.training for module in model.modules())


def the_tied_weight_is_one_parameter() -> None:
    """Counted once, and still one after loading and after a step."""
    model = make_model()
    assert _is_tied(model)
    model.load_state_dict(model.state_dict())
    assert _is_tied(model)
    F.cross_entropy(model(IDS), TARGETS).backward()
    AdamW(model.parameters()).step()
    assert _is_tied(model)


def _is_tied(model: GPT2Model) -> bool:
    counted = model.get_num_params() == count_parameters(model.config)
    return counted and model.lm_head.weight is model.wte.weight


def a_loaded_model_is_the_same_and_the_state_stays_as_it_is() -> None:
    """A state shares no memory with the model it came from or went to."""
    one, other = make_model(), GPT2Model(CONFIG, dtype=np.float64)
    state = one.state_dict()
    kept = {name: array.copy() for name, array in state.items()}
    other.load_state_dict(state)
    assert_array_equal(other(IDS).data, one(IDS).data)
    for model in (one, other):
        for parameter in model.parameters():
            parameter.data += 1.0
    for name, array in state.items():
        assert_array_equal(array, kept[name])


def zero_grad_forgets() -> None:
    """Both the model's and the optimizer's."""
    model = make_model()
    for forgetful in (model, AdamW(model.parameters())):
        F.cross_entropy(model(IDS), TARGETS).backward()
        forgetful.zero_grad()
        assert all(parameter.grad is None for parameter in model.parameters())


GRADIENTS = (np.array([[3.0, -1e-2], [1e-8, 0.0]]), np.array([-2.0, 1e-7]))


def _parameters() -> list[Parameter]:
    parameters = [Parameter(np.full(g.shape, 5.0)) for g in GRADIENTS]
    for parameter, g in zip(parameters, GRADIENTS, strict=True):
        parameter.grad = g.copy()
    return parameters


def adam_moves_by_the_sign_of_a_constant_gradient() -> None:
    """With g the same every time m = g and v = g**2, up to the bias that is corrected."""
    parameters = _parameters()
    optimizer = AdamW([*parameters, *parameters], lr=0.1, weight_decay=0.0)
    for t in range(1, 4):
        optimizer.step()
        for parameter, g in zip(parameters, GRADIENTS, strict=True):
            assert_allclose(parameter.data, 5.0 - t * 0.1 * g / (np.abs(g) + 1e-8), rtol=1e-9)


def adam_remembers_as_its_betas_say() -> None:
    """After g and then 0, m = beta1 / (1 + beta1) g and v = beta2 / (1 + beta2) g**2."""
    parameter = Parameter(np.array([5.0]))
    optimizer = AdamW([parameter], lr=0.1, betas=(0.8, 0.95), weight_decay=0.0)
    for g in (3.0, 0.0):
        before = parameter.data.copy()
        parameter.grad = np.array([g])
        optimizer.step()
    step = 0.1 * (0.8 / 1.8) / math.sqrt(0.95 / 1.95)
    assert_allclose(before - parameter.data, step, rtol=1e-6)


def decay_shrinks_matrices_only() -> None:
    """By lr * weight_decay, whatever the gradient."""
    for scale in (0.0, 1.0):
        with_decay, without = _parameters(), _parameters()
        for parameters, weight_decay in ((with_decay, 0.2), (without, 0.0)):
            for parameter in parameters:
                parameter.grad = scale * np.asarray(parameter.grad)
            AdamW(parameters, lr=0.1, weight_decay=weight_decay).step()
        matrix, vector = (a.data - b.data for a, b in zip(with_decay, without, strict=True))
        assert_allclose(matrix, -0.1 * 0.2 * 5.0)
        assert_array_equal(vector, 0.0)


def an_optimizer_goes_on_where_it_was_saved() -> None:
    """Saved and loaded half way, it makes the same steps, to the last bit."""
    straight, resumed = _parameters(), _parameters()
    one, other = AdamW(straight), AdamW(resumed)
    for t in range(4):
        if t == 2:
            state, other = other.state_dict(), AdamW(resumed)
            other.load_state_dict(state)
        for optimizer in (one, other):
            for parameter, g in zip(optimizer.parameters, GRADIENTS, strict=True):
                parameter.grad = g * (-1.0) ** t
            optimizer.step()
    for a, b in zip(straight, resumed, strict=True):
        assert_array_equal(a.data, b.data)


def momentum_is_a_sum_of_gradients() -> None:
    """After three steps with the same g: 1, then 1 + mu, then 1 + mu + mu**2 times g.

    Also of a parameter that is given twice.
    """
    for mu in (0.0, 0.5):
        parameters = _parameters()
        optimizer = SGD([*parameters, parameters[0]], lr=0.1, momentum=mu)
        for _ in range(3):
            optimizer.step()
        for parameter, g in zip(parameters, GRADIENTS, strict=True):
            assert_allclose(parameter.data, 5.0 - 0.1 * g * (3.0 + 2.0 * mu + mu**2))


def clipping_keeps_the_direction() -> None:
    """All gradients are scaled by one factor, to the joint norm given, or not at all."""
    norm = float(np.linalg.norm(np.concatenate([g.ravel() for g in GRADIENTS])))
    for max_norm, factor in ((1.0, 1.0 / norm), (10.0, 1.0)):
        parameters = _parameters()
        assert_allclose(clip_grad_norm(parameters, max_norm), norm)
        for parameter, g in zip(parameters, GRADIENTS, strict=True):
            assert_allclose(np.asarray(parameter.grad), factor * g, rtol=1e-5)


def the_schedule_goes_up_once_and_down_once() -> None:
    """From above 0 to the peak, where the warm-up ends, down to the minimum, and stays there."""
    rates = [
        cosine_schedule(step, max_lr=1.0, min_lr=0.1, warmup_steps=4, total_steps=10)
        for step in range(14)
    ]
    assert_allclose(rates[:5], [0.25, 0.5, 0.75, 1.0, 1.0])
    assert_allclose(rates[7], 0.55)
    assert_allclose(rates[10:], 0.1)
    assert (np.diff(rates[4:11]) < 0.0).all()


def targets_are_the_next_tokens() -> None:
    """And training and validation part are the text, cut in two."""
    inputs, targets = data.windows(np.arange(20), np.array([0, 7, 14]), 5)
    assert_array_equal(targets, inputs + 1)
    train, val = data.split(np.arange(20), 0.3, 5)
    assert_array_equal(np.concatenate([train, val]), np.arange(20))


def each_row_is_drawn_from_its_own_probabilities() -> None:
    """Where one token has them all, it is drawn, at every setting."""
    logits = 1000.0 * np.eye(4)
    for sampling in (Sampling(), Sampling(0.0), Sampling(2.0, top_k=2), Sampling(top_p=0.5)):
        assert_array_equal(sampling.draw(logits, np.random.default_rng(0)), np.arange(4))


def top_k_and_top_p_keep_the_most_probable() -> None:
    """k of them, all if there are fewer; or the fewest that have probability p."""
    logits = np.random.default_rng(0).standard_normal((3, 8))
    plain = Sampling().probabilities(logits)
    _close(plain, F.softmax(Tensor(logits)).data)
    _close(Sampling(top_k=50).probabilities(logits), plain)
    _close(Sampling(0.0).probabilities(logits), Sampling(top_k=1).probabilities(logits))
    for sampling in (Sampling(top_k=3), Sampling(top_p=0.6), Sampling(top_p=0.05)):
        p = sampling.probabilities(logits)
        kept = p > 0.0
        _close(p, np.where(kept, plain, 0.0) / np.where(kept, plain, 0.0).sum(-1, keepdims=True))
        assert (np.where(kept, plain, 1.0).min(-1) >= np.where(kept, 0.0, plain).max(-1)).all()
        if sampling.top_k:
            assert_array_equal(kept.sum(axis=-1), sampling.top_k)
        else:
            mass = np.where(kept, plain, 0.0).sum(axis=-1)
            least = np.where(kept, plain, 1.0).min(axis=-1)
            assert ((mass >= sampling.top_p) & (mass - least < sampling.top_p)).all()


def generation_draws_the_next_token() -> None:
    """For every row from what the model predicts: after the text, or its last half."""
    model, P = make_model(), CONFIG.n_positions
    for temperature in (0.0, 2.0):
        sampling, rng = Sampling(temperature), np.random.default_rng(0)
        ids, start = IDS, 0
        for _ in range(P):
            if ids.shape[1] - start > P:
                start = ids.shape[1] - P // 2
            logits = model(ids[:, start:]).data[:, -1]
            ids = np.column_stack([ids, sampling.draw(logits, rng)])
        assert_array_equal(model.generate(IDS, P, temperature, rng=0, sliding_window=True), ids)


def a_text_read_in_parts_is_the_text() -> None:
    """Whatever the parts; and beside longer ones, which it is filled up to."""
    model = make_model()
    whole, T = model(IDS).data, IDS.shape[1]
    with model.evaluating():
        for cut in range(1, T):
            cache = model.make_cache(len(IDS))
            parts = [model(part, cache=cache).data for part in np.split(IDS, [cut], axis=1)]
            _close(np.concatenate(parts, axis=1), whole)
    prompts = [row[: T - 1 - 2 * b] for b, row in enumerate(IDS[:2])]
    for prompt, beside in zip(prompts, complete(model, prompts, 2, Sampling(0.0)), strict=True):
        (alone,) = complete(model, [prompt], 2, Sampling(0.0))
        assert_array_equal(beside.ids, alone.ids)
        _close(beside.logprobs, alone.logprobs)


PROPERTIES: tuple[Detector, ...] = (
    gradients_of_two_passes_add_up,
    every_leaf_owns_its_gradient,
    backward_visits_every_node_once,
    long_chains_run_backward,
    gradient_checks_reject_a_gradient_that_is_slightly_off,
    ops_change_nothing_they_were_given,
    float32_stays_float32,
    gelu_has_its_published_values,
    softmax_does_not_see_a_shift,
    layer_norm_gives_mean_0_and_variance_1,
    dropout_keeps_the_mean,
    attention_averages_values,
    attention_reads_what_it_should,
    no_gradient_flows_to_later_positions,
    uniform_logits_cost_the_logarithm_of_their_number,
    ignored_targets_do_not_count,
    ids_outside_the_vocabulary_are_errors,
    the_future_changes_nothing_and_the_past_does,
    the_order_of_tokens_matters,
    every_parameter_gets_a_gradient,
    a_constant_in_all_channels_changes_nothing,
    a_block_that_adds_nothing_is_the_identity,
    the_mlp_is_not_linear,
    initial_weights_have_their_deviations,
    every_setting_has_an_effect,
    there_is_no_dropout_in_evaluation,
    the_tied_weight_is_one_parameter,
    a_loaded_model_is_the_same_and_the_state_stays_as_it_is,
    zero_grad_forgets,
    adam_moves_by_the_sign_of_a_constant_gradient,
    adam_remembers_as_its_betas_say,
    decay_shrinks_matrices_only,
    an_optimizer_goes_on_where_it_was_saved,
    momentum_is_a_sum_of_gradients,
    clipping_keeps_the_direction,
    the_schedule_goes_up_once_and_down_once,
    targets_are_the_next_tokens,
    each_row_is_drawn_from_its_own_probabilities,
    top_k_and_top_p_keep_the_most_probable,
    generation_draws_the_next_token,
    a_text_read_in_parts_is_the_text,
)


# -- which sees which ------------------------------------------------------------------------------


@dataclass(frozen=True)
class AllOf:
    """Several detectors as one."""

    parts: tuple[Detector, ...]

    def __call__(self) -> None:
        """Run one after the other."""
        for part in self.parts:
            part()


DETECTORS: dict[str, Detector] = {
    "shapes": shapes,
    "sum": gradient_of_sum,
    "loss goes down": loss_goes_down,
    "random cotangent": random_cotangent,
    "complex step": complex_step,
    "twin": twin,
    "properties": AllOf(PROPERTIES),
}

Matrix: TypeAlias = dict[str, dict[str, bool]]


def catches(detector: Detector) -> bool:
    """Whether the detector raises anything, the library being as it is; a warning is nothing."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            detector()
        except Exception:
            return True
    return False


def measure(bugs: Iterable[Bug], detectors: Mapping[str, Detector]) -> Matrix:
    """Return, for each bug and each detector by name, whether one catches the other.

    Detectors that do not even run the function in question are not asked.
    """
    parts = {name: d.parts if isinstance(d, AllOf) else (d,) for name, d in detectors.items()}
    ran = {part: code_run_by(part) for several in parts.values() for part in several}
    matrix: Matrix = {}
    for bug in bugs:
        code = cast(FunctionType, bug.function).__code__
        with bug.injected():
            matrix[bug.name] = {
                name: any(code in ran[part] and catches(part) for part in several)
                for name, several in parts.items()
            }
    return matrix


def code_run_by(detector: Detector) -> set[CodeType]:
    """Return the code of all functions that run when the detector does."""
    code = set()
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, _: code.add(frame.f_code) if event == "call" else None)
    try:
        detector()
    finally:
        sys.setprofile(before)
    return code


def format_matrix(matrix: Matrix) -> str:
    """Return the matrix as text: a row a bug, a column a detector, x caught, . missed."""
    columns = list(next(iter(matrix.values()), {}))
    totals = [f"{sum(row[name] for row in matrix.values())}" for name in columns]
    label = f"caught, of {len(matrix)}"
    width, cell = max(map(len, [*matrix, label])) + 2, max(map(len, [*totals, ""])) + 2

    def line(start: str, cells: Iterable[str]) -> str:
        return (start.ljust(width) + "".join(c.ljust(cell) for c in cells)).rstrip()

    head = [line("", ["|"] * i + [name]) for i, name in enumerate(columns)]
    body = [line(bug, (".x"[caught] for caught in row.values())) for bug, row in matrix.items()]
    return "\n".join([*head, *body, line(label, totals)])
