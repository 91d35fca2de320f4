"""GPT-2 as a whole: against torch, against numeric derivatives, and what must hold of any GPT-2."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autograd import Tensor, gradcheck
from npgpt2 import (
    AdamW,
    Dropout,
    GPT2Config,
    GPT2Model,
    LayerNorm,
    Linear,
    Module,
    Parameter,
    TransformerBlock,
)
from npgpt2 import functional as F
from tests.test_npgpt2 import torch_gpt2
from tests.test_npgpt2.torch_gpt2 import (
    NO_DROPOUT,
    assert_as_accurate,
    assert_close,
    random_batch,
    random_config,
    random_model,
    run,
)

CONFIG = GPT2Config(vocab_size=13, n_positions=8, n_embd=12, n_layer=2, n_head=3, **NO_DROPOUT)
IDS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (3, 7))
TARGETS = np.random.default_rng(1).integers(0, CONFIG.vocab_size, (3, 7))


def loss_of(model: GPT2Model, ids: NDArray = IDS, targets: NDArray = TARGETS) -> Tensor:
    return F.cross_entropy(model(ids), targets)


def gradients(model: GPT2Model, *batch: NDArray) -> dict[str, NDArray]:
    """The loss under "loss", and every parameter's gradient by name."""
    model.zero_grad()
    loss = loss_of(model, *batch)
    loss.backward()
    return {"loss": loss.data} | {name: p.grad for name, p in model.named_parameters()}


