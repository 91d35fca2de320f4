"""Statements that hold for every GPT-2. The name of each function is a statement.

A function raises an error if its statement does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from autograd import Array, GradientMismatch, Tensor, gradcheck, record
from npgpt2 import (
    SGD,
    AdamW,
    GPT2Config,
    GPT2Model,
    Parameter,
    TransformerBlock,
    clip_grad_norm,
    cosine_schedule,
)
from npgpt2 import functional as F
from npgpt2.generation.generation import complete
from npgpt2.generation.sampling import Sampling
from npgpt2.learn.cases import (
    CONFIG,
    IDS,
    TARGETS,
    assert_close,
    fused_cases,
    graph_cases,
    make_model,
    primitive_cases,
    with_dropout,
)
from npgpt2.parameter_table import count_parameters
from npgpt2.training import data

Statement: TypeAlias = Callable[[], None]

STATEMENTS: dict[str, Statement] = {}


def statement(function: Statement) -> Statement:
    """Add a function to `STATEMENTS`. Its key there is its name in words."""
    STATEMENTS[function.__name__.replace("_", " ")] = function
    return function


# -- the backward pass -----------------------------------------------------------------------------


@statement
def gradients_of_two_passes_add_up() -> None:
    """A leaf's .grad sums over all backward passes since the last reset."""
    x = Tensor([1.0, -2.0], requires_grad=True)
    for n in (1.0, 2.0):
        (x * x).backward([1.0, 1.0])
        assert_array_equal(x.grad, n * 2.0 * x.data)


@statement
def every_leaf_owns_its_gradient() -> None:
    """No gradient shares memory with another one or the cotangent: clipping works in place."""
    a, b = (Tensor(np.ones(3), requires_grad=True) for _ in range(2))
    g = np.ones(3)
    (a + b).backward(g)
    assert not any(np.shares_memory(x, y) for x, y in ((a.grad, b.grad), (a.grad, g)))


@statement
def backward_visits_every_node_once() -> None:
    """If several paths lead to a node, its vjp runs once, with the sum of their cotangents."""
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


@statement
def long_chains_run_backward() -> None:
    """The interpreter's stack does not limit the depth of a graph."""
    x = Tensor(1.0, requires_grad=True)
    y = x
    for _ in range(1_200):
        y = y + 1.0
    y.backward()
    assert x.grad == 1.0


@statement
def gradient_checks_reject_a_slightly_wrong_gradient() -> None:
    """The gradient is off by one part in two thousand. A check that cannot fail shows nothing."""

    def square(a: Tensor) -> Tensor:
        x = a.data
        return record(x * x, (a,), lambda g: (g * 2.001 * x,))

    for mode in ("directional", "full", "complex"):
        try:
            gradcheck(square, [np.array([1.0, 2.0])], mode=mode)
        except GradientMismatch:
            continue
        raise AssertionError(f"the {mode} check accepts the wrong gradient")


# -- ops -------------------------------------------------------------------------------------------


@statement
def ops_change_nothing_that_they_were_given() -> None:
    """The forward and the backward pass leave the inputs and the cotangent unchanged."""
    for case in (primitive_cases() | graph_cases() | fused_cases()).values():
        before = [x.copy() for x in case.inputs]
        _, _, g = case.differentiate()
        for x, y in zip(case.inputs, before, strict=True):
            assert_array_equal(x, y)
        assert_array_equal(g, np.random.default_rng(1).standard_normal(g.shape))


@statement
def float32_stays_float32() -> None:
    """Values and gradients have the precision of the inputs."""
    for case in (primitive_cases() | fused_cases()).values():
        case = replace(case, inputs=tuple(x.astype(np.float32) for x in case.inputs))
        value, gradients, _ = case.differentiate()
        assert {a.dtype for a in (value, *gradients)} == {np.dtype(np.float32)}


@statement
def gelu_has_its_published_values() -> None:
    """gelu(x) - gelu(-x) = x. The tanh form is near the exact form, but not equal to it."""
    x = np.linspace(-5.0, 5.0, 401)
    y = F.gelu(Tensor(x)).data
    assert_close(y - F.gelu(Tensor(-x)).data, x)
    exact = x * np.array([0.5 + 0.5 * math.erf(t / math.sqrt(2.0)) for t in x])
    assert 1e-4 < np.abs(y - exact).max() < 4.8e-4


