"""Checkpoints come back exactly, and every kind of damage gives one clear error."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from npgpt2 import GPT2Config, GPT2Model
from npgpt2.disk.checkpoint import load_npz

CONFIG = GPT2Config(vocab_size=7, n_positions=5, n_embd=8, n_layer=2, n_head=2, attn_pdrop=0.25)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_model_comes_back_bit_for_bit(tmp_path, dtype, seed):
    model, rng = GPT2Model(CONFIG, rng=seed, dtype=dtype).eval(), np.random.default_rng(seed)
    if seed:  # any bits: among them are infinities, NaN with payloads, subnormals, -0.0
        for p in model.parameters():
            bits = rng.integers(0, 256, (p.numel(), p.data.itemsize), dtype=np.uint8)
            p.data[...] = bits.view(dtype).reshape(p.shape)
            p.data.flat[:4] = [np.nan, -np.inf, -0.0, np.finfo(dtype).smallest_subnormal]
    model.save_npz(tmp_path / "model")  # no suffix is appended
    again = GPT2Model.load_npz(tmp_path / "model")
    assert again.config == CONFIG
    assert again.lm_head.weight is again.wte.weight
    for (name, p), (other, q) in zip(
        model.named_parameters(), again.named_parameters(), strict=True
    ):
        assert name == other and q.dtype == dtype
        assert p.data.tobytes() == q.data.tobytes(), name
    if not seed:
        assert np.array_equal(model([[1, 2, 3]]).data, again.eval()([[1, 2, 3]]).data)


def test_other_arrays_and_values_come_back_too(tmp_path):
    path = tmp_path / "x.npz"
    state = np.random.default_rng(5).bit_generator.state
    GPT2Model(CONFIG).save_npz(path, arrays={"m/a": np.arange(3)}, meta={"rng": state})
    saved = load_npz(path)
    assert saved.meta == {"rng": state} and saved.config == CONFIG and saved.path == path
    assert saved.arrays.keys() == {"m/a"}
    np.testing.assert_array_equal(saved.arrays["m/a"], np.arange(3))


@pytest.mark.parametrize("name", ["file", "allow_pickle", "args", "arr_0"])
def test_no_name_is_reserved_and_none_is_added(tmp_path, name):
    path = tmp_path / "x.npz"
    GPT2Model(CONFIG).save_npz(path, arrays={name: np.arange(3)})
    arrays = load_npz(path).arrays
    assert arrays.keys() == {name} and arrays[name].tolist() == [0, 1, 2]


def test_what_only_pickle_could_hold_is_refused_and_the_old_file_kept(tmp_path):
    path = tmp_path / "x.npz"
    GPT2Model(CONFIG).save_npz(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        GPT2Model(CONFIG).save_npz(path, arrays={"x": np.array([object()])})
    with pytest.raises(TypeError, match="not JSON serializable"):
        GPT2Model(CONFIG).save_npz(path, meta={"x": object()})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def truncate(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "damage", [truncate, lambda content: b"", lambda content: b"hello", lambda c: c[:30]]
)
def test_a_damaged_file_is_a_value_error_that_names_it(tmp_path, damage):
    path = tmp_path / "model.npz"
    GPT2Model(CONFIG).save_npz(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path} is damaged or not a checkpoint"):
        load_npz(path)


def test_a_changed_byte_is_noticed_or_does_not_matter(tmp_path):
    path = tmp_path / "model.npz"
    model = GPT2Model(CONFIG)
    model.save_npz(path)
    content = path.read_bytes()
    noticed = 0
    places = range(0, len(content), 101)
    for i in places:
        path.write_bytes(content[:i] + bytes([content[i] ^ 255]) + content[i + 1 :])
        try:
            again = GPT2Model.load_npz(path)
        except ValueError:
            noticed += 1
        else:  # the byte is in a date, for instance
            for p, q in zip(model.parameters(), again.parameters(), strict=True):
                np.testing.assert_array_equal(p.data, q.data)
    assert noticed > len(places) / 2


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, a=np.zeros(3))
    with pytest.raises(ValueError, match="not a checkpoint of npgpt2"):
        load_npz(path)
    np.save(tmp_path / "pickle.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match="not a checkpoint of npgpt2"):
        load_npz(tmp_path / "pickle.npy")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError, match="not a checkpoint of npgpt2"):
        load_npz(tmp_path / "array.npy")
    with pytest.raises(FileNotFoundError):
        load_npz(tmp_path / "missing.npz")


def test_what_does_not_fit_the_configuration_is_named(tmp_path):
    path = tmp_path / "model.npz"
    model = GPT2Model(CONFIG)
    del model.h[1].mlp.c_fc.bias
    model.ln_f.weight.data = np.ones(9, np.float32)
    model.save_npz(path)
    with pytest.raises(ValueError) as error:
        GPT2Model.load_npz(path)
    assert "missing: h.1.mlp.c_fc.bias" in str(error.value)
    assert "wrong shape: ln_f.weight is (9,), not (8,)" in str(error.value)


@pytest.mark.parametrize("change", [{"n_layer": 10**9}, {"n_embd": 2**13}, {"vocab_size": 10**15}])
def test_a_configuration_that_claims_too_much_does_not_make_it_allocate(tmp_path, change):
    path, model = tmp_path / "model.npz", GPT2Model(CONFIG)
    model.config = replace(CONFIG, **change)
    model.save_npz(path)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"asks for [\d,]+ numbers, but it holds 1,856"):
        GPT2Model.load_npz(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("header", ["[" * 100_000, "{}", "[]", "null", '{"format": "npgpt2-2"}'])
def test_a_header_that_makes_no_sense_is_refused(tmp_path, header):
    path = tmp_path / "model.npz"
    np.savez(path, header=np.array(header))
    with pytest.raises(ValueError, match=f"{path} is damaged or not a checkpoint"):
        load_npz(path)
