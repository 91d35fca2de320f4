"""GPT-2 as a whole: it agrees with torch and numeric derivatives, and has GPT-2's properties."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import sys
import tempfile
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from autograd import Tensor, gradcheck, no_grad
from npgpt2 import (
    MLP,
    SGD,
    AdamW,
    CausalSelfAttention,
    Dropout,
    GPT2Config,
    GPT2Model,
    LayerNorm,
    Linear,
    Module,
    Parameter,
    TransformerBlock,
    clip_grad_norm,
)
from npgpt2 import functional as F
from tests.optional import has, needs
from tests.test_npgpt2.cases import (
    NO_DROPOUT,
    assert_as_accurate,
    assert_close,
    random_batch,
    random_config,
    random_model,
    run,
)

if has("torch"):
    from tests.test_npgpt2 import torch_gpt2

CONFIG = GPT2Config(vocab_size=13, n_positions=8, n_embd=12, n_layer=2, n_head=3, **NO_DROPOUT)
IDS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (3, 7))
TARGETS = np.random.default_rng(1).integers(0, CONFIG.vocab_size, (3, 7))
SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from([np.float32, np.float64])


def make_case(seed, dtype=np.float64):
    """Return a model with random parameters, ids and targets, all of random sizes.

    Some seeds give rows of one token, and some give rows of n_positions tokens.
    """
    config = random_config(seed)
    ids, targets = random_batch(config, seed)
    T = 1 if seed % 5 == 1 else ids.shape[1]
    if seed % 5 == 2:
        config = replace(config, n_positions=T)
    return random_model(config, seed, dtype), ids[:, :T], targets[:, :T]


def loss_of(model, ids=IDS, targets=TARGETS):
    return F.cross_entropy(model(ids), targets)


def gradients(model, *batch):
    """Return the loss under "loss", and every parameter's gradient by name."""
    model.zero_grad()
    loss = loss_of(model, *batch)
    loss.backward()
    return {"loss": loss.data} | {name: p.grad for name, p in model.named_parameters()}


class Plus(Module):
    """Replaces `model.drop` and adds x, so x gets the gradient of the embeddings."""

    def __init__(self, x):
        self.x = x

    def forward(self, embeddings):
        return embeddings + self.x


def embedding_gradient(model, ids, targets):
    """Return the gradient of the loss for the input of the first block, (B, T, C)."""
    x = Tensor(np.zeros((*ids.shape, model.config.n_embd), model.wte.weight.dtype), True)
    drop, model.drop = model.drop, Plus(x)
    loss_of(model, ids, targets).backward()
    model.drop = drop
    return x.grad


def without_key_bias(results):
    """Return the results with the gradients of the key biases set to 0: they are rounding errors.

    Arrays may have an axis in front that counts runs.
    """
    results = {name: np.array(a) for name, a in results.items()}
    for name, a in results.items():
        if name.endswith("c_attn.bias"):
            np.split(a, 3, axis=-1)[1][...] = 0.0
    return results


# -- the oracle ----------------------------------------------------------------------------------


@needs("torch")
@given(SEEDS)
def test_logits_loss_and_every_gradient_equal_torchs(seed):
    model, *batch = make_case(seed)
    ours = run(model, *batch)
    theirs = torch_gpt2.run_torch(torch_gpt2.load(model.config, model.state_dict()), *batch)
    assert list(ours) == list(theirs)
    for name, expected in theirs.items():
        assert_close(ours[name], expected, name)


@needs("torch")
@pytest.mark.parametrize("seed", range(8))
def test_float32_is_as_accurate_as_torchs(seed):
    config = replace(random_config(seed, D=(8, 16)), n_positions=16)
    model, reference = random_model(config, seed, np.float32), random_model(config, seed)
    oracle = torch_gpt2.load(config, model.state_dict(), np.float32)
    rng, runs = np.random.default_rng(seed), []
    for _ in range(8):  # in a single small batch, either may be lucky
        batch = rng.integers(0, config.vocab_size, (2, 4, 16))
        theirs = copy.deepcopy(torch_gpt2.run_torch(oracle, *batch))  # torch reuses its memory
        runs.append((run(model, *batch), theirs, run(reference, *batch)))
    ours, theirs, expected = (
        without_key_bias({name: np.stack([r[name] for r in which]) for name in which[0]})
        for which in zip(*runs, strict=True)
    )
    for name in ours:
        assert_as_accurate(ours[name], theirs[name], expected[name], name)


