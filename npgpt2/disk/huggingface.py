"""Hugging Face directories, as transformers reads and writes them: config.json, model.safetensors.

The files use our names of parameters, either with the prefix `transformer.` (GPT2LMHeadModel writes
it) or without (the first published files). A linear layer of transformers is a Conv1D:
x @ weight + bias, with a weight of shape (in, out). Our weights are (out, in). So reading and
writing transpose all matrices of a block, as views. The head is wte. Numbers are F16, BF16, F32 or
F64.

Letters: see `npgpt2/config.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from autograd import Array
from npgpt2 import validate
from npgpt2.config import CHECKS, SIZES, GPT2Config
from npgpt2.disk.files import read_json, to_json, written_beside
from npgpt2.disk.safetensors import DTYPES, MappedTensor, map_file, write_tensors

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PREFIX = "transformer."
_HEAD = "lm_head.weight"  # never prefixed
_MASK = re.compile(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)")  # no parameters
_SAFETENSORS = re.compile(r"[^/\\\0]+\.safetensors")
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_PICKLES = {".bin", ".pt", ".pth", ".ckpt"}
END = 50256  # the id that ends a text, in GPT-2's vocabulary of 50257
_SHOWN = 20  # largest number of names that an error shows for each kind of problem

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
    "reorder_and_upcast_attn": (False, True),  # attention in float32 at least, as ours
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


# -- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pretrained:
    """A directory that `read` has checked: its configuration and its tensors fit together.

    Attributes
    ----------
    directory
        Its path.
    config
        The configuration of its model.
    """

    directory: Path
    config: GPT2Config
    _settings: Mapping[str, Any]  # config.json
    _tensors: Mapping[str, MappedTensor]

    def arrays(self, dtype: DTypeLike = np.float32) -> Iterator[tuple[str, Array]]:
        """Yield (name, array) for every parameter, under our names and in our shapes.

        If the file has an array in `dtype`, the array is mapped: it stays in the file until you
        change it, and the file itself never changes. Other arrays are converted, one at a time. The
        weights of blocks are Fortran-ordered, because the file has them transposed. If you train
        them, AdamW copies them at every step.

        Parameters
        ----------
        dtype
            float32 or float64.

        Raises
        ------
        TypeError
            dtype is not float32 or float64.
        ValueError
            A finite number is too large for the dtype.

        Notes
        -----
        While a file is mapped, you may delete or replace it, as `write` does. Do not overwrite it
        in place.
        """
        kind = validate.dtype(dtype)
        for name, _ in _shapes(self.config):
            array = self._tensors[name].array(kind)
            yield name, array.T if _is_transposed(name) else array

    def eos(self) -> tuple[int, ...]:
        """Return the ids that end a text, from config.json.

        Usually there is one id. There is none if the entry is null or lies beyond the vocabulary:
        the configuration of a small model often has GPT-2's id.

        Raises
        ------
        ValueError
            The entry in config.json is neither null, nor an id, nor a list of ids.
        """
        eos = self._settings.get("eos_token_id", END)
        ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
        try:
            checked = [validate.integer("eos_token_id", i, minimum=0) for i in ids]
        except (TypeError, ValueError) as error:
            raise _error(self.directory, [f"config.json: {error}"]) from error
        return tuple(i for i in checked if i < self.config.vocab_size)


def read(directory: str | os.PathLike[str]) -> Pretrained:
    """Check a directory with config.json, and model.safetensors or shards with an index.

    Nothing is downloaded. `Pretrained.arrays` reads the numbers later.

    Raises
    ------
    ImportError
        The package safetensors is missing.
    FileNotFoundError, NotADirectoryError
        The directory does not exist, or is a file.
    validate.Problems
        The directory does not hold a GPT-2 that this package supports. The error lists all problems
        of the configuration and the files, under the names that the files use.
    """
    directory, problems = _existing(directory), list[str]()
    settings = _read_settings(directory, problems)
    config = _find_config(settings, problems)
    tensors, complete = _find_tensors(directory, problems)
    if config is not None:
        problems += _misfits(config, tensors, complete)
    if config is None or problems:
        raise _error(directory, problems)
    return Pretrained(directory, config, settings, tensors)


def read_config(directory: str | os.PathLike[str]) -> GPT2Config:
    """Read only config.json.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        The directory does not exist, or is a file.
    validate.Problems
        config.json is missing, is damaged, or belongs to another kind of model. The error lists all
        problems by key.
    """
    directory, problems = _existing(directory), list[str]()
    config = _find_config(_read_settings(directory, problems), problems)
    if config is None or problems:
        raise _error(directory, problems)
    return config


def _existing(directory: str | os.PathLike[str]) -> Path:
    path = validate.path("directory", directory)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; give a directory, because nothing is downloaded"
        )
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; give the directory that holds it")
    return path


def _error(directory: str | os.PathLike[str], problems: list[str]) -> validate.Problems:
    heading = f"{os.fspath(directory)} does not hold a GPT-2 that can be read"
    return validate.Problems(heading, problems)


def _listed(kind: str, names: list[str]) -> list[str]:
    """Return no problem if there are no names, otherwise one with the first of the names."""
    more = f", and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return [f"{kind}: {', '.join(names[:_SHOWN])}{more}"] if names else []


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; ValueError if the file cannot be read."""
    try:
        value: dict[str, Any] = read_json(path, name=path.name)
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except OSError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error
    return value


