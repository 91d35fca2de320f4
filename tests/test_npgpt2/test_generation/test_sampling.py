"""Sampling computes the right probabilities, and draws tokens with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt2.generation.sampling import Sampling
from tests.test_npgpt2.cases import assert_close

SEEDS = st.integers(0, 2**32 - 1)


def random_logits(seed):
    return 2.0 * np.random.default_rng(seed).standard_normal((3, 9))


@given(seed=SEEDS, temperature=st.floats(0.05, 10.0))
def test_temperature_divides_the_logits(seed, temperature):
    z = random_logits(seed)
    p = Sampling(temperature).probabilities(z)
    e = np.exp(z / temperature - (z / temperature).max(axis=-1, keepdims=True))
    assert_close(p, e / e.sum(axis=-1, keepdims=True))


@given(seed=SEEDS, k=st.integers(1, 12))
def test_top_k_keeps_the_k_most_probable_in_proportion(seed, k):
    z = random_logits(seed)
    everything, p = Sampling().probabilities(z), Sampling(top_k=k).probabilities(z)
    for whole, kept in zip(everything, p, strict=True):
        best = np.argsort(-whole)[:k]
        expected = np.zeros_like(whole)
        expected[best] = whole[best] / whole[best].sum()
        assert_close(kept, expected)


@given(seed=SEEDS, top_p=st.floats(0.01, 1.0, exclude_max=True))
def test_top_p_keeps_the_fewest_that_reach_it(seed, top_p):
    z = random_logits(seed)
    everything, p = Sampling().probabilities(z), Sampling(top_p=top_p).probabilities(z)
    for whole, kept in zip(everything, p, strict=True):
        nucleus = kept > 0.0
        assert whole[nucleus].min() > whole[~nucleus].max(initial=0.0)
        assert whole[nucleus].sum() >= top_p - 1e-12  # rounding of the sum
        assert whole[nucleus].sum() - whole[nucleus].min() < top_p + 1e-12  # one less is too few
        assert_close(kept[nucleus], whole[nucleus] / whole[nucleus].sum())


def test_top_k_comes_before_top_p():
    z = np.log([0.4, 0.3, 0.2, 0.1])
    # top_k leaves 4/7 and 3/7. So the first token alone reaches 0.5, although 0.4 would not.
    assert_close(Sampling(top_k=2, top_p=0.5).probabilities(z), [1.0, 0.0, 0.0, 0.0])
    assert_close(Sampling(top_p=0.5).probabilities(z), [4 / 7, 3 / 7, 0.0, 0.0])


def test_each_row_has_a_scale_of_its_own():
    p = Sampling().probabilities([[0.0, 0.0], [1e4, 1e4], [-1e4, -1e4]])
    assert_close(p, np.full((3, 2), 0.5))


def test_of_equally_probable_tokens_the_lower_ids_come_first():
    flat = np.zeros(4)
    assert_close(Sampling(top_k=2).probabilities(flat), [0.5, 0.5, 0.0, 0.0])
    assert_close(Sampling(top_p=0.5).probabilities(flat), [0.5, 0.5, 0.0, 0.0])
    assert_close(Sampling(0.0).probabilities(flat), [1.0, 0.0, 0.0, 0.0])
    many = np.tile([0.0, 1.0, 2.0], 40)  # NumPy sorts short arrays stably in any case
    kept = np.flatnonzero(Sampling(top_k=50).probabilities(many)).tolist()
    assert kept == sorted([*range(2, 120, 3), *range(1, 30, 3)])


@given(seed=SEEDS)
def test_limits_that_exclude_nothing_change_nothing(seed):
    z = random_logits(seed)
    plain = Sampling().probabilities(z)
    for same in (Sampling(top_k=9), Sampling(top_k=1000), Sampling(top_p=1.0)):
        assert np.array_equal(same.probabilities(z), plain)


def test_a_nucleus_of_everything_keeps_tokens_too_rare_to_change_a_sum():
    for top_p in (None, 1.0):
        p = Sampling(top_k=2, top_p=top_p).probabilities([0.0, -40.0, -80.0])
        assert p[0] == 1.0 and 4e-18 < p[1] < 5e-18 and p[2] == 0.0


@given(seed=SEEDS)
def test_greedy_has_three_spellings(seed):
    z = random_logits(seed)
    greedy = Sampling(0.0).probabilities(z)
    assert np.array_equal(greedy, np.eye(9)[z.argmax(axis=-1)])
    assert np.array_equal(Sampling(top_k=1).probabilities(z), greedy)
    assert np.array_equal(Sampling(top_p=1e-12).probabilities(z), greedy)


def test_extreme_logits_and_tiny_temperatures_do_not_overflow():
    z = np.array([1e30, -1e30, 0.0])
    for temperature in (1e-310, 1e-3, 1.0, 1e3):
        assert np.array_equal(Sampling(temperature).probabilities(z), [1.0, 0.0, 0.0])


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-30, 1e-4, 1.0, 1e30, 1e308])
@pytest.mark.parametrize("limits", [{}, {"top_k": 3}, {"top_p": 0.5}])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_temperature_gives_probabilities_without_a_floating_point_error(
    temperature, limits, dtype
):
    z = np.random.default_rng(0).permuted(np.linspace(-1e3, 1e3, 40).reshape(2, 20), axis=1)
    largest = np.finfo(dtype).max
    z = np.vstack([z, np.full(20, largest)]).astype(dtype)
    z[2, 1:3] = -largest
    sampling = Sampling(temperature, **limits)
    with np.errstate(all="raise"):
        p = sampling.probabilities(z)
        tokens = sampling.draw(z, np.random.default_rng(0))
    np.testing.assert_allclose(p.sum(axis=-1), 1.0, rtol=1e-14)  # a rounding for each term
    assert (np.take_along_axis(p, tokens[:, None], axis=-1) > 0.0).all()
    if temperature <= 1e-4:
        assert np.array_equal(p[:2], np.eye(20)[z[:2].argmax(axis=-1)])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_refused(bad, temperature):
    with pytest.raises(FloatingPointError, match="logits are not finite.*NaN"):
        Sampling(temperature).probabilities([0.0, bad])


def test_draws_come_as_often_as_their_probabilities_say():
    n, p = 40_000, np.array([0.5, 0.0, 0.3, 0.15, 0.05])
    with np.errstate(divide="ignore"):
        z = np.tile(np.maximum(np.log(p), -1e4), (n, 1))
    tokens = Sampling().draw(z, np.random.default_rng(0))
    share = np.bincount(tokens, minlength=5) / n
    assert share[1] == 0.0
    assert (np.abs(share - p) <= 5.0 * np.sqrt(p * (1.0 - p) / n)).all()  # 5 sigma


class AlmostOne:
    """A generator that always draws the largest number below 1."""

    def random(self, shape):
        return np.full(shape, np.nextafter(1.0, 0.0))


@given(seed=SEEDS, k=st.integers(1, 9))
def test_rounding_never_draws_a_token_of_probability_0(seed, k):
    z, sampling = random_logits(seed), Sampling(top_k=k)
    tokens = sampling.draw(z, AlmostOne())
    assert (np.take_along_axis(sampling.probabilities(z), tokens[:, None], -1) > 0.0).all()


@given(seed=SEEDS)
def test_each_row_is_drawn_from_its_own_probabilities(seed):
    z = 1e4 * np.eye(9)[np.random.default_rng(seed).permutation(9)]
    tokens = Sampling().draw(z, np.random.default_rng(seed))
    assert np.array_equal(tokens, z.argmax(axis=-1))


def test_probabilities_are_float64_whatever_the_logits():
    p = Sampling(0.7, 3, 0.9).probabilities(np.float32([[1.0, 2.0, 3.0, 4.0]]))
    assert p.dtype == np.float64 and abs(p.sum() - 1.0) < 1e-15


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.7, top_k=20), Sampling(1.3, top_p=0.8)]
)
def test_frequencies_of_20_000_draws_fit_the_exact_probabilities(sampling):
    """Pearson's chi-square; its standard deviation is sqrt(2 df), and 5 of them are allowed."""
    n, logits = 20_000, 1.5 * np.random.default_rng(0).standard_normal(40)
    expected = n * sampling.probabilities(logits)
    counts = np.bincount(sampling.draw(np.tile(logits, (n, 1)), np.random.default_rng(1)))
    counts = np.pad(counts, (0, 40 - len(counts)))
    possible = expected > 0.0
    assert not counts[~possible].any()
    df = possible.sum() - 1
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert df >= 10 and abs(chi_square - df) < 5.0 * math.sqrt(2.0 * df)


def test_with_a_generator_for_each_row_a_row_is_drawn_as_it_would_be_alone():
    z = random_logits(0)
    generators = [np.random.default_rng(seed) for seed in (5, 6, 7)]
    tokens = Sampling(2.0).draw(z, generators)
    alone = [Sampling(2.0).draw(z[[b]], np.random.default_rng(5 + b))[0] for b in range(3)]
    assert tokens.tolist() == alone
