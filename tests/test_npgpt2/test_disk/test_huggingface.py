"""Directories of Hugging Face: torch and npgpt2 compute the same logits; errors are clear.

torch writes the files that these tests read. If it is missing, NumPy writes them. The oracle is
`torch_gpt2.published`. Its Conv1D layers have weights (in, out), as the files have, so these tests
transpose nothing.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt2 import SGD, AdamW, GPT2Config, GPT2Model, clip_grad_norm
from npgpt2.disk import huggingface
from npgpt2.disk.huggingface import read_config
from npgpt2.layers import Linear
from tests.optional import has, needs
from tests.test_npgpt2.cases import (
    NO_DROPOUT,
    assert_as_accurate,
    assert_close,
    random_batch,
    random_config,
    random_model,
)

if has("torch"):
    import torch

    from tests.test_npgpt2 import torch_gpt2
if has("safetensors"):
    from safetensors import numpy as files
    from safetensors import safe_open

    if has("torch"):
        from safetensors import torch as files

pytestmark = needs("safetensors")

CONFIG = GPT2Config(
    vocab_size=11, n_positions=6, n_embd=8, n_layer=2, n_head=2, n_inner=12, **NO_DROPOUT
)
ROOT = Path(__file__).parents[3]
KINDS = {"F16": "f2", "BF16": None, "F32": "f4", "F64": "f8"}
EACH_KIND = [pytest.param(k, marks=needs("torch")) if k == "BF16" else k for k in KINDS]
SEEDS = st.integers(0, 2**32 - 1)


def read_eos(directory):
    return huggingface.read(directory).eos()


def random_state(config, seed, kind="F32"):
    """Return random parameters under their published names, without prefix or head.

    The values are arrays. NumPy has no BF16, so values of this kind are torch tensors.
    """
    rng = np.random.default_rng(seed)
    state = {}
    for name, parameter in GPT2Model(config).named_parameters():
        shape = parameter.shape[::-1] if name.startswith("h.") else parameter.shape  # (in, out)
        around = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        array = rng.normal(around, 0.2, shape)
        state[name] = (
            torch.from_numpy(array).bfloat16() if kind == "BF16" else array.astype(KINDS[kind])
        )
    return state


def oracle_logits(config, state, ids, dtype=np.float64):
    model = torch_gpt2.published(config).to(torch.float64 if dtype is np.float64 else torch.float32)
    tensors = {name: torch.as_tensor(values) for name, values in state.items()}
    model.load_state_dict({**tensors, "lm_head.weight": tensors["wte.weight"]})
    with torch.no_grad():
        return model(ids).numpy()


def save_file(tensors, path, metadata=None):
    """Write arrays or tensors."""
    copies = {name: copy.deepcopy(values) for name, values in tensors.items()}  # none share memory
    if has("torch"):
        copies = {name: torch.as_tensor(values) for name, values in copies.items()}
    files.save_file(copies, path, metadata)


def config_json(config):
    """Return the config.json of transformers, without keys that GPT2LMHeadModel does not use."""
    return {
        "activation_function": "gelu_new", "add_cross_attention": False,
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": config.attn_pdrop, "bos_token_id": 50256, "embd_pdrop": config.embd_pdrop,
        "eos_token_id": 50256, "initializer_range": config.initializer_range,
        "layer_norm_epsilon": config.layer_norm_epsilon, "model_type": "gpt2",
        "n_embd": config.n_embd, "n_head": config.n_head,
        "n_inner": None if config.n_inner == 4 * config.n_embd else config.n_inner,
        "n_layer": config.n_layer, "n_positions": config.n_positions,
        "reorder_and_upcast_attn": False, "resid_pdrop": config.resid_pdrop,
        "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True,
        "tie_word_embeddings": True, "vocab_size": config.vocab_size,
    }  # fmt: skip


def write(
    directory,
    config,
    state,
    prefix="transformer.",
    masks=None,
    head=False,
    shards=1,
):
    """Write a directory as some version of transformers does."""
    tensors = {prefix + name: tensor for name, tensor in state.items()}
    P = config.n_positions
    for i in range(config.n_layer if masks else 0):
        mask = np.tril(np.ones((1, 1, P, P))).astype(masks)
        tensors |= {
            f"{prefix}h.{i}.attn.bias": mask,
            f"{prefix}h.{i}.attn.masked_bias": np.array(-1e4, np.float32),
        }
    if head:
        tensors["lm_head.weight"] = state["wte.weight"]
    names = sorted(tensors, reverse=bool(P % 2))
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    else:
        places = {}
        for n in range(shards):
            file = f"model-{n + 1:05}-of-{shards:05}.safetensors"
            part = {name: tensors[name] for name in names[n::shards]}
            save_file(part, directory / file, {"format": "pt"})
            places |= dict.fromkeys(part, file)
        index = {"metadata": {"total_size": 1}, "weight_map": places}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    others = {"summary_type": "cls_index", "task_specific_params": {"a": {}}, "use_cache": True}
    (directory / "config.json").write_text(json.dumps(config_json(config) | others))


def edit_config(directory, **changes):
    """Change keys of config.json. The value ... deletes a key."""
    path = directory / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))


def edit_tensors(directory, **changes):
    """Change tensors of model.safetensors. Write __ for a dot; the value ... deletes a tensor."""
    path = directory / "model.safetensors"
    tensors = files.load_file(path) | {k.replace("__", "."): v for k, v in changes.items()}
    save_file({k: v for k, v in tensors.items() if v is not ...}, path)


@pytest.fixture
def directory(tmp_path):
    """A valid directory, in float32."""
    path = tmp_path / "gpt2"
    path.mkdir()
    write(path, CONFIG, random_state(CONFIG, 0))
    return path


@pytest.fixture
def sharded(tmp_path):
    """The same model in three shards."""
    path = tmp_path / "sharded"
    path.mkdir()
    write(path, CONFIG, random_state(CONFIG, 0), shards=3)
    return path


@contextmanager
def traced():
    """Trace memory. The value is a function that returns the bytes allocated now, and the peak."""
    tracemalloc.start()
    try:
        yield tracemalloc.get_traced_memory
    finally:
        tracemalloc.stop()


def map_of(array):
    """Return the array that owns the memory of this array."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


