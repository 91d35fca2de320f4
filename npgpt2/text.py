"""A model together with its tokenizer, opened from a directory. It reads and writes text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
    """A model and its tokenizer; `open` makes one from a directory.

    Attributes
    ----------
    model
        The model, in eval mode.
    tokenizer
        The tokenizer that the model was trained with.
    end
        Ids that end a text: the id of `<|endoftext|>` for GPT-2, none for a model of characters.
    """

    model: GPT2Model
    tokenizer: Tokenizer
    end: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.tokenizer) > self.model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(self.tokenizer)} ids, but the model has "
                f"vocab_size={self.model.config.vocab_size}; take the tokenizer that the model was "
                "trained with, without tokens that were added later"
            )

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> TextModel:
        """Open a run directory, or a Hugging Face directory that has a tokenizer.

        Raises
        ------
        ImportError
            A package that Hugging Face directories need is missing.
        OSError, ValueError
            The directory is neither of the two, or is damaged. The message lists all problems.
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
        """Continue a prompt; yield the new text piece by piece, while it is generated.

        Parameters
        ----------
        prompt
            Text to continue. None begins a new text.
        max_new_tokens
            Largest number of new tokens; the text may end earlier. If the text becomes longer than
            n_positions, it continues with a shorter context; see `npgpt2.generation.generation`.
        sampling
            How tokens are drawn.
        rng
            Seed or generator. None takes a new seed from the operating system.
        stop
            String or strings at which the text ends. They are not part of the text.

        Yields
        ------
        str
            After each token, the text that cannot change any more. It is empty if the token may
            begin a stop string, or is only a part of a character. After the last token, one more
            piece with the rest of the text; it may be empty too. If the tokens are neither bytes
            nor characters, a part of a character may appear as U+FFFD.

        Raises
        ------
        ValueError, TypeError
            An argument lies outside its limits. Or the prompt has no tokens, or has characters that
            the tokenizer does not know. These errors are raised before any text is generated.
        FloatingPointError
            The logits are not finite; see `npgpt2.generation.generation.generate`.
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
        """Return the token before a new text: an end of text if known, or a newline, or token 0."""
        if self.end:
            return np.array(self.end[:1])
        try:
            return self.tokenizer.encode("\n")
        except ValueError:  # the vocabulary has no newline
            return np.zeros(1, dtype=np.intp)


class TextStream:
    r"""Decode tokens one by one; return each part of the text once it cannot change any more.

    A character may be split over several tokens, so a token alone may have no text. If you join all
    results of `push` and the result of `close`, you get `tokenizer.decode` of all tokens, or the
    part of this text before a stop string.

    Parameters
    ----------
    tokenizer
        A `Vocabulary`, or the tokenizer of a directory.
    stop
        String or strings at which the text ends, without the string itself. The first complete
        string counts. If two become complete at the same character, the longer one counts.

    Attributes
    ----------
    stopped
        Whether a stop string was found. Later tokens are ignored.

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
        self._recent: list[int] = []  # the last tokens, which are decoded again with the next one
        self._settled = 0  # number of characters of their text that cannot change any more
        self._held = ""  # text that may be the beginning of a stop string

    def push(self, token: int) -> str:
        """Add a token; return the text that cannot change any more."""
        recent = [*self._recent, token]
        text = self._tokenizer.decode(recent)
        new = text[self._settled : _settled(text)]
        # Drop tokens from the front. An incomplete character at the end has at most 3 bytes. If
        # dropping a token cuts a character, its rest has at most 3 bytes too. The tail has at least
        # 4 characters, so at least 4 bytes, so the two pieces do not meet.
        while len(tail := self._tokenizer.decode(recent[1:])) >= 4:
            recent, text = recent[1:], tail
        self._recent, self._settled = recent, _settled(text)
        return self._until_stop(new)

    def close(self) -> str:
        """Return the rest of the text, with U+FFFD for an incomplete character."""
        rest = self._until_stop(self._tokenizer.decode(self._recent)[self._settled :])
        rest, self._held, self._recent, self._settled = rest + self._held, "", [], 0
        return rest

    def _until_stop(self, new: str) -> str:
        """Return the part of the held and the new text that cannot belong to a stop string."""
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
    """Return the number of characters that further bytes cannot change: all but a last U+FFFD."""
    return len(text.removesuffix("\ufffd"))


def read_config(directory: str | os.PathLike[str]) -> GPT2Config:
    """Read only the configuration of a directory's model; `TextModel.open` lists the errors."""
    if not _is_run(directory):
        return huggingface.read_config(directory)
    run = Run.open(directory)
    return run.config.model_config(len(run.vocabulary))


def _is_run(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory is a run, empty or missing; otherwise it may be a Hugging Face one."""
    path = validate.path("directory", directory)
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if names & {"model.safetensors", "model.safetensors.index.json", "tokenizer.json"}:
        return False
    return not names or bool(names & {"checkpoint.npz", "vocabulary.json", "text.txt"})


def export(run: Run, directory: str | os.PathLike[str]) -> None:
    """Write the model and the vocabulary of a run to a new Hugging Face directory.

    If the export fails, it leaves the directory empty. If the process is killed, the directory has
    no config.json.

    Raises
    ------
    FileExistsError
        The directory exists and is not empty.
    OSError, ValueError
        The run is damaged, or a file cannot be written.
    """
    directory = validate.path("directory", directory)
    if directory.exists() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} exists and is not empty; choose another directory")
    model = run.load()[0]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        save_vocabulary(run.vocabulary, directory)
        model.save_pretrained(directory, eos_token_id=None)  # it writes config.json last
    except BaseException:
        for path in directory.iterdir():
            path.unlink()
        raise