# -- numeric derivatives, without torch ----------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", ["directional", "complex"])
def test_gradients_equal_numeric_ones(mode, seed):
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


@given(SEEDS)
def test_steps_along_the_gradient_change_the_loss_by_its_squared_norm(seed):
    model, *batch = make_case(seed)
    at_start = gradients(model, *batch)
    at_start.pop("loss")
    norm = math.sqrt(sum(float(np.vdot(g, g)) for g in at_start.values()))
    start, errors = model.state_dict(), []
    for length in (1e-5, 1e-6):  # the length of each of the two steps, |eta| * norm
        losses = []
        for eta in (length / norm, -length / norm):
            model.load_state_dict({name: start[name] + eta * g for name, g in at_start.items()})
            losses.append(loss_of(model, *batch).item())
        errors.append((losses[0] - losses[1]) / (2.0 * length * norm) - 1.0)
    # An ulp of a loss of 5 is 1e-15: this rounding error is 1e-9 of a change of 1e-6 * norm. The
    # rest of an error is proportional to the square of the length. A tenth of the length makes a
    # hundredth of the error, so it cancels in 100 * errors[1] - errors[0].
    assert abs(errors[1]) <= 0.011 * abs(errors[0]) + 1e-7
    assert abs(100.0 * errors[1] - errors[0]) / 99.0 < 1e-6


# -- dtype ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_value_and_gradient_has_the_dtype_of_the_model(dtype):
    config = replace(CONFIG, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)
    loss = loss_of(GPT2Model(config, dtype=dtype))
    nodes = [loss]
    for node in nodes:
        nodes += node.parents
    assert len(nodes) > 40 and {node.dtype for node in nodes} == {np.dtype(dtype)}
    leaves = {node for node in nodes if not node.parents}
    loss.backward()
    assert {leaf.grad.dtype for leaf in leaves} == {np.dtype(dtype)}


# Two things make gradients inaccurate in any implementation: large weights sharpen softmax, and a
# layer norm of few channels cancels nearly all of its gradient. The models here have neither: they
# have GPT-2's initial weights, and heads of 8 channels or more. So one limit is enough for every
# config. Among 1,400 such models (with up to 12 layers and 256 channels), the worst tensor was off
# by 21 roundings.
C_ROUNDINGS = 64


@given(SEEDS)
def test_float32_is_within_few_roundings_of_float64_whatever_the_config(seed):
    config = random_config(seed, D=(8, 16))
    model, batch = GPT2Model(config, rng=seed), random_batch(config, seed)
    single = without_key_bias(run(model, *batch))
    double = without_key_bias(run(model.astype(np.float64), *batch))
    for name, expected in double.items():
        allowed = C_ROUNDINGS * 2.0**-24 * np.linalg.norm(expected.ravel())
        assert single[name].dtype == np.float32 and expected.dtype == np.float64
        assert np.linalg.norm((single[name] - expected).ravel()) <= allowed, name


# -- causality -----------------------------------------------------------------------------------


@given(SEEDS, DTYPES, st.data())
def test_later_tokens_change_no_bit_of_earlier_logits(seed, dtype, data):
    model, ids, _ = make_case(seed, dtype)
    s, V = data.draw(st.integers(0, ids.shape[1] - 1)), model.config.vocab_size
    later = ids.copy()
    later[:, s:] = (later[:, s:] + data.draw(st.integers(1, V - 1))) % V
    logits, changed = model(ids).data, model(later).data
    assert np.array_equal(logits[:, :s], changed[:, :s])
    assert (logits[:, s:] != changed[:, s:]).any(axis=-1).all()


@given(SEEDS, DTYPES, st.data())
def test_logits_have_no_gradient_to_later_embeddings(seed, dtype, data):
    model, ids, _ = make_case(seed, dtype)
    t = data.draw(st.integers(0, ids.shape[1] - 1))
    x = Tensor(np.zeros((*ids.shape, model.config.n_embd), dtype), requires_grad=True)
    model.drop = Plus(x)
    logits = model(ids)[:, t]
    logits.backward(np.random.default_rng(seed).standard_normal(logits.shape))
    assert not x.grad[:, t + 1 :].any()
    assert x.grad[:, : t + 1].any(axis=-1).all()