# -- the same model ------------------------------------------------------------------------------


@needs("torch")
@given(
    seed=SEEDS,
    kind=st.sampled_from(list(KINDS)),
    prefix=st.sampled_from(["", "transformer."]),
    masks=st.sampled_from([None, np.float32, np.uint8, np.bool_]),
    head=st.booleans(),
    shards=st.integers(1, 3),
    alias=st.booleans(),
)
def test_logits_are_those_of_torch(seed, kind, prefix, masks, head, shards, alias):
    config = random_config(seed)
    state, (ids, _) = random_state(config, seed, kind), random_batch(config, seed)
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), config, state, prefix, masks, head, shards)
        if alias:
            edit_config(Path(name), n_ctx=config.n_positions, n_positions=...)
        exact, single = (GPT2Model.from_pretrained(name, dtype) for dtype in (np.float64, "f4"))
    assert exact.config == single.config == config
    assert not any(module.training for module in exact.modules())
    assert exact.lm_head.weight is exact.wte.weight
    assert_close(exact(ids).data, oracle_logits(config, state, ids))
    for p, q in zip(exact.parameters(), single.parameters(), strict=True):
        assert np.array_equal(p.data.astype(np.float32), q.data)


@needs("torch")
@given(dtype=st.sampled_from(["float32", "float64"]), seed=SEEDS)
def test_what_is_written_has_the_same_logits_in_torch(dtype, seed):
    config = random_config(seed)
    model, (ids, _) = random_model(config, seed, np.dtype(dtype)), random_batch(config, seed)
    with tempfile.TemporaryDirectory() as name:
        model.save_pretrained(name)
        held = files.load_file(Path(name, "model.safetensors"))
        written = json.loads(Path(name, "config.json").read_text())
        ends = json.loads(Path(name, "generation_config.json").read_text())
    assert ends == {"bos_token_id": None, "eos_token_id": None}
    expected = config_json(config) | ends | {"dtype": dtype, "n_ctx": config.n_positions}
    assert written == expected
    state = {name.removeprefix("transformer."): tensor for name, tensor in held.items()}
    assert {str(tensor.dtype) for tensor in state.values()} == {f"torch.{dtype}"}
    assert_close(model.astype(np.float64)(ids).data, oracle_logits(config, state, ids))


@needs("torch")
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("seed", range(3))
def test_float32_is_as_accurate_as_torchs_also_written_and_read_again(tmp_path, seed, kind):
    config = replace(random_config(seed, D=(8, 16)), n_positions=16)
    state = random_state(config, seed, kind)
    ids = np.random.default_rng(seed).integers(0, config.vocab_size, (64, 16))
    write(tmp_path, config, state)
    theirs, expected = (oracle_logits(config, state, ids, dtype) for dtype in ("f4", np.float64))
    for _ in range(2):
        model = GPT2Model.from_pretrained(tmp_path)
        assert_as_accurate(model(ids).data, theirs, expected)
        model.save_pretrained(tmp_path)


def test_a_file_has_exactly_the_published_names_and_shapes(tmp_path):
    random_model(replace(CONFIG, n_layer=1)).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        assert file.metadata() == {"format": "pt"}
    assert shapes == {
        "transformer.wte.weight": (11, 8),
        "transformer.wpe.weight": (6, 8),
        "transformer.h.0.ln_1.weight": (8,),
        "transformer.h.0.ln_1.bias": (8,),
        "transformer.h.0.attn.c_attn.weight": (8, 24),
        "transformer.h.0.attn.c_attn.bias": (24,),
        "transformer.h.0.attn.c_proj.weight": (8, 8),
        "transformer.h.0.attn.c_proj.bias": (8,),
        "transformer.h.0.ln_2.weight": (8,),
        "transformer.h.0.ln_2.bias": (8,),
        "transformer.h.0.mlp.c_fc.weight": (8, 12),
        "transformer.h.0.mlp.c_fc.bias": (12,),
        "transformer.h.0.mlp.c_proj.weight": (12, 8),
        "transformer.h.0.mlp.c_proj.bias": (8,),
        "transformer.ln_f.weight": (8,),
        "transformer.ln_f.bias": (8,),
    }


