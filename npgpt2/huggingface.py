"""Directories that transformers reads and writes: config.json and model.safetensors.

The parameters in a file have our names, with `transformer.` in front (GPT2LMHeadModel writes it) or
without (the files first published). Linear layers are Conv1D there, x @ weight + bias, with weight
(in, out) where ours is (out, in): all of a block is transposed on the way, as a view. The head is
wte. Numbers are F16, BF16, F32 or F64.

A file of safetensors is the length of a header, the header (JSON: name -> dtype, shape, place), and
the numbers of one tensor after the other. The numbers are mapped, not read: where their dtype is
the model's they are its parameters, of which a page is loaded when it is used, and copied when it
is changed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from npgpt2 import validate
from npgpt2.blocks import blocks
from npgpt2.checkpoint import written_beside
from npgpt2.config import CHECKS, GPT2Config
from npgpt2.model import GPT2Model

Array = NDArray[Any]

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PREFIX = "transformer."
_HEAD = "lm_head.weight"  # never prefixed
_MASK = re.compile(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)")  # no parameters
_SAFETENSORS = re.compile(r"[^/\\\0]+\.safetensors")
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_PICKLES = {".bin", ".pt", ".pth", ".ckpt"}
_DTYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}  # NumPy has no bfloat16
_END = 50256  # of a text: its id in the vocabulary of GPT-2, 50257 strong
_POINTER = b"version https://git-lfs"
_SHOWN = 20  # of names of one kind in an error

_ALIASES = {
    "n_ctx": "n_positions",
    "max_position_embeddings": "n_positions",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
}
_SUPPORTED: dict[str, tuple[object, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # both are the tanh form
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False, True),  # attention in float32, which ours always is
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


# -- reading -------------------------------------------------------------------------------------


def load(directory: str | os.PathLike[str], dtype: DTypeLike = np.float32) -> GPT2Model:
    """Read a model, in eval mode; `GPT2Model.from_pretrained` is this function.

    Parameters
    ----------
    directory
        It holds config.json, and model.safetensors or shards with an index. Nothing is downloaded.
    dtype
        float32 or float64, of the model. If the file's numbers are of this dtype they stay in the
        file, mapped, until they are changed, which the file never is; others are converted, one
        tensor at a time.

    Returns
    -------
    GPT2Model
        The weights of its blocks are Fortran-ordered, as the files have them transposed.

    Raises
    ------
    ImportError
        safetensors is missing.
    FileNotFoundError, NotADirectoryError
        There is no such directory.
    TypeError
        Another dtype.
    ValueError
        The directory does not hold a GPT-2 as this package has it: everything that is wrong with
        configuration and files, by the names they have there.

    Notes
    -----
    A mapped file may be deleted or replaced, as `save` does, but must not be overwritten in place.
    """
    directory, dtype, problems = _existing(directory), validate.dtype(dtype), list[str]()
    config = _find_config(directory, problems)
    tensors, complete = _find_tensors(directory, problems)
    if config is not None:
        problems += _misfits(config, tensors, complete)
    if config is None or problems:
        raise _error(directory, problems)
    model = GPT2Model(config, dtype=dtype, init_weights=False).eval()
    for name, parameter in model.named_parameters():
        parameter.data = np.empty(0, dtype)  # so that the zeros go before the tensor comes
        array = tensors[name].array(dtype)
        parameter.data = array.T if _is_transposed(name) else array
    return model


def read_config(directory: str | os.PathLike[str]) -> GPT2Config:
    """Read config.json alone.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        There is no such directory.
    ValueError
        config.json is missing, damaged or of another model: all that is wrong with it, by key.
    """
    directory, problems = _existing(directory), list[str]()
    config = _find_config(directory, problems)
    if config is None or problems:
        raise _error(directory, problems)
    return config


def read_eos(directory: str | os.PathLike[str]) -> tuple[int, ...]:
    """Read the ids that end a text from config.json, as `generate` takes them for `stop`.

    One as a rule; none if it is null, or beyond the vocabulary, as in small models whose
    configuration has kept the id of GPT-2. Errors are those of `read_config`.
    """
    config = read_config(directory)
    eos = _read_json(Path(directory) / "config.json").get("eos_token_id", _END)
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    try:
        checked = [validate.integer("eos_token_id", i, minimum=0) for i in ids]
    except (TypeError, ValueError) as error:
        raise _error(directory, [f"config.json: {error}"]) from error
    return tuple(i for i in checked if i < config.vocab_size)


def _existing(directory: str | os.PathLike[str]) -> Path:
    path = Path(directory)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; it should be a directory, as nothing is downloaded"
        )
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; give the directory that it is in")
    return path


def _error(directory: str | os.PathLike[str], problems: Iterable[str]) -> ValueError:
    lines = "".join(f"\n  {problem}" for problem in problems)
    return ValueError(f"{os.fspath(directory)} does not hold a GPT-2 that can be read:{lines}")


def _listed(kind: str, names: list[str]) -> list[str]:
    """Return one problem that names the first of many, or none."""
    more = f", and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return [f"{kind}: {', '.join(names[:_SHOWN])}{more}"] if names else []


def _read_json(path: Path) -> dict[str, Any]:
    """Read an object; ValueError with the file's name for whatever else is there, or is not."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is damaged: it holds a {type(value).__name__}")
    return value