def _read_settings(directory: Path, problems: list[str]) -> dict[str, Any]:
    """Return config.json, or {} if it cannot be read; add each problem to `problems`."""
    try:
        return _read_json(directory / "config.json")
    except ValueError as error:
        problems.append(str(error))
        return {}


def _find_config(raw: Mapping[str, Any], problems: list[str]) -> GPT2Config | None:
    """Return the configuration, or None if its sizes are wrong; add problems to `problems`."""
    if problems:  # config.json could not be read
        return None
    found = []
    if "model_type" not in raw and "GPT2" not in str(raw.get("architectures")):
        found.append('it has neither model_type "gpt2" nor an architecture with GPT2 in its name')
    for key, values in _SUPPORTED.items():
        allowed = [json.dumps(value) for value in values]  # as JSON, true differs from 1
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
            fits = fits and name not in SIZES
    config = None
    if keys.keys() & {"n_embd", "n_head"} <= fields.keys():
        try:
            config = GPT2Config(**fields)
        except ValueError as error:
            found.append(str(error))
    problems += [f"config.json: {problem}" for problem in found]
    return config if fits else None


def _find_tensors(directory: Path, problems: list[str]) -> tuple[dict[str, MappedTensor], bool]:
    """Map all tensors except masks, by our names: the names in the file without the prefix.

    Also return whether all expected files could be read. Add each problem to `problems`.
    """
    files, placed = [_WEIGHTS], dict[str, str]()
    if not (directory / _WEIGHTS).exists():  # otherwise ignore the index, as transformers does
        try:
            placed = _read_index(directory)
        except ValueError as error:
            problems.append(str(error))
        files = sorted(set(placed.values()))
    tensors, complete = dict[str, MappedTensor](), bool(files)
    lacking, twice, odd = [], [], []
    for file in files:
        try:
            held = map_file(directory / file)
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
            if tensor.kind not in DTYPES:
                odd.append(f"{tensor.name} is {tensor.kind}, not {', '.join(DTYPES)}")
    problems += _listed("not where the index says", lacking)
    problems += _listed("more than once", twice)
    problems += _listed("wrong dtype", odd)
    return tensors, complete


def _read_index(directory: Path) -> dict[str, str]:
    """Return {name: file} from the index of shards; ValueError if it is missing or damaged."""
    if not (directory / _INDEX).exists():
        pickles = sorted(p.name for p in directory.iterdir() if p.suffix in _PICKLES)
        if not pickles:
            raise ValueError(f"{_WEIGHTS} is missing, and so is {_INDEX}")
        raise ValueError(
            f"{_WEIGHTS} is missing; {', '.join(pickles[:_SHOWN])} is not read, because a pickle "
            "can run any code: if you trust it, convert it with transformers, "
            'GPT2LMHeadModel.from_pretrained("old").save_pretrained("new")'
        )
    placed = _read_json(directory / _INDEX).get("weight_map")
    if not (isinstance(placed, dict) and placed):
        raise ValueError(f"{_INDEX} is damaged: it has no weight_map")
    files = placed.values()
    if any(not isinstance(f, str) or not _SAFETENSORS.fullmatch(f) for f in files):
        raise ValueError(
            f"{_INDEX} is damaged: it must place tensors in safetensors files beside it"
        )
    return placed


