"""Continuing texts: a model reads the prompts once, then one token after the other.

Each new token costs the work of one, as the keys and values of those before are kept (see
`npgpt2.cache`). GPT-2 knows n_positions places and no more. A text that outgrows them goes on with
its last n_positions // 2 tokens, read again from place 0: so every second half of a window is
generated with the cache, and with at least half a window to look back on. A prompt that is longer
from the start gives its first token from its last n_positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npgpt2 import validate
from npgpt2.cache import KVCache
from npgpt2.module import evaluating
from npgpt2.sampling import Sampling

if TYPE_CHECKING:
    from npgpt2.model import GPT2Model

Array = NDArray[Any]
Seed: TypeAlias = np.random.Generator | int | None


@dataclass(frozen=True)
class Step:
    """One more token for each row.

    Attributes
    ----------
    tokens
        (B,) integers: the tokens drawn; of rows that had stopped before, their stop id.
    running
        (B,) bool: False for those.
    logits
        (B, V): what the tokens were drawn from.
    """

    tokens: Array
    running: Array
    logits: Array

    @property
    def logprobs(self) -> Array:
        """Log-probabilities of the tokens under the model, in nats, (B,) float64.

        Among all ids that may be drawn, before temperature, top-k and top-p; 0 for rows that had
        stopped before.
        """
        z = self.logits.astype(np.float64)
        z -= z.max(axis=-1, keepdims=True)
        at_token = np.take_along_axis(z, self.tokens[:, None], axis=-1)[:, 0]
        return np.where(self.running, at_token - np.log(np.exp(z).sum(axis=-1)), 0.0)


@dataclass(frozen=True)
class Completion:
    """A prompt and how it went on.

    Attributes
    ----------
    ids
        (T + n,) integers, the prompt and the new tokens, a stop id included.
    logprobs
        (n,) float64, of the new tokens; see `Step.logprobs`.
    stopped
        Whether a stop id has ended it, rather than max_new_tokens.
    """

    ids: Array
    logprobs: Array
    stopped: bool


def generate(
    model: GPT2Model,
    input_ids: ArrayLike,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: Seed | Sequence[Seed] = None,
    stop: ArrayLike | None = None,
    sliding_window: bool = False,
    vocab_size: int | None = None,
) -> Array:
    """Continue each row of input_ids by max_new_tokens tokens.

    Parameters
    ----------
    model
        Used without dropout and without a graph; its training flags are restored.
    input_ids
        (B, T) integers, the prompts, T at least 1. `complete` takes rows of different lengths.
    max_new_tokens
        Number of tokens to add, 0 or more.
    temperature, top_k, top_p
        See `Sampling`.
    rng
        Seed or generator; None draws a new seed from the operating system. From one, the rows take
        turns; with a sequence of B of them, each row has its own, and is what it would be alone.
    stop
        Id or ids that end a row. The id is kept, and the rest of the row is filled with it.
    sliding_window
        Past n_positions, go on with the last n_positions // 2 tokens instead of raising.
    vocab_size
        The number of ids that stand for a token, if the model's vocabulary has been padded to a
        rounder number: ids from there on are never drawn.

    Returns
    -------
    array
        (B, T + max_new_tokens) integers, the prompts in front.

    Raises
    ------
    TypeError, ValueError, IndexError
        An argument outside its limits, or more than n_positions tokens in all.
    FloatingPointError
        The model's logits are not finite. The message names the first parameter, or else the first
        layer, with a value that is not.
    """
    rows = _rows(input_ids, model.config.vocab_size)
    if len(set(map(len, rows))) > 1:
        raise ValueError("prompts of different lengths are for npgpt2.generation.complete")
    prompt = np.stack(rows)
    sampling = Sampling(temperature, top_k, top_p)
    steps = stream(model, prompt, max_new_tokens, sampling, rng, stop, sliding_window, vocab_size)
    new = [step.tokens for step in steps]
    new += new[-1:] * (max_new_tokens - len(new))  # all rows stopped early
    return np.column_stack([prompt, *new])


def complete(
    model: GPT2Model,
    prompts: ArrayLike,
    max_new_tokens: int,
    sampling: Sampling = Sampling(),  # noqa: B008  # it is frozen
    rng: Seed | Sequence[Seed] = None,
    stop: ArrayLike | None = None,
    sliding_window: bool = False,
    vocab_size: int | None = None,
) -> list[Completion]:
    """Continue prompts, of one length or of different ones, and say how probable the tokens were.

    Arguments and errors are those of `generate`. Greedy, or with a seed for each, a row is what it
    would be alone.

    Examples
    --------
    >>> from npgpt2 import GPT2Config, GPT2Model
    >>> model = GPT2Model(GPT2Config(vocab_size=10, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> [c.ids.shape for c in complete(model, [[1, 2, 3], [4]], max_new_tokens=5, rng=0)]
    [(8,), (6,)]
    """
    rows = _rows(prompts, model.config.vocab_size)
    steps = stream(model, rows, max_new_tokens, sampling, rng, stop, sliding_window, vocab_size)
    drawn = [(step.tokens, step.logprobs, step.running) for step in steps]
    stops: ArrayLike = [] if stop is None else stop
    completions = []
    for b, row in enumerate(rows):
        new = np.array([tokens[b] for tokens, _, running in drawn if running[b]], dtype=np.intp)
        logprobs = np.array([of_tokens[b] for _, of_tokens, running in drawn if running[b]])
        stopped = bool(np.isin(new[-1:], stops).any())
        completions.append(Completion(np.concatenate([row, new]), logprobs, stopped))
    return completions


def stream(
    model: GPT2Model,
    prompts: ArrayLike,
    max_new_tokens: int,
    sampling: Sampling = Sampling(),  # noqa: B008  # it is frozen
    rng: Seed | Sequence[Seed] = None,
    stop: ArrayLike | None = None,
    sliding_window: bool = False,
    vocab_size: int | None = None,
) -> Iterator[Step]:
    """Yield the new tokens as they are drawn, a `Step` at a time; arguments as for `complete`.

    They are checked at once, before the first token is asked for. Ends early once every row has
    met a stop id.
    """
    validate.integer("max_new_tokens", max_new_tokens, minimum=0)
    P, V = model.config.n_positions, model.config.vocab_size
    rows = _rows(prompts, V)
    longest = max(map(len, rows))
    if longest + max_new_tokens > P and not sliding_window:
        way_out = f"ask for at most {P - longest} new ones" if longest <= P else "crop the prompt"
        raise ValueError(
            f"{longest} tokens of prompt and {max_new_tokens} new ones exceed n_positions={P}; "
            f"{way_out}, or pass sliding_window=True"
        )
    if vocab_size is not None and validate.integer("vocab_size", vocab_size) > V:
        raise ValueError(f"vocab_size={vocab_size} exceeds the model's vocab_size={V}")
    stops = validate.ids("stop", np.atleast_1d([] if stop is None else stop), vocab_size or V)
    generators = _generators(rng, len(rows))
    return _stream(model, rows, max_new_tokens, sampling, generators, stops, vocab_size or V)


def _rows(prompts: ArrayLike, V: int) -> list[Array]:
    """Return the prompts as arrays, each (T,) with a T of its own."""
    given: Any = prompts
    if isinstance(given, Sequence) and len({np.shape(row) for row in given}) > 1:
        rows = [validate.ids(f"prompts[{b}]", row, V) for b, row in enumerate(given)]
    else:
        rows = list(np.atleast_1d(validate.ids("input_ids", given, V)))
    if not rows or any(row.ndim != 1 or not row.size for row in rows):
        raise ValueError(
            "prompts must have shape (B, T), or be a list of B of shape (T,), T at least 1, not "
            f"{[row.shape for row in rows]}"
        )
    return rows


def _generators(
    rng: Seed | Sequence[Seed], B: int
) -> np.random.Generator | list[np.random.Generator]:
    if not isinstance(rng, Sequence | np.ndarray):
        return np.random.default_rng(rng)
    if len(rng) != B:
        raise ValueError(f"{len(rng)} seeds for {B} rows; give one for each, or one for all")
    return [np.random.default_rng(seed) for seed in rng]


def _stream(
    model: GPT2Model,
    rows: list[Array],
    max_new_tokens: int,
    sampling: Sampling,
    rng: np.random.Generator | list[np.random.Generator],
    stops: Array,
    vocab_size: int,
) -> Iterator[Step]:
    P, modules = model.config.n_positions, list(model.modules())
    cache: KVCache | None = None
    texts = [row[-P:].tolist() for row in rows]
    tokens, running = np.zeros(len(rows), dtype=np.intp), np.ones(len(rows), dtype=bool)
    for left in range(max_new_tokens, 0, -1):
        # Not around the yield, where the caller's own code runs. What is not finite is told below.
        with evaluating(modules), np.errstate(all="ignore"):
            if cache is None or max(map(len, texts)) > P:
                texts = [text if len(text) <= P else text[-max(P // 2, 1) :] for text in texts]
                capacity = min(P, max(map(len, texts)) + left - 1)
                cache, logits = prefill(model, texts, capacity)
            else:
                logits = decode(model, tokens, cache)
        logits = logits[:, :vocab_size]
        try:
            drawn = sampling.draw(logits, rng)
        except FloatingPointError:
            raise FloatingPointError(f"logits are not finite: {_cause(model, texts)}") from None
        tokens = np.where(running, drawn, tokens)
        yield Step(tokens, running, logits)
        if stops.size:
            running = running & ~np.isin(tokens, stops)
            if not running.any():
                return
        for text, token in zip(texts, tokens.tolist(), strict=True):
            text.append(token)


def prefill(
    model: GPT2Model, rows: ArrayLike, capacity: int | None = None
) -> tuple[KVCache, Array]:
    """Read rows into a new cache; return it, and the logits of what follows each row, (B, V).

    Inside `with model.evaluating():`, as `decode`. The rows are integers, of one length or of
    different ones: they are filled up at the end, where no token of theirs looks.

    Raises
    ------
    TypeError, ValueError, IndexError
        Rows are no ids, empty, none at all, or longer than the capacity, which is n_positions
        unless it is given.
    """
    texts = _rows(rows, model.config.vocab_size)
    lengths = np.array([len(text) for text in texts])
    ids = np.zeros((len(texts), lengths.max()), dtype=np.intp)
    for b, text in enumerate(texts):
        ids[b, : len(text)] = text
    cache = model.make_cache(len(texts), capacity)
    x = model.hidden(ids, cache).data  # (B, T, C)
    cache.lengths = lengths
    return cache, model.lm_head(x[np.arange(len(texts)), lengths - 1]).data


def decode(model: GPT2Model, tokens: ArrayLike, cache: KVCache) -> Array:
    """Read one token more for each row, (B,); return the logits of what follows, (B, V)."""
    return model(np.asarray(tokens)[:, None], cache=cache).data[:, 0]


def _cause(model: GPT2Model, texts: list[list[int]]) -> str:
    """Say where the first value stands that is not finite."""
    for name, parameter in model.named_parameters():
        finite = np.isfinite(parameter.data)
        if not finite.all():
            place = tuple(int(i) for i in np.unravel_index(finite.argmin(), finite.shape))
            return f"parameter {name} has {parameter.data[place]} at {list(place)}"
    with model.evaluating(), np.errstate(all="ignore"):
        for text in texts:
            x = model.wte([text]) + model.wpe(np.arange(len(text)))
            for i, block in enumerate(model.h):
                x = block(x)
                if not np.isfinite(x.data).all():
                    return f"all parameters are finite, but the output of h.{i} is not"
    return "all parameters are finite, and so is what each block makes; the head's products are not"