@pytest.mark.parametrize("name", ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"])
def test_a_weight_is_that_of_the_file_transposed(directory, name):
    owner = GPT2Model.from_pretrained(directory).h[1]
    for part in name.split("."):
        owner = getattr(owner, part)
    stored = random_state(CONFIG, 0)[f"h.1.{name}.weight"]
    assert np.array_equal(owner.weight.data, stored.T)
    assert stored.shape != stored.T.shape or not np.array_equal(stored, stored.T)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_bits_come_back_and_files_written_again_are_the_same(tmp_path, dtype):
    model, rng = GPT2Model(CONFIG, dtype=dtype), np.random.default_rng(0)
    for p in model.parameters():
        bits = rng.integers(0, 256, (p.numel(), p.data.itemsize), dtype=np.uint8)
        p.data[...] = bits.view(dtype).reshape(p.shape)
        p.data.flat[:4] = [np.nan, -np.inf, -0.0, np.finfo(dtype).smallest_subnormal]
    model.save_pretrained(tmp_path / "a" / "b")  # this makes both directories
    again = GPT2Model.from_pretrained(tmp_path / "a" / "b", dtype)
    for (name, p), q in zip(model.named_parameters(), again.parameters(), strict=True):
        assert q.dtype == dtype and p.data.tobytes() == q.data.tobytes(), name
    again.save_pretrained(tmp_path / "c")
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        assert (tmp_path / "a" / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()


@needs("torch")
def test_transformers_itself_has_the_same_logits_both_ways(tmp_path):
    transformers = pytest.importorskip("transformers", reason="a check where it is installed")
    transformers.utils.logging.disable_progress_bar()
    ids = torch.arange(12).reshape(2, 6) % 11
    sizes = {"vocab_size": 11, "n_positions": 6, "n_embd": 8, "n_layer": 2, "n_head": 2}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        config = transformers.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)
        theirs = transformers.GPT2LMHeadModel(config).double().eval()
        for parameter in theirs.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        theirs.save_pretrained(tmp_path / "theirs")
        ours = GPT2Model.from_pretrained(tmp_path / "theirs", np.float64)
        assert_close(ours(ids.numpy()).data, theirs(ids).logits.numpy())
        ours.save_pretrained(tmp_path / "ours")
        again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
        assert again.dtype == torch.float64
        assert_close(again(ids).logits.numpy(), ours(ids.numpy()).data)


# -- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EACH_KIND)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_are_the_mapped_file_where_the_dtype_is_its_own(directory, kind, dtype):
    write(directory, CONFIG, random_state(CONFIG, 0, kind))
    for name, p in GPT2Model.from_pretrained(directory, dtype).named_parameters():
        mapped = isinstance(map_of(p.data), np.memmap)
        assert mapped == (kind == {"float32": "F32", "float64": "F64"}[dtype]), name
        assert type(p.data) is np.ndarray and p.data.flags.writeable and p.data.flags.aligned
        assert p.data.flags.f_contiguous if name.startswith("h.") else p.data.flags.c_contiguous


@pytest.mark.parametrize("kind", EACH_KIND)
def test_reading_takes_the_model_and_one_tensor_at_most(directory, kind):
    config = replace(CONFIG, vocab_size=4000, n_embd=64)
    write(directory, config, random_state(config, 0, kind), head=True)
    GPT2Model.from_pretrained(directory)  # imports and caches are not counted
    with traced() as memory:
        model = GPT2Model.from_pretrained(directory)
        now, peak = memory()
    whole = sum(p.data.nbytes for p in model.parameters())
    assert whole > 1_000_000
    # The one tensor is wte in the dtype of the file, or the zeros of the head before it is tied.
    assert peak < whole + 4000 * 64 * (8 if kind == "F64" else 4) + 200_000
    assert now < (0 if kind == "F32" else whole) + 200_000


@pytest.mark.parametrize("shift", range(8))
def test_numbers_that_are_not_aligned_are_copied(directory, shift):
    """Older files have headers of any length."""
    expected = GPT2Model.from_pretrained(directory)([[1, 2, 3]]).data
    path = directory / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip() + b" " * shift
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    model = GPT2Model.from_pretrained(directory)
    assert np.array_equal(model([[1, 2, 3]]).data, expected)
    mapped = {isinstance(map_of(p.data), np.memmap) for p in model.parameters()}
    assert mapped == {len(header) % 4 == 0}
    assert all(p.data.flags.aligned for p in model.parameters())


@pytest.mark.parametrize("make", [AdamW, lambda p, lr: SGD(p, lr, momentum=0.9)])
def test_a_mapped_model_trains_as_any_other_and_its_file_does_not_change(directory, make):
    write(directory, CONFIG, random_state(CONFIG, 0, "F64"))
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    mapped = GPT2Model.from_pretrained(directory, np.float64).train()
    plain = GPT2Model(CONFIG, dtype=np.float64)
    plain.load_state_dict(mapped.state_dict())
    for p in plain.parameters():
        assert p.data.flags.c_contiguous
    ids = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (3, 7))
    before = mapped.state_dict()
    for model in (mapped, plain):
        optimizer = make(model.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            model.loss(ids[:, :-1], ids[:, 1:]).backward()
            clip_grad_norm(model.parameters(), 0.5)
            optimizer.step()
    for (name, p), q in zip(mapped.named_parameters(), plain.parameters(), strict=True):
        assert not np.array_equal(p.data, before[name]), name
        # The gradient of the key bias is only rounding, and so is its step of Adam.
        if not name.endswith("c_attn.bias"):
            np.testing.assert_allclose(p.data, q.data, rtol=1e-9, atol=1e-9, err_msg=name)
        assert isinstance(map_of(p.data), np.memmap), name
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == files


# -- directories that cannot be read -------------------------------------------------------------


def refusal(directory, read=GPT2Model.from_pretrained):
    """Assert that the directory is refused, and return the problems in the error."""
    with pytest.raises(ValueError) as error:
        read(directory)
    first, *problems = str(error.value).split("\n  ")
    assert first == f"{directory} does not hold a GPT-2 that can be read:"
    return problems


@pytest.mark.parametrize(
    "key, value, problem",
    [
        ("model_type", "llama", 'model_type is "llama", only "gpt2" is supported'),
        ("model_type", None, 'model_type is null, only "gpt2" is supported'),
        ("activation_function", "relu", 'activation_function is "relu", only "gelu_new" or '),
        ("activation_function", ["gelu_new"], 'activation_function is ["gelu_new"], only '),
        ("scale_attn_weights", False, "scale_attn_weights is false, only true is supported"),
        ("scale_attn_weights", 1, "scale_attn_weights is 1, only true is supported"),
        ("scale_attn_by_inverse_layer_idx", True, "scale_attn_by_inverse_layer_idx is true, only "),
        ("reorder_and_upcast_attn", "no", 'reorder_and_upcast_attn is "no", only false or true is'),
        ("add_cross_attention", True, "add_cross_attention is true, only false is supported"),
        ("tie_word_embeddings", False, "tie_word_embeddings is false, only true is supported"),
        ("vocab_size", "11", "vocab_size must be an integer, not '11'"),
        ("n_positions", None, "n_positions must be an integer, not None"),
        ("n_layer", True, "n_layer must be an integer, not True"),
        ("n_embd", 8.0, "n_embd must be an integer, not 8.0"),
        ("n_head", 0, "n_head=0 must be at least 1"),
        ("n_head", 3, "n_embd=8 is not divisible by n_head=3; every head needs"),
        ("n_inner", [], "n_inner must be an integer, not []"),
        ("attn_pdrop", 1.0, "attn_pdrop=1.0 must lie in [0, 1)"),
        ("resid_pdrop", False, "resid_pdrop must be a number, not False"),
        ("embd_pdrop", float("nan"), "embd_pdrop=nan must lie in [0, 1)"),
        ("layer_norm_epsilon", "1e-5", "layer_norm_epsilon must be a number, not '1e-5'"),
        ("initializer_range", -1, "initializer_range=-1.0 must be positive"),
    ],
)
def test_a_configuration_that_is_not_supported_is_refused_by_key(directory, key, value, problem):
    edit_config(directory, **{key: value})
    for read in (GPT2Model.from_pretrained, read_config, read_eos):
        [found] = refusal(directory, read)
        assert found.startswith(f"config.json: {problem}")


def test_the_key_is_the_one_in_the_file(directory):
    edit_config(directory, n_positions=..., n_ctx="6")
    assert refusal(directory) == ["config.json: n_ctx must be an integer, not '6'"]


def test_without_a_model_type_the_architecture_tells(directory):
    edit_config(directory, model_type=...)
    assert read_config(directory) == CONFIG
    edit_config(directory, architectures=["BloomForCausalLM"])
    [problem] = refusal(directory, read_config)
    assert problem.startswith("config.json: it has neither model_type")


@pytest.mark.parametrize(
    "changes, config",
    [
        ({"activation_function": "gelu_pytorch_tanh", "reorder_and_upcast_attn": True}, CONFIG),
        ({"n_ctx": 99, "n_inner": None, "dtype": 5}, replace(CONFIG, n_inner=None)),
        ({"scale_attn_weights": ..., "activation_function": ..., "n_head": 4, "attn_pdrop": 0},
         replace(CONFIG, n_head=4)),
        ({"n_embd": ..., "hidden_size": 16, "num_attention_heads": 8, "n_head": ...,
          "num_hidden_layers": 3, "n_layer": ..., "max_position_embeddings": 7,
          "n_positions": ...}, replace(CONFIG, n_embd=16, n_head=8, n_layer=3, n_positions=7)),
    ],
)  # fmt: skip
def test_other_spellings_of_the_same_are_read(directory, changes, config):
    edit_config(directory, **changes)
    assert read_config(directory) == config


def test_missing_keys_have_the_defaults_of_transformers(directory):
    (directory / "config.json").write_text('{"model_type": "gpt2"}')
    assert read_config(directory) == GPT2Config.gpt2_small()


def test_without_an_id_that_ends_a_text_it_is_the_one_of_gpt2(directory):
    edit_config(directory, eos_token_id=...)
    settings = {"_settings": {}, "config": GPT2Config.gpt2_small()}
    assert replace(huggingface.read(directory), **settings).eos() == (50256,)
    assert read_eos(directory) == ()  # this vocabulary has no such id


@pytest.mark.parametrize(
    "eos, ids", [(0, (0,)), (10, (10,)), (11, ()), (50256, ()), (None, ()), ([3, 4, 99], (3, 4))]
)
def test_ids_that_end_a_text_are_those_of_the_vocabulary(directory, eos, ids):
    edit_config(directory, eos_token_id=eos)
    assert read_eos(directory) == ids
    GPT2Model.from_pretrained(directory).generate([[1]], 2, stop=read_eos(directory), rng=0)


@pytest.mark.parametrize("eos", ["0", True, -1, [0, None], {}])
def test_end_ids_that_are_not_valid_are_refused(directory, eos):
    edit_config(directory, eos_token_id=eos)
    [problem] = refusal(directory, read_eos)
    assert problem.startswith("config.json: eos_token_id")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
def test_json_that_is_no_object_is_refused(sharded, file, content):
    (sharded / file).write_bytes(content)
    [problem] = refusal(sharded)
    assert problem.startswith(f"{file} is damaged: ")


def test_a_path_that_is_no_directory_is_another_error(tmp_path):
    for read in (GPT2Model.from_pretrained, read_config, read_eos):
        with pytest.raises(FileNotFoundError, match="gpt2 does not exist.*nothing is downloaded"):
            read(tmp_path / "gpt2")
        (tmp_path / "file").touch()
        with pytest.raises(NotADirectoryError, match="file is a file; give the directory"):
            read(tmp_path / "file")


def test_an_empty_directory_lacks_everything(tmp_path):
    assert refusal(tmp_path) == [
        "config.json is missing",
        "model.safetensors is missing, and so is model.safetensors.index.json",
    ]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "gpt2.ckpt"])
