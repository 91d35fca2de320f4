"""Sampling: what is drawn, from which probabilities, and how the prompt is continued."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from npgpt2 import GPT2Config, GPT2Model
from npgpt2.generation import Sampling, generate, stream
from tests.test_npgpt2.torch_gpt2 import assert_close, random_model

CONFIG = GPT2Config(vocab_size=13, n_positions=10, n_embd=16, n_layer=2, n_head=2)
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def model() -> GPT2Model:
    return random_model(CONFIG).eval()


def random_logits(seed: int) -> NDArray:
    return 2.0 * np.random.default_rng(seed).standard_normal((3, 9))


# -- probabilities -------------------------------------------------------------------------------


@given(seed=SEEDS, temperature=st.floats(0.05, 10.0))
def test_temperature_divides_the_logits(seed: int, temperature: float) -> None:
    z = random_logits(seed)
    p = Sampling(temperature).probabilities(z)
    e = np.exp(z / temperature - (z / temperature).max(axis=-1, keepdims=True))
    assert_close(p, e / e.sum(axis=-1, keepdims=True))


@given(seed=SEEDS, k=st.integers(1, 12))
def test_top_k_keeps_the_k_most_probable_in_proportion(seed: int, k: int) -> None:
    z = random_logits(seed)
    everything, p = Sampling().probabilities(z), Sampling(top_k=k).probabilities(z)
    for whole, kept in zip(everything, p, strict=True):
        best = np.argsort(-whole)[:k]
        expected = np.zeros_like(whole)
        expected[best] = whole[best] / whole[best].sum()
        assert_close(kept, expected)


@given(seed=SEEDS, top_p=st.floats(0.01, 1.0, exclude_max=True))
def test_top_p_keeps_the_fewest_that_reach_it(seed: int, top_p: float) -> None:
    z = random_logits(seed)
    everything, p = Sampling().probabilities(z), Sampling(top_p=top_p).probabilities(z)
    for whole, kept in zip(everything, p, strict=True):
        nucleus = kept > 0.0
        assert whole[nucleus].min() > whole[~nucleus].max(initial=0.0)
        assert whole[nucleus].sum() >= top_p - 1e-12  # rounding of the sum
        assert whole[nucleus].sum() - whole[nucleus].min() < top_p + 1e-12  # one less: too few
        assert_close(kept[nucleus], whole[nucleus] / whole[nucleus].sum())


def test_top_k_comes_before_top_p() -> None:
    z = np.log([0.4, 0.3, 0.2, 0.1])
    # Of the two best, 4/7 and 3/7: the first alone reaches 0.5, though its 0.4 of all does not.
    assert_close(Sampling(top_k=2, top_p=0.5).probabilities(z), [1.0, 0.0, 0.0, 0.0])
    assert_close(Sampling(top_p=0.5).probabilities(z), [4 / 7, 3 / 7, 0.0, 0.0])


def test_of_equally_probable_tokens_the_lower_ids_come_first() -> None:
    flat = np.zeros(4)
    assert_close(Sampling(top_k=2).probabilities(flat), [0.5, 0.5, 0.0, 0.0])
    assert_close(Sampling(top_p=0.5).probabilities(flat), [0.5, 0.5, 0.0, 0.0])
    assert_close(Sampling(0.0).probabilities(flat), [1.0, 0.0, 0.0, 0.0])


@given(seed=SEEDS)
def test_limits_that_exclude_nothing_change_nothing(seed: int) -> None:
    z = random_logits(seed)
    plain = Sampling().probabilities(z)
    for same in (Sampling(top_k=9), Sampling(top_k=1000), Sampling(top_p=1.0)):
        assert np.array_equal(same.probabilities(z), plain)


def test_a_nucleus_of_everything_keeps_tokens_too_rare_to_change_a_sum() -> None:
    for top_p in (None, 1.0):
        p = Sampling(top_k=2, top_p=top_p).probabilities([0.0, -40.0, -80.0])
        assert p[0] == 1.0 and 4e-18 < p[1] < 5e-18 and p[2] == 0.0


@given(seed=SEEDS)
def test_greedy_has_three_spellings(seed: int) -> None:
    z = random_logits(seed)
    greedy = Sampling(0.0).probabilities(z)
    assert np.array_equal(greedy, np.eye(9)[z.argmax(axis=-1)])
    assert np.array_equal(Sampling(top_k=1).probabilities(z), greedy)
    assert np.array_equal(Sampling(top_p=1e-12).probabilities(z), greedy)


def test_extreme_logits_and_tiny_temperatures_do_not_overflow() -> None:
    z = np.array([1e30, -1e30, 0.0])
    for temperature in (1e-3, 1.0, 1e3):
        assert np.array_equal(Sampling(temperature).probabilities(z), [1.0, 0.0, 0.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_refused(bad: float, temperature: float) -> None:
    with pytest.raises(FloatingPointError, match="logits are not finite.*NaN"):
        Sampling(temperature).probabilities([0.0, bad])


def test_draws_come_as_often_as_their_probabilities_say() -> None:
    n, p = 40_000, np.array([0.5, 0.0, 0.3, 0.15, 0.05])
    with np.errstate(divide="ignore"):
        z = np.tile(np.maximum(np.log(p), -1e4), (n, 1))
    tokens = Sampling().draw(z, np.random.default_rng(0))
    share = np.bincount(tokens, minlength=5) / n
    assert share[1] == 0.0
    assert (np.abs(share - p) <= 5.0 * np.sqrt(p * (1.0 - p) / n)).all()  # 5 sigma


class AlmostOne:
    """A generator that always draws the largest number below 1."""

    def random(self, shape: tuple[int, ...]) -> NDArray:
        return np.full(shape, np.nextafter(1.0, 0.0))


@given(seed=SEEDS, k=st.integers(1, 9))
def test_rounding_never_draws_a_token_of_probability_0(seed: int, k: int) -> None:
    z, sampling = random_logits(seed), Sampling(top_k=k)
    tokens = sampling.draw(z, AlmostOne())
    assert (np.take_along_axis(sampling.probabilities(z), tokens[:, None], -1) > 0.0).all()


@given(seed=SEEDS)
def test_each_row_is_drawn_from_its_own_probabilities(seed: int) -> None:
    z = 1e4 * np.eye(9)[np.random.default_rng(seed).permutation(9)]
    tokens = Sampling().draw(z, np.random.default_rng(seed))
    assert np.array_equal(tokens, z.argmax(axis=-1))


# -- generate ------------------------------------------------------------------------------------


PROMPTS = st.tuples(SEEDS, st.integers(1, 3), st.integers(1, 4)).map(
    lambda drawn: np.random.default_rng(drawn[0]).integers(0, CONFIG.vocab_size, drawn[1:])
)
TEMPERATURES, TOP_KS = st.floats(0.1, 5.0), st.none() | st.integers(1, 15)
TOP_PS = st.none() | st.floats(0.01, 1.0)


@given(PROMPTS, st.integers(0, 6), st.just(0.0) | TEMPERATURES, TOP_KS, TOP_PS, SEEDS)
def test_the_prompt_is_kept_the_length_exact_and_every_id_a_token(
    model: GPT2Model,
    prompt: NDArray,
    new: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
) -> None:
    out = model.generate(prompt, new, temperature, top_k, top_p, seed)
    B, T = prompt.shape
    assert out.shape == (B, T + new) and out.dtype.kind in "iu"
    assert np.array_equal(out[:, :T], prompt)
    assert (out >= 0).all() and (out < CONFIG.vocab_size).all()


@given(PROMPTS, SEEDS, TEMPERATURES)
def test_greedy_tokens_are_those_the_model_finds_most_probable(
    model: GPT2Model, prompt: NDArray, seed: int, temperature: float
) -> None:
    T = prompt.shape[1]
    out = model.generate(prompt, 6, temperature=0.0)
    predicted = model(out[:, :-1]).data.argmax(axis=-1)
    assert np.array_equal(out[:, T:], predicted[:, T - 1 :])
    for same in ({"top_k": 1}, {"top_p": 1e-12}):
        assert np.array_equal(model.generate(prompt, 6, temperature, **same, rng=seed), out)


@given(PROMPTS, SEEDS, TEMPERATURES, st.integers(CONFIG.vocab_size, 1000))
def test_limits_that_exclude_nothing_change_no_token(
    model: GPT2Model, prompt: NDArray, seed: int, temperature: float, top_k: int
) -> None:
    free = model.generate(prompt, 6, temperature, rng=seed)
    for limits in ({"top_k": top_k}, {"top_p": 1.0}):
        assert np.array_equal(model.generate(prompt, 6, temperature, **limits, rng=seed), free)


@given(PROMPTS, SEEDS, st.data())
def test_rows_of_a_batch_are_those_of_single_runs_with_the_draws_of_that_row(
    model: GPT2Model, prompt: NDArray, seed: int, data: st.DataObject
) -> None:
    """A batch has one generator, not one a row: every token takes B draws from it, row by row.

    So a run of row b alone, which takes one, has the same if it skips those of the other rows.
    """
    B, b = len(prompt), data.draw(st.integers(0, len(prompt) - 1))
    batch = model.generate(prompt, 6, temperature=3.0, rng=seed)
    rng, alone = np.random.default_rng(seed), []
    rng.bit_generator.advance(b)
    for token in stream(model, prompt[[b]], 6, Sampling(3.0), rng):
        alone.append(int(token[0]))
        rng.bit_generator.advance(B - 1)
    assert batch[b, prompt.shape[1] :].tolist() == alone


def test_by_default_tokens_are_drawn_as_the_model_predicts(model: GPT2Model) -> None:
    """Temperature 1, no limits, no stop, and no window that slides."""
    prompt = np.arange(6).reshape(3, 2)
    expected = model.generate(prompt, 6, 1.0, None, None, 0, None, False)
    assert np.array_equal(model.generate(prompt, 6, rng=0), expected)
    assert np.array_equal(generate(model, prompt, 6, rng=0), expected)
    assert Sampling() == Sampling(1.0, None, None)
    assert not np.array_equal(model.generate(prompt, 6, 2.0, rng=0), expected)
    for call in (model.generate, partial(generate, model)):
        with pytest.raises(ValueError, match="or pass sliding_window=True"):
            call(prompt, 100)


def test_the_same_seed_gives_the_same_text(model: GPT2Model) -> None:
    def sample(rng: Any) -> NDArray:
        return model.generate([[0]], 9, temperature=3.0, rng=rng)

    assert np.array_equal(sample(1), sample(1))
    assert np.array_equal(sample(1), sample(np.random.default_rng(1)))
    assert not np.array_equal(sample(1), sample(2))
    assert len({sample(None).tobytes() for _ in range(5)}) > 1


@given(PROMPTS, SEEDS, TEMPERATURES, st.integers(1, 15), st.just(1.0) | st.floats(0.01, 1.0))
def test_sampled_tokens_lie_inside_top_k_and_the_nucleus(
    model: GPT2Model, prompt: NDArray, seed: int, temperature: float, top_k: int, top_p: float
) -> None:
    T = prompt.shape[1]
    out = model.generate(prompt, 6, temperature, top_k, top_p, seed)
    p = Sampling(temperature).probabilities(model(out[:, :-1]).data[:, T - 1 :])  # (B, 6, V)
    ranked = -np.sort(-p, axis=-1)
    of_best = ranked[..., :top_k].sum(axis=-1)
    more_probable = p > np.take_along_axis(p, out[:, T:, None], axis=-1)
    assert (more_probable.sum(axis=-1) < top_k).all()
    # The nucleus is full once those before have top_p of what top_k left, up to rounding.
    assert ((p * more_probable).sum(axis=-1) / of_best < top_p + 1e-9).all()


@given(PROMPTS, SEEDS, st.data())
def test_a_stopped_row_is_filled_with_its_stop_id(
    model: GPT2Model, prompt: NDArray, seed: int, data: st.DataObject
) -> None:
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


def test_generation_ends_early_once_all_rows_have_stopped(model: GPT2Model) -> None:
    first = int(model.generate([[5]], 1, temperature=0.0)[0, 1])
    tokens = list(stream(model, [[5], [5]], 9, Sampling(0.0), stop=first))
    assert [t.tolist() for t in tokens] == [[first, first]]
    out = model.generate([[5], [5]], 9, temperature=0.0, stop=first)
    assert np.array_equal(out, [[5] + [first] * 9] * 2)


def test_a_stop_id_in_the_prompt_does_not_stop(model: GPT2Model) -> None:
    prompts = np.array([[i, 4] for i in range(13)])
    free = model.generate(prompts, 5, temperature=0.0)
    not_repeated = [i for i in range(13) if i not in free[i, 2:]]
    assert not_repeated
    for i in not_repeated:
        out = model.generate(prompts[[i]], 5, temperature=0.0, stop=i)
        assert np.array_equal(out, free[[i]])


def test_a_sliding_window_predicts_from_the_last_n_positions(model: GPT2Model) -> None:
    # Sampled, since what is most probable repeats itself soon, and then no window matters.
    out = model.generate([[1, 2, 3]], 20, rng=1, sliding_window=True)
    assert out.shape == (1, 23) and len(set(out[0, 10:])) > 5
    rng = np.random.default_rng(1)
    for end in range(3, 23):
        window = out[:, max(0, end - 10) : end]
        assert out[0, end] == Sampling().draw(model(window).data[:, -1], rng)[0]
    within = model.generate([[1, 2, 3]], 7, rng=1)
    assert np.array_equal(out[:, :10], within)


def test_the_model_is_left_as_it_was_also_while_the_stream_is_open() -> None:
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
    assert model.rng.bit_generator.state == state  # sampling has not
    for name, array in model.state_dict().items():
        assert np.array_equal(array, weights[name])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.generate([[]], 1), ValueError, r"T at least 1, not \(1, 0\)"),
        (lambda m: m.generate([1, 2], 1), ValueError, r"\(B, T\), .* not \(2,\)"),
        (lambda m: m.generate([[13]], 1), IndexError, r"input_ids\[0, 0\] = 13 .*\[0, 13\)"),
        (lambda m: m.generate([[1, -2]], 1), IndexError, r"input_ids\[0, 1\] = -2 "),
        (lambda m: m.generate([[1.5]], 1), TypeError, "integers, not float64"),
        (lambda m: m.generate([[1]], -1), ValueError, "max_new_tokens=-1 must be at least 0"),
        (lambda m: m.generate([[1]], 2.0), TypeError, "max_new_tokens must be an integer"),
        (lambda m: m.generate([[1, 2]], 9), ValueError, "n_positions=10.*at most 8 new"),
        (lambda m: m.generate([[1]], 1, stop=13), IndexError, r"stop\[0\] = 13"),
        (lambda m: m.generate([[1]], 1, temperature=-1), ValueError, "temperature=-1.0 must be"),
        (lambda m: m.generate([[1]], 1, temperature=math.nan), ValueError, "temperature=nan"),
        (lambda m: m.generate([[1]], 1, top_k=0), ValueError, "top_k=0 must be at least 1"),
        (lambda m: m.generate([[1]], 1, top_k=1.5), TypeError, "top_k must be an integer"),
        (lambda m: m.generate([[1]], 1, top_p=0.0), ValueError, "top_p=0.0 must be positive"),
        (lambda m: m.generate([[1]], 1, top_p=1.1), ValueError, "top_p=1.1 must be .* at most 1"),
    ],
)
def test_wrong_arguments_are_refused(
    model: GPT2Model, call: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(model)


def test_stream_checks_its_arguments_before_the_first_token_is_asked_for(model: GPT2Model) -> None:
    with pytest.raises(IndexError, match="13"):
        stream(model, [[13]], 1, Sampling())


def test_the_prompt_may_change_while_the_stream_is_open(model: GPT2Model) -> None:
    prompt = np.array([[1, 2, 3]])
    expected = model.generate(prompt, 5, temperature=0.0)[0, 3:]
    tokens = []
    for token in stream(model, prompt, 5, Sampling(temperature=0.0)):
        prompt[...] = 7
        tokens.append(int(token[0]))
    assert tokens == expected.tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_ids_of_any_integer_dtype_are_continued(model: GPT2Model, dtype: type) -> None:
    out = model.generate(np.array([[1, 2]], dtype), 3, temperature=0.0)
    assert np.array_equal(out, model.generate([[1, 2]], 3, temperature=0.0))
    assert out.dtype.kind == "i"


def test_probabilities_are_float64_whatever_the_logits() -> None:
    p = Sampling(0.7, 3, 0.9).probabilities(np.float32([[1.0, 2.0, 3.0, 4.0]]))
    assert p.dtype == np.float64 and abs(p.sum() - 1.0) < 1e-15


def test_weights_of_nan_are_an_error_not_a_text() -> None:
    model = random_model(CONFIG).eval()
    model.ln_f.weight.data[3] = np.nan
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        model.generate([[1]], 1)
