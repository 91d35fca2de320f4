"""Checkpoints: exact round trips, atomic writes, and one clear error for whatever is damaged."""

from __future__ import annotations

import errno
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from npgpt2 import GPT2Config, GPT2Model
from npgpt2.checkpoint import load_npz, read_npz, save_npz, write_atomically

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
    save_npz(tmp_path / "model", model)  # no suffix is appended
    again = load_npz(tmp_path / "model")
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
    save_npz(path, GPT2Model(CONFIG), arrays={"m/a": np.arange(3)}, meta={"rng": state})
    meta, arrays = read_npz(path)
    assert meta["rng"] == state
    np.testing.assert_array_equal(arrays["m/a"], np.arange(3))


@pytest.mark.parametrize("name", ["file", "allow_pickle", "args", "arr_0"])
def test_no_name_is_reserved_and_none_is_added(tmp_path, name):
    path = tmp_path / "x.npz"
    save_npz(path, GPT2Model(CONFIG), arrays={name: np.arange(3)})
    _, arrays = read_npz(path)
    assert {key for key in arrays if not key.startswith("model/")} == {name}
    assert arrays[name].tolist() == [0, 1, 2]


def test_what_only_pickle_could_hold_is_refused_and_the_old_file_kept(tmp_path):
    path = tmp_path / "x.npz"
    save_npz(path, GPT2Model(CONFIG))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        save_npz(path, GPT2Model(CONFIG), arrays={"x": np.array([object()])})
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_npz(path, GPT2Model(CONFIG), meta={"x": object()})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half of the new")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def truncate(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "damage", [truncate, lambda content: b"", lambda content: b"hello", lambda c: c[:30]]
)
def test_a_damaged_file_is_a_value_error_that_names_it(tmp_path, damage):
    path = tmp_path / "model.npz"
    save_npz(path, GPT2Model(CONFIG))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path} is damaged or not a checkpoint"):
        load_npz(path)


def test_a_changed_byte_is_noticed_or_does_not_matter(tmp_path):
    path = tmp_path / "model.npz"
    model = GPT2Model(CONFIG)
    save_npz(path, model)
    content = path.read_bytes()
    noticed = 0
    places = range(0, len(content), 101)
    for i in places:
        path.write_bytes(content[:i] + bytes([content[i] ^ 255]) + content[i + 1 :])
        try:
            again = load_npz(path)
        except ValueError:
            noticed += 1
        else:  # a date, for instance
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
    save_npz(path, model)
    with pytest.raises(ValueError) as error:
        load_npz(path)
    assert "missing: h.1.mlp.c_fc.bias" in str(error.value)
    assert "wrong shape: ln_f.weight is (9,), not (8,)" in str(error.value)


@pytest.mark.parametrize("change", [{"n_layer": 10**9}, {"n_embd": 2**13}, {"vocab_size": 10**15}])
def test_a_configuration_that_claims_too_much_does_not_make_it_allocate(tmp_path, change):
    path, model = tmp_path / "model.npz", GPT2Model(CONFIG)
    model.config = replace(CONFIG, **change)
    save_npz(path, model)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"asks for [\d,]+ numbers, it holds 1,856"):
        load_npz(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("header", ["[" * 100_000, "{}", "[]", "null", '{"format": "npgpt2-2"}'])
def test_a_header_that_makes_no_sense_is_refused(tmp_path, header):
    path = tmp_path / "model.npz"
    np.savez(path, header=np.array(header))
    with pytest.raises(ValueError, match=f"{path} is damaged or not a checkpoint"):
        read_npz(path)


def test_a_write_that_fails_names_its_file(tmp_path):
    def fail(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device: .*file'") as error:
        write_atomically(tmp_path / "file", fail)
    assert error.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="nowhere/file"):
        write_atomically(tmp_path / "nowhere" / "file", fail)


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", lambda file: file.write(b"new"))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


def test_a_directory_in_the_way_is_named_and_no_temporary_file(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match=r"taken'$"):
        write_atomically(tmp_path / "taken", lambda file: file.write(b"new"))


def test_an_error_that_is_not_of_the_operating_system_keeps_its_words(tmp_path):
    def write(file):
        raise OSError("the tape is full")

    with pytest.raises(OSError, match="^the tape is full$"):
        write_atomically(tmp_path / "x", write)
