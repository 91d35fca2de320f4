"""A model together with its tokenizer: text in, text out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from npgpt2 import generation, huggingface
from npgpt2.config import GPT2Config
from npgpt2.model import GPT2Model
from npgpt2.run import Run
from npgpt2.sampling import Sampling
from npgpt2.tokenizer import PretrainedTokenizer, TextStream, Tokenizer, save_vocabulary
from npgpt2.training import config_of


@dataclass(frozen=True)
class TextModel:
    """What `open` finds in a directory.

    Attributes
    ----------
    model
        In eval mode.
    tokenizer
        The one that it was trained with.
    end
        Ids that end a text: `<|endoftext|>` of GPT-2, none of a model of characters.
    """

    model: GPT2Model
    tokenizer: Tokenizer
    end: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.tokenizer) > self.model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(self.tokenizer)} ids, but the model "
                f"vocab_size={self.model.config.vocab_size}: take the tokenizer that it was "
                "trained with, without tokens that were added later"
            )

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> TextModel:
        """Open a run directory, or a Hugging Face one with its tokenizer.

        Raises
        ------
        ImportError
            A package that Hugging Face directories need is missing.
        OSError, ValueError
            The directory is neither, or is damaged: all that is wrong with it.
        """
        if _is_run(directory):
            run = Run.open(directory)
            return cls(run.load()[0], run.vocabulary)
        problems = []
        try:
            tokenizer = PretrainedTokenizer.open(directory)
        except ValueError as error:
            problems.append(str(error))
        try:
            model, end = huggingface.load(directory), huggingface.read_eos(directory)
        except ValueError as error:
            problems.append(str(error))
        if problems:
            raise ValueError("; ".join(problems))
        return cls(model, tokenizer, tuple(i for i in end if i < len(tokenizer)))

    def stream(
        self,
        prompt: str | None,
        max_new_tokens: int,
        sampling: Sampling = Sampling(),  # noqa: B008  # it is frozen
        rng: generation.Seed = None,
        stop: str | Sequence[str] | None = None,
    ) -> Iterator[str]:
        """Yield what follows a prompt, as it is generated.

        Parameters
        ----------
        prompt
            Text to continue; None begins a new one.
        max_new_tokens
            The number of tokens after which it ends, unless it does so by itself. Past n_positions
            it goes on with a shorter context, see `npgpt2.generation`.
        sampling
            How tokens are drawn.
        rng
            Seed or generator; None draws a new seed from the operating system.
        stop
            String or strings at which the text ends; they are not part of it.

        Yields
        ------
        str
            What is certain once a token has been drawn, for each token: nothing, as long as the
            token may be the beginning of a stop string or is a part of a character. Then the rest,
            which may be nothing too.

        Raises
        ------
        ValueError, TypeError
            An argument outside its limits, among them a prompt that has no tokens, or characters
            that the tokenizer does not know. This is found before anything is generated.
        FloatingPointError
            See `npgpt2.generation.generate`.
        """
        ids = self._beginning() if prompt is None else self.tokenizer.encode(prompt)
        if not len(ids):
            raise ValueError("the prompt is empty; give at least one character")
        steps = generation.stream(
            self.model,
            ids[None, :],  # (T,) -> (1, T)
            max_new_tokens,
            sampling,
            rng,
            stop=self.end,
            sliding_window=True,
            vocab_size=len(self.tokenizer),
        )
        return self._texts(steps, TextStream(self.tokenizer, () if stop is None else stop))

    def _texts(self, steps: Iterator[generation.Step], text: TextStream) -> Iterator[str]:
        for step in steps:
            token = int(step.tokens[0])
            if token not in self.end:
                yield text.push(token)
            if text.stopped:
                break
        yield text.close()

    def _beginning(self) -> np.ndarray:
        """Return what a text follows: the end of one, or a new line, or any token."""
        if self.end:
            return np.array(self.end[:1])
        try:
            return self.tokenizer.encode("\n")
        except ValueError:  # a vocabulary without
            return np.zeros(1, dtype=np.intp)


def read_config(directory: str | os.PathLike[str]) -> GPT2Config:
    """Read the configuration of the model alone; errors as for `TextModel.open`."""
    if not _is_run(directory):
        return huggingface.read_config(directory)
    run = Run.open(directory)
    return config_of(run).model_config(len(run.vocabulary))


def _is_run(directory: str | os.PathLike[str]) -> bool:
    """Whether it is the directory of a run, or nothing yet; else it may be a Hugging Face one."""
    path = Path(directory)
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if names & {"model.safetensors", "model.safetensors.index.json", "tokenizer.json"}:
        return False
    return not names or bool(names & {"checkpoint.npz", "vocabulary.json", "text.txt"})


def export(run: Run, directory: str | os.PathLike[str]) -> None:
    """Write model and vocabulary of a run as a new Hugging Face directory.

    If it fails the directory is left empty; if it is killed, without config.json.

    Raises
    ------
    ImportError
        safetensors is missing.
    FileExistsError
        The directory is there already, and not empty.
    OSError, ValueError
        The run is damaged, or a file cannot be written.
    """
    directory = Path(directory)
    if directory.exists() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} exists and is not empty; choose another directory")
    model = run.load()[0]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        save_vocabulary(run.vocabulary, directory)
        huggingface.save(model, directory, eos_token_id=None)  # the last file is config.json
    except BaseException:
        for path in directory.iterdir():
            path.unlink()
        raise