class Plus(Module):
    """Stands in for `model.drop` and adds x: its gradient is that of the embeddings."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def forward(self, embeddings: Tensor) -> Tensor:
        return embeddings + self.x


# -- the oracle ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(16))
def test_logits_loss_and_every_gradient_equal_torchs(seed: int) -> None:
    config = random_config(seed)
    model, batch = random_model(config, seed), random_batch(config, seed)
    ours = run(model, *batch)
    theirs = torch_gpt2.run_torch(torch_gpt2.load(config, model.state_dict()), *batch)
    assert list(ours) == list(theirs)
    for name, expected in theirs.items():
        assert_close(ours[name], expected, name)


@pytest.mark.parametrize("seed", range(8))
def test_float32_is_as_accurate_as_torchs(seed: int) -> None:
    config = replace(random_config(seed, D=(8, 16)), n_positions=16)
    model, reference = random_model(config, seed, np.float32), random_model(config, seed)
    oracle = torch_gpt2.load(config, model.state_dict(), np.float32)
    rng, runs = np.random.default_rng(seed), []
    for _ in range(8):  # in a single small batch, either may be lucky
        batch = rng.integers(0, config.vocab_size, (2, 4, 16))
        theirs = copy.deepcopy(torch_gpt2.run_torch(oracle, *batch))  # torch reuses its memory
        runs.append((run(model, *batch), theirs, run(reference, *batch)))
    C = config.n_embd
    for name in runs[0][0]:
        ours, theirs, expected = (
            np.stack([results[name] for results in which]) for which in zip(*runs, strict=True)
        )
        if name.endswith("c_attn.bias"):  # the key's third is 0, and what is there is rounding
            for a in (ours, theirs, expected):
                a[:, C : 2 * C] = 0.0
        assert_as_accurate(ours, theirs, expected, name)


# -- numeric derivatives, without torch ----------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", ["directional", "complex"])
def test_gradients_equal_numeric_ones(mode: Any, seed: int) -> None:
    config = replace(random_config(seed), vocab_size=7, n_positions=5, n_layer=1, n_inner=5)
    model = random_model(config, seed)
    ids, targets = np.random.default_rng(seed).integers(0, 7, (2, 2, 4))
    report = gradcheck(
        lambda *_: loss_of(model, ids, targets),
        dict(model.named_parameters()),
        mode=mode,
        rng=seed,
    )
    assert report.ok and report.checked >= len(list(model.parameters()))


def test_a_step_against_the_gradient_lowers_the_loss_by_its_squared_norm() -> None:
    model = random_model(CONFIG)
    at_start = gradients(model)
    loss = float(at_start.pop("loss"))
    squared_norm = sum(float(np.vdot(g, g)) for g in at_start.values())
    start, ratios = model.state_dict(), []
    for eta in (1e-5, 1e-6, 1e-7):
        model.load_state_dict({name: start[name] - eta * g for name, g in at_start.items()})
        ratios.append((loss - loss_of(model).item()) / (eta * squared_norm))
    errors = np.abs(np.array(ratios) - 1.0)
    assert errors[2] < 1e-7
    np.testing.assert_allclose(errors[:2] / errors[1:], 10.0, rtol=0.1)  # the rest is O(eta)


# -- dtype ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_value_and_gradient_has_the_dtype_of_the_model(dtype: type) -> None:
    config = replace(CONFIG, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)
    loss = loss_of(GPT2Model(config, dtype=dtype))
    nodes = [loss]
    for node in nodes:
        nodes += node.parents
    assert len(nodes) > 40 and {node.dtype for node in nodes} == {np.dtype(dtype)}
    leaves = {node for node in nodes if not node.parents}
    loss.backward()
    assert {leaf.grad.dtype for leaf in leaves} == {np.dtype(dtype)}


# -- causality -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("s", range(1, 7))
def test_later_tokens_change_no_bit_of_earlier_logits(s: int, dtype: type) -> None:
    model, later = random_model(CONFIG, dtype=dtype), IDS.copy()
    later[:, s:] = (later[:, s:] + 1) % CONFIG.vocab_size
    logits, changed = model(IDS).data, model(later).data
    assert np.array_equal(logits[:, :s], changed[:, :s])
    assert (logits[:, s:] != changed[:, s:]).any(axis=-1).all()


@pytest.mark.parametrize("t", range(7))
def test_logits_have_no_gradient_to_later_embeddings(t: int) -> None:
    model = random_model(CONFIG)
    x = Tensor(np.zeros((*IDS.shape, CONFIG.n_embd)), requires_grad=True)
    model.drop = Plus(x)
    logits = model(IDS)[:, t]
    logits.backward(np.random.default_rng(2).standard_normal(logits.shape))
    assert not x.grad[:, t + 1 :].any()
    assert x.grad[:, : t + 1].any(axis=-1).all()


@pytest.mark.parametrize("t", range(1, 7))
def test_a_prefix_has_the_logits_it_has_in_the_whole(t: int) -> None:
    model = random_model(CONFIG)
    assert_close(model(IDS[:, :t]).data, model(IDS).data[:, :t])


# -- the batch -----------------------------------------------------------------------------------


def test_rows_of_a_batch_do_not_know_of_each_other() -> None:
    model, order = random_model(CONFIG), [2, 0, 1]
    logits = model(IDS).data
    assert_close(model(IDS[order]).data, logits[order])
    for b in range(len(IDS)):
        assert_close(model(IDS[b : b + 1]).data, logits[b : b + 1])


def test_gradients_of_a_batch_are_the_mean_over_its_tokens() -> None:
    model, targets = random_model(CONFIG), TARGETS.copy()
    targets[0, 2:] = -100
    whole = gradients(model, IDS, targets)
    weights = np.count_nonzero(targets != -100, axis=1) / np.count_nonzero(targets != -100)
    rows = [gradients(model, IDS[b : b + 1], targets[b : b + 1]) for b in range(len(IDS))]
    for name, gradient in whole.items():
        mean = sum(w * row[name] for w, row in zip(weights, rows, strict=True))
        assert_close(gradient, mean, name)


def test_gradients_add_up_over_backward_passes() -> None:
    model = random_model(CONFIG)
    once = gradients(model)
    del once["loss"]
    loss_of(model).backward()
    for name, parameter in model.named_parameters():
        assert np.array_equal(parameter.grad, 2.0 * once[name]), name


# -- the tied weight -----------------------------------------------------------------------------


def assert_tied(model: GPT2Model) -> None:
    assert model.lm_head.weight is model.wte.weight
    assert model.lm_head.bias is None
    names = [name for name, _ in model.named_parameters()]
    assert "wte.weight" in names and "lm_head.weight" not in names


def test_the_tied_gradient_is_that_of_both_uses_of_an_untied_copy() -> None:
    tied, untied = random_model(CONFIG), random_model(CONFIG)
    untied.lm_head.weight = Parameter(untied.wte.weight.data.copy())
    ours, parts = gradients(tied), gradients(untied)
    embedding, head = parts["wte.weight"], parts.pop("lm_head.weight")
    assert embedding.any() and head.any()
    parts["wte.weight"] = embedding + head
    for name, expected in parts.items():
        assert_close(ours[name], expected, name)


def reloaded(model: GPT2Model) -> GPT2Model:
    other = GPT2Model(model.config, rng=1, dtype=np.float64)
    other.load_state_dict(model.state_dict())
    return other


def loaded_under_both_names(model: GPT2Model) -> GPT2Model:
    other = GPT2Model(model.config, rng=1, dtype=np.float64)
    other.load_state_dict({**model.state_dict(), "lm_head.weight": model.wte.weight.data})
    return other


def there_and_back(model: GPT2Model) -> GPT2Model:
    return model.astype(np.float32).astype(np.float64)  # the values are float32 numbers


@pytest.mark.parametrize(
    "clone",
    [
        reloaded,
        loaded_under_both_names,
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        there_and_back,
    ],
)
def test_the_tie_survives(clone: Callable[[GPT2Model], GPT2Model]) -> None:
    model = random_model(CONFIG)
    other = clone(model)
    assert_tied(other)
    assert np.array_equal(other(IDS).data, random_model(CONFIG)(IDS).data)
    optimizer = AdamW(other.parameters())
    gradients(other)
    optimizer.step()
    assert_tied(other)


def test_the_tied_weight_is_counted_and_stepped_once() -> None:
    model = random_model(CONFIG)
    untied = CONFIG.vocab_size * CONFIG.n_embd
    assert model.get_num_params() == sum(p.numel() for p in model.parameters())
    model.lm_head.weight = Parameter(model.wte.weight.data.copy())
    assert model.get_num_params() == random_model(CONFIG).get_num_params() + untied

    model = random_model(CONFIG)
    optimizer = AdamW([*model.parameters(), model.lm_head.weight], lr=0.1, weight_decay=0.0)
    gradient, before = gradients(model)["wte.weight"], model.wte.weight.data.copy()
    optimizer.step()
    assert len(optimizer.m) == len(list(model.parameters())) and optimizer.step_count == 1
    # The first step of Adam is lr * g / (|g| + eps), here for every entry.
    expected = before - 0.1 * gradient / (np.abs(gradient) + 1e-8)
    assert_close(model.wte.weight.data, expected)
    assert_tied(model)


# -- what does not matter ------------------------------------------------------------------------


def test_a_shift_of_the_key_bias_changes_nothing_and_has_no_gradient() -> None:
    model, C = random_model(CONFIG), CONFIG.n_embd
    logits, ours = model(IDS).data, gradients(model)
    for i, block in enumerate(model.h):
        bias = ours[f"h.{i}.attn.c_attn.bias"]
        largest = np.abs(bias).max()
        assert np.abs(bias[C : 2 * C]).max() < 1e-14 * largest < np.abs(bias[2 * C :]).min()
        block.attn.c_attn.bias.data[C : 2 * C] += 3.0
    assert_close(model(IDS).data, logits)


def test_a_constant_added_to_the_residual_stream_changes_nothing() -> None:
    model = random_model(CONFIG)
    logits, gradient = model(IDS).data, gradients(model)["wpe.weight"]
    np.testing.assert_allclose(gradient.sum(axis=-1), 0.0, atol=1e-14 * np.abs(gradient).max())
    model.wpe.weight.data += 3.0
    assert_close(model(IDS).data, logits)


def test_positions_that_were_not_used_have_gradient_0() -> None:
    model = random_model(CONFIG)
    gradient = gradients(model, IDS[:, :4], TARGETS[:, :4])["wpe.weight"]
    assert not gradient[4:].any() and gradient[:4].any(axis=-1).all()


def test_the_order_of_heads_does_not_matter() -> None:
    model, C, D = random_model(CONFIG), CONFIG.n_embd, CONFIG.head_size
    logits = model(IDS).data
    channels = np.arange(C).reshape(-1, D)[[2, 0, 1]].reshape(-1)  # of the heads in another order
    for block in model.h:
        c_attn, c_proj = block.attn.c_attn, block.attn.c_proj
        thirds = np.concatenate([channels, C + channels, 2 * C + channels])
        c_attn.weight.data[...] = c_attn.weight.data[thirds]
        c_attn.bias.data[...] = c_attn.bias.data[thirds]
        c_proj.weight.data[...] = c_proj.weight.data[:, channels]
    assert_close(model(IDS).data, logits)


def test_relabelled_tokens_get_relabelled_logits() -> None:
    model = random_model(CONFIG)
    logits, new = model(IDS).data, np.random.default_rng(3).permutation(CONFIG.vocab_size)
    table = model.wte.weight.data.copy()
    model.wte.weight.data[new] = table
    assert_close(model(new[IDS]).data[..., new], logits)


# -- initialisation ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_start_as_in_the_paper(dtype: type) -> None:
    config = GPT2Config(vocab_size=199, n_positions=64, n_embd=96, n_layer=3, n_head=4)
    for name, parameter in GPT2Model(config, rng=5, dtype=dtype).named_parameters():
        assert parameter.dtype == dtype
        if name.endswith("bias"):
            assert not parameter.data.any(), name
        elif "ln_" in name:
            assert (parameter.data == 1.0).all(), name
        else:
            std = 0.02 / math.sqrt(2 * 3) if name.endswith("c_proj.weight") else 0.02
            n = parameter.size
            # The mean of n draws has a deviation of std/sqrt(n), their std one of std/sqrt(2n).
            assert abs(parameter.data.mean()) < 5.0 * std / math.sqrt(n), name
            assert abs(parameter.data.std() / std - 1.0) < 5.0 / math.sqrt(2 * n), name


def test_the_initial_loss_is_that_of_a_blind_guess() -> None:
    config = replace(CONFIG, vocab_size=97, n_embd=48)
    model, rng = GPT2Model(config, rng=3), np.random.default_rng(0)
    ids, targets = rng.integers(0, 97, (2, 16, 8))
    assert loss_of(model, ids, targets).item() == pytest.approx(math.log(97), rel=0.05)


def test_initializer_range_scales_the_weights() -> None:
    small, large = (
        GPT2Model(replace(CONFIG, initializer_range=r), dtype=np.float64) for r in (0.02, 0.2)
    )
    for name, weight in small.named_parameters():
        if weight.ndim == 2:
            other = dict(large.named_parameters())[name]
            np.testing.assert_allclose(other.data, 10.0 * weight.data, rtol=1e-14, err_msg=name)


def test_a_seed_gives_the_model_bit_for_bit_and_a_generator_goes_on() -> None:
    one, same, other = (gradients(GPT2Model(CONFIG, rng=seed)) for seed in (4, 4, 5))
    for name in one:
        assert np.array_equal(one[name], same[name]), name
    assert one["loss"] != other["loss"]
    rng = np.random.default_rng(4)
    first, second = GPT2Model(CONFIG, rng=rng), GPT2Model(CONFIG, rng=rng)
    assert np.array_equal(first.wte.weight.data, GPT2Model(CONFIG, rng=4).wte.weight.data)
    assert not np.array_equal(first.wte.weight.data, second.wte.weight.data)


# -- dropout -------------------------------------------------------------------------------------

PLACES = ("embd_pdrop", "attn_pdrop", "resid_pdrop")


@pytest.mark.parametrize("place", PLACES)
def test_dropout_acts_in_each_of_its_places_and_only_in_training(place: str) -> None:
    model = random_model(replace(CONFIG, **{place: 0.5}))
    plain = random_model(CONFIG)(IDS).data
    assert not np.allclose(model(IDS).data, plain)
    assert not np.array_equal(model(IDS).data, model(IDS).data)
    assert np.array_equal(model.eval()(IDS).data, plain)
    assert not np.allclose(model.train()(IDS).data, plain)


def test_every_dropout_has_its_probability_and_the_generator_of_the_model() -> None:
    config = replace(CONFIG, embd_pdrop=0.1, attn_pdrop=0.2, resid_pdrop=0.3)
    model = GPT2Model(config)
    found = [(module.p, module.rng) for module in model.modules() if isinstance(module, Dropout)]
    assert sorted(p for p, _ in found) == [0.1] + [0.2] * 2 + [0.3] * 4
    assert all(rng is model.rng for _, rng in found)


@pytest.mark.parametrize("name", ["drop", "h.0.attn.attn_dropout", "h.1.mlp.dropout"])
def test_a_single_dropout_can_be_switched_off(name: str) -> None:
    model = random_model(replace(CONFIG, **dict.fromkeys(PLACES, 0.3)))
    for module in model.modules():
        if isinstance(module, Dropout):
            module.eval()
    dropout: Any = model
    for part in name.split("."):
        dropout = dropout[int(part)] if part.isdigit() else getattr(dropout, part)
    plain = random_model(CONFIG)(IDS).data
    assert np.array_equal(model(IDS).data, plain)
    dropout.train()
    assert not np.allclose(model(IDS).data, plain)


def test_dropouts_of_a_block_alone_draw_different_masks() -> None:
    block, x = TransformerBlock(replace(CONFIG, resid_pdrop=0.5), rng=0), Tensor(np.ones((1, 9)))
    first, second = block.attn.resid_dropout(x), block.mlp.dropout(x)
    assert not np.array_equal(first.data, second.data)


def test_with_dropout_the_gradient_is_that_of_the_masks_drawn() -> None:
    model = random_model(replace(CONFIG, **dict.fromkeys(PLACES, 0.3)))

    def loss(*_: Tensor) -> Tensor:
        state = model.rng.bit_generator.state
        out = loss_of(model)
        model.rng.bit_generator.state = state  # the same masks the next time
        return out

    assert gradcheck(loss, dict(model.named_parameters())).ok


# -- memory --------------------------------------------------------------------------------------


def live_tensors() -> int:
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def test_no_tensor_outlives_its_loss_without_the_cyclic_collector() -> None:
    model = GPT2Model(replace(CONFIG, **dict.fromkeys(PLACES, 0.1)))
    gc.collect()
    gc.disable()
    try:
        before = live_tensors()
        loss = loss_of(model)
        assert live_tensors() > before + 20
        del loss
        assert live_tensors() == before
        loss = loss_of(model)
        loss.backward()
        assert live_tensors() == before + 1  # the loss itself, its graph is gone
        logits = model(IDS)
        del loss, logits
        assert live_tensors() == before
    finally:
        gc.enable()


def test_memory_is_flat_over_training_steps() -> None:
    model = GPT2Model(replace(CONFIG, n_embd=48, **dict.fromkeys(PLACES, 0.1)))
    optimizer, sizes = AdamW(model.parameters()), []
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(12):
            gradients(model)
            optimizer.step()
            optimizer.zero_grad()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
        gc.enable()
    assert max(sizes[4:]) - sizes[3] < 4_000  # bytes; the activations of a step have 900,000


def test_without_a_graph_nothing_is_kept() -> None:
    model = random_model(CONFIG)
    logits = model(IDS)
    with model.evaluating():
        out = model(IDS)
    assert out.parents == () and not out.requires_grad
    assert np.array_equal(out.data, logits.data)


# -- as people call it ---------------------------------------------------------------------------


def test_the_course_example_works_as_written() -> None:
    config = GPT2Config.gpt2_small()
    model = GPT2Model(config)
    input_ids = np.random.default_rng(0).integers(0, config.vocab_size, (2, 10))
    with model.evaluating():
        logits = model(input_ids)
    assert logits.shape == (2, 10, 50257) and logits.dtype == np.float32
    assert sum(p.numel() for p in model.parameters()) == 124_439_808
    assert model.get_num_params() == 124_439_808
    assert model.config is config and model.lm_head.weight is model.wte.weight


def test_modules_have_the_names_of_gpt2() -> None:
    model = GPT2Model(CONFIG)
    assert list(model.state_dict())[:6] == [
        *("wte.weight", "wpe.weight", "h.0.ln_1.weight", "h.0.ln_1.bias"),
        *("h.0.attn.c_attn.weight", "h.0.attn.c_attn.bias"),
    ]
    assert list(model.state_dict())[-2:] == ["ln_f.weight", "ln_f.bias"]
    norms = [module for module in model.modules() if isinstance(module, LayerNorm)]
    assert len(norms) == 2 * CONFIG.n_layer + 1
    assert all(n.normalized_shape == (12,) and n.eps == 1e-5 for n in norms)
    assert sum(isinstance(module, TransformerBlock) for module in model.modules()) == 2
    assert sum(isinstance(module, Linear) for module in model.modules()) == 4 * 2 + 1
    assert model.h[1].attn.c_attn.weight.shape == (36, 12)
    assert model.h[1].mlp.c_proj.weight.shape == (12, 48)


def test_layer_norm_epsilon_reaches_every_layer_norm() -> None:
    model = GPT2Model(replace(CONFIG, layer_norm_epsilon=0.5))
    assert {m.eps for m in model.modules() if isinstance(m, LayerNorm)} == {0.5}


@pytest.mark.parametrize("B", [1, 4])
@pytest.mark.parametrize("T", [1, 8])
def test_logits_have_the_shape_of_the_ids_and_the_vocabulary(B: int, T: int) -> None:
    ids = np.random.default_rng(0).integers(0, 13, (B, T))
    model = random_model(CONFIG)
    for given in (ids, ids.tolist(), ids.astype(np.uint8), ids[:, ::-1][:, ::-1]):
        assert model(given).shape == (B, T, 13)
        assert np.array_equal(model(given).data, model(ids).data)


def test_a_block_alone_maps_the_residual_stream_to_itself() -> None:
    block = TransformerBlock(CONFIG)
    x = Tensor(np.random.default_rng(0).standard_normal((2, 5, 12), dtype=np.float32))
    assert np.array_equal(block(x).data, x.data)  # its weights are 0 until a model draws them


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([[0, 13]], IndexError, r"ids\[0, 1\] = 13 .*\[0, 13\)"),
        ([[0, 1], [2, -1]], IndexError, r"ids\[1, 1\] = -1 .*\[0, 13\)"),
        ([[0.0, 1.0]], TypeError, "integers, not float64"),
        ([[True, False]], TypeError, "integers, not bool"),
        ([["a"]], TypeError, "integers, not <U1"),
        ([1, 2, 3], ValueError, r"\(B, T\) .* not \(3,\)"),
        ([[[1]]], ValueError, r"\(B, T\) .* not \(1, 1, 1\)"),
        (3, ValueError, r"\(B, T\) .* not \(\)"),
        ([[]], ValueError, r"at least 1, not \(1, 0\)"),
        (np.zeros((0, 3), dtype=int), ValueError, r"at least 1, not \(0, 3\)"),
        (
            np.zeros((1, 9), dtype=int),
            ValueError,
            r"9 tokens exceeds n_positions=8; crop to input_ids\[:, -8:\]",
        ),
    ],
)
def test_bad_ids_are_refused(ids: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GPT2Model(CONFIG)(ids)


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.complex128])
def test_other_dtypes_are_refused(dtype: type) -> None:
    with pytest.raises(TypeError, match="dtype.*float32 or float64, not"):
        GPT2Model(CONFIG, dtype=dtype)
