"""Evaluation agrees with torch, which predicts one token at a time."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt2 import GPT2Config, GPT2Model, Parameter
from npgpt2.generation.evaluation import Evaluation, evaluate
from npgpt2.progress import Progress
from tests.optional import has, needs
from tests.test_npgpt2.cases import NO_DROPOUT, random_model

if has("torch"):
    import torch

    from tests.test_npgpt2.torch_gpt2 import load

P, V = 6, 11
CONFIG = GPT2Config(
    vocab_size=V, n_positions=P, n_embd=8, n_layer=2, n_head=2, attn_pdrop=0.5, embd_pdrop=0.5
)
MODEL = random_model(CONFIG)
if has("torch"):
    ORACLE = load(CONFIG, MODEL.state_dict())

lengths, seeds = st.integers(2, 40), st.integers(0, 2**32 - 1)


def random_tokens(n, seed):
    return np.random.default_rng(seed).integers(0, V, n)


def window_of(target, n, stride):
    """Return the start of the first window that predicts this target."""
    start = 0
    while start + P < target:
        start += stride
    return min(start, max(n - 1 - P, 0))


def one_by_one(tokens, contexts):
    """Return the sum of -log p of each token but the first, given `context` tokens before it."""
    total = 0.0
    with torch.no_grad():
        for target, context in enumerate(contexts, start=1):
            logits = ORACLE(tokens[None, target - context : target])[0, -1]
            total -= torch.log_softmax(logits, dim=-1)[tokens[target]].item()
    return total


@needs("torch")
@given(lengths, seeds, st.integers(1, P), st.integers(1, 9))
def test_every_token_is_predicted_once_by_the_first_window_that_can(n, seed, stride, batch_size):
    tokens = random_tokens(n, seed)
    contexts = [target - window_of(target, n, stride) for target in range(1, n)]
    assert min(contexts[P:], default=P) >= P - stride + 1
    evaluation = evaluate(MODEL, tokens, stride=stride, batch_size=batch_size)
    assert evaluation.tokens == n - 1
    np.testing.assert_allclose(evaluation.nats, one_by_one(tokens, contexts), rtol=1e-9)


@needs("torch")
@given(lengths, seeds)
def test_stride_1_is_the_longest_context_for_each(n, seed):
    tokens = random_tokens(n, seed)
    expected = one_by_one(tokens, [min(target, P) for target in range(1, n)])
    np.testing.assert_allclose(evaluate(MODEL, tokens, stride=1).nats, expected, rtol=1e-9)


def test_stride_n_positions_is_the_mean_over_windows_side_by_side():
    tokens = random_tokens(5 * P + 1, 0)
    expected = MODEL.eval().loss(tokens[:-1].reshape(5, P), tokens[1:].reshape(5, P)).item()
    MODEL.train()
    assert evaluate(MODEL, tokens, stride=P).loss == pytest.approx(expected, rel=1e-12)


def test_the_default_stride_is_half_a_window():
    tokens = random_tokens(40, 1)
    assert evaluate(MODEL, tokens) == evaluate(MODEL, tokens, stride=P // 2)
    assert evaluate(MODEL, tokens) != evaluate(MODEL, tokens, stride=P // 2 + 1)
    config = GPT2Config(vocab_size=V, n_positions=1, n_embd=2, n_layer=1, n_head=1, **NO_DROPOUT)
    assert evaluate(random_model(config), tokens).tokens == 39


@given(lengths, seeds, st.integers(1, P), st.integers(1, 50), st.integers(1, 50))
def test_the_size_of_batches_changes_rounding_alone(n, seed, stride, one, other):
    tokens = random_tokens(n, seed)
    a, b = (evaluate(MODEL, tokens, stride=stride, batch_size=size) for size in (one, other))
    assert a.tokens == b.tokens and a.nats == pytest.approx(b.nats, rel=1e-12)


def test_float32_agrees_and_sums_in_float64():
    tokens = random_tokens(400, 2)
    single = evaluate(random_model(CONFIG, dtype=np.float32), tokens, batch_size=3)
    assert type(single.nats) is float
    assert single.nats == pytest.approx(evaluate(MODEL, tokens).nats, rel=1e-5)


def test_training_flags_are_kept_and_there_is_no_graph():
    MODEL.drop.training = False
    try:
        before = [module.training for module in MODEL.modules()]
        assert len(set(before)) == 2
        evaluate(MODEL, [1, 2, 3])
        assert [module.training for module in MODEL.modules()] == before
    finally:
        MODEL.train()
    assert all(p.grad is None for p in MODEL.parameters())


def test_a_model_that_knows_nothing_has_perplexity_v():
    model = GPT2Model(CONFIG, dtype=np.float64)
    model.wte.weight.data[...] = 0.0  # the head is tied, so all logits are 0
    evaluation = evaluate(model, random_tokens(100, 3))
    assert evaluation.perplexity == pytest.approx(V, rel=1e-14)
    assert evaluation.bits_per_byte(99) == pytest.approx(math.log2(V), rel=1e-14)


def test_units():
    evaluation = Evaluation(nats=6.0, tokens=4)
    assert evaluation.loss == 1.5 and evaluation.perplexity == math.exp(1.5)
    assert evaluation.bits_per_byte(3) == pytest.approx(2 / math.log(2), rel=1e-15)
    assert Evaluation(nats=3000.0, tokens=2).perplexity == math.inf
    with pytest.raises(ValueError, match="n_bytes=0"):
        evaluation.bits_per_byte(0)


def shown_on(stream):
    """Return a function that makes a Progress on this stream, with its last update long ago."""

    def progress(total):
        made = Progress(total, stream=stream)
        made.last -= 100.0
        return made

    return progress


def test_progress_counts_batches():
    stream = io.StringIO()
    tokens = random_tokens(P + 1 + 4 * 3, 4)  # a first window and four more
    evaluation = evaluate(MODEL, tokens, stride=3, batch_size=2, progress=shown_on(stream))
    first, last = stream.getvalue().splitlines()
    assert first.startswith("step 1/3  loss ") and "tokens/s  " in first
    assert last.startswith(f"step 3/3  loss {evaluation.loss:.3f}  ")
    assert last.endswith(" tokens/s  0:00 left")


@pytest.mark.parametrize(
    ("tokens", "options", "error", "message"),
    [
        ([], {}, ValueError, r"n at least 2, not \(0,\)"),
        ([1], {}, ValueError, r"n at least 2, not \(1,\)"),
        ([[1, 2]], {}, ValueError, r"not \(1, 2\)"),
        ([0.5, 1.0], {}, TypeError, "must be integers"),
        ([1, 2, V], {}, IndexError, r"tokens\[2\] = 11 is out of range"),
        ([1, 2, -100], {}, IndexError, r"tokens\[2\] = -100 is out of range"),
        ([1, 2], {"stride": 0}, ValueError, "stride=0"),
        ([1, 2], {"stride": P + 1}, ValueError, "stride=7 must be at most n_positions=6"),
        ([1, 2], {"batch_size": 0}, ValueError, "batch_size=0"),
    ],
)
def test_arguments_outside_their_limits_are_named(tokens, options, error, message):
    with pytest.raises(error, match=message):
        evaluate(MODEL, tokens, **options)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_underflow_is_not_an_error():
    model = random_model(CONFIG).astype(np.float32)
    model.ln_f.weight.data *= 1e3  # logits so far apart that most probabilities are 0
    tokens = np.arange(20) % CONFIG.vocab_size
    with np.errstate(all="raise"):
        nats = evaluate(model, tokens).nats
    assert nats == evaluate(model, tokens).nats < np.inf


def test_a_loss_that_is_not_finite_is_an_error_and_ends_the_line_of_progress():
    model, stream = random_model(CONFIG), Terminal()
    model.lm_head.weight = Parameter(model.wte.weight.data.copy())  # the head has no NaN
    model.wte.weight.data[7] = np.nan
    tokens = [1] * (P + 1) + [7, 1]
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="after the first 7;"):
        evaluate(model, tokens, batch_size=1, progress=shown_on(stream))
    assert stream.getvalue().startswith("\rstep 1/2  ")
    assert stream.getvalue().count("\n") == 1 and stream.getvalue().endswith("\n")
