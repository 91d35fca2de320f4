"""GPT2Config and TrainingConfig take valid values and refuse all others."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from dataclasses import asdict, fields, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt2 import (
    MLP,
    CausalSelfAttention,
    GPT2Config,
    GPT2Model,
    Limits,
    Sampling,
    TextModel,
    Trainer,
    TrainingConfig,
    TransformerBlock,
    complete,
    evaluate,
)  # fmt: skip
from npgpt2.cache import KVCache
from npgpt2.config import PRESETS
from npgpt2.generation.generation import decode, generate
from npgpt2.learn.trace import Trace, trace_model, watch
from npgpt2.parameter_table import count_parameters, format_table
from tests.test_npgpt2.test_validate import assert_refused

SIZES = ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"]
PDROPS = ["resid_pdrop", "embd_pdrop", "attn_pdrop"]
POSITIVE = ["layer_norm_epsilon", "initializer_range"]

DEFAULTS = {
    "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12,
    "n_inner": 3072, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
}  # fmt: skip


# -- values that are taken -----------------------------------------------------------------------


def test_defaults_are_those_of_gpt2_small():
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
def test_presets_have_the_published_sizes(name, n_layer, n_embd, n_head):
    sizes = {"n_layer": n_layer, "n_embd": n_embd, "n_head": n_head, "n_inner": 4 * n_embd}
    config = PRESETS[name]()
    assert dataclasses.asdict(config) == {**DEFAULTS, **sizes}
    assert config.head_size == 64
    assert getattr(GPT2Config, name.replace("-", "_"))() == config


@pytest.mark.parametrize("name", PRESETS)
def test_keyword_arguments_change_single_values_of_a_preset(name):
    changed = PRESETS[name](vocab_size=65, n_layer=2, attn_pdrop=0.0)
    assert (changed.vocab_size, changed.n_layer, changed.attn_pdrop) == (65, 2, 0.0)
    back = {key: getattr(PRESETS[name](), key) for key in ("vocab_size", "n_layer", "attn_pdrop")}
    assert dataclasses.replace(changed, **back) == PRESETS[name]()


@given(st.integers(1, 30), st.integers(1, 30))
def test_n_inner_is_4_n_embd_unless_given(n_head, head_size):
    C = n_head * head_size
    assert GPT2Config(n_embd=C, n_head=n_head).n_inner == 4 * C
    assert GPT2Config(n_embd=C, n_head=n_head, n_inner=C + 1).n_inner == C + 1


@given(st.integers(1, 30), st.integers(1, 30))
def test_head_size_is_n_embd_over_n_head(n_head, head_size):
    assert GPT2Config(n_embd=n_head * head_size, n_head=n_head).head_size == head_size


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint64])
def test_numpy_integers_become_ints(dtype):
    config = GPT2Config(**{name: dtype(12) for name in SIZES})
    assert all(type(getattr(config, name)) is int for name in SIZES)
    assert config == GPT2Config(**{name: 12 for name in SIZES})


@pytest.mark.parametrize("number", [0, np.float32(0.5), np.float64(0.25), Fraction(1, 2)])
def test_any_real_number_becomes_a_float(number):
    config = GPT2Config(**{name: number for name in PDROPS})
    assert [getattr(config, name) for name in PDROPS] == [number] * 3
    assert all(type(getattr(config, name)) is float for name in PDROPS)
    assert type(GPT2Config(initializer_range=1).initializer_range) is float


# -- a frozen value ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEFAULTS)
def test_fields_cannot_be_set(name):
    config = GPT2Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, 1)
    assert config == GPT2Config()


def test_equal_configs_hash_equally_and_survive_pickle():
    config = GPT2Config(n_layer=3)
    assert hash(config) == hash(GPT2Config(n_layer=3)) and config != GPT2Config(n_layer=4)
    assert pickle.loads(pickle.dumps(config)) == config


def test_replace_changes_a_copy_alone():
    config = GPT2Config()
    changed = dataclasses.replace(config, n_layer=2)
    assert dataclasses.asdict(changed) == {**DEFAULTS, "n_layer": 2}
    assert config == GPT2Config()


def test_replace_derives_n_inner_anew_when_it_is_set_to_none():
    config = dataclasses.replace(GPT2Config(), n_embd=24, n_inner=None)
    assert config.n_inner == 96


def test_replace_checks_the_new_values():
    assert_refused(
        ValueError,
        "n_embd=100 is not divisible by n_head=12",
        lambda: dataclasses.replace(GPT2Config(), n_embd=100),
    )


# -- values that are refused ---------------------------------------------------------------------


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [0, -1, np.int64(-3), -(10**30)])
def test_sizes_below_1_are_refused(name, value):
    message = f"{name}={value} must be at least 1"
    assert_refused(ValueError, message, lambda: GPT2Config(**{name: value}))


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [12.0, np.float32(4), True, np.True_, "12", [12], 12j, math.nan])
def test_sizes_that_are_not_integers_are_refused(name, value):
    message = f"{name} must be an integer, not {value!r}"
    assert_refused(TypeError, message, lambda: GPT2Config(**{name: value}))


@pytest.mark.parametrize("name", [name for name in SIZES if name != "n_inner"])
def test_only_n_inner_may_be_none(name):
    message = f"{name} must be an integer, not None"
    assert_refused(TypeError, message, lambda: GPT2Config(**{name: None}))


@pytest.mark.parametrize("name", PDROPS)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1, "=1.0 must lie in [0, 1)"),
        (1.5, "=1.5 must lie in [0, 1)"),
        (-0.1, "=-0.1 must lie in [0, 1)"),
        (math.nan, "=nan must lie in [0, 1)"),
        (math.inf, "=inf must lie in [0, 1)"),
    ],
)
def test_probabilities_outside_0_to_1_are_refused(name, value, message):
    assert_refused(ValueError, name + message, lambda: GPT2Config(**{name: value}))


@pytest.mark.parametrize("name", POSITIVE)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "=0.0 must be positive"),
        (-0.0, "=-0.0 must be positive"),
        (-1e-5, "=-1e-05 must be positive"),
        (math.nan, "=nan must be positive, and finite"),
        (math.inf, "=inf must be positive, and finite"),
    ],
)
def test_scales_that_are_not_positive_are_refused(name, value, message):
    assert_refused(ValueError, name + message, lambda: GPT2Config(**{name: value}))


@pytest.mark.parametrize("name", PDROPS + POSITIVE)
@pytest.mark.parametrize("value", ["0.1", False, None, [0.1], 0.1j])
def test_probabilities_and_scales_that_are_not_numbers_are_refused(name, value):
    message = f"{name} must be a number, not {value!r}"
    assert_refused(TypeError, message, lambda: GPT2Config(**{name: value}))


@pytest.mark.parametrize(("n_embd", "n_head"), [(768, 11), (12, 24), (7, 2)])
def test_n_embd_must_be_a_multiple_of_n_head(n_embd, n_head):
    message = f"n_embd={n_embd} is not divisible by n_head={n_head}"
    assert_refused(ValueError, message, lambda: GPT2Config(n_embd=n_embd, n_head=n_head))


def test_unknown_names_are_refused():
    assert_refused(TypeError, "n_heads", lambda: GPT2Config(n_heads=12))
    assert_refused(TypeError, "n_heads", lambda: GPT2Config.gpt2_xl(n_heads=12))


# -- TrainingConfig -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_head": 3}, "n_embd=128 is not divisible by n_head=3"),
        ({"dropout": 1.0}, r"dropout=1.0 must lie in \[0, 1\)"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"batch_size": 2.5}, "batch_size must be an integer, not 2.5"),
        ({"lr": 0.0}, "lr=0.0 must be positive"),
        ({"lr": math.nan}, "lr=nan must be"),
        ({"min_lr": 1.0}, "min_lr=1.0 must be at least 0 and at most 0.001"),
        ({"beta2": 1.0}, r"beta2=1.0 must lie in \[0, 1\)"),
        ({"val_fraction": 0.0}, "val_fraction=0.0 must be positive"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"lr": 10**400}, "lr=inf must be"),
        ({"dtype": "float16"}, "dtype='float16' must be float32 or float64"),
    ],
)
def test_settings_of_a_training_are_refused_with_value_and_limit(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        TrainingConfig(**change)


def test_every_option_has_a_help_text():
    assert all(f.metadata["help"] for f in dataclasses.fields(TrainingConfig))


VALUES = {
    int: [np.int64(2), np.uint8(2)],
    float: [Fraction(1, 2), np.float32(0.5), np.float64(0.5)],
}


@pytest.mark.parametrize("of", [GPT2Config, TrainingConfig, Sampling, Limits])
def test_every_number_is_stored_as_a_plain_one(of):
    """So JSON, repr, pickles and equality do not depend on where a number came from."""
    base = {"n_head": 2, "n_embd": 4} if of in (GPT2Config, TrainingConfig) else {}
    base |= {"min_lr": 0.0, "lr": 3.0} if of is TrainingConfig else {}
    tried = 0
    for field in fields(of):
        for kind, values in VALUES.items():
            for value in values if field.type.startswith(kind.__name__) else ():
                made = of(**{**base, field.name: value})
                plain = kind(value)
                assert type(getattr(made, field.name)) is kind
                assert getattr(made, field.name) == plain
                assert made == of(**{**base, field.name: plain}) == replace(made)
                assert repr(made) == repr(of(**{**base, field.name: plain}))
                assert json.loads(json.dumps(asdict(made))) == asdict(made)
                assert pickle.loads(pickle.dumps(made)) == made
                tried += 1
    assert tried >= 2


@pytest.mark.parametrize("of", [GPT2Config, TrainingConfig, Sampling, Limits])
@pytest.mark.parametrize("value", ["2", 1j, [2], np.array([2.0, 3.0]), np.True_, True, math.nan])
def test_what_is_no_number_is_refused_at_once(of, value):
    for field in fields(of):
        if field.type.startswith(("int", "float")):
            with pytest.raises((TypeError, ValueError), match=f"{field.name}.*must"):
                of(**{field.name: value})


@pytest.mark.parametrize("value", [10**400, -(10**5000), Fraction(10**400)], ids=["a", "b", "c"])
def test_a_huge_number_is_refused_in_a_short_message(value):
    for of in (GPT2Config, TrainingConfig, Sampling, Limits):
        for field in fields(of):
            if field.type.startswith(("int", "float")) and field.name != "seed":
                with pytest.raises((TypeError, ValueError), match=f"{field.name}.*must") as error:
                    of(**{field.name: value})
                assert len(str(error.value)) < 200
    if value > 0:
        assert TrainingConfig(seed=10**400).seed == 10**400


def test_limits_can_be_compared_whatever_holds_the_stop_ids():
    assert Limits(np.array([1, 2])) == Limits([1, 2]) == Limits((1, 2))
    assert Limits(np.int64(3)) == Limits(3) and hash(Limits([3])) == hash(Limits(3))
    for stop in ("a", [1.5], [[1], [2, 3]]):
        with pytest.raises((TypeError, ValueError), match="stop"):
            Limits(stop)
    with pytest.raises(TypeError, match="sliding_window must be True or False, not 'no'"):
        Limits(sliding_window="no")


NO_CONFIGS = ["gpt2", None, {"n_layer": 2}, 3, TrainingConfig(), GPT2Config]


@pytest.mark.parametrize("config", NO_CONFIGS)
@pytest.mark.parametrize(
    "use",
    [
        GPT2Model, TransformerBlock, CausalSelfAttention, MLP, format_table, count_parameters,
        lambda config: KVCache(config, 1), lambda config: GPT2Model.from_arrays(config, []),
    ],
)  # fmt: skip
def test_what_is_no_config_is_refused_with_the_way_out(use, config):
    with pytest.raises(TypeError, match="config must be a GPT2Config, not .*from_pretrained"):
        use(config)


@pytest.mark.parametrize("path", [None, 3, b"a", ["a"], GPT2Config()])
@pytest.mark.parametrize(
    "use",
    [
        GPT2Model.from_pretrained, GPT2Model.load_npz, TextModel.open, Trainer.resume,
        lambda path: Trainer.start(path, TrainingConfig(), "abc"),
        lambda path: GPT2Model(TINY).save_npz(path),
        lambda path: GPT2Model(TINY).save_pretrained(path),
    ],
)  # fmt: skip
def test_what_is_no_path_is_refused(use, path):
    with pytest.raises(TypeError, match="must be a path, not "):
        use(path)


TINY = GPT2Config(vocab_size=3, n_positions=2, n_embd=2, n_layer=1, n_head=1)


def test_other_things_in_the_place_of_a_model_a_run_or_settings_are_refused(tmp_path):
    model, text = GPT2Model(TINY), "ab" * 1000
    for call, message in (
        (lambda: Trainer("runs/001"), "run must be a Run, not 'runs/001'.*Trainer.resume"),
        (lambda: Trainer.start(tmp_path / "a", "x", text), "config must be a TrainingConfig"),
        (lambda: Trainer.start(tmp_path / "a", TrainingConfig(), None), "text must be a str"),
        (lambda: GPT2Model.from_checkpoint("a.npz"), "saved must be a Checkpoint.*load_npz"),
        (lambda: complete("gpt2", [[1]], 1), "model must be a GPT2Model.*from_pretrained"),
        (lambda: evaluate(None, [1, 2]), "model must be a GPT2Model"),
        (lambda: generate(GPT2Model, [[1]], 1), "model must be a GPT2Model"),
        (lambda: complete(model, [[1]], 1, 0.8), "sampling must be a Sampling, not 0.8"),
        (lambda: complete(model, [[1]], 1, limits=[2]), "limits must be a Limits"),
        (lambda: decode(model, "a", model.make_cache()), "tokens must be integers, not 'a'"),
        (lambda: Trace.of("loss"), "root must be a Tensor.*backward"),
        (lambda: watch(None).__enter__(), "model must be a Module"),
        (lambda: trace_model(model.wte), "model must be a GPT2Model"),
        (lambda: GPT2Model(TINY, dtype="text"), "dtype must be float32 or float64, not 'text'"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(ValueError, match=r"tokens must have shape \(B,\), not \(1, 1\)"):
        decode(model, [[1]], model.make_cache())


RAGGED = [[1, 2], [1]]


def test_rows_of_different_lengths_are_named_wherever_ids_are_taken():
    model = GPT2Model(TINY)
    for call in (
        lambda: model(RAGGED),
        lambda: model.loss(RAGGED, [[1, 2]]),
        lambda: model.loss([[1, 2]], RAGGED),
        lambda: model.wte(RAGGED),
        lambda: model.where_not_finite(RAGGED),
        lambda: evaluate(model, RAGGED),
        lambda: model.make_cache().truncate(RAGGED),
        lambda: trace_model(model, RAGGED, RAGGED),
        lambda: complete(model, [RAGGED], 1),
        lambda: Limits(RAGGED),
    ):
        with pytest.raises(ValueError, match=r"\[0\] has length 2 and .*\[1\] has length 1; pad"):
            call()