@given(SEEDS, st.data())
def test_a_prefix_has_the_logits_it_has_in_the_whole(seed, data):
    model, ids, _ = make_case(seed)
    t = data.draw(st.integers(1, ids.shape[1]))
    assert_close(model(ids[:, :t]).data, model(ids).data[:, :t])


# -- the loss ------------------------------------------------------------------------------------


@given(SEEDS)
def test_loss_is_the_cross_entropy_of_the_logits(seed):
    model, ids, targets = make_case(seed)
    results = []
    for loss in (model.loss(ids, targets), F.cross_entropy(model(ids), targets)):
        model.zero_grad()
        loss.backward()
        results.append([loss.data, *(p.grad for p in model.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs)
    with model.evaluating():
        assert_close(model.loss(ids, targets).data, results[0][0])
    ignored = np.full_like(targets, -1)
    ignored[0, 0] = targets[0, 0] if targets[0, 0] >= 0 else 0
    expected = F.cross_entropy(model(ids), ignored, ignore_index=-1)
    assert_close(model.loss(ids, ignored, ignore_index=-1).data, expected.data)
    V, C = model.wte.weight.shape
    model.lm_head = Linear(C, V, rng=0, dtype=np.float64)  # a head with a bias
    model.lm_head.bias.data[...] = np.arange(V)
    assert_close(model.loss(ids, targets).data, F.cross_entropy(model(ids), targets).data)


# -- the order of tokens -------------------------------------------------------------------------


def see_everything(n):
    """Replace the causal mask: nothing is hidden."""
    return np.zeros((n, n), dtype=bool)


@given(SEEDS, st.data())
def test_without_positions_and_mask_the_order_of_tokens_does_not_matter(seed, data):
    model, ids, targets = make_case(seed)
    order = data.draw(st.permutations(range(ids.shape[1])))
    model.wpe.weight.data[...] = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "_hidden", see_everything)
        assert_close(model(ids[:, order]).data, model(ids).data[:, order])
        gradient = embedding_gradient(model, ids, targets)
        moved = embedding_gradient(model, ids[:, order], targets[:, order])
        assert_close(moved, gradient[:, order])


@given(SEEDS, st.sampled_from(["positions", "mask"]))
def test_with_positions_or_mask_the_order_of_tokens_matters(seed, kept):
    model, ids, _ = make_case(seed)
    T = ids.shape[1]
    assume(T > 1)
    ids = np.arange(T)[None]  # all different, because a swap of equal tokens changes nothing
    with pytest.MonkeyPatch.context() as patch:
        if kept == "mask":
            model.wpe.weight.data[...] = 0.0
        else:
            patch.setattr(F, "_hidden", see_everything)
        forward, backward = model(ids).data, model(ids[:, ::-1]).data
    assert not np.allclose(backward[:, ::-1], forward)


# -- the batch -----------------------------------------------------------------------------------


@given(SEEDS, DTYPES, st.data())
def test_a_row_of_a_batch_does_not_know_of_the_others(seed, dtype, data):
    model, ids, targets = make_case(seed, dtype)
    b, V = data.draw(st.integers(0, len(ids) - 1)), model.config.vocab_size
    others = np.arange(len(ids)) != b
    changed, wanted = ids.copy(), targets.copy()
    changed[others] = (changed[others] + 1) % V
    # The number of counted targets stays the same, because the loss is their mean.
    wanted[others] = np.where(targets[others] == -100, -100, (targets[others] + 1) % V)
    assert np.array_equal(model(changed).data[b], model(ids).data[b])
    one, two = embedding_gradient(model, ids, targets), embedding_gradient(model, changed, wanted)
    assert np.array_equal(one[b], two[b])
    for row in np.flatnonzero(others & (targets != -100).any(axis=1)):
        assert not np.array_equal(one[row], two[row])


@given(SEEDS, st.data())
def test_rows_in_another_order_or_alone_have_the_same_logits_and_gradients(seed, data):
    model, ids, targets = make_case(seed)
    order = data.draw(st.permutations(range(len(ids))))
    logits, gradient = model(ids).data, embedding_gradient(model, ids, targets)
    assert_close(model(ids[order]).data, logits[order])
    assert_close(embedding_gradient(model, ids[order], targets[order]), gradient[order])
    b = order[0]
    assert_close(model(ids[[b]]).data, logits[[b]])


@given(SEEDS, st.data())
def test_micro_batches_weighted_by_their_tokens_add_up_to_the_batch(seed, data):
    model, ids, targets = make_case(seed)
    whole = gradients(model, ids, targets)
    order = data.draw(st.permutations(range(len(ids))))
    ends = data.draw(st.sets(st.integers(1, len(ids))))
    counted = np.count_nonzero(targets != -100, axis=1)
    model.zero_grad()
    mean = 0.0
    for rows in np.split(np.array(order), sorted(ends)):
        if share := counted[rows].sum() / counted.sum():  # without a target there is no loss
            loss = share * loss_of(model, ids[rows], targets[rows])
            loss.backward()  # adds to the gradients
            mean += loss.item()
    assert_close(mean, whole.pop("loss"))
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, whole[name], name)