def _find_config(directory: Path, problems: list[str]) -> GPT2Config | None:
    """Read config.json, adding to problems; None if it has no sizes to compare tensors with."""
    try:
        raw = _read_json(directory / "config.json")
    except ValueError as error:
        problems.append(str(error))
        return None
    found = []
    if "model_type" not in raw and "GPT2" not in str(raw.get("architectures")):
        found.append('it has neither model_type "gpt2" nor architectures of that name')
    for key, values in _SUPPORTED.items():
        allowed = [json.dumps(value) for value in values]  # JSON knows true from 1
        if key in raw and (value := json.dumps(raw[key])) not in allowed:
            found.append(f"{key} is {value}, only {' or '.join(allowed)} is supported")
    keys = {name: name for name in CHECKS if name in raw}
    for alias, name in _ALIASES.items():
        if alias in raw:
            keys.setdefault(name, alias)
    fields, fits = dict[str, Any](), True
    for name, key in keys.items():
        if (key, raw[key]) == ("n_inner", None):  # 4 * n_embd
            continue
        try:
            fields[name] = CHECKS[name](key, raw[key])
        except (TypeError, ValueError) as error:
            found.append(str(error))
            fits = fits and CHECKS[name] is not validate.integer
    config = None
    if keys.keys() & {"n_embd", "n_head"} <= fields.keys():
        try:
            config = GPT2Config(**fields)
        except ValueError as error:
            found.append(str(error))
    problems += [f"config.json: {problem}" for problem in found]
    return config if fits else None


@dataclass(frozen=True)
class _Tensor:
    """A tensor in a mapped file."""

    name: str  # in the file
    path: Path  # of the file
    kind: str  # "F32", ...
    shape: tuple[int, ...]
    begin: int  # in the file
    content: NDArray[np.uint8]  # mapped

    @property
    def mapped(self) -> Array:
        """Its numbers as they lie in the file, on one axis."""
        return self.content.view(_DTYPES[self.kind])

    def array(self, dtype: np.dtype[Any]) -> Array:
        """Return it in dtype: the mapped numbers if they are of that dtype, and aligned.

        Else they are read into memory, so that none of the map's pages stay there too.

        Raises
        ------
        ValueError
            A finite number is too large for dtype.
        """
        numbers = self.mapped
        if numbers.dtype != dtype or not numbers.flags.aligned:
            stored = np.fromfile(self.path, numbers.dtype, len(numbers), offset=self.begin)
            try:
                with np.errstate(over="raise"):
                    numbers = _floats(stored, self.kind).astype(dtype, copy=False)
            except FloatingPointError:
                raise ValueError(
                    f"{self.path}: {self.name} has numbers that are too large for {dtype}; read "
                    "it with dtype=np.float64"
                ) from None
        return numbers.reshape(self.shape)

    def equals(self, other: _Tensor) -> bool:
        """Whether both have the same numbers; block by block, as each may fill half the memory."""
        return all(
            np.array_equal(
                _floats(self.mapped[n], self.kind), _floats(other.mapped[n], other.kind), True
            )
            for n in blocks(self.mapped)
        )


def _floats(numbers: Array, kind: str) -> Array:
    """Return numbers as they are in a file as floats."""
    if kind == "BF16":  # the upper half of a float32
        return np.left_shift(numbers, 16, dtype=np.uint32).view(np.float32)
    return numbers


def _find_tensors(directory: Path, problems: list[str]) -> tuple[dict[str, _Tensor], bool]:
    """Map all tensors but masks; also return whether every file there should be could be read.

    They are listed under our names, which are the file's without the prefix.
    """
    files, placed = [_WEIGHTS], dict[str, str]()
    if not (directory / _WEIGHTS).exists():  # else no index matters, as in transformers
        try:
            placed = _read_index(directory)
        except ValueError as error:
            problems.append(str(error))
        files = sorted(set(placed.values()))
    tensors, complete = dict[str, _Tensor](), bool(files)
    lacking, twice, odd = [], [], []
    for file in files:
        try:
            held = _map(directory / file)
        except ValueError as error:
            problems.append(str(error))
            complete = False
            continue
        names = {tensor.name for tensor in held}
        lacking += [f"{n} in {file}" for n, at in placed.items() if at == file and n not in names]
        for tensor in held:
            if _MASK.fullmatch(tensor.name):
                continue
            name = tensor.name.removeprefix(_PREFIX)
            name = tensor.name if name == _HEAD else name
            other = tensors.setdefault(name, tensor)
            if other is not tensor:
                twice.append(f"{other.name} in {other.path.name} and {tensor.name} in {file}")
            if tensor.kind not in _DTYPES:
                odd.append(f"{tensor.name} is {tensor.kind}, not {', '.join(_DTYPES)}")
    problems += _listed("not where the index says", lacking)
    problems += _listed("more than once", twice)
    problems += _listed("wrong dtype", odd)
    return tensors, complete