@statement
def softmax_ignores_a_shift() -> None:
    """Probabilities sum to 1, and adding 1000 to all logits does not change them."""
    z = np.random.default_rng(0).standard_normal((3, 5))
    p = F.softmax(Tensor(z)).data
    assert_allclose(p.sum(axis=-1), 1.0)
    for shift in (-1000.0, 1000.0):
        assert_allclose(F.softmax(Tensor(z + shift)).data, p, rtol=1e-9)


@statement
def layer_norm_gives_mean_0_and_variance_1() -> None:
    """The exact variance is var / (var + eps). A row of equal numbers gives the shift."""
    one, zero = Tensor(np.ones(6)), Tensor(np.zeros(6))
    for size in (1e-3, 1.0):
        x = size * np.random.default_rng(0).standard_normal((4, 6))
        y, var = F.layer_norm(Tensor(x), one, zero, eps=1e-6).data, x.var(axis=-1)
        assert_allclose(y.mean(axis=-1), 0.0, atol=1e-12)
        assert_allclose(y.var(axis=-1), var / (var + 1e-6), rtol=1e-9)
    assert_array_equal(F.layer_norm(Tensor(np.full((1, 6), 2.0)), one, one).data, 1.0)


@statement
def dropout_keeps_the_mean() -> None:
    """A share p of the entries is 0. If x and g are all ones, the gradient equals the output."""
    x = Tensor(np.ones(10_000), requires_grad=True)
    y = F.dropout(x, 0.3, np.random.default_rng(0))
    assert abs(np.mean(y.data == 0.0) - 0.3) < 0.02 and abs(y.data.mean() - 1.0) < 0.03
    y.backward(np.ones(x.shape))
    assert_array_equal(x.grad, y.data)


@statement
def attention_averages_values() -> None:
    """If all values are equal, the output is that value. Position 0 returns its own value."""
    qkv = np.random.default_rng(0).standard_normal((2, 4, 12))
    out = F.causal_attention(Tensor(qkv), 2).data
    assert_close(out[:, 0], qkv[:, 0, 8:])
    qkv[..., 8:] = [1.0, -2.0, 3.0, 0.5]
    assert_close(F.causal_attention(Tensor(qkv), 2).data, qkv[..., 8:])


@statement
def attention_reads_its_own_head_and_no_later_position() -> None:
    """A query acts on its own position; a key or value acts on its own and on later positions."""
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


@statement
def no_gradient_flows_to_later_positions() -> None:
    """The output at a position does not depend on later positions."""
    qkv = Tensor(np.random.default_rng(0).standard_normal((1, 4, 12)), requires_grad=True)
    F.causal_attention(qkv, 2)[:, 1].backward(np.ones((1, 4)))
    assert not np.asarray(qkv.grad)[:, 2:].any()


@statement
def equal_logits_give_the_loss_ln_V() -> None:
    """The loss is ln V nats, also for large logits."""
    for shift in (0.0, 1000.0):
        logits = Tensor(np.full((2, 3, 7), shift))
        assert_allclose(F.cross_entropy(logits, np.zeros((2, 3), int)).data, math.log(7.0))


@statement
def ignored_targets_do_not_count() -> None:
    """Ignored targets change neither mean nor gradient. Each row of the gradient sums to 0."""
    z = np.random.default_rng(0).standard_normal((5, 7))
    targets = np.array([3, -100, 0, -100, 6])
    counted = targets >= 0
    logits = Tensor(z, requires_grad=True)
    loss = F.cross_entropy(logits, targets)
    assert_close(loss.data, F.cross_entropy(Tensor(z[counted]), targets[counted]).data)
    loss.backward()
    assert_array_equal(np.asarray(logits.grad).any(axis=1), counted)
    assert_allclose(np.asarray(logits.grad).sum(axis=1), 0.0, atol=1e-12)


@statement
def ids_outside_the_vocabulary_are_errors() -> None:
    """Negative ids are errors too, and so is a sequence longer than n_positions."""
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


# -- the model -------------------------------------------------------------------------------------


