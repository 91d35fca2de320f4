"""The directory of a training run.

config.json       hyperparameters, and the checksum of the text
text.txt          the text it is trained on
vocabulary.json   the characters, in the order of their ids
checkpoint.npz    weights, moments, step count, the states of both generators
metrics.csv       a row a step
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from npgpt2 import checkpoint
from npgpt2.data import Vocabulary
from npgpt2.model import GPT2Model


@dataclass
class Metrics:
    """A row of metrics.csv: what step `step` did. None where nothing was measured."""

    step: int
    loss: float | None = None  # nats per character, on the batch of this step
    val_loss: float | None = None  # the same on the validation part, after the step
    lr: float | None = None
    grad_norm: float | None = None  # before clipping
    seconds: float = 0.0  # spent on the run up to here


class Run:
    """A run directory: made by `new` and `create`, opened by `open`.

    Attributes
    ----------
    directory
        Its path.
    settings
        The hyperparameters, by name.
    vocabulary
        The characters the model knows.
    """

    def __init__(
        self, directory: Path, settings: dict[str, Any], checksum: str, vocabulary: Vocabulary
    ) -> None:
        self.directory, self.settings, self.vocabulary = directory, settings, vocabulary
        self._checksum = checksum

    @property
    def config_path(self) -> Path:
        """Path of config.json."""
        return self.directory / "config.json"

    @property
    def text_path(self) -> Path:
        """Path of text.txt."""
        return self.directory / "text.txt"

    @property
    def vocabulary_path(self) -> Path:
        """Path of vocabulary.json."""
        return self.directory / "vocabulary.json"

    @property
    def checkpoint_path(self) -> Path:
        """Path of checkpoint.npz."""
        return self.directory / "checkpoint.npz"

    @property
    def metrics_path(self) -> Path:
        """Path of metrics.csv."""
        return self.directory / "metrics.csv"

    @classmethod
    def new(cls, directory: str | Path, settings: Mapping[str, Any], text: str) -> Run:
        """Return a run that nothing has been written of yet.

        Raises
        ------
        FileExistsError
            The directory is there already, and not empty.
        """
        directory = Path(directory)
        if directory.exists() and any(directory.iterdir()):
            raise FileExistsError(
                f"{directory} exists and is not empty; go on with --resume {directory} if it is "
                "a run, or choose another directory"
            )
        return cls(directory, dict(settings), _sha256(text.encode()), Vocabulary.of(text))

    def create(self, text: str) -> None:
        """Make the directory, with everything in it but a checkpoint."""
        self.directory.mkdir(parents=True, exist_ok=True)
        _write(self.text_path, text.encode())
        _write(self.vocabulary_path, _json(list(self.vocabulary.characters)))
        _write(self.config_path, _json({**self.settings, "text_sha256": self._checksum}))
        self._write_metrics([])

    def discard(self) -> None:
        """Delete what `create` and `append` have written; the directory stays, empty."""
        for path in (self.text_path, self.vocabulary_path, self.config_path, self.metrics_path):
            path.unlink(missing_ok=True)

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> Run:
        """Open a run directory that has a checkpoint.

        Raises
        ------
        OSError, ValueError
            It is missing, is no run directory (all that it lacks is named), or is damaged.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise FileNotFoundError(f"{directory} is not a directory; `npgpt2 train` makes one")
        names = ("config.json", "text.txt", "vocabulary.json", "checkpoint.npz")
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise ValueError(
                f"{directory} is not a run directory: it has no {', no '.join(missing)}"
            )
        settings = _read_json(directory / "config.json", dict)
        characters = _read_json(directory / "vocabulary.json", list)
        try:
            vocabulary = Vocabulary("".join(characters))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{directory / 'vocabulary.json'} is damaged: {error}") from error
        return cls(directory, settings, settings.pop("text_sha256", ""), vocabulary)

    def read_text(self) -> str:
        """Return the text of the run; ValueError if it is no longer the one it began with."""
        content = self.text_path.read_bytes()
        if _sha256(content) != self._checksum:
            raise ValueError(f"{self.text_path} is not the text that the run began with")
        return content.decode()

    def save(
        self, model: GPT2Model, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]
    ) -> None:
        """Replace the checkpoint."""
        checkpoint.save_npz(self.checkpoint_path, model, arrays=arrays, meta=meta)

    def load(self) -> tuple[GPT2Model, dict[str, Any], dict[str, NDArray[Any]]]:
        """Return (model, meta, arrays) of the checkpoint, the model in eval mode.

        Raises
        ------
        OSError, ValueError
            It is missing, damaged, or does not fit the vocabulary.
        """
        meta, arrays = checkpoint.read_npz(self.checkpoint_path)
        model = checkpoint.model_from(meta, arrays, self.checkpoint_path)
        if model.config.vocab_size != len(self.vocabulary):
            raise ValueError(
                f"{self.vocabulary_path} has {len(self.vocabulary)} characters, but the model in "
                f"{self.checkpoint_path} has vocab_size={model.config.vocab_size}"
            )
        return model, meta, arrays

    def append(self, metrics: Metrics) -> None:
        """Add a row to metrics.csv, numbers in full precision."""
        row = ["" if value is None else repr(value) for value in vars(metrics).values()]
        with checkpoint.errors_naming(self.metrics_path):
            with self.metrics_path.open("a", newline="") as file:
                csv.writer(file).writerow(row)

    def rewind(self, step: int) -> None:
        """Drop what was begun after `step`: rows of later steps, torn rows, files half written.

        Raises
        ------
        ValueError
            metrics.csv is damaged.
        """
        for unfinished in self.directory.glob(".*.tmp"):
            unfinished.unlink(missing_ok=True)
        rows = []
        if self.metrics_path.exists():
            try:
                with self.metrics_path.open(newline="", encoding="utf-8") as file:
                    rows = [row for row in csv.reader(file) if len(row) == len(fields(Metrics))]
            except (csv.Error, UnicodeDecodeError) as error:
                raise ValueError(
                    f"{self.metrics_path} is damaged: {error}; move it away to go on "
                    "without its rows"
                ) from error
        self._write_metrics([row for row in rows if row[0].isdecimal() and int(row[0]) <= step])

    def _write_metrics(self, rows: list[list[str]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([[f.name for f in fields(Metrics)], *rows])
        _write(self.metrics_path, text.getvalue().encode())


def new_run_directory(parent: str | Path = "runs") -> Path:
    """Return the first of parent/001, parent/002, ... that does not exist."""
    n = 1
    while (path := Path(parent) / f"{n:03}").exists():
        n += 1
    return path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _read_json(path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(value, kind):
        raise ValueError(f"{path} is damaged: it holds a {type(value).__name__}")
    return value


def _write(path: Path, content: bytes) -> None:
    checkpoint.write_atomically(path, lambda file: file.write(content))
