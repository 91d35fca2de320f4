"""Continue texts: a model reads the prompts once, and then one new token after the other.

For each new token, the model computes only one position, because the cache keeps the keys and
values of the tokens before it (see `npgpt2.cache`).

GPT-2 has n_positions positions. If a text becomes longer, generation continues with its last
n_positions // 2 tokens, and reads them again from position 0. So after that, every token is drawn
with at least n_positions // 2 tokens before it, and the second half of every window is generated
with the cache. If the prompt is longer than n_positions, its last n_positions tokens give the first
new token.

Letters: see `npgpt2/config.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from autograd import Array
from npgpt2 import validate
from npgpt2.cache import KVCache
from npgpt2.generation.language_model import LanguageModel, require_model
from npgpt2.generation.sampling import Limits, Sampling
from npgpt2.module import evaluating

Seed: TypeAlias = np.random.Generator | int | None


@dataclass(frozen=True)
class Step:
    """One more token for each row.

    Attributes
    ----------
    tokens
        (B,) integers, the tokens drawn. A row that stopped before has its stop id here.
    running
        (B,) bool, False for rows that stopped before.
    logits
        (B, V), the logits that the tokens were drawn from.
    """

    tokens: Array
    running: Array
    logits: Array

    @property
    @np.errstate(over="ignore", under="ignore")  # exp(-inf) = 0 is right
    def logprobs(self) -> Array:
        """Log-probabilities of the tokens under the model, in nats, (B,) float64.

        The probabilities of all ids that may be drawn add up to 1. They ignore
        temperature, top-k and top-p. A row that stopped before has 0 here.
        """
        z = self.logits.astype(np.float64)
        z -= z.max(axis=-1, keepdims=True)
        at_token = np.take_along_axis(z, self.tokens[:, None], axis=-1)[:, 0]
        return np.where(self.running, at_token - np.log(np.exp(z).sum(axis=-1)), 0.0)


@dataclass(frozen=True)
class Completion:
    """A prompt and its continuation.

    Attributes
    ----------
    ids
        (T + n,) integers, the prompt and the new tokens, with the stop id if there is one.
    logprobs
        (n,) float64, log-probabilities of the new tokens; see `Step.logprobs`.
    stopped
        True if a stop id ended the text, False if max_new_tokens did.
    """

    ids: Array
    logprobs: Array
    stopped: bool


def generate(
    model: LanguageModel,
    input_ids: ArrayLike,
    max_new_tokens: int,
    sampling: Sampling = Sampling(),  # noqa: B008  # it is frozen
    rng: Seed | Sequence[Seed] = None,
    limits: Limits = Limits(),  # noqa: B008  # it is frozen
) -> Array:
    """Continue each row of input_ids by max_new_tokens tokens.

    Parameters
    ----------
    model
        It runs without dropout and without a graph. Its training flags are restored.
    input_ids
        (B, T) integers, the prompts; T at least 1. `complete` takes rows of different lengths.
    max_new_tokens
        Number of tokens to add, 0 or more.
    sampling
        How a token is drawn.
    rng
        Seed or generator; None takes a new seed from the operating system. With one generator, the
        rows draw from it in turn. With a sequence of B seeds, each row has its own generator, and
        gets the tokens that it would get alone.
    limits
        When a text ends, and which ids may be drawn. A row that has met a stop id is filled up with
        this id.

    Returns
    -------
    array
        (B, T + max_new_tokens) integers, the prompts in front.

    Raises
    ------
    TypeError, ValueError, IndexError
        An argument is outside its limits, or the text becomes longer than n_positions without a
        sliding window.
    FloatingPointError
        The model's logits are not finite. The message names the first parameter that is not finite.
        If all parameters are finite, it names the first block whose output is not.
    """
    require_model(model)
    rows = _rows(input_ids, model.config.vocab_size)
    if len(set(map(len, rows))) > 1:
        raise ValueError("the prompts have different lengths; pass them to npgpt2.complete")
    prompt = np.stack(rows)
    steps = stream(model, prompt, max_new_tokens, sampling, rng, limits)
    new = [step.tokens for step in steps]
    new += new[-1:] * (max_new_tokens - len(new))  # all rows stopped early
    return np.column_stack([prompt, *new])


def complete(
    model: LanguageModel,
    prompts: ArrayLike,
    max_new_tokens: int,
    sampling: Sampling = Sampling(),  # noqa: B008  # it is frozen
    rng: Seed | Sequence[Seed] = None,
    limits: Limits = Limits(),  # noqa: B008  # it is frozen
) -> list[Completion]:
    """Continue prompts of any lengths, and return how probable the new tokens were.

    `generate` describes the arguments and the errors. With greedy decoding, or with one seed per
    row, each row gets the tokens that it would get alone.

    Examples
    --------
    >>> from npgpt2 import GPT2Config, GPT2Model
    >>> model = GPT2Model(GPT2Config(vocab_size=10, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> [c.ids.shape for c in complete(model, [[1, 2, 3], [4]], max_new_tokens=5, rng=0)]
    [(8,), (6,)]
    """
    require_model(model)
    rows = _rows(prompts, model.config.vocab_size)
    steps = stream(model, rows, max_new_tokens, sampling, rng, limits)
    drawn = [(step.tokens, step.logprobs, step.running) for step in steps]
    stops: ArrayLike = [] if limits.stop is None else limits.stop
    completions = []
    for b, row in enumerate(rows):
        new = np.array([tokens[b] for tokens, _, running in drawn if running[b]], dtype=np.intp)
        logprobs = np.array([of_tokens[b] for _, of_tokens, running in drawn if running[b]])
        stopped = bool(np.isin(new[-1:], stops).any())
        completions.append(Completion(np.concatenate([row, new]), logprobs, stopped))
    return completions


def stream(
    model: LanguageModel,
    prompts: ArrayLike,
    max_new_tokens: int,
    sampling: Sampling = Sampling(),  # noqa: B008  # it is frozen
    rng: Seed | Sequence[Seed] = None,
    limits: Limits = Limits(),  # noqa: B008  # it is frozen
) -> Iterator[Step]:
    """Yield the new tokens as they are drawn, one `Step` at a time.

    `generate` describes the arguments and the errors; prompts may have any lengths, as in
    `complete`. The call checks the arguments, before you ask for the first token. The iterator ends
    early if every row has met a stop id.
    """
    require_model(model)
    max_new_tokens = validate.integer("max_new_tokens", max_new_tokens, minimum=0)
    validate.instance("sampling", sampling, Sampling, "make one with Sampling(temperature=...)")
    validate.instance("limits", limits, Limits, "make one with Limits(stop=...)")
    P = model.config.n_positions
    rows = _rows(prompts, model.config.vocab_size)
    longest = max(map(len, rows))
    if longest + max_new_tokens > P and not limits.sliding_window:
        way_out = f"ask for at most {P - longest} new ones" if longest <= P else "crop the prompt"
        raise ValueError(
            f"{longest} tokens of prompt and {max_new_tokens} new ones exceed n_positions={P}; "
            f"{way_out}, or pass sliding_window=True"
        )
    stops, V = limits.ids(model.config.vocab_size)
    return _stream(model, rows, max_new_tokens, sampling, _generators(rng, len(rows)), stops, V)


def _rows(prompts: ArrayLike, V: int) -> list[Array]:
    """Return the prompts as arrays of shape (T,), where T may differ between prompts."""
    given: Any = prompts
    try:
        rows = list(np.atleast_1d(validate.ids("input_ids", given, V)))
    except ValueError:  # the rows have different lengths
        rows = [validate.ids(f"prompts[{b}]", row, V) for b, row in enumerate(given)]
    if not rows or any(row.ndim != 1 or not row.size for row in rows):
        raise ValueError(
            "prompts must have shape (B, T), or be a list of B rows of shape (T,), T at least 1, "
            f"not {[row.shape for row in rows]}"
        )
    return rows


def _generators(
    rng: Seed | Sequence[Seed], B: int
) -> np.random.Generator | list[np.random.Generator]:
    if not isinstance(rng, Sequence | np.ndarray):
        return np.random.default_rng(rng)
    if len(rng) != B:
        raise ValueError(f"got {len(rng)} seeds for {B} rows; give one per row, or one for all")
    return [np.random.default_rng(seed) for seed in rng]


def _stream(
    model: LanguageModel,
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
        # The `yield` is outside this block, because the caller's code runs there. Errors for values
        # that are not finite come below.
        with evaluating(modules), np.errstate(all="ignore"):
            if cache is None or max(map(len, texts)) > P:
                texts = [text if len(text) <= P else text[-max(P // 2, 1) :] for text in texts]
                capacity = min(P, max(map(len, texts)) + left - 1)
                cache, logits = prefill(model, texts, capacity)
            else:
                logits = decode(model, tokens, cache)
        logits = logits[:, :vocab_size]
        if not np.isfinite(logits).all():
            raise FloatingPointError(f"logits are not finite: {_cause(model, texts)}")
        tokens = np.where(running, sampling.draw(logits, rng), tokens)
        yield Step(tokens, running, logits)
        if stops.size:
            running = running & ~np.isin(tokens, stops)
            if not running.any():
                return
        for text, token in zip(texts, tokens.tolist(), strict=True):
            text.append(token)


def prefill(
    model: LanguageModel, rows: ArrayLike, capacity: int | None = None
) -> tuple[KVCache, Array]:
    """Read rows into a new cache; return it, and the logits of each row's next token, (B, V).

    Call this and `decode` inside `with model.evaluating():`. The rows hold integers and may have
    any lengths. Shorter rows are filled up at their end; their tokens do not see these entries.

    Raises
    ------
    TypeError, ValueError, IndexError
        A row does not hold ids, is empty, or is longer than the capacity (by default n_positions);
        or there are no rows.
    """
    texts = _rows(rows, model.config.vocab_size)
    lengths = np.array([len(text) for text in texts])
    ids = np.zeros((len(texts), lengths.max()), dtype=np.intp)
    for b, text in enumerate(texts):
        ids[b, : len(text)] = text
    cache = model.make_cache(len(texts), capacity)
    x = model.hidden(ids, cache).data  # (B, T, C)
    cache.truncate(lengths)
    return cache, model.lm_head(x[np.arange(len(texts)), lengths - 1]).data


def decode(model: LanguageModel, tokens: ArrayLike, cache: KVCache) -> Array:
    """Read one more token of each row, (B,); return the logits of the next token, (B, V)."""
    ids = validate.integers("tokens", tokens)
    if ids.ndim != 1:
        raise ValueError(f"tokens must have shape (B,), not {ids.shape}")
    return model(ids[:, None], cache=cache).data[:, 0]


def _cause(model: LanguageModel, texts: list[list[int]]) -> str:
    """Say which parameter or block has the first value that is not finite."""
    causes = (model.where_not_finite([text]) for text in texts)
    return next(
        (cause for cause in causes if cause), "only the products of the head are not finite"
    )