@statement
def no_logit_depends_on_later_tokens() -> None:
    """A token changes the logits from its own position on. Cutting or batching changes no logit."""
    model = make_model()
    before = model(IDS).data
    for t in range(IDS.shape[1]):
        ids = IDS.copy()
        ids[:, t] = (ids[:, t] + 1) % CONFIG.vocab_size
        after = model(ids).data
        assert_close(after[:, :t], before[:, :t])
        assert (np.abs(after - before)[:, t:].max(axis=-1) > 1e-9).all()
        assert_close(model(IDS[:, : t + 1]).data, before[:, : t + 1])
    assert_close(model(IDS[1:]).data, before[1:])


@statement
def the_order_of_tokens_matters() -> None:
    """If all tokens are equal, neighbouring positions still have different logits."""
    logits = make_model()(np.full((1, CONFIG.n_positions), 3)).data[0]
    assert (np.abs(np.diff(logits, axis=0)).max(axis=1) > 1e-6).all()


@statement
def every_parameter_gets_a_gradient() -> None:
    """Only the rows of wpe for positions after the end of the sequence have a gradient of 0."""
    model = make_model()
    F.cross_entropy(model(IDS), TARGETS).backward()
    assert sum(p.size for p in model.parameters()) == count_parameters(CONFIG)
    for parameter in model.parameters():
        assert parameter.grad is not None and np.abs(parameter.grad).max() > 1e-9
    assert_array_equal(np.asarray(model.wpe.weight.grad).any(axis=1), np.arange(6) < IDS.shape[1])


@statement
def a_constant_in_all_channels_changes_nothing() -> None:
    """Each reader of the residual stream normalises it first."""
    model = make_model()
    before = model(IDS).data
    model.wpe.weight.data += 3.0
    assert_allclose(model(IDS).data, before, rtol=1e-9, atol=1e-9)


@statement
def a_block_that_adds_nothing_is_the_identity() -> None:
    """If all weights are 0, the residual stream passes through."""
    block = TransformerBlock(CONFIG, dtype=np.float64)
    x = np.random.default_rng(0).standard_normal((1, 3, 8))
    assert_array_equal(block(Tensor(x)).data, x)


@statement
def the_mlp_is_not_linear() -> None:
    """For a linear function, f(x) + f(-x) = 2 f(0)."""
    mlp = make_model().h[0].mlp
    x = np.random.default_rng(0).standard_normal((1, 3, 8))
    plus, minus, zero = (mlp(Tensor(s * x)).data for s in (1.0, -1.0, 0.0))
    assert np.abs(plus + minus - 2.0 * zero).max() > 1e-3


@statement
def initial_weights_have_the_right_standard_deviation() -> None:
    """It is initializer_range, divided by sqrt(2 n_layer) for projections into the stream."""
    config = replace(CONFIG, vocab_size=64, n_positions=64, n_embd=32, n_inner=64)
    for name, parameter in GPT2Model(config).named_parameters():
        if parameter.ndim == 2:
            std = 0.02 / (math.sqrt(4.0) if "c_proj" in name else 1.0)
            assert abs(parameter.data.std() / std - 1.0) < 0.1


@statement
def every_setting_has_an_effect() -> None:
    """In training mode, a change of one setting changes the logits."""

    def logits(config: GPT2Config) -> Array:
        return make_model(config).train()(IDS).data

    plain = logits(CONFIG)
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "layer_norm_epsilon", "n_head"):
        value = 4 if name == "n_head" else 0.5
        assert np.abs(logits(replace(CONFIG, **{name: value})) - plain).max() > 1e-3  # type: ignore[arg-type]


@statement
def there_is_no_dropout_in_evaluation() -> None:
    """Generation uses no dropout either, and restores the training mode."""
    plain, model = make_model(), make_model(with_dropout(0.5))
    assert_array_equal(model.eval()(IDS).data, plain(IDS).data)
    one, other = (m.train().generate(IDS[:, :3], 3, temperature=0.0) for m in (model, plain))
    assert_array_equal(one, other)
    assert all(module.training for module in model.modules())


@statement
def the_tied_weight_is_one_parameter() -> None:
    """The tied weight is counted once. It stays one parameter after loading and after a step."""
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


@statement
def a_loaded_model_is_equal_and_shares_no_memory() -> None:
    """A state shares no memory with the model it came from or with the model that loads it."""
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