def test_pickles_are_refused_with_the_reason_and_the_way_out(directory, name):
    (directory / "model.safetensors").rename(directory / name)
    [problem] = refusal(directory)
    assert problem == (
        f"model.safetensors is missing; {name} is not read, because a pickle can run any code: if "
        "you trust it, convert it with transformers, "
        'GPT2LMHeadModel.from_pretrained("old").save_pretrained("new")'
    )


@pytest.mark.parametrize("dtype", [np.float16, np.int64, complex])
def test_models_of_other_dtypes_are_refused(directory, dtype):
    with pytest.raises(TypeError, match="dtype must be float32 or float64"):
        GPT2Model.from_pretrained(directory, dtype)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


MISFITS = {
    "missing: transformer.wpe.weight": {"transformer__wpe__weight": ...},
    "missing: transformer.h.1.attn.c_attn.bias": {"transformer__h__1__attn__c_attn__bias": ...},
    "unexpected: score.weight": {"score__weight": zeros(2, 8)},
    "unexpected: transformer.h.2.ln_1.bias": {"transformer__h__2__ln_1__bias": zeros(8)},
    "unexpected: transformer.h.0.mlp.bias": {"transformer__h__0__mlp__bias": zeros(8)},
    "unexpected: transformer.lm_head.weight": {"transformer__lm_head__weight": zeros(11, 8)},
    "unexpected: h.0.attn.biases": {"h__0__attn__biases": zeros()},
    "wrong shape: transformer.h.0.mlp.c_fc.weight is (12, 8), not (8, 12)": {
        "transformer__h__0__mlp__c_fc__weight": zeros(12, 8)
    },
    "wrong shape: transformer.ln_f.bias is (), not (8,)": {"transformer__ln_f__bias": zeros()},
    "wrong shape: lm_head.weight is (12, 8), not (11, 8)": {"lm_head__weight": zeros(12, 8)},
    "wrong shape: transformer.wte.weight is (0, 8), not (11, 8)": {
        "transformer__wte__weight": zeros(0, 8)
    },
    "wrong dtype: transformer.ln_f.bias is I64, not F16, BF16, F32, F64": {
        "transformer__ln_f__bias": zeros(8, dtype=np.int64)
    },
    "lm_head.weight differs from transformer.wte.weight; only tied heads are supported": {
        "lm_head__weight": zeros(11, 8)
    },
    "more than once: {}": {"ln_f__bias": zeros(8)},
}