def _misfits(config: GPT2Config, tensors: Mapping[str, MappedTensor], complete: bool) -> list[str]:
    """Return the differences between the tensors and the parameters of a configuration."""
    problems = []
    if config.n_layer > len(tensors):  # then list nothing for layers that cannot exist
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
    if head and wte and head.shape == wte.shape and {head.kind, wte.kind} <= DTYPES.keys():
        if not head.equals(wte):
            problems.append(f"{_HEAD} differs from {wte.name}; only tied heads are supported")
    return problems


# -- the format ----------------------------------------------------------------------------------


def _shapes(config: GPT2Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield (name, shape) for every parameter: our name, and its shape in a file."""
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
    """Whether a matrix of this name belongs to a Conv1D. (Transposing a vector changes nothing.)"""
    return name.startswith("h.")


# -- writing -------------------------------------------------------------------------------------


def write(
    directory: str | os.PathLike[str],
    config: GPT2Config,
    parameters: Mapping[str, Array],
    eos_token_id: int | None = END,
) -> None:
    """Write a directory that transformers can load.

    The files are config.json, generation_config.json and model.safetensors, which has the dtype of
    the parameters.

    Parameters
    ----------
    directory
        Where to write. It is made if it does not exist. It may be the directory that the parameters
        were read from. Old weights in it are replaced, also shards; other files stay.
    config
        The configuration of the model.
    parameters
        The arrays of the model's parameters, with our names and shapes.
    eos_token_id
        The id that begins and ends a text; by default the id in GPT-2's vocabulary. None, or an id
        beyond the vocabulary, is written as null.

    Raises
    ------
    OSError
        The files cannot be written.
    ValueError
        The parameters do not belong to a GPT-2 of this configuration.

    Notes
    -----
    Even after a crash, the directory holds the old model, or the new model, or no config.json.
    `read` refuses a directory without config.json. config.json is missing in one case only: all new
    files have been written beside the old ones, and then the process is killed, or a file cannot be
    moved.
    """
    directory = validate.path("directory", directory)
    tensors = {name: a.T if _is_transposed(name) else a for name, a in parameters.items()}
    if {name: array.shape for name, array in tensors.items()} != dict(_shapes(config)):
        raise ValueError("the parameters do not belong to a GPT-2 of this configuration")
    directory.mkdir(parents=True, exist_ok=True)
    known = eos_token_id is not None and eos_token_id < config.vocab_size
    end = eos_token_id if known else None
    ends = {"bos_token_id": end, "eos_token_id": end}
    settings = _settings(config, tensors["wte.weight"].dtype) | ends
    prefixed = {_PREFIX + name: array for name, array in tensors.items()}
    with ExitStack() as stack:
        weights, generation, configuration = (
            stack.enter_context(written_beside(directory / name, write_to))
            for name, write_to in (
                (_WEIGHTS, lambda file: write_tensors(file, prefixed)),
                ("generation_config.json", lambda file: file.write(to_json(ends))),
                ("config.json", lambda file: file.write(to_json(settings))),
            )
        )
        # Remove config.json, so that nobody reads a mixture of two models.
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
        os.replace(configuration, directory / "config.json")


def _settings(config: GPT2Config, dtype: np.dtype[Any]) -> dict[str, object]:
    """Return the content of config.json for transformers, sorted by key, without some defaults."""
    own = asdict(config)
    if config.n_inner == 4 * config.n_embd:
        own["n_inner"] = None
    settings = {
        "architectures": ["GPT2LMHeadModel"],
        **{key: values[0] for key, values in _SUPPORTED.items()},
        **own,
        "n_ctx": config.n_positions,
        "dtype": dtype.name,
    }
    return dict(sorted(settings.items()))