# -- optimizers ------------------------------------------------------------------------------------


@statement
def zero_grad_removes_all_gradients() -> None:
    """The model and the optimizer both have this method."""
    model = make_model()
    for forgetful in (model, AdamW(model.parameters())):
        F.cross_entropy(model(IDS), TARGETS).backward()
        forgetful.zero_grad()
        assert all(parameter.grad is None for parameter in model.parameters())


_GRADIENTS = (np.array([[3.0, -1e-2], [1e-8, 0.0]]), np.array([-2.0, 1e-7]))


def _parameters() -> list[Parameter]:
    parameters = [Parameter(np.full(g.shape, 5.0)) for g in _GRADIENTS]
    for parameter, g in zip(parameters, _GRADIENTS, strict=True):
        parameter.grad = g.copy()
    return parameters


@statement
def adam_moves_by_the_sign_of_a_constant_gradient() -> None:
    """If g stays the same, m = g and v = g**2 after the bias correction."""
    parameters = _parameters()
    optimizer = AdamW([*parameters, *parameters], lr=0.1, weight_decay=0.0)
    for t in range(1, 4):
        optimizer.step()
        for parameter, g in zip(parameters, _GRADIENTS, strict=True):
            assert_allclose(parameter.data, 5.0 - t * 0.1 * g / (np.abs(g) + 1e-8), rtol=1e-9)


@statement
def adam_averages_with_its_betas() -> None:
    """After g and then 0, m = beta1 / (1 + beta1) g and v = beta2 / (1 + beta2) g**2."""
    parameter = Parameter(np.array([5.0]))
    optimizer = AdamW([parameter], lr=0.1, betas=(0.8, 0.95), weight_decay=0.0)
    for g in (3.0, 0.0):
        before = parameter.data.copy()
        parameter.grad = np.array([g])
        optimizer.step()
    step = 0.1 * (0.8 / 1.8) / math.sqrt(0.95 / 1.95)
    assert_allclose(before - parameter.data, step, rtol=1e-6)


@statement
def decay_shrinks_matrices_only() -> None:
    """A step multiplies matrices by 1 - lr * weight_decay, with every gradient."""
    for scale in (0.0, 1.0):
        with_decay, without = _parameters(), _parameters()
        for parameters, weight_decay in ((with_decay, 0.2), (without, 0.0)):
            for parameter in parameters:
                parameter.grad = scale * np.asarray(parameter.grad)
            AdamW(parameters, lr=0.1, weight_decay=weight_decay).step()
        matrix, vector = (a.data - b.data for a, b in zip(with_decay, without, strict=True))
        assert_allclose(matrix, -0.1 * 0.2 * 5.0)
        assert_array_equal(vector, 0.0)


@statement
def a_loaded_optimizer_makes_the_same_steps() -> None:
    """After saving and loading half way, the steps are equal to the last bit."""
    straight, resumed = _parameters(), _parameters()
    one, other = AdamW(straight), AdamW(resumed)
    for t in range(4):
        if t == 2:
            state, other = other.state_dict(), AdamW(resumed)
            other.load_state_dict(state)
        for optimizer in (one, other):
            for parameter, g in zip(optimizer.parameters, _GRADIENTS, strict=True):
                parameter.grad = g * (-1.0) ** t
            optimizer.step()
    for a, b in zip(straight, resumed, strict=True):
        assert_array_equal(a.data, b.data)


@statement
def momentum_is_a_sum_of_gradients() -> None:
    """With a constant g, the steps are lr times g, (1 + mu) g and (1 + mu + mu**2) g.

    A parameter that is listed twice is changed once.
    """
    for mu in (0.0, 0.5):
        parameters = _parameters()
        optimizer = SGD([*parameters, parameters[0]], lr=0.1, momentum=mu)
        for _ in range(3):
            optimizer.step()
        for parameter, g in zip(parameters, _GRADIENTS, strict=True):
            assert_allclose(parameter.data, 5.0 - 0.1 * g * (3.0 + 2.0 * mu + mu**2))


