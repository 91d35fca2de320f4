"""The directory of a training run.

config.json       hyperparameters, and the checksum of the text
text.txt          the text that the model is trained on
vocabulary.json   the characters, in the order of their ids
checkpoint.npz    weights, moments, step count, the states of both generators
metrics.csv       one row for each step
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from autograd import Array
from npgpt2 import validate
from npgpt2.config import TrainingConfig
from npgpt2.disk.checkpoint import load_npz
from npgpt2.disk.files import as_argument, errors_naming, read_json, write_bytes, write_json
from npgpt2.disk.tokenizer import Vocabulary
from npgpt2.model import GPT2Model


@dataclass
class Metrics:
    """A row of metrics.csv: the measurements of one step. None means that it was not measured."""

    step: int
    loss: float | None = None  # nats per character, on the batch of this step
    val_loss: float | None = None  # nats per character, on the validation part, after the step
    lr: float | None = None
    grad_norm: float | None = None  # before clipping
    seconds: float = 0.0  # spent on the run until the end of this step


class Run:
    """A run directory. `new` and `create` make one; `open` opens one.

    Attributes
    ----------
    directory
        Its path.
    vocabulary
        The characters that the model knows.
    """

    def __init__(
        self, directory: Path, settings: Mapping[str, Any], vocabulary: Vocabulary
    ) -> None:
        self.directory, self.vocabulary = directory, vocabulary
        self._settings = settings  # the content of config.json

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
    def new(cls, directory: str | Path, config: TrainingConfig, text: str) -> Run:
        """Return a new run for training on a text. Nothing is written yet.

        Raises
        ------
        FileExistsError
            The directory exists and is not empty.
        """
        directory = validate.path("directory", directory)
        if directory.exists() and any(directory.iterdir()):
            raise FileExistsError(
                f"{directory} exists and is not empty; if it is a run, continue it with "
                f"--resume {as_argument(directory)}, otherwise choose another directory"
            )
        way_out = "make one with TrainingConfig(...)"
        validate.instance("config", config, TrainingConfig, way_out)
        validate.instance("text", text, str, "read a file with npgpt2.training.data.read_text")
        settings = {**asdict(config), "text_sha256": _sha256(text.encode())}
        run = cls(directory, settings, Vocabulary.of(text))
        run.config, run.text = config, text
        return run

    def create(self) -> None:
        """Make the directory, and write all files except the checkpoint."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_bytes(self.text_path, self.text.encode())
        write_json(self.vocabulary_path, list(self.vocabulary.characters))
        write_json(self.config_path, self._settings)
        self._write_metrics([])

    def discard(self) -> None:
        """Delete the files that `create` and `append` have written; the empty directory stays."""
        for path in (self.text_path, self.vocabulary_path, self.config_path, self.metrics_path):
            path.unlink(missing_ok=True)

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> Run:
        """Open a run directory that has a checkpoint.

        Raises
        ------
        OSError, ValueError
            The directory does not exist, is not a run directory (the message names all missing
            files), or is damaged.
        """
        directory = validate.path("directory", directory)
        if not directory.is_dir():
            raise FileNotFoundError(f"{directory} is not a directory; `npgpt2 train` makes one")
        names = ("config.json", "text.txt", "vocabulary.json", "checkpoint.npz")
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise ValueError(
                f"{directory} is not a run directory: it has no {', no '.join(missing)}"
            )
        settings = read_json(directory / "config.json")
        characters = read_json(directory / "vocabulary.json", list)
        try:
            vocabulary = Vocabulary("".join(characters))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{directory / 'vocabulary.json'} is damaged: {error}") from error
        return cls(directory, settings, vocabulary)

    @cached_property
    def config(self) -> TrainingConfig:
        """The hyperparameters; ValueError if config.json lacks one, or has a wrong one."""
        settings = {k: v for k, v in self._settings.items() if k != "text_sha256"}
        try:
            missing = {f.name for f in fields(TrainingConfig)} - settings.keys()
            if missing:
                raise ValueError(f"it has no {', no '.join(sorted(missing))}")
            return TrainingConfig(**settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.config_path} is damaged: {error}") from error

    @cached_property
    def text(self) -> str:
        """The text to train on; ValueError if the file has changed since the run began."""
        content = self.text_path.read_bytes()
        if _sha256(content) != self._settings.get("text_sha256"):
            raise ValueError(f"{self.text_path} is not the text that the run began with")
        return content.decode()

    def save(self, model: GPT2Model, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
        """Write the checkpoint, which replaces the old one."""
        model.save_npz(self.checkpoint_path, arrays=arrays, meta=meta)

    def load(self) -> tuple[GPT2Model, Mapping[str, Any], Mapping[str, Array]]:
        """Return (model, meta, arrays) from the checkpoint, the model in eval mode.

        Raises
        ------
        OSError, ValueError
            The checkpoint is missing, is damaged, or does not fit the vocabulary.
        """
        saved = load_npz(self.checkpoint_path)
        model = GPT2Model.from_checkpoint(saved)
        if model.config.vocab_size != len(self.vocabulary):
            raise ValueError(
                f"{self.vocabulary_path} has {len(self.vocabulary)} characters, but the model in "
                f"{self.checkpoint_path} has vocab_size={model.config.vocab_size}"
            )
        return model, saved.meta, saved.arrays

    def append(self, metrics: Metrics) -> None:
        """Add a row to metrics.csv, with numbers in full precision."""
        row = ["" if value is None else repr(value) for value in vars(metrics).values()]
        with errors_naming(self.metrics_path):
            with self.metrics_path.open("a", newline="") as file:
                csv.writer(file).writerow(row)

    def rewind(self, step: int) -> None:
        """Remove the rows of steps after `step`, incomplete rows, and half-written files.

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
                    f"{self.metrics_path} is damaged: {error}; move it away to continue "
                    "without its rows"
                ) from error
        self._write_metrics([row for row in rows if row[0].isdecimal() and int(row[0]) <= step])

    def _write_metrics(self, rows: list[list[str]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([[f.name for f in fields(Metrics)], *rows])
        write_bytes(self.metrics_path, text.getvalue().encode())


def new_run_directory(parent: str | Path = "runs") -> Path:
    """Return the first of parent/001, parent/002, ... that does not exist."""
    n = 1
    while (path := Path(parent) / f"{n:03}").exists():
        n += 1
    return path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
