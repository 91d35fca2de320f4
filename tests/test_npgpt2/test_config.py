"""GPT2Config takes what makes sense and refuses the rest; so do the checks it is made of."""

from __future__ import annotations

import dataclasses
import math
import pickle
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt2 import GPT2Config, validate
from npgpt2.config import PRESETS

SIZES = ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"]
PDROPS = ["resid_pdrop", "embd_pdrop", "attn_pdrop"]
POSITIVE = ["layer_norm_epsilon", "initializer_range"]

DEFAULTS = {
    "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12,
    "n_inner": 3072, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
}  # fmt: skip


def assert_refused(error: type[Exception], message: str, call: Callable[[], object]) -> None:
    """The call raises this error, and the message contains the text given."""
    with pytest.raises(error, match=re.escape(message)):
        call()


# -- values that are taken -----------------------------------------------------------------------


def test_defaults_are_those_of_gpt2_small() -> None:
    assert dataclasses.asdict(GPT2Config()) == DEFAULTS
    assert GPT2Config() == GPT2Config.gpt2_small()


@pytest.mark.parametrize(
    ("name", "n_layer", "n_embd", "n_head"),
    [
        ("gpt2-small", 12, 768, 12),
        ("gpt2-medium", 24, 1024, 16),
        ("gpt2-large", 36, 1280, 20),
        ("gpt2-xl", 48, 1600, 25),
    ],
)
def test_presets_have_the_published_sizes(
    name: str, n_layer: int, n_embd: int, n_head: int
) -> None:
    sizes = {"n_layer": n_layer, "n_embd": n_embd, "n_head": n_head, "n_inner": 4 * n_embd}
    config = PRESETS[name]()
    assert dataclasses.asdict(config) == {**DEFAULTS, **sizes}
    assert config.head_size == 64
    assert getattr(GPT2Config, name.replace("-", "_"))() == config


@pytest.mark.parametrize("name", PRESETS)
def test_keyword_arguments_change_single_values_of_a_preset(name: str) -> None:
    changed = PRESETS[name](vocab_size=65, n_layer=2, attn_pdrop=0.0)
    assert (changed.vocab_size, changed.n_layer, changed.attn_pdrop) == (65, 2, 0.0)
    back = {key: getattr(PRESETS[name](), key) for key in ("vocab_size", "n_layer", "attn_pdrop")}
    assert dataclasses.replace(changed, **back) == PRESETS[name]()


@given(st.integers(1, 30), st.integers(1, 30))
def test_n_inner_is_4_n_embd_unless_given(n_head: int, head_size: int) -> None:
    C = n_head * head_size
    assert GPT2Config(n_embd=C, n_head=n_head).n_inner == 4 * C
    assert GPT2Config(n_embd=C, n_head=n_head, n_inner=C + 1).n_inner == C + 1


@given(st.integers(1, 30), st.integers(1, 30))
def test_head_size_is_n_embd_over_n_head(n_head: int, head_size: int) -> None:
    assert GPT2Config(n_embd=n_head * head_size, n_head=n_head).head_size == head_size


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint64])
def test_numpy_integers_become_ints(dtype: type) -> None:
    config = GPT2Config(**{name: dtype(12) for name in SIZES})
    assert all(type(getattr(config, name)) is int for name in SIZES)
    assert config == GPT2Config(**{name: 12 for name in SIZES})


@pytest.mark.parametrize("number", [0, np.float32(0.5), np.float64(0.25), Fraction(1, 2)])
def test_any_real_number_becomes_a_float(number: Any) -> None:
    config = GPT2Config(**{name: number for name in PDROPS})
    assert [getattr(config, name) for name in PDROPS] == [number] * 3
    assert all(type(getattr(config, name)) is float for name in PDROPS)
    assert type(GPT2Config(initializer_range=1).initializer_range) is float


# -- a frozen value ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEFAULTS)
def test_fields_cannot_be_set(name: str) -> None:
    config = GPT2Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, 1)
    assert config == GPT2Config()


