"""Text to tokens to batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt2.training.data import (
    python_reference,
    random_batch,
    read_text,
    split,
    windows,
)


def test_the_default_text_is_the_python_reference():
    text = python_reference()
    assert len(text) > 400_000
    assert 'The simple form, "assert expression", is equivalent to' in text
    assert text == python_reference()


def test_a_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("a\r\nß\n".encode())
    assert read_text(path) == "a\r\nß\n"


def test_empty_undecodable_and_missing_files_are_named(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"{path} is empty"):
        read_text(path)
    path.write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match="not UTF-8: byte 0xff at position 3.*iconv"):
        read_text(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_text(tmp_path / "nowhere")


def test_each_part_of_a_split_holds_one_window_with_its_targets_at_least():
    assert [len(part) for part in split(np.arange(20), 0.5, 9)] == [10, 10]
    for n, fraction in ((20, 0.5), (21, 0.5), (40, 0.25), (40, 0.75)):
        with pytest.raises(ValueError, match="10 for"):
            split(np.arange(n), fraction, 10)


@given(st.integers(1, 200), st.floats(0.01, 0.99), st.integers(1, 50))
def test_split_keeps_every_token_in_order_or_says_what_is_too_short(n, fraction, n_positions):
    tokens = np.arange(n)
    try:
        training, validation = split(tokens, fraction, n_positions)
    except ValueError as error:
        held_out = int(n * fraction)
        assert min(held_out, n - held_out) <= n_positions
        assert f"text of {n} characters" in str(error)
        assert f"n_positions + 1 = {n_positions + 1}" in str(error)
    else:
        np.testing.assert_array_equal(np.concatenate([training, validation]), tokens)
        assert min(len(training), len(validation)) > n_positions
        assert len(validation) == int(n * fraction)


def test_targets_are_the_inputs_one_token_later():
    tokens = np.arange(100) ** 2
    inputs, targets = windows(tokens, np.array([0, 7, 95]), 4)
    assert inputs.shape == targets.shape == (3, 4)
    for row, start in enumerate([0, 7, 95]):
        np.testing.assert_array_equal(inputs[row], tokens[start : start + 4])
        np.testing.assert_array_equal(targets[row], tokens[start + 1 : start + 5])


def test_random_batches_reach_every_window_and_only_those():
    tokens = np.arange(10)
    inputs, targets = random_batch(tokens, 1000, 6, np.random.default_rng(0))
    assert set(inputs[:, 0]) == {0, 1, 2, 3}
    assert targets.max() == 9
    again, _ = random_batch(tokens, 1000, 6, np.random.default_rng(0))
    np.testing.assert_array_equal(inputs, again)


def test_a_text_without_a_window_is_named_with_its_length():
    rng = np.random.default_rng(0)
    for n in (8, 7, 0):
        for call in (
            lambda n=n: random_batch(np.arange(n), 2, 8, rng),
            lambda n=n: windows(np.arange(n), np.zeros(1, int), 8),
        ):
            with pytest.raises(ValueError, match=rf"shape \({n},\).*n_positions=8.*= 9; take"):
                call()
    assert random_batch(np.arange(9), 2, 8, rng)[1].tolist() == [list(range(1, 9))] * 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t, r: random_batch(t, 0, 4, r), ValueError, "batch_size=0"),
        (lambda t, r: random_batch(t, 2.0, 4, r), TypeError, "batch_size must be an integer"),
        (lambda t, r: random_batch(t, 2, 0, r), ValueError, "n_positions=0"),
        (lambda t, r: random_batch(t, 2, 4.0, r), TypeError, "n_positions must be an integer"),
        (lambda t, r: random_batch(t, 2, 4, 7), TypeError, "rng must be a Generator.*default_rng"),
        (lambda t, r: random_batch("a text", 2, 4, r), TypeError, "tokens.*encode text"),
        (lambda t, r: random_batch(t[None], 2, 4, r), ValueError, r"shape \(1, 20\)"),
        (lambda t, r: random_batch([[1], [2, 3]], 2, 4, r), ValueError, "rows of tokens"),
        (lambda t, r: windows(t, [-1], 4), IndexError, r"starts\[0\] = -1.*\[0, 16\)"),
        (lambda t, r: windows(t, [16], 4), IndexError, r"starts\[0\] = 16"),
        (lambda t, r: windows(t, [0.5], 4), TypeError, "starts must be integers"),
        (lambda t, r: windows(t, 0, 4), ValueError, r"starts must have shape \(B,\)"),
        (lambda t, r: split(t, float("nan"), 4), ValueError, "val_fraction=nan"),
        (lambda t, r: split(t, "0.1", 4), TypeError, "val_fraction must be a number"),
        (lambda t, r: split(t, 0.5, 1.5), TypeError, "n_positions must be an integer"),
        (lambda t, r: read_text(None), TypeError, "path must be a path, not None"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(np.arange(20), np.random.default_rng(0))