def _read_index(directory: Path) -> dict[str, str]:
    """Return the file of each tensor, by the index of shards; ValueError if there is none."""
    if not (directory / _INDEX).exists():
        pickles = sorted(p.name for p in directory.iterdir() if p.suffix in _PICKLES)
        if not pickles:
            raise ValueError(f"{_WEIGHTS} is missing, and so is {_INDEX}")
        raise ValueError(
            f"{_WEIGHTS} is missing; {', '.join(pickles[:_SHOWN])} is not read, as a pickle can "
            "run any code: where you trust it, convert it with transformers, "
            'GPT2LMHeadModel.from_pretrained("old").save_pretrained("new")'
        )
    placed = _read_json(directory / _INDEX).get("weight_map")
    if not (isinstance(placed, dict) and placed):
        raise ValueError(f"{_INDEX} is damaged: it has no weight_map")
    files = placed.values()
    if any(not isinstance(f, str) or not _SAFETENSORS.fullmatch(f) for f in files):
        raise ValueError(f"{_INDEX} is damaged: it places tensors in other than files beside it")
    return placed


def _map(path: Path) -> list[_Tensor]:
    """Return all tensors of a file; ValueError if it is missing or damaged."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs safetensors: pip install 'npgpt2[hf]' ({error})"
        ) from error
    try:
        with safe_open(path, framework="numpy"):
            pass  # so tensors fill the file, one after the other, each as long as its shape says
        content = np.asarray(np.memmap(path, mode="c"))  # copy on write
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header = json.loads(content[8:start].tobytes())
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error)
        if path.is_file():
            with path.open("rb") as file:
                if file.read(len(_POINTER)) == _POINTER:
                    reason = "it is a pointer of Git LFS to the file, which git lfs pull gets"
        raise ValueError(f"{path.name} is damaged, or no safetensors file: {reason}") from error
    header.pop("__metadata__", None)
    tensors = []
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        shape = tuple(entry["shape"])
        tensors.append(_Tensor(name, path, entry["dtype"], shape, begin, content[begin:end]))
    return tensors


def _misfits(config: GPT2Config, tensors: Mapping[str, _Tensor], complete: bool) -> list[str]:
    """Return what keeps the tensors from being all parameters of this configuration."""
    problems = []
    if config.n_layer > len(tensors):  # nothing is listed for layers that there cannot be
        if complete:
            few = f"n_layer={config.n_layer}, but there are only {len(tensors)} tensors"
            problems.append(f"config.json: {few}")
        config = replace(config, n_layer=max(len(tensors), 1))
    expected = dict(_shapes(config))
    prefix = _PREFIX if any(t.name.startswith(_PREFIX) for t in tensors.values()) else ""
    missing = [prefix + name for name in expected if name not in tensors]
    expected[_HEAD] = expected["wte.weight"]
    unexpected = [tensor.name for name, tensor in tensors.items() if name not in expected]
    shapes = [
        f"{tensor.name} is {tensor.shape}, not {expected[name]}"
        for name, tensor in tensors.items()
        if tensor.shape != expected.get(name, tensor.shape)
    ]
    problems += _listed("missing", missing if complete else [])
    problems += _listed("unexpected", unexpected)
    problems += _listed("wrong shape", shapes)
    head, wte = tensors.get(_HEAD), tensors.get("wte.weight")
    if head and wte and head.shape == wte.shape and {head.kind, wte.kind} <= _DTYPES.keys():
        if not head.equals(wte):
            problems.append(f"{_HEAD} differs from {wte.name}; only tied heads are supported")
    return problems


# -- the format ----------------------------------------------------------------------------------


def _shapes(config: GPT2Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield our name of every parameter, and the shape that it has in a file."""
    V, P, C, n_inner = config.vocab_size, config.n_positions, config.n_embd, config.n_inner
    yield "wte.weight", (V, C)
    yield "wpe.weight", (P, C)
    for i in range(config.n_layer):
        yield f"h.{i}.ln_1.weight", (C,)
        yield f"h.{i}.ln_1.bias", (C,)
        yield f"h.{i}.attn.c_attn.weight", (C, 3 * C)  # queries, keys, values
        yield f"h.{i}.attn.c_attn.bias", (3 * C,)
        yield f"h.{i}.attn.c_proj.weight", (C, C)
        yield f"h.{i}.attn.c_proj.bias", (C,)
        yield f"h.{i}.ln_2.weight", (C,)
        yield f"h.{i}.ln_2.bias", (C,)
        yield f"h.{i}.mlp.c_fc.weight", (C, n_inner)
        yield f"h.{i}.mlp.c_fc.bias", (n_inner,)
        yield f"h.{i}.mlp.c_proj.weight", (n_inner, C)
        yield f"h.{i}.mlp.c_proj.bias", (C,)
    yield "ln_f.weight", (C,)
    yield "ln_f.bias", (C,)