def test_equal_configs_hash_equally_and_survive_pickle() -> None:
    config = GPT2Config(n_layer=3)
    assert hash(config) == hash(GPT2Config(n_layer=3)) and config != GPT2Config(n_layer=4)
    assert pickle.loads(pickle.dumps(config)) == config


def test_replace_changes_a_copy_alone() -> None:
    config = GPT2Config()
    changed = dataclasses.replace(config, n_layer=2)
    assert dataclasses.asdict(changed) == {**DEFAULTS, "n_layer": 2}
    assert config == GPT2Config()


def test_replace_derives_n_inner_anew_when_it_is_set_to_none() -> None:
    config = dataclasses.replace(GPT2Config(), n_embd=24, n_inner=None)
    assert config.n_inner == 96


def test_replace_checks_the_new_values() -> None:
    assert_refused(
        ValueError,
        "n_embd=100 is not divisible by n_head=12",
        lambda: dataclasses.replace(GPT2Config(), n_embd=100),
    )


# -- values that are refused ---------------------------------------------------------------------


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [0, -1, np.int64(-3), -(10**30)])
def test_sizes_below_1_are_refused(name: str, value: Any) -> None:
    message = f"{name}={value} must be at least 1"
    assert_refused(ValueError, message, lambda: GPT2Config(**{name: value}))


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [12.0, np.float32(4), True, np.True_, "12", [12], 12j, math.nan])
def test_sizes_that_are_not_integers_are_refused(name: str, value: Any) -> None:
    message = f"{name} must be an integer, not {value!r}"
    assert_refused(TypeError, message, lambda: GPT2Config(**{name: value}))


@pytest.mark.parametrize("name", [name for name in SIZES if name != "n_inner"])
def test_only_n_inner_may_be_none(name: str) -> None:
    message = f"{name} must be an integer, not None"
    assert_refused(TypeError, message, lambda: GPT2Config(**{name: None}))


@pytest.mark.parametrize("name", PDROPS)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1, "=1.0 must lie in [0, 1)"),
        (1.5, "=1.5 must lie in [0, 1)"),
        (-0.1, "=-0.1 must be at least 0"),
        (math.nan, "=nan must be at least 0, and finite"),
        (math.inf, "=inf must be at least 0, and finite"),
    ],
)
def test_probabilities_outside_0_to_1_are_refused(name: str, value: float, message: str) -> None:
    assert_refused(ValueError, name + message, lambda: GPT2Config(**{name: value}))


@pytest.mark.parametrize("name", POSITIVE)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "=0 must be positive"),
        (-0.0, "=0 must be positive"),
        (-1e-5, "=-1e-05 must be at least 0"),
        (math.nan, "=nan must be at least 0, and finite"),
        (math.inf, "=inf must be at least 0, and finite"),
    ],
)
def test_scales_that_are_not_positive_are_refused(name: str, value: float, message: str) -> None:
    assert_refused(ValueError, name + message, lambda: GPT2Config(**{name: value}))


@pytest.mark.parametrize("name", PDROPS + POSITIVE)
@pytest.mark.parametrize("value", ["0.1", False, None, [0.1], 0.1j])
def test_probabilities_and_scales_that_are_not_numbers_are_refused(name: str, value: Any) -> None:
    message = f"{name} must be a number, not {value!r}"
    assert_refused(TypeError, message, lambda: GPT2Config(**{name: value}))


@pytest.mark.parametrize(("n_embd", "n_head"), [(768, 11), (12, 24), (7, 2)])
def test_n_embd_must_be_a_multiple_of_n_head(n_embd: int, n_head: int) -> None:
    message = f"n_embd={n_embd} is not divisible by n_head={n_head}"
    assert_refused(ValueError, message, lambda: GPT2Config(n_embd=n_embd, n_head=n_head))