def test_gradients_add_up_over_backward_passes():
    model = random_model(CONFIG)
    once = gradients(model)
    del once["loss"]
    loss_of(model).backward()
    for name, parameter in model.named_parameters():
        assert np.array_equal(parameter.grad, 2.0 * once[name]), name


# -- the tied weight -----------------------------------------------------------------------------


def assert_tied(model):
    assert model.lm_head.weight is model.wte.weight
    assert model.lm_head.bias is None
    names = [name for name, _ in model.named_parameters()]
    assert "wte.weight" in names and "lm_head.weight" not in names
    assert sum(parameter is model.wte.weight for parameter in model.parameters()) == 1
    sizes = [array.size for array in model.state_dict().values()]
    assert model.get_num_params() == sum(sizes) == GPT2Model(model.config).get_num_params()


@given(SEEDS)
def test_the_tied_gradient_is_that_of_both_uses_of_an_untied_copy(seed):
    model, *batch = make_case(seed)
    ours = gradients(model, *batch)
    model.lm_head.weight = Parameter(model.wte.weight.data.copy())
    parts = gradients(model, *batch)
    embedding, head = parts["wte.weight"], parts.pop("lm_head.weight")
    assert embedding.any() and head.any()
    parts["wte.weight"] = embedding + head
    for name, expected in parts.items():
        assert_close(ours[name], expected, name)


def reloaded(model):
    other = GPT2Model(model.config, rng=1, dtype=np.float64)
    other.load_state_dict(model.state_dict())
    return other


def loaded_under_both_names(model):
    other = GPT2Model(model.config, rng=1, dtype=np.float64)
    other.load_state_dict({**model.state_dict(), "lm_head.weight": model.wte.weight.data})
    return other


def saved_and_loaded(model):
    with tempfile.TemporaryDirectory() as directory:
        model.save_npz(Path(directory) / "model.npz")
        return GPT2Model.load_npz(Path(directory) / "model.npz")


def there_and_back(model):
    return model.astype(np.float32).astype(np.float64)  # the values are float32 numbers


@pytest.mark.parametrize("make_optimizer", [AdamW, lambda ps: SGD(ps, lr=0.1, momentum=0.5)])
@pytest.mark.parametrize(
    "clone",
    [
        lambda model: model,
        reloaded,
        loaded_under_both_names,
        saved_and_loaded,
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        there_and_back,
    ],
)
def test_the_tie_survives(clone, make_optimizer):
    model = random_model(CONFIG)
    other = clone(model)
    assert_tied(other)
    assert np.array_equal(other(IDS).data, random_model(CONFIG)(IDS).data)
    optimizer = make_optimizer(other.parameters())
    gradients(other)
    optimizer.step()
    assert_tied(other)
    assert (other.wte.weight.data != random_model(CONFIG).wte.weight.data).all()


def test_the_tied_weight_is_counted_and_stepped_once():
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


# -- changes that do not matter ------------------------------------------------------------------


@given(SEEDS)
def test_a_shift_of_the_key_bias_changes_nothing_and_has_no_gradient(seed):
    model, *batch = make_case(seed)
    rng, logits, ours = np.random.default_rng(seed), model(batch[0]).data, gradients(model, *batch)
    for i, block in enumerate(model.h):
        _, of_keys, of_values = np.split(ours[f"h.{i}.attn.c_attn.bias"], 3)
        # The bias b adds q.b to all scores of a row, and softmax does not change. So the terms of
        # the gradient, B * T * T of them, cancel, except for their rounding errors.
        assert np.abs(of_keys).max() <= 1e-13 * np.abs(of_values).max()
        bias = np.split(block.attn.c_attn.bias.data, 3)[1]
        bias += rng.standard_normal(bias.shape)
    assert_close(model(batch[0]).data, logits)


