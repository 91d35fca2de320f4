"""The cache: a text that is read in parts gives the same logits as the whole text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograd import no_grad
from npgpt2 import GPT2Config, GPT2Model
from npgpt2.cache import KVCache
from tests.test_npgpt2.cases import assert_close, random_batch, random_config, random_model

CONFIG = GPT2Config(vocab_size=13, n_positions=10, n_embd=16, n_layer=2, n_head=2)


@pytest.fixture(scope="module")
def model():
    return random_model(CONFIG).eval()


def read(model, cache, ids):
    with model.evaluating():
        return model(ids, cache=cache).data


@given(st.integers(0, 2**32 - 1), st.data())
def test_every_way_to_split_a_text_gives_the_logits_of_the_whole(seed, data):
    config = random_config(seed)
    ids, _ = random_batch(config, seed)
    (B, T), model = ids.shape, random_model(config, seed).eval()
    cuts = data.draw(st.sets(st.integers(1, T - 1)) if T > 1 else st.just(set()))
    cache = model.make_cache(B, capacity=data.draw(st.integers(T, config.n_positions)))
    parts = np.split(ids, sorted(cuts), axis=1)
    logits = np.concatenate([read(model, cache, part) for part in parts], axis=1)
    whole = model(ids).data
    assert_close(logits, whole)
    assert np.array_equal(logits.argmax(axis=-1), whole.argmax(axis=-1))
    assert cache.lengths.tolist() == [T] * B


@pytest.mark.parametrize("cuts", [[], [1], [63, 64, 65], [100], [149]])
def test_long_parts_are_read_as_long_texts_are(cuts):
    """These texts have more rows than attention computes at a time."""
    model = random_model(GPT2Config(13, 150, 16, n_layer=1, n_head=2)).eval()
    ids = np.random.default_rng(0).integers(0, 13, (2, 150))
    cache = model.make_cache(2)
    parts = [read(model, cache, part) for part in np.split(ids, cuts, axis=1)]
    assert_close(np.concatenate(parts, axis=1), model(ids).data)


@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=4), st.integers(1, 4), st.integers(0, 2**32)
)
def test_rows_of_different_lengths_are_each_read_as_if_alone(model, lengths, T, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 13, (len(lengths), max(lengths)))  # ids beyond a length do not matter
    more = rng.integers(0, 13, (len(lengths), T))
    cache = model.make_cache(len(lengths))
    first = read(model, cache, ids)
    cache.truncate(np.array(lengths))
    second = read(model, cache, more)
    for b, n in enumerate(lengths):
        alone = model(np.concatenate([ids[[b], :n], more[[b]]], axis=1)).data[0]
        assert_close(first[b, :n], alone[:n])
        assert_close(second[b], alone[n:])
    assert cache.lengths.tolist() == [n + T for n in lengths]


def test_tokens_can_be_taken_back(model):
    cache = model.make_cache(1)
    read(model, cache, np.array([[1, 2, 3, 4, 5]]))
    cache.truncate([0])
    assert_close(read(model, cache, np.array([[6, 7]])), model([[6, 7]]).data)
    cache.truncate([0])
    read(model, cache, np.array([[1, 2, 3, 4, 5]]))
    cache.truncate([2])
    assert_close(read(model, cache, np.array([[6, 7]])), model([[1, 2, 6, 7]]).data[:, 2:])


def test_float32_stays_float32():
    model = random_model(CONFIG).astype(np.float32).eval()
    cache = model.make_cache(1)
    assert read(model, cache, np.array([[1, 2]])).dtype == np.float32
    assert all(array.dtype == np.float32 for array in cache._layers)


def test_what_does_not_fit_is_refused_and_changes_nothing(model):
    cache = model.make_cache(2, capacity=4)
    read(model, cache, np.array([[1, 2, 3], [4, 5, 6]]))
    with pytest.raises(ValueError, match="3 tokens in the cache and 2 new ones exceed .* of 4"):
        read(model, cache, np.array([[1, 2], [3, 4]]))
    with pytest.raises(ValueError, match="a cache of 2 rows cannot take 1"):
        read(model, cache, np.array([[1]]))
    with pytest.raises(IndexError, match="13"):
        read(model, cache, np.array([[13], [1]]))
    assert cache.lengths.tolist() == [3, 3]
    whole = model([[1, 2, 3, 7], [4, 5, 6, 8]]).data[:, 3:]
    assert_close(read(model, cache, np.array([[7], [8]])), whole)


def test_neither_gradients_nor_dropout_go_through_a_cache(model):
    cache = model.make_cache(1)
    with pytest.raises(RuntimeError, match="inside `with model.evaluating"):
        model([[1]], cache=cache)
    training = random_model(CONFIG).train()
    with no_grad(), pytest.raises(RuntimeError, match="only without gradients and dropout"):
        training([[1]], cache=cache)
    assert cache.lengths.tolist() == [0]


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([4, 2], ValueError, r"lengths=\[4, 2\] must be 2 numbers from 0 to .* read, \[3, 3\]"),
        ([-1, 2], ValueError, r"lengths=\[-1, 2\] must be 2 numbers"),
        ([2], ValueError, r"lengths=\[2\] must be 2 numbers"),
        (2, ValueError, "lengths=2 must be 2 numbers"),
        ([[2, 2]], ValueError, r"lengths=\[\[2, 2\]\] must be 2 numbers"),
        ([1.0, 2.0], TypeError, "lengths must be integers, not float64"),
    ],
)
def test_lengths_are_at_most_what_has_been_read(model, lengths, error, message):
    cache = model.make_cache(2)
    read(model, cache, np.array([[1, 2, 3], [4, 5, 6]]))
    with pytest.raises(error, match=message):
        cache.truncate(lengths)
    with pytest.raises(ValueError, match="read-only"):
        cache.lengths[:] = 0
    assert cache.lengths.tolist() == [3, 3]


def test_lengths_of_the_caller_are_not_kept_and_do_not_overflow(model):
    large = random_model(GPT2Config(13, 300, 16, n_layer=1, n_head=2)).eval()
    cache, lengths = large.make_cache(1), np.array([250], dtype=np.uint8)
    read(large, cache, np.ones((1, 260), dtype=int))
    cache.truncate(lengths)
    read(large, cache, np.ones((1, 10), dtype=int))
    assert cache.lengths.tolist() == [260] and lengths.tolist() == [250]


@pytest.mark.parametrize(
    "change", [{"n_layer": 1}, {"n_head": 4}, {"n_embd": 32}, {"n_positions": 9}, {}]
)
def test_a_cache_for_another_model_is_refused(model, change):
    dtype = np.float64 if change else np.float32
    other = GPT2Model(replace(CONFIG, **change, n_inner=None), dtype=dtype).eval()
    cache = model.make_cache(1)
    with pytest.raises(ValueError, match="does not fit a model .*model.make_cache()"):
        read(other, cache, np.array([[1]]))
    assert cache.lengths.tolist() == [0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size=0 must be at least 1"),
        ({"batch_size": 1, "capacity": 11}, ValueError, "capacity=11 .* at most n_positions=10"),
        ({"batch_size": 1, "capacity": 0}, ValueError, "capacity=0 must be at least 1"),
        ({"batch_size": 1, "dtype": np.float16}, TypeError, "float32 or float64, not float16"),
    ],
)
def test_wrong_sizes_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        KVCache(CONFIG, **arguments)