def test_unknown_names_are_refused() -> None:
    assert_refused(TypeError, "n_heads", lambda: GPT2Config(n_heads=12))
    assert_refused(TypeError, "n_heads", lambda: GPT2Config.gpt2_xl(n_heads=12))


# -- the checks themselves, in validate.py -------------------------------------------------------


@given(st.integers(), st.integers())
def test_integer_has_a_minimum(value: int, minimum: int) -> None:
    if value >= minimum:
        assert validate.integer("n", value, minimum) == value
    else:
        message = f"n={value} must be at least {minimum}"
        assert_refused(ValueError, message, lambda: validate.integer("n", value, minimum))


@given(st.floats())
def test_number_includes_its_limits_and_excludes_all_else(value: float) -> None:
    for inside in (-2.0, 3.0):
        assert validate.number("x", inside, -2.0, 3.0) == inside
    if -2.0 <= value <= 3.0:
        assert validate.number("x", value, -2.0, 3.0) == value
    else:
        message = f"x={value} must be at least -2 and at most 3, and finite"
        assert_refused(ValueError, message, lambda: validate.number("x", value, -2.0, 3.0))


@given(st.floats())
def test_fraction_is_from_0_up_to_but_not_1(value: float) -> None:
    if 0.0 <= value < 1.0:
        assert validate.fraction("p", value) == value
    else:
        assert_refused(ValueError, f"p={value} must", lambda: validate.fraction("p", value))


@given(st.floats())
def test_positive_is_above_0_and_finite(value: float) -> None:
    if 0.0 < value < math.inf:
        assert validate.positive("x", value) == value
    else:
        assert_refused(ValueError, " must be ", lambda: validate.positive("x", value))


@given(st.lists(st.integers(-3, 12), min_size=1), st.sampled_from(["i1", "i2", "i4", "i8", "O"]))
def test_ids_are_returned_or_the_first_wrong_one_is_named(values: list[int], dtype: str) -> None:
    array = values if dtype == "O" else np.array(values, dtype)  # "O" stands for a plain list
    wrong = [i for i, value in enumerate(values) if not 0 <= value < 10]
    if wrong:
        position, value = wrong[0], values[wrong[0]]
        message = f"ids[{position}] = {value} is out of range: it must lie in [0, 10)"
        assert_refused(IndexError, message, lambda: validate.ids("ids", array, 10))
    else:
        assert validate.ids("ids", array, 10).tolist() == values


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
def test_ids_may_be_unsigned_whatever_the_limit(dtype: str) -> None:
    array = np.array([[0, 255]], dtype)
    assert validate.ids("ids", array, 256, ignore=-100) is array
    assert validate.ids("ids", array, 100_000) is array
    message = "ids[0, 1] = 255 is out of range: it must lie in [0, 255)"
    assert_refused(IndexError, message, lambda: validate.ids("ids", array, 255))


@pytest.mark.parametrize("ignore", [-100, -1, 99])
def test_ids_equal_to_ignore_pass(ignore: int) -> None:
    values = [[1, ignore], [ignore, 9]]
    assert validate.ids("ids", values, 10, ignore).tolist() == values
    message = f"ids[1] = {ignore - 1} "
    assert_refused(IndexError, message, lambda: validate.ids("ids", [0, ignore - 1], 10, ignore))
    assert_refused(IndexError, f"ids[0, 1] = {ignore} ", lambda: validate.ids("ids", values, 10))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([1.0, 2.0], "float64"), ([True, False], "bool"), (["1"], "<U1"), ([1j], "complex128")],
)
def test_ids_that_are_not_integers_are_refused(values: list[Any], dtype: str) -> None:
    message = f"ids must be integers, not {dtype}"
    assert_refused(TypeError, message, lambda: validate.ids("ids", values, 10))


def test_no_ids_at_all_are_integers_too() -> None:
    array = validate.ids("ids", [], 10)
    assert array.shape == (0,) and array.dtype.kind == "i"