@given(SEEDS, st.floats(-3.0, 3.0))
def test_a_constant_added_to_the_residual_stream_changes_nothing(seed, c):
    model, *batch = make_case(seed)
    logits, gradient = model(batch[0]).data, gradients(model, *batch)["wpe.weight"]
    np.testing.assert_allclose(gradient.sum(axis=-1), 0.0, atol=1e-13 * np.abs(gradient).max())
    model.wpe.weight.data += c  # only layer norms read the stream, and they remove c
    assert_close(model(batch[0]).data, logits)


@given(SEEDS, DTYPES)
def test_positions_that_were_not_used_have_gradient_0(seed, dtype):
    model, ids, targets = make_case(seed, dtype)
    T, targets = ids.shape[1], np.where(targets == -100, 0, targets)
    gradient = gradients(model, ids, targets)["wpe.weight"]
    assert not gradient[T:].any() and gradient[:T].any(axis=-1).all()


@given(SEEDS, st.data())
def test_the_order_of_heads_does_not_matter(seed, data):
    model, ids, _ = make_case(seed)
    H, C, logits = model.config.n_head, model.config.n_embd, model(ids).data
    for block in model.h:
        order = data.draw(st.permutations(range(H)))
        channels = np.arange(C).reshape(H, -1)[order].reshape(-1)  # with the heads reordered
        c_attn, c_proj = block.attn.c_attn, block.attn.c_proj
        thirds = np.concatenate([channels, C + channels, 2 * C + channels])
        c_attn.weight.data[...] = c_attn.weight.data[thirds]
        c_attn.bias.data[...] = c_attn.bias.data[thirds]
        c_proj.weight.data[...] = c_proj.weight.data[:, channels]
    assert_close(model(ids).data, logits)


@given(SEEDS)
def test_the_order_of_hidden_neurons_does_not_matter(seed):
    model, ids, _ = make_case(seed)
    rng, logits = np.random.default_rng(seed), model(ids).data
    for block in model.h:
        c_fc, c_proj = block.mlp.c_fc, block.mlp.c_proj
        order = rng.permutation(model.config.n_inner)
        c_fc.weight.data[...] = c_fc.weight.data[order]
        c_fc.bias.data[...] = c_fc.bias.data[order]
        c_proj.weight.data[...] = c_proj.weight.data[:, order]
    assert_close(model(ids).data, logits)


@given(SEEDS)
def test_relabelled_tokens_get_relabelled_logits(seed):
    model, ids, _ = make_case(seed)
    logits, new = model(ids).data, np.random.default_rng(seed).permutation(model.config.vocab_size)
    table = model.wte.weight.data.copy()
    model.wte.weight.data[new] = table
    assert_close(model(new[ids]).data[..., new], logits)


# -- initialisation ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_start_as_in_the_paper(dtype):
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
            # Standard errors of n draws: std/sqrt(n) for the mean, std/sqrt(2n) for the std.
            assert abs(parameter.data.mean()) < 5.0 * std / math.sqrt(n), name
            assert abs(parameter.data.std() / std - 1.0) < 5.0 / math.sqrt(2 * n), name


def test_weights_that_are_not_initialised_are_0_and_nothing_is_drawn():
    rng = np.random.default_rng(4)
    model = GPT2Model(CONFIG, rng, init_weights=False)
    for name, parameter in model.named_parameters():
        assert (parameter.data == float("ln_" in name and name.endswith("weight"))).all(), name
    assert rng.bit_generator.state == np.random.default_rng(4).bit_generator.state


@given(SEEDS, st.integers(20, 200))
def test_the_initial_loss_is_that_of_a_blind_guess(seed, V):
    model = GPT2Model(replace(CONFIG, vocab_size=V, n_embd=48), rng=seed)
    ids, targets = np.random.default_rng(seed).integers(0, V, (2, 16, 8))
    assert loss_of(model, ids, targets).item() == pytest.approx(math.log(V), rel=0.05)


def test_initializer_range_scales_the_weights():
    small, large = (
        GPT2Model(replace(CONFIG, initializer_range=r), dtype=np.float64) for r in (0.02, 0.2)
    )
    for name, weight in small.named_parameters():
        if weight.ndim == 2:
            other = dict(large.named_parameters())[name]
            np.testing.assert_allclose(other.data, 10.0 * weight.data, rtol=1e-14, err_msg=name)