@pytest.mark.parametrize("problem", MISFITS)
def test_what_does_not_fit_the_configuration_is_named(directory, problem):
    edit_tensors(directory, **MISFITS[problem])
    [found] = refusal(directory)
    if "{}" in problem:
        names = {"ln_f.bias", "transformer.ln_f.bias"}
        assert found.startswith("more than once: ") and all(name in found for name in names)
    else:
        assert found == problem


def test_a_head_is_not_compared_with_what_has_no_numbers(directory):
    wte = zeros(11, 8, dtype=np.int64)
    edit_tensors(directory, transformer__wte__weight=wte, lm_head__weight=zeros(11, 8))
    problem = "wrong dtype: transformer.wte.weight is I64, not F16, BF16, F32, F64"
    assert refusal(directory) == [problem]


def test_an_index_beside_the_one_file_does_not_matter(directory):
    (directory / "model.safetensors.index.json").write_text("{}")
    GPT2Model.from_pretrained(directory)


def test_names_are_those_of_a_file_without_prefix_too(directory):
    state = random_state(CONFIG, 0)
    del state["h.1.ln_2.weight"]
    write(directory, CONFIG, state, prefix="")
    assert refusal(directory) == ["missing: h.1.ln_2.weight"]


@pytest.mark.parametrize("kind", EACH_KIND)
@pytest.mark.parametrize("entry", [0, -1])
def test_a_head_that_differs_in_one_entry_is_noticed(directory, kind, entry):
    config = replace(CONFIG, vocab_size=9000)  # more than one block of numbers
    state = random_state(config, 0, kind)
    write(directory, config, state, head=True)
    GPT2Model.from_pretrained(directory)
    head = copy.deepcopy(state["wte.weight"])
    head.reshape(-1)[entry] += 1.0
    edit_tensors(directory, lm_head__weight=head)
    [problem] = refusal(directory)
    assert problem.startswith("lm_head.weight differs from transformer.wte.weight")
    head.reshape(-1)[entry] = np.nan
    edit_tensors(directory, lm_head__weight=head, transformer__wte__weight=head)
    GPT2Model.from_pretrained(directory)