def _is_transposed(name: str) -> bool:
    """Whether a matrix of this name is a Conv1D's; of a vector, transposing changes nothing."""
    return name.startswith("h.")


# -- writing -------------------------------------------------------------------------------------


def save(
    model: GPT2Model, directory: str | os.PathLike[str], eos_token_id: int | None = _END
) -> None:
    """Write a model that transformers can load; `GPT2Model.save_pretrained` is this function.

    config.json, generation_config.json and model.safetensors, in the dtype of the model.

    Parameters
    ----------
    model
        The model.
    directory
        Where to write; made if it is not there. It may be the one the model was read from. Weights
        that it holds, also in shards, are replaced; other files are left alone.
    eos_token_id
        The id that begins and ends a text: by default that of GPT-2's own vocabulary. None, or an
        id that the model does not have, is written as null.

    Raises
    ------
    OSError
        The files cannot be written.
    ValueError
        The model is no longer that of its configuration, e.g. it has a head of its own.

    Notes
    -----
    Whatever happens, the directory holds the old model, or the new one, or has no config.json and
    is refused when it is read. The last can be if it is killed, or a file cannot be moved, after
    all of them have been written beside the old ones.
    """
    directory = Path(directory)
    tensors = {
        name: p.data.T if _is_transposed(name) else p.data for name, p in model.named_parameters()
    }
    if {name: array.shape for name, array in tensors.items()} != dict(_shapes(model.config)):
        raise ValueError("the model has other parameters than a GPT-2 of its configuration")
    directory.mkdir(parents=True, exist_ok=True)
    known = eos_token_id is not None and eos_token_id < model.config.vocab_size
    end = eos_token_id if known else None
    ends = {"bos_token_id": end, "eos_token_id": end}
    with ExitStack() as stack:
        weights, generation, config = (
            stack.enter_context(written_beside(directory / name, write))
            for name, write in (
                (_WEIGHTS, lambda file: _write_safetensors(file, tensors)),
                ("generation_config.json", lambda file: _write_json(file, ends)),
                ("config.json", lambda file: _write_json(file, _config_of(model) | ends)),
            )
        )
        # Without it, a directory is plainly incomplete, not a mixture of two models.
        old_config = directory / "config.json"
        content = old_config.read_bytes() if old_config.exists() else None
        old_config.unlink(missing_ok=True)
        try:
            os.replace(weights, directory / _WEIGHTS)
        except OSError:
            if content is not None:
                old_config.write_bytes(content)
            raise
        for old in [p for p in directory.iterdir() if p.name == _INDEX or _SHARD.fullmatch(p.name)]:
            old.unlink()
        os.replace(generation, directory / "generation_config.json")
        os.replace(config, directory / "config.json")


def _config_of(model: GPT2Model) -> dict[str, object]:
    """Return config.json as transformers has it, but for what it takes by default."""
    config = asdict(model.config)
    if config["n_inner"] == 4 * config["n_embd"]:
        config["n_inner"] = None
    return {
        "architectures": ["GPT2LMHeadModel"],
        **{key: values[0] for key, values in _SUPPORTED.items()},
        **config,
        "n_ctx": config["n_positions"],
        "dtype": model.wte.weight.dtype.name,
    }


def _write_json(file: IO[bytes], value: Mapping[str, object]) -> None:
    file.write((json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def _write_safetensors(file: IO[bytes], tensors: Mapping[str, Array]) -> None:
    """Write tensors one at a time, made contiguous; a library would take them all at once."""
    kinds = {np.dtype(np.float32): "F32", np.dtype(np.float64): "F64"}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers insists on it
    end = 0
    for name, a in tensors.items():
        begin, end = end, end + a.nbytes
        entry = {"dtype": kinds[a.dtype], "shape": a.shape, "data_offsets": [begin, end]}
        header[_PREFIX + name] = entry
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that all numbers are aligned
    file.write(len(text).to_bytes(8, "little") + text)
    for a in tensors.values():
        file.write(np.ascontiguousarray(a, _DTYPES[kinds[a.dtype]]).data)
