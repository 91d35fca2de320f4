"""The strategies draw small GPT-2 models that run, and batches that fit, of every kind."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from autograd.testing import OPS
from npgpt2 import GPT2Config, GPT2Model, composed
from npgpt2 import functional as F
from npgpt2.testing import FUSED, configs, token_batches

CONFIG = GPT2Config(vocab_size=5, n_positions=4, n_embd=2, n_layer=1, n_head=1)


@given(st.data(), st.booleans())
def test_every_config_runs_forward_and_backward_on_its_batches(data, dropout):
    config = data.draw(configs(dropout=dropout))
    ids = data.draw(token_batches(config))
    model = GPT2Model(config)
    targets = np.resize(data.draw(token_batches(config, ignored=True)), ids.shape)
    targets.flat[0] = 0
    loss = F.cross_entropy(model(ids), targets)
    loss.backward()
    assert np.isfinite(loss.item())
    assert all(p.grad is not None and np.isfinite(p.grad).all() for p in model.parameters())
    assert dropout or config.resid_pdrop == config.embd_pdrop == config.attn_pdrop == 0.0


@given(configs(max_layers=2, max_heads=3))
def test_configs_stay_within_their_limits(config):
    assert config.n_layer <= 2 and config.n_head <= 3


@given(token_batches(CONFIG, max_batch=2), token_batches(CONFIG, max_batch=2, ignored=True))
def test_batches_fit_the_model(ids, targets):
    for batch in (ids, targets):
        B, T = batch.shape
        assert 1 <= B <= 2 and 1 <= T <= CONFIG.n_positions and batch.dtype.kind in "iu"
    assert ids.min() >= 0 and ids.max() < CONFIG.vocab_size
    counted = targets[targets != -100]
    assert counted.size and counted.min() >= 0 and counted.max() < CONFIG.vocab_size


@cache
def sample():
    drawn = []
    once = settings(max_examples=200, phases=[Phase.generate], derandomize=True, database=None)
    both = st.tuples(token_batches(CONFIG), token_batches(CONFIG, ignored=True))
    once(given(configs(dropout=True), both)(lambda config, pair: drawn.append((config, *pair))))()
    return drawn


KINDS = {
    "several layers": lambda config, ids, targets: config.n_layer == 3,
    "several heads": lambda config, ids, targets: config.n_head > 2 and config.head_size > 1,
    "one token to choose from": lambda config, ids, targets: config.vocab_size == 1,
    "one position": lambda config, ids, targets: config.n_positions == 1,
    "MLP of another width": lambda config, ids, targets: config.n_inner != 4 * config.n_embd,
    "MLP of the usual width": lambda config, ids, targets: config.n_inner == 4 * config.n_embd,
    "dropout": lambda config, ids, targets: config.resid_pdrop and config.attn_pdrop,
    "a repeated id": lambda config, ids, targets: ids.size > np.unique(ids).size,
    "unsigned ids": lambda config, ids, targets: ids.dtype == np.uint16,
    "all positions": lambda config, ids, targets: ids.shape == (3, CONFIG.n_positions),
    "ignored targets": lambda config, ids, targets: (targets == -100).any(),
    "no ignored targets": lambda config, ids, targets: (targets != -100).all(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn(kind):
    assert any(KINDS[kind](*drawn) for drawn in sample())


def ops_of(module):
    """Return the names of the public functions that are defined in a module."""
    own = (f for f in vars(module).values() if getattr(f, "__module__", "") == module.__name__)
    return {f.__name__ for f in own if not f.__name__.startswith("_")}


def test_every_fused_op_has_a_twin_and_a_spec_and_is_registered():
    ops = ops_of(F) - {"cached_attention"}  # it has no gradient, so it has no twin
    assert ops == ops_of(composed)
    assert {name.removesuffix(" with dropout") for name in FUSED} == ops
    assert FUSED.items() <= OPS.items()