def test_everything_that_is_wrong_is_in_one_error(sharded):
    edit_config(sharded, attn_pdrop=2, tie_word_embeddings=False, model_type="bert")
    first, second, third = (sharded / f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))
    index_path = sharded / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    index["weight_map"]["transformer.h.2.ln_1.bias"] = first.name
    index_path.write_text(json.dumps(index))
    one, two, twice = files.load_file(first), files.load_file(second), max(files.load_file(third))
    lost = min(two)
    del two[lost]
    one["lm_head.weight"], one["transformer.x"] = zeros(11, 8), zeros(8, dtype=np.uint8)
    two[twice] = zeros(9)
    save_file(one, first)
    save_file(two, second)
    assert refusal(sharded) == [
        'config.json: model_type is "bert", only "gpt2" is supported',
        "config.json: tie_word_embeddings is false, only true is supported",
        "config.json: attn_pdrop=2.0 must lie in [0, 1)",
        f"not where the index says: transformer.h.2.ln_1.bias in {first.name}, "
        f"{lost} in {second.name}",
        f"more than once: {twice} in {second.name} and {twice} in {third.name}",
        "wrong dtype: transformer.x is U8, not F16, BF16, F32, F64",
        f"missing: {lost}",
        "unexpected: transformer.x",
        f"wrong shape: {twice} is (9,), not {tuple(files.load_file(third)[twice].shape)}",
        "lm_head.weight differs from transformer.wte.weight; only tied heads are supported",
    ]


def test_files_are_examined_also_where_the_configuration_is_no_use(sharded):
    edit_config(sharded, n_layer="2")
    (sharded / "model-00001-of-00003.safetensors").unlink()
    third = sharded / "model-00003-of-00003.safetensors"
    third.write_bytes(third.read_bytes()[:-1])
    config, first, last = refusal(sharded)
    assert config == "config.json: n_layer must be an integer, not '2'"
    assert first == "model-00001-of-00003.safetensors is missing"
    assert last.startswith(f"{third.name} is damaged, or not a safetensors file: ")


def test_a_tensor_in_two_shards_is_named_with_both(sharded):
    first, second = (sharded / f"model-0000{n}-of-00003.safetensors" for n in (1, 2))
    name, tensor = next(iter(files.load_file(first).items()))
    save_file({**files.load_file(second), name: tensor}, second)
    places = f"{name} in {first.name} and {name} in {second.name}"
    assert refusal(sharded) == [f"more than once: {places}"]


def test_of_missing_shards_the_tensors_are_not_said_to_be_missing_too(sharded):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    assert refusal(sharded) == ["model-00002-of-00003.safetensors is missing"]


@pytest.mark.parametrize(
    "file",
    ["../x.safetensors", "/x.safetensors", "a\\x.safetensors", "\0.safetensors",
     "pytorch_model.bin", "..", "", 5, None, ["x"]],
)  # fmt: skip
def test_an_index_leads_nowhere_else(sharded, file):
    path = sharded / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"transformer.wte.weight": file}}))
    problem = f"{path.name} is damaged: it must place tensors in safetensors files beside it"
    assert refusal(sharded) == [problem]


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["x"]}])
def test_an_index_without_names_is_refused(sharded, index):
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refusal(sharded) == ["model.safetensors.index.json is damaged: it has no weight_map"]


def test_long_lists_are_cut(directory):
    edit_config(directory, n_layer=10)
    [problem] = refusal(directory)
    assert problem.startswith("missing: transformer.h.2.ln_1.weight, transformer.h.2.ln_1.bias, ")
    assert problem.count("transformer.") == 20 and problem.endswith(", and 76 more")


