"""Generation continues prompts alone and in batches, past n_positions, and as torch does."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt2 import GPT2Config
from npgpt2.generation.generation import Step, complete, generate, prefill, stream
from npgpt2.generation.sampling import Limits, Sampling
from tests.optional import has, needs
from tests.test_npgpt2.cases import NO_DROPOUT, assert_close, random_model

if has("torch"):
    import torch

    from tests.test_npgpt2.torch_gpt2 import load

CONFIG = GPT2Config(vocab_size=13, n_positions=10, n_embd=16, n_layer=2, n_head=2)
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def model():
    return random_model(CONFIG).eval()


PROMPTS = st.tuples(SEEDS, st.integers(1, 3), st.integers(1, 4)).map(
    lambda drawn: np.random.default_rng(drawn[0]).integers(0, CONFIG.vocab_size, drawn[1:])
)
TEMPERATURES, TOP_KS = st.floats(0.1, 5.0), st.none() | st.integers(1, 15)
TOP_PS = st.none() | st.floats(0.01, 1.0)


@given(PROMPTS, st.integers(0, 6), st.just(0.0) | TEMPERATURES, TOP_KS, TOP_PS, SEEDS)
def test_the_prompt_is_kept_the_length_exact_and_every_id_a_token(
    model,
    prompt,
    new,
    temperature,
    top_k,
    top_p,
    seed,
):
    out = model.generate(prompt, new, temperature, top_k, top_p, seed)
    B, T = prompt.shape
    assert out.shape == (B, T + new) and out.dtype.kind in "iu"
    assert np.array_equal(out[:, :T], prompt)
    assert (out >= 0).all() and (out < CONFIG.vocab_size).all()


@given(PROMPTS, SEEDS, TEMPERATURES)
def test_greedy_tokens_are_those_the_model_finds_most_probable(model, prompt, seed, temperature):
    T = prompt.shape[1]
    out = model.generate(prompt, 6, temperature=0.0)
    predicted = model(out[:, :-1]).data.argmax(axis=-1)
    assert np.array_equal(out[:, T:], predicted[:, T - 1 :])
    for same in ({"top_k": 1}, {"top_p": 1e-12}):
        assert np.array_equal(model.generate(prompt, 6, temperature, **same, rng=seed), out)


@given(PROMPTS, SEEDS, TEMPERATURES, st.integers(CONFIG.vocab_size, 1000))
def test_limits_that_exclude_nothing_change_no_token(model, prompt, seed, temperature, top_k):
    free = model.generate(prompt, 6, temperature, rng=seed)
    for limits in ({"top_k": top_k}, {"top_p": 1.0}):
        assert np.array_equal(model.generate(prompt, 6, temperature, **limits, rng=seed), free)


@given(PROMPTS, SEEDS, st.data())
def test_rows_of_a_batch_are_those_of_single_runs_with_the_draws_of_that_row(
    model, prompt, seed, data
):
    """A batch has one generator. Each new column of tokens takes B draws from it, row by row.

    Row b alone takes one draw per token. It gets the same draws if it skips the other rows' draws.
    """
    B, b = len(prompt), data.draw(st.integers(0, len(prompt) - 1))
    batch = model.generate(prompt, 6, temperature=3.0, rng=seed)
    rng, alone = np.random.default_rng(seed), []
    rng.bit_generator.advance(b)
    for step in stream(model, prompt[[b]], 6, Sampling(3.0), rng):
        alone.append(int(step.tokens[0]))
        rng.bit_generator.advance(B - 1)
    assert batch[b, prompt.shape[1] :].tolist() == alone


def test_by_default_tokens_are_drawn_as_the_model_predicts(model):
    """The defaults are temperature 1, no limits, no stop ids, and no sliding window."""
    prompt = np.arange(6).reshape(3, 2)
    expected = model.generate(prompt, 6, 1.0, None, None, 0, None, False)
    assert np.array_equal(model.generate(prompt, 6, rng=0), expected)
    assert np.array_equal(generate(model, prompt, 6, rng=0), expected)
    assert Sampling() == Sampling(1.0, None, None)
    assert not np.array_equal(model.generate(prompt, 6, 2.0, rng=0), expected)
    for call in (model.generate, partial(generate, model)):
        with pytest.raises(ValueError, match="or pass sliding_window=True"):
            call(prompt, 100)


def test_the_same_seed_gives_the_same_text(model):
    def sample(rng):
        return model.generate([[0]], 9, temperature=3.0, rng=rng)

    assert np.array_equal(sample(1), sample(1))
    assert np.array_equal(sample(1), sample(np.random.default_rng(1)))
    assert not np.array_equal(sample(1), sample(2))
    assert len({sample(None).tobytes() for _ in range(5)}) > 1


@given(PROMPTS, SEEDS, TEMPERATURES, st.integers(1, 15), st.just(1.0) | st.floats(0.01, 1.0))
def test_sampled_tokens_lie_inside_top_k_and_the_nucleus(
    model, prompt, seed, temperature, top_k, top_p
):
    T = prompt.shape[1]
    out = model.generate(prompt, 6, temperature, top_k, top_p, seed)
    p = Sampling(temperature).probabilities(model(out[:, :-1]).data[:, T - 1 :])  # (B, 6, V)
    ranked = -np.sort(-p, axis=-1)
    of_best = ranked[..., :top_k].sum(axis=-1)
    more_probable = p > np.take_along_axis(p, out[:, T:, None], axis=-1)
    assert (more_probable.sum(axis=-1) < top_k).all()
    # More probable tokens have, up to rounding, less than top_p of the sum over the best top_k.
    assert ((p * more_probable).sum(axis=-1) / of_best < top_p + 1e-9).all()


@given(PROMPTS, SEEDS, st.data())
def test_a_stopped_row_is_filled_with_its_stop_id(model, prompt, seed, data):
    T = prompt.shape[1]
    free = model.generate(prompt, 6, temperature=3.0, rng=seed)[:, T:]
    stops = data.draw(st.lists(st.sampled_from(free.ravel().tolist()), min_size=1, max_size=2))
    stopped = model.generate(prompt, 6, temperature=3.0, rng=seed, stop=stops)
    assert np.array_equal(stopped[:, :T], prompt)
    assert np.isin(free, stops).any()
    for a, b in zip(free, stopped[:, T:], strict=True):
        places = np.flatnonzero(np.isin(a, stops))
        end = places[0] if places.size else 5
        assert np.array_equal(b[: end + 1], a[: end + 1])
        assert (b[end:] == a[end]).all()


def test_generation_ends_early_once_all_rows_have_stopped(model):
    first = int(model.generate([[5]], 1, temperature=0.0)[0, 1])
    tokens = list(stream(model, [[5], [5]], 9, Sampling(0.0), limits=Limits(first)))
    assert [step.tokens.tolist() for step in tokens] == [[first, first]]
    out = model.generate([[5], [5]], 9, temperature=0.0, stop=first)
    assert np.array_equal(out, [[5] + [first] * 9] * 2)


def test_a_stop_id_in_the_prompt_does_not_stop(model):
    prompts = np.array([[i, 4] for i in range(13)])
    free = model.generate(prompts, 5, temperature=0.0)
    not_repeated = [i for i in range(13) if i not in free[i, 2:]]
    assert not_repeated
    for i in not_repeated:
        out = model.generate(prompts[[i]], 5, temperature=0.0, stop=i)
        assert np.array_equal(out, free[[i]])


@pytest.mark.parametrize("T", [1, 3, 9, 10, 11, 25])
def test_past_n_positions_a_text_goes_on_with_the_last_half_of_them(model, T):
    """Without a cache, predicting each token from the whole window gives the same tokens."""
    prompt = np.random.default_rng(T).integers(0, 13, (1, T))
    # Sample, because greedy tokens soon repeat themselves, and then the window does not matter.
    out = model.generate(prompt, 20, temperature=3.0, rng=1, sliding_window=True)
    assert out.shape == (1, T + 20) and len(set(out[0, T:])) > 5
    rng, start = np.random.default_rng(1), max(0, T - 10)
    for end in range(T, T + 20):
        if end - start > 10:
            start = end - 5
        logits = model(out[:, start:end]).data[:, -1]
        assert out[0, end] == Sampling(3.0).draw(logits, rng)[0]
    if T <= 9:
        within = model.generate(prompt, 10 - T, temperature=3.0, rng=1)
        assert np.array_equal(out[:, :10], within)


def test_a_model_of_one_position_predicts_from_the_last_token():
    model = random_model(GPT2Config(vocab_size=13, n_positions=1, n_embd=8, n_layer=1, n_head=1))
    out = model.eval().generate([[1]], 5, temperature=0.0, sliding_window=True)
    assert np.array_equal(out[0, 1:], [model([[i]]).data[0, -1].argmax() for i in out[0, :-1]])


ROWS = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=14), min_size=1, max_size=3)


@given(ROWS, SEEDS, st.sampled_from([0.0, 3.0]), st.lists(st.integers(0, 12), max_size=2))
def test_rows_of_different_lengths_go_on_as_each_would_alone(
    model, prompts, seed, temperature, stop
):
    """This is true past n_positions too, where the windows of the rows differ."""
    seeds = np.arange(len(prompts)) + seed
    sampling, limits = Sampling(temperature), Limits(stop, sliding_window=True)
    together = complete(model, prompts, 12, sampling, seeds, limits)
    for b, (prompt, row) in enumerate(zip(prompts, together, strict=True)):
        (alone,) = complete(model, [prompt], 12, sampling, seeds[b], limits)
        assert row.ids.tolist() == alone.ids.tolist()
        assert row.ids[: len(prompt)].tolist() == prompt
        assert_close(row.logprobs, alone.logprobs)
        new = row.ids[len(prompt) :]
        assert row.stopped == alone.stopped == bool(np.isin(new, stop).any())
        assert len(new) == len(row.logprobs) == (12 if not row.stopped else len(new))
        assert not np.isin(new[:-1], stop).any()


def test_a_batch_of_one_length_is_what_generate_makes_of_it(model):
    out = model.generate([[1, 2], [3, 4]], 8, temperature=2.0, rng=5)
    completions = complete(model, [[1, 2], [3, 4]], 8, Sampling(2.0), 5)
    for row, completion in zip(out, completions, strict=True):
        assert np.array_equal(row, completion.ids) and not completion.stopped
    assert [c.ids.tolist() for c in complete(model, [[1], [2, 3]], 0)] == [[1], [2, 3]]


@given(PROMPTS, SEEDS)
def test_log_probabilities_are_those_of_the_model_whatever_was_drawn_from(model, prompt, seed):
    T = prompt.shape[1]
    for row in complete(model, prompt, 6, Sampling(0.5, top_k=3), rng=seed):
        z = model(row.ids[None, :-1]).data[0, T - 1 :]  # (6, V)
        expected = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
        assert_close(row.logprobs, np.take_along_axis(expected, row.ids[T:, None], -1)[:, 0])


def test_log_probabilities_are_float64_and_of_logits_of_any_size():
    logits = np.float32([[1e4, 0.0], [0.0, -1e4], [1.0, 2.0]])
    step = Step(np.array([1, 0, 0]), np.array([True, True, True]), logits)
    assert step.logprobs.dtype == np.float64
    np.testing.assert_allclose(step.logprobs, [-1e4, 0.0, -1.0 - np.log1p(np.exp(-1.0))])


def test_the_cache_has_room_for_what_is_to_come_and_no_more(
    monkeypatch,
):
    model, asked = random_model(CONFIG).eval(), []
    make = model.make_cache
    monkeypatch.setattr(model, "make_cache", lambda *args: asked.append(args) or make(*args))
    complete(model, [[1, 2, 3], [4]], 5)
    complete(model, [[1, 2, 3]], 9, limits=Limits(sliding_window=True))
    assert asked == [(2, 7), (1, 10), (1, 5)]  # no room for the last token


def test_of_a_row_that_has_stopped_log_probabilities_are_0(model):
    first = int(model.generate([[5]], 1, temperature=0.0)[0, 1])
    other = next(i for i in range(13) if model([[i]]).data[0, -1].argmax() != first)
    one, two = list(stream(model, [[5], [other]], 2, Sampling(0.0), limits=Limits(first)))
    assert one.running.tolist() == [True, True] and (one.logprobs < 0.0).all()
    assert two.running.tolist() == [False, True]
    assert two.tokens[0] == first and two.logprobs[0] == 0.0 and two.logprobs[1] < 0.0


@needs("torch")
def test_forty_greedy_tokens_are_those_of_torch():
    config = GPT2Config(vocab_size=50, n_positions=48, n_embd=32, n_layer=2, n_head=4, **NO_DROPOUT)
    for seed in range(5):
        model = random_model(config, seed).eval()
        oracle = load(config, model.state_dict())
        prompt = np.random.default_rng(seed).integers(0, 50, (3, 8))
        ids = torch.from_numpy(prompt)
        with torch.no_grad():
            for _ in range(40):
                ids = torch.cat([ids, oracle(ids)[:, -1:].argmax(-1)], dim=1)
        assert np.array_equal(model.generate(prompt, 40, temperature=0.0), ids.numpy())


@given(SEEDS, st.sampled_from([0.0, 1.0, 50.0]), st.none() | st.integers(1, 20))
def test_ids_that_stand_for_no_token_are_never_drawn(seed, temperature, top_k):
    model = random_model(CONFIG).eval()
    model.wte.weight.data[11:] = 50.0 * model.hidden([[1, 2]]).data[0, -1]  # the most probable
    free = model.generate([[1, 2]] * 3, 1, 1.0, rng=seed)
    assert (free[:, 2] >= 11).all()
    assert np.array_equal(model.generate([[1, 2]] * 3, 1, rng=seed, vocab_size=13), free)
    drawn = model.generate([[1, 2]] * 3, 8, temperature, top_k, rng=seed, vocab_size=11)
    assert (drawn < 11).all()
    with pytest.raises(ValueError, match="vocab_size=14 exceeds the model's vocab_size=13"):
        model.generate([[1]], 1, vocab_size=14)
    with pytest.raises(IndexError, match=r"stop\[0\] = 11 .*\[0, 11\)"):
        model.generate([[1]], 1, vocab_size=11, stop=11)


def test_the_model_is_left_as_it_was_also_while_the_stream_is_open():
    model = random_model(CONFIG).train()
    model.h[0].eval()
    before = [module.training for module in model.modules()]
    state = model.rng.bit_generator.state
    weights = model.state_dict()
    tokens = stream(model, [[1]], 3, Sampling(), rng=0)
    for _ in tokens:
        assert [module.training for module in model.modules()] == before
        assert model([[1]]).requires_grad
    assert True in before and False in before
    model.rng.bit_generator.state = state  # the calls above drew dropout masks
    model.generate([[1]], 3)
    assert model.rng.bit_generator.state == state  # sampling drew none
    for name, array in model.state_dict().items():
        assert np.array_equal(array, weights[name])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.generate([[]], 1), ValueError, r"T at least 1, not \[\(0,\)\]"),
        (lambda m: m.generate([1, 2], 1), ValueError, r"\(B, T\), .* not \[\(\), \(\)\]"),
        (lambda m: m.generate([[13]], 1), IndexError, r"input_ids\[0, 0\] = 13 .*\[0, 13\)"),
        (lambda m: m.generate([[1, -2]], 1), IndexError, r"input_ids\[0, 1\] = -2 "),
        (lambda m: m.generate([[1.5]], 1), TypeError, "integers, not float64"),
        (lambda m: complete(m, [], 1), ValueError, r"\(B, T\), .* not \[\]"),
        (lambda m: complete(m, [[1], []], 1), ValueError, r"not \[\(1,\), \(0,\)\]"),
        (lambda m: complete(m, [[1], [2, 13]], 1), IndexError, r"prompts\[1\]\[1\] = 13 "),
        (lambda m: complete(m, [[1], [2, 3]], 9), ValueError, "2 tokens of .*at most 8 new"),
        (lambda m: m.generate([[1], [2]], 1, rng=[1]), ValueError, "1 seeds for 2 rows"),
        (lambda m: m.generate([[1]], 1, vocab_size=0), ValueError, "vocab_size=0 must be at"),
        (lambda m: m.generate([[1]], -1), ValueError, "max_new_tokens=-1 must be at least 0"),
        (lambda m: m.generate([[1]], 2.0), TypeError, "max_new_tokens must be an integer"),
        (lambda m: m.generate([[1, 2]], 9), ValueError, "n_positions=10.*at most 8 new"),
        (lambda m: m.generate([[1] * 11], 0), ValueError, "n_positions=10; crop the prompt, or"),
        (lambda m: m.generate([[1, 2], [3]], 1), ValueError, "npgpt2.complete"),
        (lambda m: prefill(m, [[1, 2], []]), ValueError, r"not \[\(2,\), \(0,\)\]"),
        (lambda m: prefill(m, [[1.7]]), TypeError, "integers, not float64"),
        (lambda m: prefill(m, []), ValueError, r"\(B, T\), .* not \[\]"),
        (lambda m: prefill(m, [[1, 2]], 1), ValueError, "2 new ones exceed its capacity of 1"),
        (lambda m: m.generate([[1]], 1, stop=13), IndexError, r"stop\[0\] = 13"),
        (lambda m: m.generate([[1]], 1, temperature=-1), ValueError, "temperature=-1.0 must be"),
        (lambda m: m.generate([[1]], 1, temperature=math.nan), ValueError, "temperature=nan"),
        (lambda m: m.generate([[1]], 1, top_k=0), ValueError, "top_k=0 must be at least 1"),
        (lambda m: m.generate([[1]], 1, top_k=1.5), TypeError, "top_k must be an integer"),
        (lambda m: m.generate([[1]], 1, top_p=0.0), ValueError, "top_p=0.0 must be positive"),
        (lambda m: m.generate([[1]], 1, top_p=1.1), ValueError, "top_p=1.1 must be .* at most 1"),
    ],
)
def test_wrong_arguments_are_refused(model, call, error, message):
    with model.evaluating(), pytest.raises(error, match=message):
        call(model)


def test_no_window_slides_unasked(model):
    for call in (stream, complete):
        with pytest.raises(ValueError, match="or pass sliding_window=True"):
            call(model, [[1, 2]], 9)


def test_stream_checks_its_arguments_before_the_first_token_is_asked_for(model):
    with pytest.raises(IndexError, match="13"):
        stream(model, [[13]], 1, Sampling())


def test_the_prompt_may_change_while_the_stream_is_open(model):
    prompt = np.array([[1, 2, 3]])
    expected = model.generate(prompt, 5, temperature=0.0)[0, 3:]
    tokens = []
    for step in stream(model, prompt, 5, Sampling(temperature=0.0)):
        prompt[...] = 7
        tokens.append(int(step.tokens[0]))
    assert tokens == expected.tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_ids_of_any_integer_dtype_are_continued(model, dtype):
    out = model.generate(np.array([[1, 2]], dtype), 3, temperature=0.0)
    assert np.array_equal(out, model.generate([[1, 2]], 3, temperature=0.0))
    assert out.dtype.kind == "i"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_first_weight_that_is_not_finite_is_named(temperature):
    model = random_model(CONFIG).eval()
    model.ln_f.weight.data[3] = np.nan
    with pytest.raises(FloatingPointError, match=r"parameter ln_f.weight has nan at \[3\]"):
        model.generate([[1]], 1, temperature)
    model.h[1].attn.c_attn.weight.data[4, 2] = -np.inf
    with pytest.raises(FloatingPointError, match=r"h.1.attn.c_attn.weight has -inf at \[4, 2\]"):
        model.generate([[1]], 1, temperature)


@pytest.mark.parametrize("temperature", [0.0, 1e-310, 1e-30, 1e-4, 1.0, 1e30])
def test_underflow_is_not_mistaken_for_logits_that_are_not_finite(temperature):
    model = random_model(CONFIG).astype(np.float32).eval()
    model.ln_f.weight.data *= 1e3  # logits so far apart that most probabilities are 0
    arguments = (model, [[1, 2], [3, 4]], 3, Sampling(temperature), [1, 2])
    tokens = generate(*arguments)
    with np.errstate(all="raise"):
        assert np.array_equal(generate(*arguments), tokens)
        for completion in complete(*arguments):
            assert (completion.logprobs <= 0.0).all()
        model.wte.weight.data[3] = np.nan
        with pytest.raises(FloatingPointError, match="logits are not finite: .*wte.weight has nan"):
            generate(*arguments)


def test_a_layer_that_overflows_is_named():
    model = random_model(CONFIG).astype(np.float32).eval()
    model.h[1].mlp.c_proj.weight.data[...] = 3e38
    with pytest.raises(FloatingPointError, match="finite, but the output of h.1 is not"):
        model.generate([[1, 2]], 1)
    model = random_model(CONFIG).astype(np.float32).eval()
    model.ln_f.weight.data[...] = 3e38
    with pytest.raises(FloatingPointError, match="only the products of the head are not finite"):
        model.generate([[1, 2]], 1)
