"""Sampling text: one token after the other, each drawn from what the model predicts.

Source of top-p (nucleus) sampling: Holtzman et al., arXiv:1904.09751 (2019), section 3.1; of
top-k: Fan, Lewis & Dauphin, arXiv:1805.04833 (2018), section 5.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npgpt2 import validate

if TYPE_CHECKING:
    from npgpt2.model import GPT2Model

Array = NDArray[Any]


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from logits.

    Parameters
    ----------
    temperature
        Logits are divided by it; 0 means the most probable token, always.
    top_k, top_p
        Sample among the top_k most probable tokens; then among the fewest that together have
        probability top_p or more. None: among all. Of equally probable tokens, those with lower
        ids come first.

    Raises
    ------
    TypeError, ValueError
        temperature < 0, top_k < 1, or top_p outside (0, 1].

    Examples
    --------
    >>> Sampling(top_k=2).probabilities(np.log([0.5, 0.3, 0.2])).round(3)
    array([0.625, 0.375, 0.   ])
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        validate.number("temperature", self.temperature)
        if self.top_k is not None:
            validate.integer("top_k", self.top_k)
        if self.top_p is not None:
            validate.positive("top_p", validate.number("top_p", self.top_p, maximum=1.0))

    def probabilities(self, logits: ArrayLike) -> Array:
        """Return what is sampled from, float64 with rows of sum 1;  (..., V) -> (..., V).

        Raises
        ------
        FloatingPointError
            A logit is infinite or NaN.
        """
        z = np.asarray(logits, dtype=np.float64)
        if not np.isfinite(z).all():
            raise FloatingPointError("logits are not finite; check the model's weights for NaN")
        V = z.shape[-1]
        if self.temperature == 0.0:
            most_probable: Array = np.eye(V)[z.argmax(axis=-1)]
            return most_probable
        p: Array = np.exp((z - z.max(axis=-1, keepdims=True)) / self.temperature)
        p /= p.sum(axis=-1, keepdims=True)
        top_k, top_p = min(self.top_k or V, V), self.top_p or 1.0
        if top_k == V and top_p == 1.0:
            return p
        order = np.argsort(-p, axis=-1, kind="stable")
        ranked = np.take_along_axis(p, order, axis=-1)
        ranked[..., top_k:] = 0.0
        ranked /= ranked.sum(axis=-1, keepdims=True)
        if top_p < 1.0:
            before = ranked.cumsum(axis=-1) - ranked  # probability of all that rank higher
            ranked[before >= top_p] = 0.0
            ranked /= ranked.sum(axis=-1, keepdims=True)
        np.put_along_axis(p, order, ranked, axis=-1)
        return p

    def draw(self, logits: Array, rng: np.random.Generator) -> Array:
        """Draw one token for each row, from its own probabilities;  (B, V) -> (B,)."""
        cumulative = self.probabilities(logits).cumsum(axis=-1)
        u = rng.random((len(logits), 1)) * cumulative[:, -1:]  # the last is 1 up to rounding
        tokens: Array = np.count_nonzero(cumulative <= u, axis=-1)
        return tokens


def generate(
    model: GPT2Model,
    input_ids: ArrayLike,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: np.random.Generator | int | None = None,
    stop: ArrayLike | None = None,
    sliding_window: bool = False,
) -> Array:
    """Continue each row of input_ids by max_new_tokens tokens.

    Parameters
    ----------
    model
        Used without dropout and without a graph; its training flags are restored.
    input_ids
        (B, T) integers, the prompts, T at least 1.
    max_new_tokens
        Number of tokens to add, 0 or more.
    temperature, top_k, top_p
        See `Sampling`.
    rng
        Seed or generator; None draws a new seed from the operating system.
    stop
        Id or ids that end a row. The id is kept, and the rest of the row is filled with it.
    sliding_window
        Past n_positions, predict from the last n_positions tokens instead of raising.

    Returns
    -------
    array
        (B, T + max_new_tokens) integers, the prompts in front.

    Raises
    ------
    TypeError, ValueError, IndexError
        An argument outside its limits, or more than n_positions tokens in all.
    FloatingPointError
        The model's logits are not finite.
    """
    prompt = validate.ids("input_ids", input_ids, model.config.vocab_size)
    sampling = Sampling(temperature, top_k, top_p)
    new = list(stream(model, prompt, max_new_tokens, sampling, rng, stop, sliding_window))
    new += new[-1:] * (max_new_tokens - len(new))  # all rows stopped early
    return np.column_stack([prompt, *new])


def stream(
    model: GPT2Model,
    input_ids: ArrayLike,
    max_new_tokens: int,
    sampling: Sampling,
    rng: np.random.Generator | int | None = None,
    stop: ArrayLike | None = None,
    sliding_window: bool = False,
) -> Iterator[Array]:
    """Yield the new tokens as they are drawn, (B,) at a time; arguments as for `generate`.

    They are checked at once, before the first token is asked for. Ends early once every row has
    met a stop id.
    """
    validate.integer("max_new_tokens", max_new_tokens, minimum=0)
    P, V = model.config.n_positions, model.config.vocab_size
    ids = validate.ids("input_ids", input_ids, V)
    if ids.ndim != 2 or not ids.size:
        raise ValueError(f"the prompt must have shape (B, T), T at least 1, not {ids.shape}")
    T = ids.shape[1]
    if T + max_new_tokens > P and not sliding_window:
        raise ValueError(
            f"{T} tokens of prompt and {max_new_tokens} new ones exceed n_positions={P}; ask for "
            f"at most {max(P - T, 0)} new ones, or pass sliding_window=True"
        )
    stops = np.atleast_1d([] if stop is None else stop)
    validate.ids("stop", stops, V)
    return _stream(model, ids, max_new_tokens, sampling, np.random.default_rng(rng), stops)


def _stream(
    model: GPT2Model,
    ids: Array,
    max_new_tokens: int,
    sampling: Sampling,
    rng: np.random.Generator,
    stops: Array,
) -> Iterator[Array]:
    stopped = np.zeros(len(ids), dtype=bool)
    for _ in range(max_new_tokens):
        # Every step runs the model over the whole window again.
        with model.evaluating():  # not around the yield, where the caller's own code runs
            logits = model(ids[:, -model.config.n_positions :]).data[:, -1]  # (B, V)
        tokens = np.where(stopped, ids[:, -1], sampling.draw(logits, rng))
        yield tokens
        stopped |= np.isin(tokens, stops)
        if stopped.all():
            return
        ids = np.column_stack([ids, tokens])