def safetensors(header, numbers=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + numbers


def entry(shape, end, begin=0, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"\x80\x02}q\x00.",
        safetensors(b"{}", length=2**63),
        safetensors(b"{}", length=10**8 - 1),
        safetensors(b"{" * 1000),
        safetensors([]),
        safetensors({"wte.weight": entry([2], 8)}, b"1234567"),
        safetensors({"wte.weight": entry([2], 8)}, b"123456789"),
        safetensors({"wte.weight": entry([2], 9, 1)}, b"123456789"),
        safetensors({"wte.weight": entry([2**61], 2**63)}),
        safetensors({"wte.weight": entry([2**62, 2**62], 8)}, b"12345678"),
        safetensors({"a": entry([2], 8), "b": entry([2], 8)}, b"12345678"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_allocated(directory, content):
    (directory / "model.safetensors").write_bytes(content)
    with traced() as memory:
        [problem] = refusal(directory)
        _, peak = memory()
    assert problem.startswith("model.safetensors is damaged, or not a safetensors file: ")
    assert peak < 1_000_000


def test_shapes_of_no_size_are_wrong_shapes(directory):
    content = safetensors({"wte.weight": entry([0, 2**62], 0), "wpe.weight": entry([0] * 99, 0)})
    (directory / "model.safetensors").write_bytes(content)
    edit_config(directory, n_layer=1)
    missing, shapes = refusal(directory)
    assert missing.startswith("missing: h.0.ln_1.weight, ")
    assert shapes.startswith(f"wrong shape: wte.weight is (0, {2**62}), not (11, 8), wpe.weight is")


@pytest.mark.parametrize(
    "key, problem",
    [
        ("n_layer", "config.json: n_layer=1000000000000, but there are only 28 tensors"),
        ("n_embd", "wrong shape: transformer.h.0.attn.c_attn.bias is (24,), not (3000000000000,)"),
        ("n_inner", "wrong shape: transformer.h.0.mlp.c_fc.bias is (12,), not (1000000000000,)"),
        ("n_positions", "wrong shape: transformer.wpe.weight is (6, 8), not (1000000000000, 8)"),
        ("vocab_size", "wrong shape: transformer.wte.weight is (11, 8), not (1000000000000, 8)"),
    ],
)
def test_a_configuration_that_claims_too_much_does_not_make_it_allocate(directory, key, problem):
    edit_config(directory, **{key: 10**12})
    with traced() as memory:
        found, *missing = refusal(directory)
        _, peak = memory()
    assert found.startswith(problem)
    assert [names[:8] for names in missing] == ["missing:"] * (key == "n_layer")
    assert peak < 1_000_000


def test_without_safetensors_the_error_says_what_to_install(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert read_config(directory) == CONFIG
    with pytest.raises(ImportError, match=r"needs safetensors: pip install 'npgpt2\[hf\]'"):
        GPT2Model.from_pretrained(directory)


# -- writing -------------------------------------------------------------------------------------


def test_the_end_of_a_text_is_written_where_the_vocabulary_has_it(tmp_path):
    config = GPT2Config(n_positions=1, n_embd=1, n_layer=1, n_head=1)
    for vocab_size, end in ((50257, 50256), (50256, None)):
        GPT2Model(replace(config, vocab_size=vocab_size)).save_pretrained(tmp_path)
        for name in ("config.json", "generation_config.json"):
            written = json.loads((tmp_path / name).read_text())
            assert written["bos_token_id"] == written["eos_token_id"] == end
        assert read_eos(tmp_path) == (() if end is None else (end,))


def test_a_model_may_be_written_where_it_is_mapped_from(directory):
    model = GPT2Model.from_pretrained(directory)
    other = GPT2Model.from_pretrained(directory)
    model.wte.weight.data += 1.0
    model.ln_f.bias.data[...] = 3.0
    expected, before = model.state_dict(), other.state_dict()
    model.save_pretrained(directory)
    again = GPT2Model.from_pretrained(directory)
    for name, p in again.named_parameters():
        assert np.array_equal(p.data, expected[name]), name
    for m, state in ((model, expected), (other, before)):  # both map the old file
        assert all(np.array_equal(p.data, state[name]) for name, p in m.named_parameters())
    again.save_pretrained(directory)


def test_weights_that_were_there_are_replaced_whatever_they_were_in(sharded):
    (sharded / "vocab.json").write_text("{}")
    (sharded / "model-of-mine.safetensors").write_text("")
    model = random_model(CONFIG, seed=5, dtype=np.float32)
    model.save_pretrained(sharded)
    assert {path.name for path in sharded.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors",
        "vocab.json", "model-of-mine.safetensors",
    }  # fmt: skip
    again = GPT2Model.from_pretrained(sharded)
    assert all(
        np.array_equal(p.data, q.data)
        for p, q in zip(model.parameters(), again.parameters(), strict=True)
    )


@pytest.mark.parametrize("kept", range(3))
def test_a_write_that_is_interrupted_leaves_no_mixture(sharded, monkeypatch, kept):
    """The interrupt comes when `kept` of the three files have been moved into place."""
    before = {path.name for path in sharded.iterdir()}
    moves, replace_file = [], os.replace

    def move(source, target):
        if len(moves) == kept:
            raise KeyboardInterrupt
        moves.append(target)
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", move)
    with pytest.raises(KeyboardInterrupt):  # another model of the same shapes
        random_model(replace(CONFIG, n_head=4), seed=5).save_pretrained(sharded)
    assert len(moves) == kept
    assert refusal(sharded) == ["config.json is missing"]
    assert not list(sharded.glob(".*")), "no temporary files"
    assert kept or {path.name for path in sharded.iterdir()} == before - {"config.json"}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("kind", ["F16", "F64"])
def test_what_is_converted_does_not_stay_in_memory_as_it_was(directory, kind):
    """The pages of the mapped file do not stay either. Only Linux counts them, so ask Linux."""
    config = replace(CONFIG, vocab_size=200_000, n_embd=64)
    write(directory, config, random_state(config, 0, kind))
    code = (
        "import sys; from npgpt2 import GPT2Model\n"
        "def resident(key):\n"
        "    line = next(s for s in open('/proc/self/status') if s.startswith(key))\n"
        "    return 1024 * int(line.split()[1])\n"
        "import safetensors; before = resident('VmRSS')\n"
        "model = GPT2Model.from_pretrained(sys.argv[1])\n"
        "print(before, resident('VmHWM'), resident('VmRSS'))\n"
    )
    command = [sys.executable, "-c", code, directory]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    before, peak, after = map(int, done.stdout.split())
    whole = 4 * 200_000 * 64  # nearly all of it is wte
    assert after - before < 1.1 * whole
    assert peak - before < whole + (2 if kind == "F16" else 8) * 200_000 * 64 + 0.1 * whole


@pytest.mark.parametrize("name", ["model.safetensors", "generation_config.json"])
def test_what_cannot_be_moved_into_place_leaves_no_mixture(directory, name):
    before = GPT2Model.from_pretrained(directory).state_dict()
    config = (directory / "config.json").read_bytes()
    if (directory / name).exists():
        (directory / name).rename(directory / "aside")
    (directory / name).mkdir()
    with pytest.raises(OSError, match=name):
        random_model(CONFIG, seed=5).save_pretrained(directory)
    (directory / name).rmdir()
    if name == "model.safetensors":
        (directory / "aside").rename(directory / name)
        assert (directory / "config.json").read_bytes() == config
        after = GPT2Model.from_pretrained(directory).state_dict()
        assert all(np.array_equal(after[key], array) for key, array in before.items())
    else:
        assert refusal(directory) == ["config.json is missing"]


@pytest.mark.parametrize("given, written", [(3, (3,)), (None, ()), (11, ()), (50256, ())])
def test_the_end_of_a_text_is_as_it_is_given(tmp_path, given, written):
    random_model(CONFIG).save_pretrained(tmp_path, eos_token_id=given)
    assert read_eos(tmp_path) == written
    ends = json.loads((tmp_path / "generation_config.json").read_text())
    assert ends == dict.fromkeys(["bos_token_id", "eos_token_id"], written[0] if written else None)


def test_a_number_too_large_for_the_dtype_is_refused_by_name(directory):
    state = random_state(CONFIG, 0, "F64")
    write(directory, CONFIG, state)
    path = directory / "model.safetensors"
    tensors = files.load_file(path)
    name = next(key for key in tensors if key.endswith("ln_f.bias"))
    tensors[name][2] = -1e300
    save_file(tensors, path)
    with pytest.raises(ValueError, match=f"{name} has numbers that are too large for float32"):
        GPT2Model.from_pretrained(directory)
    assert GPT2Model.from_pretrained(directory, dtype=np.float64).ln_f.bias.data[2] == -1e300


def test_a_pointer_of_git_lfs_is_called_that(directory):
    (directory / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    [problem] = refusal(directory)
    assert problem.endswith("it is only a pointer of Git LFS; git lfs pull downloads the file")


def test_a_write_that_fails_leaves_everything_as_it_was(sharded, monkeypatch):
    before = {path.name: path.read_bytes() for path in sharded.iterdir()}

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"No space left on device: .*model\.safetensors'"):
        random_model(CONFIG).save_pretrained(sharded)
    assert {path.name: path.read_bytes() for path in sharded.iterdir()} == before


def test_a_model_that_is_no_gpt2_any_more_is_not_written(tmp_path):
    model = GPT2Model(CONFIG)
    model.lm_head = Linear(CONFIG.n_embd, CONFIG.vocab_size, bias=False)
    with pytest.raises(ValueError, match="do not belong to a GPT-2 of this configuration"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("vocab_size", [9, 99, 999, 9999])
def test_numbers_are_aligned_in_the_file_however_long_its_header_is(tmp_path, vocab_size):
    GPT2Model(replace(CONFIG, vocab_size=vocab_size), dtype=np.float64).save_pretrained(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    assert int.from_bytes(content[:8], "little") % 8 == 0


def test_writing_takes_one_tensor_at_most(tmp_path):
    model = GPT2Model(replace(CONFIG, n_embd=64, n_layer=8, n_inner=None))
    with traced() as memory:
        model.save_pretrained(tmp_path)
        _, peak = memory()
    assert peak < model.h[0].mlp.c_fc.weight.data.nbytes + 200_000
    assert sum(p.data.nbytes for p in model.parameters()) > 1_000_000
