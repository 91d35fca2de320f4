"""Tokenizers turn text into ids and back: a vocabulary of characters, or a Hugging Face tokenizer.

The package `tokenizers` (extra `hf`) reads the tokenizer of a Hugging Face directory. A vocabulary
of characters needs no package. `save_vocabulary` writes it as a Hugging Face tokenizer.

Source of byte-level byte-pair encoding: Radford et al., Language Models are Unsupervised Multitask
Learners (2019), section 2.2.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from autograd import Array
from npgpt2 import validate
from npgpt2.disk.files import write_json

if TYPE_CHECKING:
    import tokenizers


class Tokenizer(Protocol):
    """Turns text into ids, and ids into text: a `Vocabulary` or a `PretrainedTokenizer`.

    `len(tokenizer)` is the number of ids. The vocab_size of a model must be at least as large.
    """

    def __len__(self) -> int: ...

    def encode(self, text: str) -> Array:
        """Return the ids of a text, (n,) uint32; ValueError if no ids stand for this text."""
        ...

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of a sequence of ids; IndexError if one is out of range."""
        ...


@dataclass(frozen=True)
class Vocabulary:
    """Characters as tokens: the id of a character is its place in `characters`.

    >>> vocabulary = Vocabulary.of("hello")
    >>> vocabulary.characters
    'ehlo'
    >>> vocabulary.encode("hole")
    array([1, 3, 2, 0], dtype=uint32)
    >>> vocabulary.decode([1, 0])
    'he'
    """

    characters: str

    def __post_init__(self) -> None:
        if not self.characters or list(self.characters) != sorted(set(self.characters)):
            raise ValueError("a vocabulary must have different characters in ascending order")

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """Return the vocabulary of all characters in text."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Array:
        """Return the ids of the characters of text, (len(text),) uint32.

        Raises
        ------
        ValueError
            A character is not in the vocabulary.
        """
        known, codes = _code_points(self.characters), _code_points(text)
        ids = np.searchsorted(known, codes).clip(max=len(known) - 1).astype(np.uint32)
        unknown = np.flatnonzero(known[ids] != codes)
        if unknown.size:
            i = int(unknown[0])
            listed = repr(self.characters[:100]) + " and others" * (len(self) > 100)
            raise ValueError(
                f"character {text[i]!r} at position {i} is not among the {len(self)} characters "
                f"that the model was trained on: {listed}"
            )
        return ids

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of a sequence of ids; IndexError if one is out of range."""
        checked = validate.ids("ids", ids, len(self)).reshape(-1)
        return "".join(self.characters[i] for i in checked.tolist())


def _code_points(text: str) -> Array:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