@pytest.mark.parametrize("part", [CausalSelfAttention, MLP, TransformerBlock])
def test_dropout_in_a_part_made_without_an_rng_is_that_of_seed_0(part):
    config = replace(CONFIG, resid_pdrop=0.5, attn_pdrop=0.5)
    x, outputs = Tensor(np.random.default_rng(1).standard_normal((2, 4, CONFIG.n_embd))), []
    for how in ({}, {"rng": 0}, {"rng": 1}):
        made, rng = part(config, dtype=np.float64, **how), np.random.default_rng(2)
        for parameter in made.parameters():
            parameter.data[...] = rng.standard_normal(parameter.shape)
        outputs.append(made(x).data)
    assert np.array_equal(outputs[0], outputs[1]) and not np.array_equal(outputs[0], outputs[2])


def test_a_seed_gives_the_model_bit_for_bit_and_a_generator_goes_on():
    one, same, other = (gradients(GPT2Model(CONFIG, rng=seed)) for seed in (4, 4, 5))
    for name in one:
        assert np.array_equal(one[name], same[name]), name
    assert one["loss"] != other["loss"]
    by_default, zero = GPT2Model(CONFIG), GPT2Model(CONFIG, rng=0)
    assert np.array_equal(by_default.wte.weight.data, zero.wte.weight.data)
    rng = np.random.default_rng(4)
    first, second = GPT2Model(CONFIG, rng=rng), GPT2Model(CONFIG, rng=rng)
    assert np.array_equal(first.wte.weight.data, GPT2Model(CONFIG, rng=4).wte.weight.data)
    assert not np.array_equal(first.wte.weight.data, second.wte.weight.data)


# -- dropout -------------------------------------------------------------------------------------

PLACES = ("embd_pdrop", "attn_pdrop", "resid_pdrop")


@pytest.mark.parametrize("place", PLACES)
def test_dropout_acts_in_each_of_its_places_and_only_in_training(place):
    model = random_model(replace(CONFIG, **{place: 0.5}))
    plain = random_model(CONFIG)(IDS).data
    assert not np.allclose(model(IDS).data, plain)
    assert not np.array_equal(model(IDS).data, model(IDS).data)
    assert np.array_equal(model.eval()(IDS).data, plain)
    assert not np.allclose(model.train()(IDS).data, plain)


def test_every_dropout_has_its_probability_and_the_generator_of_the_model():
    config = replace(CONFIG, embd_pdrop=0.1, attn_pdrop=0.2, resid_pdrop=0.3)
    model = GPT2Model(config)
    found = [(module.p, module.rng) for module in model.modules() if isinstance(module, Dropout)]
    assert sorted(p for p, _ in found) == [0.1] + [0.2] * 2 + [0.3] * 4
    assert all(rng is model.rng for _, rng in found)


@pytest.mark.parametrize("name", ["drop", "h.0.attn.attn_dropout", "h.1.mlp.dropout"])
def test_a_single_dropout_can_be_switched_off(name):
    model = random_model(replace(CONFIG, **dict.fromkeys(PLACES, 0.3)))
    for module in model.modules():
        if isinstance(module, Dropout):
            module.eval()
    dropout = model
    for part in name.split("."):
        dropout = dropout[int(part)] if part.isdigit() else getattr(dropout, part)
    plain = random_model(CONFIG)(IDS).data
    assert np.array_equal(model(IDS).data, plain)
    dropout.train()
    assert not np.allclose(model(IDS).data, plain)


def test_dropouts_of_a_block_alone_draw_different_masks():
    block, x = TransformerBlock(replace(CONFIG, resid_pdrop=0.5), rng=0), Tensor(np.ones((1, 9)))
    first, second = block.attn.resid_dropout(x), block.mlp.dropout(x)
    assert not np.array_equal(first.data, second.data)


def test_with_dropout_the_gradient_is_that_of_the_masks_drawn():
    model = random_model(replace(CONFIG, **dict.fromkeys(PLACES, 0.3)))

    def loss(*_):
        state = model.rng.bit_generator.state
        out = loss_of(model)
        model.rng.bit_generator.state = state  # the same masks the next time
        return out

    assert gradcheck(loss, dict(model.named_parameters())).ok


# -- threads -----------------------------------------------------------------------------------