@statement
def clipping_keeps_the_direction() -> None:
    """One factor scales all gradients to the given joint norm, or leaves them unchanged."""
    norm = float(np.linalg.norm(np.concatenate([g.ravel() for g in _GRADIENTS])))
    for max_norm, factor in ((1.0, 1.0 / norm), (10.0, 1.0)):
        parameters = _parameters()
        assert_allclose(clip_grad_norm(parameters, max_norm), norm)
        for parameter, g in zip(parameters, _GRADIENTS, strict=True):
            assert_allclose(np.asarray(parameter.grad), factor * g, rtol=1e-5)


@statement
def the_learning_rate_goes_up_once_and_down_once() -> None:
    """It rises from above 0 to the peak at the end of the warm-up, then falls to the minimum."""
    rates = [
        cosine_schedule(step, max_lr=1.0, min_lr=0.1, warmup_steps=4, total_steps=10)
        for step in range(14)
    ]
    assert_allclose(rates[:5], [0.25, 0.5, 0.75, 1.0, 1.0])
    assert_allclose(rates[7], 0.55)
    assert_allclose(rates[10:], 0.1)
    assert (np.diff(rates[4:11]) < 0.0).all()


# -- data and generation ---------------------------------------------------------------------------


@statement
def targets_are_the_next_tokens() -> None:
    """The training and the validation part together are the text."""
    inputs, targets = data.windows(np.arange(20), np.array([0, 7, 14]), 5)
    assert_array_equal(targets, inputs + 1)
    train, val = data.split(np.arange(20), 0.3, 5)
    assert_array_equal(np.concatenate([train, val]), np.arange(20))


@statement
def each_row_is_drawn_from_its_own_probabilities() -> None:
    """If one token has probability 1, every setting draws it."""
    logits = 1000.0 * np.eye(4)
    for sampling in (Sampling(), Sampling(0.0), Sampling(2.0, top_k=2), Sampling(top_p=0.5)):
        assert_array_equal(sampling.draw(logits, np.random.default_rng(0)), np.arange(4))


@statement
def top_k_and_top_p_keep_the_most_probable() -> None:
    """top_k keeps k tokens, or all if there are fewer; top_p keeps the fewest that reach p."""
    logits = np.random.default_rng(0).standard_normal((3, 8))
    plain = Sampling().probabilities(logits)
    assert_close(plain, F.softmax(Tensor(logits)).data)
    assert_close(Sampling(top_k=50).probabilities(logits), plain)
    assert_close(Sampling(0.0).probabilities(logits), Sampling(top_k=1).probabilities(logits))
    for sampling in (Sampling(top_k=3), Sampling(top_p=0.6), Sampling(top_p=0.05)):
        p = sampling.probabilities(logits)
        kept = p > 0.0
        assert_close(
            p, np.where(kept, plain, 0.0) / np.where(kept, plain, 0.0).sum(-1, keepdims=True)
        )
        assert (np.where(kept, plain, 1.0).min(-1) >= np.where(kept, 0.0, plain).max(-1)).all()
        if sampling.top_k:
            assert_array_equal(kept.sum(axis=-1), sampling.top_k)
        else:
            mass = np.where(kept, plain, 0.0).sum(axis=-1)
            least = np.where(kept, plain, 1.0).min(axis=-1)
            assert ((mass >= sampling.top_p) & (mass - least < sampling.top_p)).all()


@statement
def generation_draws_the_next_token() -> None:
    """Each row is drawn from the model's logits after the text, or after its last half."""
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


@statement
def reading_a_text_in_parts_changes_nothing() -> None:
    """The parts may be of any length, and longer texts may be in the same batch."""
    model = make_model()
    whole, T = model(IDS).data, IDS.shape[1]
    with model.evaluating():
        for cut in range(1, T):
            cache = model.make_cache(len(IDS))
            parts = [model(part, cache=cache).data for part in np.split(IDS, [cut], axis=1)]
            assert_close(np.concatenate(parts, axis=1), whole)
    prompts = [row[: T - 1 - 2 * b] for b, row in enumerate(IDS[:2])]
    for prompt, beside in zip(prompts, complete(model, prompts, 2, Sampling(0.0)), strict=True):
        (alone,) = complete(model, [prompt], 2, Sampling(0.0))
        assert_array_equal(beside.ids, alone.ids)
        assert_close(beside.logprobs, alone.logprobs)
