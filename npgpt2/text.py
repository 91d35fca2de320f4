"""A model together with its tokenizer: text in, text out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autograd import Array
from npgpt2 import validate
from npgpt2.config import GPT2Config
from npgpt2.disk import huggingface
from npgpt2.disk.tokenizer import PretrainedTokenizer, Tokenizer, save_vocabulary
from npgpt2.generation.generation import Seed, Step, stream
from npgpt2.generation.sampling import Limits, Sampling
from npgpt2.model import GPT2Model
from npgpt2.training.run import Run


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
            pretrained = huggingface.read(directory)
            end = pretrained.eos()
        except validate.Problems as error:
            problems.append(error.line)
        if problems:
            raise ValueError("; ".join(problems))
        model = GPT2Model.from_arrays(pretrained.config, pretrained.arrays())
        return cls(model, tokenizer, tuple(i for i in end if i < len(tokenizer)))

    def stream(
        self,
        prompt: str | None,
        max_new_tokens: int,
        sampling: Sampling = Sampling(),  # noqa: B008  # it is frozen
        rng: Seed = None,
        stop: str | Sequence[str] | None = None,
    ) -> Iterator[str]:
        """Yield what follows a prompt, as it is generated.

        Parameters
        ----------
        prompt
            Text to continue; None begins a new one.
        max_new_tokens
            The number of tokens after which it ends, unless it does so by itself. Past n_positions
            it goes on with a shorter context, see
            `npgpt2.generation.generation`.
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
            See `npgpt2.generation.generation.generate`.
        """
        ids = self._beginning() if prompt is None else self.tokenizer.encode(prompt)
        if not len(ids):
            raise ValueError("the prompt is empty; give at least one character")
        steps = stream(
            self.model,
            ids[None, :],  # (T,) -> (1, T)
            max_new_tokens,
            sampling,
            rng,
            Limits(self.end, sliding_window=True, vocab_size=len(self.tokenizer)),
        )
        return self._texts(steps, TextStream(self.tokenizer, () if stop is None else stop))

    def _texts(self, steps: Iterator[Step], text: TextStream) -> Iterator[str]:
        for step in steps:
            token = int(step.tokens[0])
            if token not in self.end:
                yield text.push(token)
            if text.stopped:
                break
        yield text.close()

    def _beginning(self) -> Array:
        """Return what a text follows: the end of one, or a new line, or any token."""
        if self.end:
            return np.array(self.end[:1])
        try:
            return self.tokenizer.encode("\n")
        except ValueError:  # a vocabulary without
            return np.zeros(1, dtype=np.intp)


class TextStream:
    r"""The text of tokens that come one by one, each part as soon as it cannot change any more.

    A character may be split over several tokens, so a single token has no text of its own. What
    `push` returned, one after the other, and then `close`, is `tokenizer.decode` of all tokens; or
    the part of it before a stop string.

    Parameters
    ----------
    tokenizer
        A `Vocabulary`, or the tokenizer of a directory.
    stop
        String or strings at which the text ends. The first to be complete counts (of two, the
        longer), and is not returned.

    Attributes
    ----------
    stopped
        Whether a stop string was met. What is pushed afterwards is ignored.

    Raises
    ------
    ValueError
        A stop string is empty.

    Examples
    --------
    >>> from npgpt2.disk.tokenizer import Vocabulary
    >>> vocabulary = Vocabulary.of("one two\n")
    >>> stream = TextStream(vocabulary, stop=" t")
    >>> [stream.push(token) for token in vocabulary.encode("one to")]
    ['o', 'n', 'e', '', '', '']
    >>> stream.stopped, stream.close()
    (True, '')
    """

    def __init__(self, tokenizer: Tokenizer, stop: str | Sequence[str] = ()) -> None:
        self.stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if "" in self.stop:
            raise ValueError("a stop string is empty, so no text could come before it")
        self.stopped = False
        self._tokenizer = tokenizer
        self._recent: list[int] = []  # the last tokens: what comes next is decoded after them
        self._settled = 0  # how many characters of their text cannot change any more
        self._held = ""  # text that may be the beginning of a stop string

    def push(self, token: int) -> str:
        """Add a token; return the text that is complete with it, often that of the token."""
        recent = [*self._recent, token]
        text = self._tokenizer.decode(recent)
        new = text[self._settled : _settled(text)]
        # What does not yet make a character has 3 bytes at most. So has the rest of a character
        # whose beginning is dropped here, and 4 characters have 4 bytes: the two do not meet.
        while len(tail := self._tokenizer.decode(recent[1:])) >= 4:
            recent, text = recent[1:], tail
        self._recent, self._settled = recent, _settled(text)
        return self._until_stop(new)

    def close(self) -> str:
        """Return the rest of the text, with U+FFFD for a character that was not completed."""
        rest = self._until_stop(self._tokenizer.decode(self._recent)[self._settled :])
        rest, self._held, self._recent, self._settled = rest + self._held, "", [], 0
        return rest

    def _until_stop(self, new: str) -> str:
        """Return what of the held and the new text surely comes before a stop string."""
        if self.stopped:
            return ""
        text = self._held + new
        for end in range(len(self._held) + 1, len(text) + 1):
            complete = [len(stop) for stop in self.stop if text.endswith(stop, 0, end)]
            if complete:
                self.stopped, self._held = True, ""
                return text[: end - max(complete)]
        begun = (n for stop in self.stop for n in range(1, len(stop)) if text.endswith(stop[:n]))
        cut = len(text) - max(begun, default=0)
        self._held = text[cut:]
        return text[:cut]


def _settled(text: str) -> int:
    """Return how many characters more bytes cannot change: all but a last U+FFFD."""
    return len(text.removesuffix("\ufffd"))


def read_config(directory: str | os.PathLike[str]) -> GPT2Config:
    """Read the configuration of the model alone; errors as for `TextModel.open`."""
    if not _is_run(directory):
        return huggingface.read_config(directory)
    run = Run.open(directory)
    return run.config.model_config(len(run.vocabulary))


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
        model.save_pretrained(directory, eos_token_id=None)  # the last file is config.json
    except BaseException:
        for path in directory.iterdir():
            path.unlink()
        raise