def on_threads(work):
    """Call each in its own thread, all at the same time, with many switches; return the results."""
    barrier, results = threading.Barrier(len(work)), [None] * len(work)

    def call(i):
        barrier.wait()
        try:
            results[i] = work[i]()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(work))]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # seconds
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def training_passes(seed, pdrop):
    """Return a function that makes a model and runs it forward and backward, with dropout."""

    def passes():
        model = random_model(replace(CONFIG, **dict.fromkeys(PLACES, pdrop)), seed, np.float32)
        return [copy.deepcopy(run(model, IDS, TARGETS)) for _ in range(4)]

    return passes


def assert_same_bits(actual, expected):
    for ours, alone in zip(actual, expected, strict=True):
        assert list(ours) == list(alone)
        for name, array in alone.items():
            assert ours[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("pdrop", [0.0, 0.3])
@pytest.mark.parametrize("n", [2, 4])
def test_models_on_threads_of_their_own_compute_the_same_bits_as_alone(n, pdrop):
    work = [training_passes(seed, pdrop) for seed in range(n)]
    alone = [passes() for passes in work]
    if pdrop:  # each pass draws new masks, so a draw by another thread would show
        assert len({float(results["loss"]) for results in alone[0]}) == 4
    for _ in range(3):
        for results, expected in zip(on_threads(work), alone, strict=True):
            assert_same_bits(results, expected)


@pytest.mark.parametrize("block", ["no_grad", "evaluating"])
def test_a_thread_without_a_graph_takes_it_from_no_other(block):
    work = [training_passes(seed, 0.3) for seed in range(2)]
    alone = [passes() for passes in work]
    idle = random_model(replace(CONFIG, **dict.fromkeys(PLACES, 0.3)), 9)
    entered, done = threading.Event(), threading.Event()

    def sit():
        recorded = []
        with no_grad() if block == "no_grad" else idle.evaluating():
            entered.set()
            while not (recorded and done.is_set()):
                recorded.append(idle(IDS).requires_grad)
        return [*recorded, not idle(IDS).requires_grad]

    def watched():
        entered.wait(60.0)
        try:
            return on_threads(work)
        finally:
            done.set()

    recorded, results = on_threads([sit, watched])
    assert not any(recorded)
    for ours, expected in zip(results, alone, strict=True):
        assert_same_bits(ours, expected)


# -- memory --------------------------------------------------------------------------------------


def live_tensors():
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def test_no_tensor_outlives_its_loss_without_the_cyclic_collector():
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
        assert live_tensors() == before + 1  # the loss itself; its graph is gone
        logits = model(IDS)
        del loss, logits
        assert live_tensors() == before
    finally:
        gc.enable()


def test_memory_is_flat_over_training_steps():
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


def peak_memory(call):
    call()  # the first call allocates arrays that stay
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_without_a_graph_memory_does_not_grow_with_depth():
    peaks = []
    for n_layer in (2, 12):
        model = GPT2Model(replace(CONFIG, n_embd=48, n_layer=n_layer))
        with model.evaluating():
            peaks.append(peak_memory(lambda model=model: model(IDS)))
    assert peaks[1] < peaks[0] + 4_000  # bytes; the arrays of a layer have 60,000


def test_the_loss_keeps_one_array_of_the_size_of_the_logits_and_none_without_a_graph():
    V, T = 40_000, 200
    config = GPT2Config(V, T, n_embd=4, n_layer=1, n_head=1)
    model, ids = GPT2Model(config).eval(), np.zeros((1, T), dtype=int)
    size = 4 * V * T
    assert size < peak_memory(lambda: model.loss(ids, ids)) < 1.5 * size
    with model.evaluating():
        assert peak_memory(lambda: model.loss(ids, ids)) < 0.9 * size  # 104 rows at a time


def test_without_a_graph_nothing_is_kept():
    model = random_model(CONFIG)
    logits = model(IDS)
    with model.evaluating():
        out = model(IDS)
    assert out.parents == () and not out.requires_grad
    assert np.array_equal(out.data, logits.data)


# -- as people call it ---------------------------------------------------------------------------


def test_the_course_example_works_as_written():
    config = GPT2Config.gpt2_small()
    model = GPT2Model(config)
    input_ids = np.random.default_rng(0).integers(0, config.vocab_size, (2, 10))
    with model.evaluating():
        logits = model(input_ids)
    assert logits.shape == (2, 10, 50257) and logits.dtype == np.float32
    assert sum(p.numel() for p in model.parameters()) == 124_439_808
    assert model.get_num_params() == 124_439_808
    assert model.config is config and model.lm_head.weight is model.wte.weight


def test_modules_have_the_names_of_gpt2():
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


def test_layer_norm_epsilon_reaches_every_layer_norm():
    model = GPT2Model(replace(CONFIG, layer_norm_epsilon=0.5))
    assert {m.eps for m in model.modules() if isinstance(m, LayerNorm)} == {0.5}


@pytest.mark.parametrize("B", [1, 4])
@pytest.mark.parametrize("T", [1, 8])
def test_logits_have_the_shape_of_the_ids_and_the_vocabulary(B, T):
    ids = np.random.default_rng(0).integers(0, 13, (B, T))
    model = random_model(CONFIG)
    for same in (ids, ids.tolist(), ids.astype(np.uint8), ids[:, ::-1][:, ::-1]):
        assert model(same).shape == (B, T, 13)
        assert np.array_equal(model(same).data, model(ids).data)


def test_a_block_alone_maps_the_residual_stream_to_itself():
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
        ([["a"]], TypeError, "integers, not '"),
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
def test_bad_ids_are_refused(ids, error, message):
    with pytest.raises(error, match=message):
        GPT2Model(CONFIG)(ids)


@given(SEEDS, st.data())
def test_the_one_bad_id_is_named_with_its_place_and_the_limit(seed, data):
    model, ids, _ = make_case(seed)
    V = model.config.vocab_size
    b, t = (data.draw(st.integers(0, n - 1)) for n in ids.shape)
    ids[b, t] = data.draw(st.integers(-(2**40), -1) | st.integers(V, 2**40))
    message = rf"ids\[{b}, {t}\] = {ids[b, t]} .*\[0, {V}\)"
    with pytest.raises(IndexError, match=message):
        model(ids)


@given(SEEDS, st.integers(1, 5))
def test_a_row_of_too_many_tokens_is_refused_with_their_number_and_the_limit(seed, excess):
    config = random_config(seed)
    P = config.n_positions
    with pytest.raises(ValueError, match=f"{P + excess} tokens exceeds n_positions={P}"):
        GPT2Model(config)(np.zeros((1, P + excess), dtype=int))


@given(SEEDS, DTYPES, st.data())
def test_one_weight_that_is_nan_goes_through_to_the_loss_and_is_refused_beyond(seed, dtype, data):
    """The forward pass does not search for NaN, because it would have to read all weights again.

    It does not hide NaN either: clipping and sampling, which use its results, raise an error.
    """
    model, ids, targets = make_case(seed, dtype)
    name, parameter = data.draw(st.sampled_from(list(model.named_parameters())))
    used = parameter.data[: ids.shape[1]] if name == "wpe.weight" else parameter.data
    used[tuple(data.draw(st.integers(0, n - 1)) for n in used.shape)] = np.nan
    loss = loss_of(model, ids, np.where(targets == -100, 0, targets))
    assert np.isnan(loss.item())
    loss.backward()
    with pytest.raises(FloatingPointError, match="gradient norm is nan"):
        clip_grad_norm(model.parameters(), 1.0)
    with pytest.raises(FloatingPointError, match="logits are not finite: parameter"):
        model.generate(ids, 1, sliding_window=True)


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.complex128])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match="dtype.*float32 or float64, not"):
        GPT2Model(CONFIG, dtype=dtype)


def test_a_model_made_from_arrays_has_them_as_its_parameters():
    arrays = random_model(CONFIG).state_dict()
    model = GPT2Model.from_arrays(CONFIG, iter(arrays.items()), np.float64)
    assert all(p.data is arrays[name] for name, p in model.named_parameters())
    assert not model.training and model.lm_head.weight is model.wte.weight


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ln_f.bias": None}, "no arrays for ln_f.bias"),
        ({"ln_f.bias": np.zeros(3)}, r"ln_f.bias is \(3,\) float64, but the model needs \(12,\)"),
        ({"ln_f.bias": np.zeros(12, np.float32)}, "float32, but the model needs .* float64"),
        ({"head": np.zeros(3)}, "head is .* needs no such parameter"),
    ],
)
def test_arrays_that_are_not_those_of_the_model_are_refused(change, message):
    arrays = {
        k: a for k, a in (random_model(CONFIG).state_dict() | change).items() if a is not None
    }
    with pytest.raises(ValueError, match=message):
        GPT2Model.from_arrays(CONFIG, arrays.items(), np.float64)