class PretrainedTokenizer:
    """The tokenizer of a Hugging Face directory; `open` opens it.

    `len(tokenizer)` is the highest id + 1, added tokens included. This is the number of tokens,
    unless the file leaves out some ids. An id that is left out stands for no text.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokenizer.no_truncation()  # without truncation and padding, ids stand for the text alone
        tokenizer.no_padding()
        if getattr(tokenizer.model, "dropout", None) is not None:
            tokenizer.model.dropout = None  # without it, the same text has the same ids
        self._len = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        unknown = getattr(tokenizer.model, "unk_token", None)
        has_unknown = unknown is not None and tokenizer.token_to_id(unknown) is not None
        # If exact, decoding must give the same text again; otherwise a character was dropped.
        self._exact = tokenizer.normalizer is None and not has_unknown

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> PretrainedTokenizer:
        """Open tokenizer.json or, if it does not exist, GPT-2's own vocab.json and merges.txt.

        With vocab.json, `<|endoftext|>` and the tokens in added_tokens.json are special tokens.

        Raises
        ------
        ImportError
            The package tokenizers is missing.
        OSError
            The directory does not exist, or a file cannot be read.
        ValueError
            The directory has no tokenizer, or a damaged one. The message names all problems.
        """
        directory = validate.path("directory", directory)
        if not directory.is_dir():
            raise FileNotFoundError(f"{directory} is not a directory")
        names = ("tokenizer.json", "vocab.json", "merges.txt")
        missing = [name for name in names if not (directory / name).is_file()]
        if names[0] in missing and len(missing) > 1:
            raise ValueError(f"{directory} has no tokenizer: it has no {', no '.join(missing)}")
        try:
            import tokenizers
        except ImportError as error:
            raise ImportError(
                "reading a tokenizer needs tokenizers: pip install 'npgpt2[hf]'"
            ) from error
        if names[0] in missing:
            return cls(_gpt2_tokenizer(directory))
        path = directory / names[0]
        content = path.read_bytes()
        try:
            return cls(tokenizers.Tokenizer.from_str(content.decode()))
        except Exception as error:  # tokenizers raises only this type
            raise ValueError(f"{path} is damaged: {error}") from error

    def __len__(self) -> int:
        return self._len

    def encode(self, text: str) -> Array:
        """Return the ids of a text, (n,) uint32.

        No ids are added before or after the text. If the text spells out a special token, such as
        `<|endoftext|>`, that part becomes the token's single id.

        Raises
        ------
        ValueError
            The tokenizer does not know a character, and has no token for unknown ones; or the text
            is not valid Unicode (it has surrogates).
        """
        try:
            ids = self._encode(text)
            if not self._exact or self._is_text(ids, text):
                return ids
            failure = None
        except Exception as error:  # tokenizers raises only this type
            failure = error
        lost = {character for character in set(text) if self._loses(character)}
        for i, character in enumerate(text):
            if character in lost:
                raise ValueError(
                    f"character {character!r} at position {i} is not among those that the "
                    "tokenizer knows"
                ) from failure
        if failure:
            raise failure
        return ids  # only spaces differ, as with a tokenizer of words

    def _encode(self, text: str) -> Array:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.uint32)

    def _loses(self, character: str) -> bool:
        try:
            ids = self._encode(character)
        except Exception:
            return True
        return self._exact and not self._is_text(ids, character)

    def _is_text(self, ids: Array, text: str) -> bool:
        return self.decode(ids) in (text, " " + text)  # some tokenizers put a space before a word

    def decode(self, ids: ArrayLike) -> str:
        r"""Return the text of a sequence of ids; special tokens are spelled out.

        Tokens may end within a character. Bytes that do not make a whole character become U+FFFD,
        as in `bytes.decode(errors="replace")`.

        Raises
        ------
        TypeError, IndexError
            The ids are not integers, or one is out of range.
        """
        checked = validate.ids("ids", ids, len(self)).reshape(-1)
        return self._tokenizer.decode(checked.tolist(), skip_special_tokens=False)


def _gpt2_tokenizer(directory: Path) -> tokenizers.Tokenizer:
    """Build the tokenizer of vocab.json and merges.txt."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    parts: dict[str, Any] = {}
    problems = []
    readers: dict[str, Callable[[Path], Any]] = {
        "vocab.json": _read_ids,
        "merges.txt": _read_merges,
        "added_tokens.json": _read_ids,
    }
    for name, read in readers.items():
        try:
            parts[name] = read(directory / name) if (directory / name).is_file() else {}
        except ValueError as error:
            problems.append(f"{name} is damaged: {error}")
    if problems:
        raise ValueError(f"{directory}: {'; '.join(problems)}")
    vocab, merges, added = parts.values()
    try:
        tokenizer = Tokenizer(models.BPE(vocab, merges))
    except Exception as error:  # tokenizers raises only this type
        raise ValueError(f"{directory}: merges.txt does not fit vocab.json: {error}") from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {token: vocab[token] for token in ("<|endoftext|>",) if token in vocab} | added
    for token, i in sorted(special.items(), key=lambda item: item[1]):
        tokenizer.add_special_tokens([token])
        if tokenizer.token_to_id(token) != i:
            raise ValueError(
                f"{directory}: added_tokens.json gives {token!r} the id {i}, but "
                f"{tokenizer.token_to_id(token)} is the next id"
            )
    return tokenizer


def _read_ids(path: Path) -> dict[str, int]:
    try:
        ids = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError(error) from error
    if not isinstance(ids, dict) or not all(
        type(i) is int and 0 <= i < 2**32 for i in ids.values()
    ):
        raise ValueError("it does not give each token an id")
    return ids


def _read_merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), start=1):
        if line and not (number == 1 and line.startswith("#version")):
            left, *right = line.split(" ")
            if len(right) != 1:
                raise ValueError(f"line {number} is {line[:40]!r}, not two tokens")
            merges.append((left, right[0]))
    return merges


def save_vocabulary(vocabulary: Vocabulary, directory: str | os.PathLike[str]) -> None:
    """Write a vocabulary of characters as tokenizer.json and tokenizer_config.json.

    `PretrainedTokenizer.open`, `tokenizers.Tokenizer.from_file` and
    `transformers.AutoTokenizer.from_pretrained` can open them, and give the same ids.

    Parameters
    ----------
    vocabulary
        The characters.
    directory
        Where to write. It is made if it does not exist.

    Raises
    ------
    OSError
        A file cannot be written.
    ValueError
        A character is a surrogate, which a UTF-8 file cannot hold.
    """
    for character in vocabulary.characters:
        if "\ud800" <= character <= "\udfff":
            raise ValueError(f"character {character!r} is a surrogate, which UTF-8 cannot hold")
    ids = {character: i for i, character in enumerate(vocabulary.characters)}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r"[\s\S]"},  # any character, also "\n", which a dot leaves out
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Fuse"},  # nothing is put between the characters
        # The format requires "<unk>". The vocabulary does not have it, so an unknown character is
        # an error.
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"},
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    directory = validate.path("directory", directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "tokenizer.json", tokenizer)
    write_json(directory / "tokenizer_config.json", config)
